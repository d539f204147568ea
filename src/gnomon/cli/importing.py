"""`gnomon import`: files into the store, with a progress bar on a terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.cli.command import console_of, declare, opened
from gnomon.errors import InvalidValue

if TYPE_CHECKING:
    from gnomon.engine import AnalyticsEngine


def add_import(commands: Any) -> None:
    command = declare(
        commands, "import", _import, "Import access logs (combined), CSV, NDJSON or Parquet files, plain or .gz.",
        "  gnomon import access.log.gz\n"
        "  gnomon import orders.csv --map when=ts --map total=properties.amount --map type==order --timezone UTC\n"
        "  gnomon import events.ndjson --store usage.duckdb --project shop",
    )  # fmt: skip
    command.add_argument("files", nargs="+", metavar="FILE")
    command.add_argument(
        "--format", choices=("combined", "csv", "ndjson", "parquet"), help="default: found out from the file"
    )
    command.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="COLUMN=FIELD",
        help="CSV or Parquet column to a field, to properties.KEY, or to nothing; FIELD==TEXT sets a constant",
    )
    command.add_argument("--timezone", help="zone of times that name none, e.g. Europe/Paris")


def _import(args: argparse.Namespace) -> int:
    mapping = dict(_pair(entry) for entry in args.map) or None
    bad = 0
    with opened(args) as engine:
        for file in args.files:
            report = import_file(engine, Path(file), args.format, mapping, args.timezone)
            print(report)
            for line, code, detail in report.first_rejected:
                print(f"  line {line}: {code}: {detail}", file=sys.stderr)
            bad += report.rejected.total()
    if bad:
        print(f"{bad:,} lines were rejected; they are kept in the quarantine with their reasons.", file=sys.stderr)
    return 0


def _pair(text: str) -> tuple[str, str]:
    left, separator, right = text.partition("=")
    if not separator or not left:
        raise InvalidValue("--map takes COLUMN=FIELD", remedy="For example --map when=ts.", code="bad-argument")
    return left, right


def import_file(engine: AnalyticsEngine, path: Path, format: str | None = None, mapping: dict[str, str] | None = None,
                 timezone: str | None = None) -> Any:  # fmt: skip
    """Import with a progress bar on a terminal, without one anywhere else."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = console_of(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TextColumn("{task.fields[lines]:,} lines"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(path.name, total=None, lines=0)
        return engine.import_file(
            path, format, mapping, timezone,
            on_progress=lambda p: bar.update(task, completed=p.bytes_done, total=p.bytes_total, lines=p.lines),
        )  # fmt: skip
