"""Log lines: the fields of JSON, one line an event whatever a name holds, and a host whose logging stays its own."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

import gnomon
from gnomon import cli
from gnomon.errors import InvalidValue
from gnomon.log import FIELDS, JsonLines, TextLines, logging_as

HOSTILE = 'a\nERROR gnomon.audit forged\r\x1b[2J\u2028\u0085{"level": "forged"}\ud800 "quoted" \\n'


def lines_of(settings, call) -> list[str]:
    """What a call writes to standard error under the command line's logging."""
    out, before = io.StringIO(), sys.stderr
    sys.stderr = out
    try:
        with logging_as(settings):
            call()
    finally:
        sys.stderr = before
    return out.getvalue().split("\n")[:-1]


def asked(project="shop"):
    with gnomon.open(":memory:", project=project) as engine:
        engine.query(["events"])
        with pytest.raises(gnomon.GnomonError):
            engine.query(["nope"])


def test_an_audited_operation_is_one_line_of_json():
    settings = gnomon.Settings(log_level="INFO", log_format="json")
    one, two = (json.loads(line) for line in lines_of(settings, asked))
    assert set(one) == {"timestamp", "level", "module", *FIELDS, "message", "context"}
    assert (one["level"], one["module"], one["project"], one["operation"]) == ("INFO", "gnomon.audit", "shop", "query")
    assert one["status"] == "ok" and one["error"] is None and one["duration_ms"] > 0
    assert one["context"] == {"rows": 1} and one["timestamp"].endswith("+00:00")
    assert (two["status"], two["error"]) == ("unknown-name", "unknown-name")


def test_the_same_as_text():
    one, _ = lines_of(gnomon.Settings(log_level="info"), asked)
    assert " INFO gnomon.audit query: ok project=shop operation=query rows=1 duration_ms=" in one


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_hostile_name_begins_no_line(format):
    def log():
        logging.getLogger("gnomon.audit").info(HOSTILE, extra={"project": HOSTILE, HOSTILE: HOSTILE})

    (line,) = lines_of(gnomon.Settings(log_level="INFO", log_format=format), log)
    assert line.isprintable() and len(line.splitlines()) == 1
    if format == "json":
        found = json.loads(line)
        assert found["project"] == found["message"] == found["context"][HOSTILE] == HOSTILE
        assert found["level"] == "INFO"


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_hostile_project_and_principal_begin_no_line(format):
    name = HOSTILE.replace("\ud800", "")

    def ask():
        with gnomon.open(":memory:", project=name) as engine:
            engine.acting_as(gnomon.Principal(name, ["read"])).query(["events"])

    (line,) = lines_of(gnomon.Settings(log_level="INFO", log_format=format), ask)
    assert line.isprintable()


def test_a_formatter_that_writes_names_as_they_are_would_be_found(monkeypatch):
    monkeypatch.setattr(TextLines, "format", logging.Formatter("%(message)s %(project)s").format)
    with pytest.raises((AssertionError, ValueError)):
        test_a_hostile_name_begins_no_line("text")


@pytest.mark.parametrize("kind", [JsonLines, TextLines])
def test_an_exception_stays_on_its_line(kind):
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.getLogger("gnomon.x").makeRecord("gnomon.x", 40, "f", 1, "m %s", ("a",), sys.exc_info())
    line = kind().format(record)
    assert "\n" not in line and "ValueError" in line and "m a" in line
    if kind is JsonLines:
        assert json.loads(line)["error"] == "ValueError"


def test_values_that_json_does_not_know_are_written_all_the_same():
    record = logging.makeLogRecord({"msg": "m", "thing": object(), "number": float("nan")})
    assert "object" in json.loads(JsonLines().format(record))["context"]["thing"]


def test_the_host_s_logging_is_left_alone():
    ours, root = logging.getLogger("gnomon"), logging.getLogger()
    before = (ours.level, ours.propagate, list(ours.handlers), list(root.handlers))
    asked()
    assert (ours.level, ours.propagate, list(ours.handlers), list(root.handlers)) == before
    with logging_as(gnomon.Settings()):
        assert not ours.propagate
    assert (ours.level, ours.propagate, list(ours.handlers), list(root.handlers)) == before


def test_a_command_is_quiet_unless_it_is_asked_to_speak(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with gnomon.open(tmp_path / "gnomon.duckdb") as engine:
        engine.track("t")
    assert cli.main(["query"]) == 0 and capsys.readouterr().err == ""
    monkeypatch.setenv("GNOMON_LOG_FORMAT", "json")
    monkeypatch.setenv("LOG_LEVEL", "INFO")
    assert cli.main(["query"]) == 0
    assert json.loads(capsys.readouterr().err)["operation"] == "query"


def test_a_level_or_format_that_does_not_exist_is_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(InvalidValue), logging_as(gnomon.Settings(log_level="LOUD")):
        pass
    with pytest.raises(InvalidValue):
        gnomon.Settings().but(log_format="xml")
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    assert cli.main(["query", "--store", str(tmp_path / "x")]) == 2
    with gnomon.open(":memory:") as engine:  # the library does not care: logging is its host's
        engine.query(["events"])
