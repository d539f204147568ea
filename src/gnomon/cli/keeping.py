"""`gnomon prune` and `gnomon rollup`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import msgspec

from gnomon.cli.command import declare, opened
from gnomon.timerange import from_us


def add_prune(commands: Any) -> None:
    command = declare(
        commands, "prune", _prune, "Delete what the retention policy no longer keeps; totals stay as they are.",
        "  gnomon prune --dry-run\n"
        "  gnomon prune --store usage.duckdb --format json",
    )  # fmt: skip
    command.add_argument("--dry-run", action="store_true", help="only count what would go, and estimate its bytes")
    command.add_argument("--format", choices=("table", "json"), default="table")


def _prune(args: argparse.Namespace) -> int:
    with opened(args, must_exist=True) as engine:
        report = engine.prune(dry_run=args.dry_run)
    if args.format == "json":
        print(json.dumps(msgspec.to_builtins(report), indent=1))
        return 0
    rolled = f"{report.hourly:,} hourly and {report.daily:,} daily rows"
    done = "would go; about" if report.dry_run else "went;"
    print(f"{report.raw:,} raw events, {rolled}, {report.samples:,} samples {done} {report.bytes_freed:,} bytes freed")
    return 0


def add_rollup(commands: Any) -> None:
    command = declare(
        commands, "rollup", _rollup, "Bring the rollups up to date; running it again changes nothing.",
        "  gnomon rollup\n"
        "  gnomon rollup --date-range 2026-01-01,2026-02-01 --format json",
    )  # fmt: skip
    command.add_argument("--date-range", metavar="RANGE", help="up to the end of 7d, yesterday, or START,END")
    command.add_argument("--format", choices=("table", "json"), default="table")


def _rollup(args: argparse.Namespace) -> int:
    span = args.date_range
    with opened(args, must_exist=True) as engine:
        report = engine.trigger_aggregation(span.split(",") if span and "," in span else span)
    until = from_us(report.until_us).isoformat()
    if args.format == "json":
        told = {**asdict(report), "until": until}
        told.pop("until_us")
        print(json.dumps(told, indent=1))
        return 0
    print(f"{report.events:,} events rolled up, {report.late:,} of them late, up to {until} ({report.seconds:.1f} s)")
    return 0
