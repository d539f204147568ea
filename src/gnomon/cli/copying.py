"""`gnomon copy`: everything of one store into another, with a progress bar on a terminal."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from gnomon.cli.command import declare, opened, row_bar
from gnomon.errors import InvalidValue, StoreDamaged

if TYPE_CHECKING:
    from gnomon.engine import AnalyticsEngine
    from gnomon.upkeep.copying import Copied


def add_copy(commands: Any) -> None:
    command = declare(
        commands, "copy", _copy, "Copy a whole store, all projects, into a new one; it counts once both were compared.",
        "  gnomon copy usage.duckdb postgresql://gnomon:secret@db.example/analytics\n"
        "  gnomon copy usage.duckdb postgresql://gnomon:secret@db.example/analytics --verify-only\n"
        "  gnomon copy postgresql://gnomon:secret@db.example/analytics usage.duckdb --format json",
    )  # fmt: skip
    command.add_argument("source", metavar="SRC", help="the store to copy: a path or URL; it is not changed")
    command.add_argument(
        "destination", metavar="DST", help="a new file, database or schema; or a copy of SRC that was cut short"
    )
    command.add_argument("--verify-only", action="store_true", help="compare the two, and change nothing")
    command.add_argument("--data-dir", metavar="FOLDER", help="data_dir of a DST on a server (default: that of here)")
    command.add_argument("--format", choices=("table", "json"), default="table")


def _copy(args: argparse.Namespace) -> int:
    if args.store:
        raise InvalidValue("copy takes its stores as SRC and DST", remedy="Leave --store out.", code="bad-argument")
    args.store = args.source
    with opened(args, must_exist=True) as engine:
        try:
            copied = _with_bar(engine, args)
        except StoreDamaged as error:
            if error.code != "copy-differs":
                raise
            print(f"gnomon: {error}", file=sys.stderr)
            return 1
    if args.format == "json":
        print(json.dumps(_plain(copied), indent=1))
    else:
        _told(copied, args.verify_only)
    return 0 if copied.same else 1


def _with_bar(engine: AnalyticsEngine, args: argparse.Namespace) -> Copied:
    with row_bar() as show:
        return engine.copy_to(args.destination, data_dir=args.data_dir, verify_only=args.verify_only, on_progress=show)


def _told(copied: Copied, verify_only: bool) -> None:
    rows = sum(count for count, _ in copied.tables.values())
    if copied.same:
        done = "compared" if verify_only else "copied and compared"
        again = "; went on with the copy that was begun" if copied.resumed else ""
        print(f"{done}: {rows:,} rows in {len(copied.tables)} tables, {copied.tables['events'][0]:,} events "
              f"({copied.seconds:.1f} s{again})")  # fmt: skip
    for name in copied.differing:
        found, there = copied.tables[name], copied.found[name]
        print(f"{name} differs: {found[0]:,} rows, hash {found[1]}; in the copy {there[0]:,} rows, hash {there[1]}")
    if copied.newer:
        print(
            "something was recorded into the source meanwhile: stop what records there, and run this again before the "
            "copy is used", file=sys.stderr,
        )  # fmt: skip


def _plain(copied: Copied) -> dict[str, Any]:
    tables = {
        name: {"rows": told[0], "hash": told[1], "copy_rows": copied.found[name][0], "copy_hash": copied.found[name][1]}
        for name, told in copied.tables.items()
    }
    return {"same": copied.same, "differing": copied.differing, "newer": copied.newer, "resumed": copied.resumed,
            "carried": copied.carried, "version": copied.version, "seconds": round(copied.seconds, 3),
            "tables": tables}  # fmt: skip
