"""Every command of the command line, by its output and exit code: 0 done, 1 not sound, 2 refused with a remedy."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import gnomon
from gnomon import cli
from gnomon.cli import asking, demo, main, tables

COMMANDS = ["demo", "import", "query", "backup", "restore", "prune", "rollup", "migrate", "doctor", "audit"]
EVENTS = [
    {
        "type": "request",
        "ts": "2026-01-01T10:00:00Z",
        "id": "1",
        "source": "a",
        "user_id": "u1",
        "status_code": 200,
        "duration_ms": 10.5,
    },
    {
        "type": "request",
        "ts": "2026-01-01T11:00:00Z",
        "id": "2",
        "source": "b",
        "user_id": "u2",
        "status_code": 500,
        "duration_ms": 20.0,
    },
    {
        "type": "page_view",
        "ts": "2026-01-02T10:00:00Z",
        "id": "3",
        "user_id": "u1",
        "properties": {"k": {"a": [1, "é"]}},
    },
    {"type": "=cmd|' /C calc'!A0", "ts": "2026-01-03T10:00:00Z", "id": "4", "source": "@x"},
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory without settings of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in [name for name in os.environ if name.startswith("GNOMON_")] + ["DATABASE_URL", "LOG_LEVEL"]:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def store(place, capsys):
    (place / "events.ndjson").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    assert main(["import", "events.ndjson"]) == 0
    capsys.readouterr()
    return place / "gnomon.duckdb"


def run(capsys, *words):
    """Exit code, standard output and standard error of one command."""
    capsys.readouterr()
    try:
        code = main(list(words))
    except SystemExit as ended:  # argparse ends so
        code = ended.code
    found = capsys.readouterr()
    assert "Traceback" not in found.err + found.out
    return code, found.out, found.err


# -- words ------------------------------------------------------------------------------------------------------------


def test_help_names_every_command(place, capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_examples_that_are_true(place, capsys, command):
    code, out, _ = run(capsys, command, "--help")
    examples = out.partition("examples:")[2].strip().splitlines()
    assert code == 0 and examples and "--store" in out and "--project" in out
    for example in examples:
        words = shlex.split(example)
        assert words[:2] == ["gnomon", command]
        cli._parser().parse_args(words[1:])


def test_the_version(place, capsys):
    assert run(capsys, "--version") == (0, f"gnomon {gnomon.__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nope"],
        ["query", "--nope"],
        ["query", "--limit", "x"],
        ["import"],
        ["query", "--format", "xml"],
        ["doctor", "x"],
    ],
)
def test_words_that_are_no_command_end_with_2(place, capsys, words):
    code, _, err = run(capsys, *words)
    assert code == 2 and "usage:" in err


# -- query ------------------------------------------------------------------------------------------------------------


def asked(capsys, *words):
    code, out, err = run(capsys, "query", *words)
    assert (code, err) == (0, "")
    return out


def test_an_answer_as_json_is_a_list_of_rows(store, capsys):
    out = asked(
        capsys,
        "--metrics",
        "events,people",
        "--dimensions",
        "source,time:day",
        "--format",
        "json",
        "--timezone",
        "Asia/Kathmandu",
    )
    rows = json.loads(out)
    assert {"source": "a", "time:day": "2026-01-01T00:00:00+05:45", "events": 1, "people": 1} in rows and len(rows) == 4


def test_an_answer_as_csv_parses_back(store, capsys):
    rows = list(
        csv.DictReader(
            io.StringIO(
                asked(capsys, "--metrics", "events,mean_duration_ms", "--dimensions", "source", "--format", "csv")
            )
        )
    )
    assert {"source": "a", "events": "1", "mean_duration_ms": "10.5"} in rows
    assert {"source": "", "events": "1", "mean_duration_ms": ""} in rows


def check_neutral(text):
    """No cell of a CSV text begins with what a spreadsheet would run."""
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            assert (
                not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))
                or cell.lstrip("-").replace(".", "").isdigit()
            )


def test_cells_that_a_spreadsheet_would_run_are_neutral(store, capsys):
    out = asked(capsys, "--metrics", '[{"agg":"count","as":"=1+1"}]', "--dimensions", "type,source", "--format", "csv")
    check_neutral(out)
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0] == ["type", "source", "'=1+1"]
    assert ["'=cmd|' /C calc'!A0", "'@x", "1"] in rows


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\ta", "\ra", "＝1", "'a", "a", "", "é"])
def test_the_apostrophe_can_be_taken_off_again(text):
    cell = tables.cell(text)
    assert (cell[1:] if cell.startswith("'") else cell) == text


def test_cells_that_are_not_neutral_would_be_found(store, capsys, monkeypatch):
    monkeypatch.setattr(asking, "cell", lambda value: value)
    with pytest.raises(AssertionError):
        test_cells_that_a_spreadsheet_would_run_are_neutral(store, capsys)


def test_values_of_every_type_in_csv_and_json(store, capsys):
    words = ("--dimensions", "properties.k,success", "--filter", '["is_set","properties.k"]')
    (row,) = csv.DictReader(io.StringIO(asked(capsys, *words, "--format", "csv")))
    assert (
        json.loads(row["properties.k"])
        == {"a": [1, "é"]}
        == json.loads(asked(capsys, *words, "--format", "json"))[0]["properties.k"]
    )


def test_a_table_for_people(store, capsys):
    out = asked(
        capsys,
        "--metrics",
        "events,success_rate",
        "--dimensions",
        "source",
        "--totals",
        "--order-by",
        "events:desc",
        "--order-by",
        "source",
    )
    assert "total" in out and "success_rate" in out and "raw, exact" in out
    assert "0.5" in out


def test_a_table_with_a_comparison(store, capsys):
    out = asked(
        capsys, "--dimensions", "type", "--date-range", "2026-01-01,2026-01-03", "--compare", "2026-01-01,2026-01-02"
    )
    assert "+0.0%" in out and "new" in out
    assert "change" in asked(capsys, "--date-range", "2026-01-02,2026-01-03", "--compare", "previous")


def test_names_and_cells_are_not_markup(place, capsys):
    with gnomon.open("gnomon.duckdb") as engine:
        engine.track("[red]x[/red]", properties={"[/b]": "[bold]y"})
    out = asked(capsys, "--dimensions", "type,properties.[/b]")
    assert "[red]x[/red]" in out and "[bold]y" in out and "properties.[/b]" in out


def test_control_characters_do_not_reach_the_terminal(place, capsys):
    with gnomon.open("gnomon.duckdb") as engine:
        engine.track("\x1b[31mred\x07")
    assert "\x1b" not in asked(capsys, "--dimensions", "type")


def test_a_page_says_that_there_is_more(store, capsys):
    code, _, err = run(capsys, "query", "--dimensions", "type", "--limit", "1")
    assert code == 0 and "more rows" in err


def test_the_plan_instead_of_the_answer(store, capsys):
    assert "SELECT COUNT(*)" in asked(capsys, "--explain")


def test_several_filters_must_all_hold(store, capsys):
    out = asked(
        capsys, "--filter", '["is","type",["request"]]', "--filter", '["is","source",["a"]]', "--format", "json"
    )
    assert json.loads(out) == [{"events": 1}]


def test_projects_are_apart(store, capsys):
    assert json.loads(asked(capsys, "--project", "other", "--format", "json")) == [{"events": 0}]
    assert json.loads(asked(capsys, "--project", "default", "--format", "json")) == [{"events": 4}]


def test_metric_samples(place, capsys):
    with gnomon.open("gnomon.duckdb") as engine:
        engine.record_metric("depth", 3)
    assert json.loads(asked(capsys, "--dataset", "samples", "--metrics", "samples,max_value", "--format", "json")) == [
        {"samples": 1, "max_value": 3.0}
    ]


REFUSED = [
    (["--metrics", "evnts"], "events"),
    (["--dimensions", "sorce"], "source"),
    (["--date-range", "7x"], "span"),
    (["--timezone", "Mars"], "time zone"),
    (["--filter", "nope"], "JSON"),
    (["--filter", '["is"]'], "Forms"),
    (["--metrics", "[1"], "JSON"),
    (["--limit", "0"], "at least 1"),
    (["--order-by", "nope"], "unknown column"),
    (["--compare", "nope"], "bad-"),
    (["--filter", "[" * 100_000], "JSON"),
    (["--date-range", "2026-01-02,2026-01-01"], "empty"),
    (["--dimensions", "time:minute", "--date-range", "2020-01-01,2026-01-01"], "shorter range"),
    (["--project", "p" * 201], "project"),
    (["--store", "mysql://x"], "DuckDB"),
]


@pytest.mark.parametrize(("words", "hint"), REFUSED, ids=range(len(REFUSED)))
def test_a_wrong_question_ends_with_2_and_a_remedy(store, capsys, words, hint):
    code, out, err = run(capsys, "query", *words)
    assert (code, out) == (2, "")
    assert err.startswith("gnomon: ") and hint in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["query", "doctor", "prune", "rollup"])
def test_a_missing_store_is_not_made(place, capsys, command):
    code, out, err = run(capsys, command, "--store", "missing.duckdb")
    assert (code, out) == (2, "") and "no-store" in err and "--store" in err
    assert list(place.iterdir()) == []


def test_a_setting_that_is_wrong_ends_with_2(store, capsys, monkeypatch):
    monkeypatch.setenv("GNOMON_MAX_ROWS", "many")
    code, _, err = run(capsys, "query")
    assert code == 2 and "bad-config" in err
    monkeypatch.setenv("GNOMON_MAX_ROWS", "5")
    monkeypatch.setenv("GNOMON_MAX_ROW", "5")
    code, _, err = run(capsys, "query")
    assert code == 2 and "max_rows" in err


def test_the_store_of_the_environment(store, place, capsys, monkeypatch):
    store.rename(place / "else.duckdb")
    for ending in (".journal", ".journal-wal", ".journal-shm", ".owner"):
        if Path(f"{store}{ending}").exists():
            Path(f"{store}{ending}").rename(place / f"else.duckdb{ending}")
    monkeypatch.setenv("GNOMON_DATABASE_URL", "else.duckdb")
    assert json.loads(asked(capsys, "--format", "json")) == [{"events": 4}]


# -- import -----------------------------------------------------------------------------------------------------------


def test_an_import_tells_what_became_of_the_lines(place, capsys):
    (place / "a.ndjson").write_text(
        json.dumps(EVENTS[0]) + "\nno json\n" + json.dumps({**EVENTS[1], "type": ""}) + "\n"
    )
    code, out, err = run(capsys, "import", "a.ndjson")
    assert code == 0 and "3 lines, 1 stored" in out
    assert "line 2:" in err and "line 3: empty-name" in err and "2 lines were rejected" in err
    assert "0 stored, 1 already there" in run(capsys, "import", "a.ndjson")[1]


def test_columns_can_be_mapped(place, capsys):
    with gzip.open(place / "orders.csv.gz", "wt") as file:
        file.write("when,total,who\n2026-01-01 10:00:00,12.5,u1\n2026-01-01 11:00:00,7.5,u2\n")
    code, out, err = run(
        capsys,
        "import",
        "orders.csv.gz",
        "--map",
        "when=ts",
        "--map",
        "total=properties.amount",
        "--map",
        "who=user_id",
        "--map",
        "type==order",
        "--timezone",
        "UTC",
        "--project",
        "shop",
    )
    assert (code, err) == (0, "") and "2 stored" in out
    rows = asked(
        capsys,
        "--project",
        "shop",
        "--metrics",
        '[{"agg":"sum","field":"properties.amount","as":"x"}]',
        "--dimensions",
        "type",
        "--format",
        "json",
    )
    assert json.loads(rows) == [{"type": "order", "x": 20.0}]


@pytest.mark.parametrize(
    "words",
    [
        ["import", "missing.csv"],
        ["import", "x.csv", "--map", "nothing"],
        ["import", "x.csv", "--map", "=x"],
        ["import", "x.csv", "--timezone", "Mars"],
        ["import", "x.csv", "--map", "a=no such field"],
    ],
)
def test_an_import_that_cannot_be_done_ends_with_2(place, capsys, words):
    (place / "x.csv").write_text("ts,type\n2026-01-01T00:00:00Z,t\n")
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "") and err.startswith("gnomon: ")


# -- prune, rollup ----------------------------------------------------------------------------------------------------


def test_prune_tells_what_goes_and_removes_it(place, capsys, monkeypatch):
    monkeypatch.setenv("GNOMON_EVENT_RETENTION_DAYS", "2")
    (place / "old.ndjson").write_text("\n".join(json.dumps(event) for event in EVENTS))
    assert run(capsys, "import", "old.ndjson")[0] == 0
    code, out, _ = run(capsys, "prune", "--dry-run", "--format", "json")
    would = json.loads(out)
    assert (code, would["dry_run"], would["raw"]) == (0, True, 4) and "bytes_freed" in would
    code, out, _ = run(capsys, "prune", "--dry-run")
    assert code == 0 and out.startswith("4 raw events, 0 hourly and 0 daily rows, 0 samples would go; about ")
    code, out, _ = run(capsys, "prune")
    assert code == 0 and out.startswith("4 raw events, ") and " went; " in out
    assert json.loads(run(capsys, "prune", "--format", "json")[1])["raw"] == 0
    assert json.loads(run(capsys, "query", "--metrics", "events", "--date-range", "all", "--format", "json")[1]) == [
        {"events": 4}
    ]


def test_rollup_rolls_up_once(place, capsys):
    (place / "old.ndjson").write_text("\n".join(json.dumps(event) for event in EVENTS))
    assert run(capsys, "import", "old.ndjson")[0] == 0
    code, out, _ = run(capsys, "rollup", "--date-range", "2026-01-01,2026-01-02", "--format", "json")
    told = json.loads(out)
    assert (code, told["events"], told["until"]) == (0, 2, "2026-01-02T00:00:00+00:00")
    code, out, _ = run(capsys, "rollup")
    assert code == 0 and out.startswith("2 events rolled up, 0 of them late, up to ")
    assert run(capsys, "rollup")[1].startswith("0 events")


# -- doctor -----------------------------------------------------------------------------------------------------------


def test_a_sound_store(store, capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0 and "Everything is sound" in out and "duckdb" in out
    code, out, _ = run(capsys, "doctor", "--format", "json")
    found = json.loads(out)
    assert code == 0 and found["sound"] and found["facts"]["events"] == 4 and found["facts"]["books"]["closes"]


def test_a_store_that_is_not_sound(store, capsys):
    Path(f"{store}.damaged-20260101T000000Z").write_text("x")
    code, out, _ = run(capsys, "doctor")
    assert code == 1 and "NOT SOUND" in out and "damaged-2026" in out
    code, out, _ = run(capsys, "doctor", "--format", "json")
    assert code == 1 and not json.loads(out)["sound"] and json.loads(out)["findings"][0]["remedy"]


# -- demo, and the program itself -------------------------------------------------------------------------------------


def test_a_demo_without_its_data_says_where_to_get_it(place, capsys, monkeypatch):
    monkeypatch.setattr(demo, "_data_places", lambda: [place / "nowhere"])
    code, _, err = run(capsys, "demo")
    assert code == 2 and "no-data" in err and "--data" in err


def test_the_demo(place, capsys):
    code, out, err = run(
        capsys,
        "demo",
        "--data",
        str(Path(__file__).resolve().parents[2] / "examples" / "data"),
        "--store",
        "demo.duckdb",
    )
    assert (code, err) == (0, "")
    for word in (
        "Requests by status class",
        "Top endpoints",
        "Commits by project",
        "Active people a month",
        "'closes': True",
    ):
        assert word in out
    assert json.loads(
        asked(capsys, "--store", "demo.duckdb", "--project", "web", "--metrics", "requests", "--format", "json")
    ) == [{"requests": 10_000}]


def test_an_interrupt_ends_with_130(store, capsys, monkeypatch):
    monkeypatch.setattr(asking, "opened", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(capsys, "query")[0] == 130


def test_the_program_runs_and_survives_a_closed_pipe(store):
    program = [sys.executable, "-W", "error", "-c", "import sys; from gnomon.cli import main; sys.exit(main())"]
    words = ["query", "--dimensions", "time:minute", "--date-range", "2026-01-01,2026-01-20", "--format", "csv"]
    with subprocess.Popen([*program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"time:minute,events\n"
        running.stdout.close()
        assert b"Traceback" not in running.stderr.read()
        assert running.wait(30) == 0


def test_backup_and_restore(place, capsys):
    Path("events.ndjson").write_text("\n".join(map(json.dumps, EVENTS)))
    assert main(["import", "events.ndjson", "--store", "s.duckdb"]) == 0
    capsys.readouterr()
    assert main(["backup", "--store", "s.duckdb"]) == 0
    printed = capsys.readouterr()
    path = printed.out.partition(": ")[0]
    assert "not encrypted, 4 events; restored and compared" in printed.out and printed.err == ""
    assert main(["backup", "--store", "s.duckdb", "--list"]) == 0
    assert capsys.readouterr().out.split()[-1] == path
    assert main(["import", "events.ndjson", "--store", "s.duckdb", "--project", "other"]) == 0
    assert main(["restore", path, "--store", "s.duckdb"]) == 0
    assert "4 events, in the place of 8 events" in capsys.readouterr().out
    assert main(["restore", path, "--store", "fresh.duckdb"]) == 0
    assert main(["query", "--store", "fresh.duckdb", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4"
    for words, code in (
        (["backup", "--store", "none.duckdb"], "no-store"),
        (["restore", "none.tar.gz", "--store", "s.duckdb"], "no-such-file"),
        (["restore", "events.ndjson", "--store", "s.duckdb"], "backup-damaged"),
        (["backup", "--store", "s.duckdb", "--target", "ftp://there"], "bad-target"),
    ):
        assert main(words) == 2
        assert f"({code})" in capsys.readouterr().err
