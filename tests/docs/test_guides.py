"""The guides of running it name what there is: every alert, codes that exist, figures that were measured."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import gnomon
from gnomon import Settings
from gnomon.cli import main
from gnomon.errors import MissingExtra
from gnomon.upkeep.conditions import CONDITIONS

START, SECOND = datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=1)
DOCS = Path(__file__).resolve().parents[2] / "docs"


def text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text("utf-8")


def test_the_runbook_has_a_chapter_for_every_alert():
    chapters = re.findall(r"^## ([a-z-]+)$", text("runbook"), re.MULTILINE)
    table = re.search(r"^\| alert \|.*?\n\n", text("operations"), re.MULTILINE | re.DOTALL)[0]
    alerts = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)
    assert (
        len(set(chapters)) == len(chapters)
        and set(alerts) <= set(chapters)
        and {condition.name for condition in CONDITIONS} <= set(alerts)
    )


def test_the_codes_of_the_guides_exist():
    known = set(re.findall(r"`([a-z]+(?:-[a-z0-9]+)+|closed|internal|forbidden|overloaded)`", text("errors")))
    alerts = set(re.findall(r"^## ([a-z-]+)$", text("runbook"), re.MULTILINE))
    for name in ("troubleshooting", "upgrading", "runbook", "deployment"):
        used = re.findall(r"`([a-z]+(?:-[a-z]+)+)`", text(name))
        assert set(used) <= known | alerts, name


def test_every_figure_is_told_and_no_other():
    source = (DOCS.parent / "src" / "gnomon" / "server" / "figures.py").read_text("utf-8")
    made = set(re.findall(r"\bgnomon_[a-z_]+", source))
    assert set(re.findall(r"\bgnomon_[a-z_]+", text("server"))) == made
    for path in DOCS.glob("*.md"):
        told = set(re.findall(r"`(gnomon_[a-z_]+)", path.read_text("utf-8")))
        assert {re.sub("_(bucket|sum|count)$", "", name) for name in told} <= made, path.name


def test_no_alert_is_advised_that_cannot_fire():
    """A histogram says nothing about what has not arrived, and nothing above its largest bucket."""
    lines = re.findall(
        r"`gnomon_ingest_to_queryable_seconds`[^|\n]*(?:above|>)[^|\n]*", text("runbook") + text("capacity")
    )
    assert lines == []


def installs_anybodys(page: str) -> bool:
    """Whether a page has pip fetch Gnomon from an index, where nothing of ours lies."""
    return bool(re.search(r"""pip install (-\S+ )*["']?gnomon\b""", page))


def test_nothing_is_installed_that_is_not_published():
    pages = {path.name: path.read_text("utf-8") for path in (*DOCS.glob("*.md"), DOCS.parent / "README.md")}
    assert [name for name, page in pages.items() if installs_anybodys(page)] == []
    assert not installs_anybodys(MissingExtra("polars", "polars").remedy)
    assert installs_anybodys('pip install "gnomon[postgres]"') and not installs_anybodys('pip install ".[postgres]"')


@pytest.mark.parametrize(
    ("constant", "shown"),
    [
        ("DUCKDB, POSTGRES, CLICKHOUSE = 37.4, 277, 49", "with random ids | 37.4 |"),
        ("DUCKDB, POSTGRES, CLICKHOUSE = 37.4, 277, 49", "indexes included | 277 |"),
        ("DUCKDB, POSTGRES, CLICKHOUSE = 37.4, 277, 49", "| bytes an event, ids of our own | 49 |"),
        (
            'WRITER = {"duckdb": 92_000, "postgres": 46_000, "clickhouse": 81_000}',
            "| ingest to queryable, rows/s | 47,300 | 92,800 | 46,600 | 81,300 |",
        ),
        ("73,000 (ids from outside)", "| storing events with ids from outside | 73,000/s |"),
        ("111,000 (ids from outside)", "| storing events with ids from outside | 111,000/s |"),
        ("CLICKHOUSE_PER_CORE = 900_000 / 0.011 / 2", "| 900,000 events by source | 11 ms |"),
        ("in 489 ms where PostgreSQL took 1,611", "1,611 ms (3.6 times) | 489 ms (12 times) |"),
        ("ROLLUP, JOURNAL = 10.0, 240", "| 30 million | 0.90 M/s | 10.0 | 118 ms |"),
        ("SERVICE_US, SINGLE_US, ROLL_UP_US, READ_PER_CORE = 8.9, 190, 1 / 0.9, 91e6", "| 12 to 14 us | 8.9 us |"),
        ("| 190 us | 178 to 203, 32 connections |", "| 260 to 340 us | 178 to 203 us |"),
        ("SERVICE_US, SINGLE_US, ROLL_UP_US, READ_PER_CORE = 8.9, 190, 1 / 0.9, 91e6", "| totals | 164 ms |"),
        ("DuckDB, PostgreSQL, ClickHouse | 74, 558, 135 |", "rollups included | 242 | 74 | 558 | 135 |"),
    ],
)
def test_the_plan_rests_on_what_was_measured(constant, shown):
    assert constant in text("capacity") and shown in text("performance")


def test_the_plan_says_what_its_formulas_give():
    """One writer a store is the limit: nothing is recommended that brings more than half of it at the peak."""
    page, found = text("capacity"), {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], found)
    plans, writer, spare = found["plans"], found["WRITER"], found["SPARE"]

    def of(name: str) -> list[int]:
        return [plans[name][f"{kind} stores"] for kind in writer]

    assert of("10^10") == [1, 1, 1] and max(of("10^9")) == 1
    for name, kept in (("10^11", 1e11), ("10^12", 1e12)):
        peak = kept / 90 / 86_400 * 3
        assert all(n * most * spare >= peak > (n - 1) * most * spare
                   for n, most in zip(of(name), writer.values(), strict=True))  # fmt: skip
        rows = re.search(rf"^\| {re.escape(name)} \|.*$", page, re.MULTILINE)[0]
        assert re.findall(r"(\d+) (?:stores )?of (?:DuckDB|PostgreSQL|ClickHouse)", rows)[:3] == [*map(str, of(name))]
        assert f"{plans[name]['shards']} shards" in rows
    steps = page.partition("step by step")[2].partition("What would change it")[0]
    for said in (f"so {of('10^12')[2]} stores", "are 13 shards", "118 s with 208 cores", "26 servers",
                 "one day is 1.3 s", "lasts 23 minutes", "11 GB each", "(40,500 of 385,800"):  # fmt: skip
        assert said in steps, said
    assert f"it would be {float(plans['10^12']['one by one']):.0f} cores, with the same spare" in steps
    assert f"with half spare {plans['10^12']['ingest cores']} cores" in steps
    assert f"are {float(plans['10^12']['rollups GB/year'].replace(',', '')) / 1_000:.0f} TB in DuckDB" in steps
    assert "46,000 events a second, 23,000, 40,500" in page  # half of each, rounded down
    assert [int(most * spare) // 100 * 100 for most in writer.values()] == [46_000, 23_000, 40_500]


def unused(code: str) -> list[str]:
    """Figures of the plan that nothing is computed from."""
    names = [name for line in re.findall(r"^([A-Z][A-Z_, ]*) = ", code, re.MULTILINE) for name in line.split(", ")]
    return [name for name in names if len(re.findall(rf"\b{name}\b", code)) == 1]


def test_every_figure_of_the_plan_is_used_and_the_volume_of_the_chart_fits():
    code = re.search(r"```python\n(.*?)```", text("capacity"), re.DOTALL)[1]
    assert unused(code) == [] and unused(f"{code}\nIDLE = 1\n") == ["IDLE"]
    plan = {}
    exec(code, plan)
    values = (DOCS.parent / "deploy" / "helm" / "gnomon" / "values.yaml").read_text("utf-8")
    size = int(re.search(r"^persistence:.*?size: (\d+)Gi", values, re.MULTILINE | re.DOTALL)[1]) * 1024**3
    journal, days = Settings().journal_max_bytes, Settings().backup_days
    times = 1 + plan["SCRATCH"] + days * plan["ARCHIVE"]
    assert plan["BACKUPS"] == days and f"{(size - plan['RESERVE']) / times / 1e9:.1f}" == "0.8"
    page = text("capacity")
    assert f"the {size // 1024**3} GiB that the chart asks for that is a store of 0.8 GB" in page
    assert f"elsewhere {(size - journal) / 3e9 - 0.5:.0f} GB" in page


def newer_and_before(projects):
    """Two stores with an overlap; in the newer one also one that came in late, one from ahead and a request."""
    for project in projects:
        with (
            gnomon.open("newer.duckdb", project=project) as newer,
            gnomon.open("before.duckdb", project=project) as older,
        ):
            for n in range(20):
                for engine in (newer, older)[: 2 if n < 5 else 1]:
                    kept = {"amount": n / 2, "tags": ["a", {"b": None}], "of": project}
                    engine.track("order", id=f"o{n}", ts=START + n * SECOND, user_id="u1", properties=kept)
            newer.track("order", id="late", ts=START - timedelta(days=300))
            newer.track("order", id="early", ts=datetime.now(UTC) + timedelta(minutes=30))  # by its sender's clock
            newer.record_request(source="p", url="https://a.example/a", method="GET", status_code=503, duration_ms=80.5)


def rows_of(path):
    return [{**json.loads(line), "received_at": None} for line in path.read_text().splitlines()]


def test_the_way_back_brings_events_over_as_they_were(tmp_path, monkeypatch, capsys):
    """The commands of upgrading.md, for every project that `gnomon doctor` names."""
    monkeypatch.chdir(tmp_path)
    exported, imported = re.findall(r"`gnomon ((?:export|import) [^`]*NAME[^`]*)`", text("upgrading"))
    newer_and_before(["shop", "web"])
    assert main(["doctor", "--store", "newer.duckdb", "--format", "json"]) == 0
    projects = json.loads(capsys.readouterr().out)["facts"]["projects"]
    assert projects == ["shop", "web"]
    for project in projects:
        for words, store in ((exported, "newer.duckdb"), (imported, "before.duckdb")):
            assert main([*words.replace("NAME", project).split(), "--store", store]) == 0
        again = exported.replace("NAME.ndjson", "after.ndjson").replace("NAME", project)
        assert main([*again.split(), "--store", "before.duckdb"]) == 0
        since, after = rows_of(tmp_path / f"{project}.ndjson"), rows_of(tmp_path / "after.ndjson")
        assert since == after and len(since) == 23
