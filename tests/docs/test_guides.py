"""The guides of running it name what there is: every alert, codes that exist, figures that were measured."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import gnomon
from gnomon.cli import main
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


@pytest.mark.parametrize(
    ("constant", "shown"),
    [
        ("DUCKDB = CLICKHOUSE = 37.4", "with random ids | 37.4 |"),
        ("POSTGRES, ROLLUP, JOURNAL = 277, 10.0, 240", "indexes included | 277 |"),
        ("POSTGRES, ROLLUP, JOURNAL = 277, 10.0, 240", "| 30 million | 0.90 M/s | 10.0 | 118 ms |"),
        ("SERVICE_US, ROLL_UP_US, READ_PER_CORE = 13, 1 / 0.9, 91e6", "20 to 21 us | 12 to 14 us |"),
        ("SERVICE_US, ROLL_UP_US, READ_PER_CORE = 13, 1 / 0.9, 91e6", "| totals | 164 ms |"),
    ],
)
def test_the_plan_rests_on_what_was_measured(constant, shown):
    assert constant in text("capacity") and shown in text("performance")


def test_the_way_back_brings_events_over_as_they_were(tmp_path, monkeypatch):
    """The steps of upgrading.md, with an overlap."""
    monkeypatch.chdir(tmp_path)
    assert "--map received_at=" in text("upgrading")
    with gnomon.open("newer.duckdb") as newer, gnomon.open("before.duckdb") as older:
        for n in range(20):
            for engine in (newer, older)[: 2 if n < 5 else 1]:
                kept = {"amount": n / 2, "tags": ["a", {"b": None}]}
                engine.track("order", id=f"o{n}", ts=START + n * SECOND, user_id="u1", properties=kept)
        newer.record_request(source="p", url="https://example.com/a", method="GET", status_code=503, duration_ms=80.5)
    for words in (["export", "--store", "newer.duckdb", "--output", "since.ndjson"],
                  ["import", "since.ndjson", "--store", "before.duckdb", "--map", "received_at="],
                  ["export", "--store", "before.duckdb", "--output", "after.ndjson"]):  # fmt: skip
        assert main(words) == 0
    since, after = ([{**json.loads(line), "received_at": None} for line in (tmp_path / name).read_text().splitlines()]
                    for name in ("since.ndjson", "after.ndjson"))  # fmt: skip
    assert since == after and len(since) == 21
