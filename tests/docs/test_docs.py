"""Docs that cannot lie: examples run and print what is shown, every public name is named, nothing else is documented.

Tables count as statements: a first cell in a table under a listed heading must be a real name, and every real name must
stand in one. To add something public, add its line to the docs; this file finds the rest by itself.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import gnomon
import gnomon.testing
from gnomon import catalog, cli, errors, event, metrics
from gnomon.config import NOT_SETTINGS, PLAIN_ALIASES, PREFIX, Settings
from gnomon.engine import AnalyticsEngine
from gnomon.ingest import columns
from gnomon.query.model import _OPS
from gnomon.query.result import Result

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "gnomon"
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
RUNNABLE = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
#: Not before a letter or digit and not after one, so that `events` is not found in `flush_events`.
WORD = r"(?<![\w.]){}(?![\w])"
BANNED = ("manager", "helper", "util", "utils", "common", "base", "core", "handler", "processor", "factory", "gnomon")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text_of(*pages: Path) -> str:
    return "\n".join(page.read_text("utf-8") for page in pages)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def section(page: Path, heading: str) -> str:
    """The text under a heading, up to the next one of its level or above."""
    text = page.read_text("utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert found, f"{page.name} has no heading {heading!r}"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def documented(text: str) -> set[str]:
    """What stands as code in the first cell of every table row but the heads."""
    cells = re.findall(r"^\|((?:[^|`]|`[^`]*`)*)\|.*$(?!\n\|-)", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def missing(names: Any, text: str) -> list[str]:
    return sorted(name for name in names if not re.search(WORD.format(re.escape(name)), text))


# --- examples


FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> Iterator[tuple[str, str, str | None, int]]:
    """Language, code, the output shown directly below it (or None), and the line of every fenced block."""
    text = page.read_text("utf-8")
    found = list(FENCE.finditer(text))
    for place, block in enumerate(found):
        following = found[place + 1] if place + 1 < len(found) else None
        shown = None
        if following and following[1] == "text" and not text[block.end() : following.start()].strip():
            shown = following[2]
        yield block[1], block[2], shown, text.count("\n", 0, block.start()) + 2


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with the sample data where a checkout has it, and none of this machine's settings."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "data").symlink_to(ROOT / "examples" / "data")
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(PREFIX) or name in PLAIN_ALIASES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def run_python(page: Path) -> list[tuple[int, str, str | None]]:
    """Run a page's Python blocks in one namespace; returns line, output and shown output of each."""
    space: dict[str, Any] = {"__name__": f"docs_{page.stem}"}
    found = []
    before = {metric.name: metric for metric in metrics.known()}
    try:
        for language, code, shown, line in blocks(page):
            if language == "python":
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    exec(compile("\n" * (line - 1) + code, name_of(page), "exec"), space)
                found.append((line, out.getvalue(), shown))
    finally:
        metrics._REGISTRY.clear()
        metrics._REGISTRY.update(before)
        for value in list(space.values()):
            if isinstance(value, AnalyticsEngine):
                value.close()
    return found


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_python_examples_run_and_print_what_is_shown(page, place):
    for line, printed, shown in run_python(page):
        if shown is not None:
            assert printed == shown, f"{name_of(page)}:{line}"
        else:
            assert printed == "", f"{name_of(page)}:{line} prints, but the page does not show it"


def commands(page: Path) -> Iterator[tuple[str, str | None, int]]:
    """Every shell command of a page; with `$ ` in front (console) also the output that is shown below it."""
    for language, code, _, line in blocks(page):
        if language == "sh":
            yield from ((text, None, line) for text in code.replace("\\\n", " ").splitlines())
        elif language == "console":
            for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
                text, _, shown = part.partition("\n")
                yield text, shown, line


def run_command(words: list[str]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        cli.main(words)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def settled(text: str) -> str:
    """Output without what differs from run to run: speeds."""
    return re.sub(r"\([\d,]+ lines/s\)", "(... lines/s)", text).strip("\n")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse_and_print_what_is_shown(page, place):
    for text, shown, line in commands(page):
        words = shlex.split(text, comments=True)
        if words[:1] != ["gnomon"]:
            assert shown is None or not shown.strip(), f"{name_of(page)}:{line}: output of a command that is not ours"
            continue
        if not {"-h", "--help", "--version"} & set(words):
            cli._parser().parse_args(words[1:])
        if words[1:2] == ["demo"] and page.name != "README.md":
            continue  # once is enough for 58,860 lines
        printed = run_command(words[1:])
        if shown is not None and shown.strip():
            assert settled(printed) == settled(shown), f"{name_of(page)}:{line}: {text}"
        assert "Traceback" not in printed


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE):
            assert target in targets, f"{name_of(page)}: make {target}"


# --- names


def test_the_readme_names_every_extra():
    told = re.search(r"# extras: (.*)", (ROOT / "README.md").read_text("utf-8"))[1]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"[a-z0-9]+", re.sub(r"\(.*?\)", "", told))) == extras.keys() - {"test", "bench"}


def public_methods(kind: type) -> set[str]:
    inherited = {name for parent in kind.__mro__ if not parent.__module__.startswith("gnomon") for name in vars(parent)}
    return {name for name in dir(kind) if not name.startswith("_") and name not in inherited}


def test_every_public_name_is_documented():
    text = text_of(*RUNNABLE)
    own = {
        name
        for name in vars(gnomon.testing)
        if getattr(vars(gnomon.testing)[name], "__module__", "") == "gnomon.testing"
    }
    wanted = {f"gnomon.{name}" for name in gnomon.__all__ if not name.startswith("_")}
    assert not [name for name in wanted if name not in text and not re.search(WORD.format(name[7:]), text)]
    assert not missing({name for name in own if not name.startswith("_")}, text)
    for kind in (AnalyticsEngine, Result):
        wanted = public_methods(kind) | ({field.name for field in fields(Result)} if kind is Result else set())
        assert not [name for name in wanted if not re.search(rf"[.`]{name}\b", text)], kind


def test_nothing_is_called_on_the_engine_that_it_does_not_have():
    known = public_methods(AnalyticsEngine) | {"settings", "clock", "zone"}
    for page in PAGES:
        for name in re.findall(r"\bengine\.([a-z_]+)", page.read_text("utf-8")):
            assert name in known or name == "py", f"{name_of(page)}: engine.{name}"


def test_every_parameter_of_the_recording_calls_is_documented():
    for name in ("track", "record_request", "record_metric"):
        given = set(inspect.signature(getattr(AnalyticsEngine, name)).parameters) - {"self"}
        assert not missing(given, section(DOCS / "recording.md", name) + section(DOCS / "recording.md", "track"))
    assert documented(section(DOCS / "recording.md", "track")) == {
        *inspect.signature(AnalyticsEngine.track).parameters
    } - {"self"}
    assert documented(section(DOCS / "recording.md", "record_metric")) == {
        *inspect.signature(AnalyticsEngine.record_metric).parameters
    } - {"self"}
    opened = {*inspect.signature(gnomon.open).parameters} - {"changes"}
    assert documented(section(DOCS / "recording.md", "Open an engine")) == opened


def test_every_parameter_of_query_is_documented():
    given = {*inspect.signature(AnalyticsEngine.query).parameters} - {"self"}
    assert documented(section(DOCS / "querying.md", "The question")) == given


# --- settings


def test_the_settings_table_is_the_settings():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|", text_of(DOCS / "settings.md"), re.MULTILINE)
    shown = {name: (default, unit, environment) for name, default, unit, environment in rows}
    assert set(shown) == {field.name for field in fields(Settings)}
    aliases = {setting: plain for plain, setting in PLAIN_ALIASES.items()}
    for field in fields(Settings):
        default, _, environment = shown[field.name]
        assert field.default is not MISSING
        assert default == f"`{field.default!r}`".replace("'", '"'), field.name
        wanted = [f"`{PREFIX}{field.name.upper()}`", *([f"`{aliases[field.name]}`"] if field.name in aliases else [])]
        assert environment == ", ".join(wanted), field.name


def test_every_environment_name_that_is_documented_exists():
    known = {f"{PREFIX}{field.name.upper()}" for field in fields(Settings)} | NOT_SETTINGS
    for page in PAGES:
        for name in re.findall(r"\bGNOMON_[A-Z_]+\b", page.read_text("utf-8")):
            assert name in known, f"{name_of(page)}: {name}"
    assert not missing(NOT_SETTINGS, text_of(DOCS / "settings.md"))


# --- metrics, dimensions, filters, formats


def test_the_metric_tables_are_the_metrics():
    known = {metric.name for metric in metrics.known()}
    shown = documented(section(DOCS / "querying.md", "Metrics"))
    assert shown >= known | set(metrics.ALIASES)
    assert shown - known - set(metrics.ALIASES) <= {*metrics._AGGS, "count", "p95", "p99.9", "properties.<key>"}
    assert set(metrics._AGGS) <= documented(section(DOCS / "querying.md", "Metric objects"))


def test_the_dimension_tables_are_the_dimensions():
    page = DOCS / "querying.md"
    plain = {name for data in catalog.DATASETS.values() for name in data.dimensions}
    times = {f"time:{grain}" for grain in catalog.TIME_GRAINS}
    keys = {f"{data.json_prefix}<key>" for data in catalog.DATASETS.values()}
    shown = documented(section(page, "Dimensions")) | documented(section(page, "Metric samples"))
    samples = {metric.name for metric in metrics.known() if metric.dataset == "samples"}
    assert shown - samples == plain | times | keys | set(catalog.ALIASES) | {"event:props:<key>"}
    assert set(catalog.EVENTS.dimensions) <= documented(section(page, "Dimensions"))
    assert set(catalog.SAMPLES.dimensions) <= documented(section(page, "Metric samples"))


def test_the_filter_table_is_the_filters():
    operators = {re.match(r'\["(\w+)"', form)[1] for form in documented(section(DOCS / "querying.md", "Filters"))}
    assert operators == set(_OPS)


def test_the_grains_and_fields_are_named():
    assert not missing({grain.value for grain in gnomon.Grain}, text_of(DOCS / "querying.md"))
    assert not missing(event.ROW, text_of(DOCS / "recording.md", DOCS / "querying.md"))
    (formats,) = [action.choices for action in subcommands()["import"]._actions if action.dest == "format"]
    assert documented(section(DOCS / "importing.md", "Formats")) == set(formats)


def test_the_column_names_of_files_are_those_of_the_importer():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section(DOCS / "importing.md", "Names of columns"), re.MULTILINE)
    assert {field: tuple(names.split(", ")) for field, names in rows} == columns._ALIASES


# --- command line


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (group,) = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(group.choices)


def test_the_commands_and_options_are_those_of_the_parser():
    page = DOCS / "cli.md"
    headings = re.findall(r"^## gnomon (\w+)$", page.read_text("utf-8"), re.MULTILINE)
    assert set(headings) == set(subcommands())
    everywhere = documented(section(page, "Options of every command"))
    for name, parser in subcommands().items():
        real = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
        shown = {text.split()[0] for text in documented(section(page, f"gnomon {name}")) if text.startswith("-")}
        assert shown | {text.split()[0] for text in everywhere} == real, name


def test_no_command_is_named_that_does_not_exist():
    for page in PAGES:
        if page.name == "roadmap.md":
            continue
        for name in re.findall(r"`gnomon ([a-z]+)", page.read_text("utf-8")):
            assert name in subcommands(), f"{name_of(page)}: gnomon {name}"


# --- error codes


def codes_in_source() -> tuple[set[str], list[re.Pattern[str]]]:
    """Codes that stand in the source, and patterns of those made from a name."""
    found: set[str] = set()
    made: list[re.Pattern[str]] = []

    def note(node: ast.expr | None) -> None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in node.values]
            made.append(re.compile("".join(parts)))

    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("Refusal", "LineFault", "_lost") and node.args:
                    note(node.args[0])
                for keyword in node.keywords:
                    if keyword.arg == "code":
                        note(keyword.value)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                if node.targets[0].id == "code":
                    note(node.value)
                elif node.targets[0].id == "_REASONS" and isinstance(node.value, ast.Dict):
                    for key in node.value.keys:
                        note(key)
    return found, made


def test_the_error_tables_are_the_codes_of_the_source():
    found, made = codes_in_source()
    shown = {name for name in documented(text_of(DOCS / "errors.md")) if re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", name)}
    shown |= {errors.GnomonError.code}  # stands in the table of exceptions, see the next test
    assert not found - shown
    assert not [code for code in shown - found if not any(pattern.fullmatch(code) for pattern in made)]
    assert all(any(pattern.fullmatch(code) for code in shown) for pattern in made)
    for page, heading in ((DOCS / "recording.md", "Codes of refusal"), (DOCS / "importing.md", "Bad lines")):
        assert documented(section(page, heading)) <= shown


def test_the_exceptions_are_those_of_the_source():
    kinds = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.GnomonError)
    }
    rows = re.findall(
        r"^\| `(\w+)` \| `([a-z-]+)` \| (\d{3}) \|", section(DOCS / "errors.md", "Exceptions"), re.MULTILINE
    )
    assert {(name, code, int(status)) for name, code, status in rows} == {
        (name, kind.code, kind.status) for name, kind in kinds.items()
    }


# --- the tree, links and words


def test_the_map_names_every_module_and_no_other():
    tree = re.search(r"```text\nsrc/gnomon/\n(.*?)```", text_of(ROOT / "CONTRIBUTING.md"), re.DOTALL)
    assert tree
    named = set(re.findall(r"^  (\S+)", tree[1], re.MULTILINE))
    real = {path.name for path in SRC.iterdir() if path.is_file()}
    real |= {f"{path.name}/" for path in SRC.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert named == real
    for path in SRC.rglob("*.py"):
        folder = path.parent.relative_to(SRC)
        if path.name != "__init__.py" and folder.parts:
            line = re.search(rf"^  {folder.parts[0]}/.*(?:\n      .*)*", tree[1], re.MULTILINE)
            assert line and re.search(WORD.format(path.stem), line[0]), path


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text("utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", without_code(file.read_text("utf-8")), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{name_of(page)}: {target}"


def test_every_page_is_reachable_from_the_index_or_the_readme():
    linked = set()
    for page in (ROOT / "README.md", DOCS / "index.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
            linked.add((page.parent / target).resolve())
    assert {page for page in PAGES if page.name != "README.md"} <= linked


def test_decision_records_that_the_source_names_exist():
    records = {path.name[:4]: path for path in (DOCS / "decisions").glob("*.md")}
    for path in [*SRC.rglob("*"), ROOT / "pyproject.toml"]:
        if path.suffix in (".py", ".sql", ".toml"):
            for number in re.findall(r"docs/decisions/(\d{4})", path.read_text("utf-8")):
                assert number in records, f"{path}: {number}"
    for path in records.values():
        text = path.read_text("utf-8")
        assert text.startswith(f"# {path.name[:4]}: ")
        assert all(f"**{part}" in text for part in ("Context", "Decision", "Consequences")), path


def test_banned_words_name_nothing_in_the_source():
    for path in SRC.rglob("*.py"):
        names = [path.stem, path.parent.name if path.parent != SRC else ""]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.append(node.name)
                assert not re.match(r"_*(Abstract|I(?=[A-Z][a-z]))|.*Impl$", node.name), f"{path}: {node.name}"
        for name in names:
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}
            if name == "GnomonError":  # the root of the tree of exceptions, named after the package as is usual
                words.discard("gnomon")
            assert not words & set(BANNED), f"{path}: {name}"


def test_nothing_of_this_machine_is_in_the_docs():
    for page in PAGES:
        found = re.search(r"(?<![\w.])/(?:work|root|home|Users)/", page.read_text("utf-8"))
        assert not found, f"{name_of(page)}: {found[0]}"
