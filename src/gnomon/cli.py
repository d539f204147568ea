"""The command line. It owns words, tables and exit codes; every answer is the engine's, or the audit's own check."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon import __version__, cli_serve
from gnomon.cli_export import add_export
from gnomon.config import Settings, read_settings, shown
from gnomon.errors import GnomonError, InvalidValue
from gnomon.log import logging_as

if TYPE_CHECKING:
    from rich.console import Console

    from gnomon.engine import AnalyticsEngine
    from gnomon.query.result import Result

DEMO_STORE = Path(".demo") / "gnomon.duckdb"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 something is not sound, 2 a refused argument or question."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        with logging_as(read_settings()):
            code: int = args.run(args)
    except GnomonError as error:
        print(f"gnomon: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gnomon", description="The analytics engine you import: record, keep, ask.",
        epilog="Start with: gnomon demo", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"gnomon {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_import(commands)
    _add_query(commands)
    add_export(commands, _command, _open)
    _add_backup(commands)
    _add_restore(commands)
    _add_doctor(commands)
    _add_audit(commands)
    cli_serve.add_commands(commands, _command, _settings)
    return parser


def _command(commands: Any, name: str, run: Any, about: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=f"examples:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.set_defaults(run=run)
    command.add_argument(
        "--store", metavar="URL", help="store to use (default: GNOMON_DATABASE_URL, else gnomon.duckdb here)"
    )
    command.add_argument("--project", help="project to use (default: GNOMON_PROJECT, else `default`)")
    return command


def _settings(args: argparse.Namespace) -> Settings:
    """A command records nothing (imports are no recording), so its being there must not hide that nobody else was."""
    settings = read_settings().but(enabled=False)
    if args.store:
        settings = settings.but(database_url=args.store)
    return settings.but(project=args.project) if args.project else settings


def _open(args: argparse.Namespace, *, must_exist: bool = False) -> AnalyticsEngine:
    from gnomon.engine import AnalyticsEngine
    from gnomon.store import store_path

    settings = _settings(args)
    path = store_path(settings.database_url)
    if must_exist and path is not None and "://" not in path and not Path(path).exists():
        raise _no_store()
    return AnalyticsEngine(settings)


def _no_store() -> InvalidValue:
    return InvalidValue(
        "there is no store at that path", remedy="Check --store, or import something first.", code="no-store"
    )


def _console(**options: Any) -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False, **options)


# -- import -------------------------------------------------------------------------------------------------------


def _add_import(commands: Any) -> None:
    command = _command(
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
    with _open(args) as engine:
        for file in args.files:
            report = _import_file(engine, Path(file), args.format, mapping, args.timezone)
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


def _import_file(engine: AnalyticsEngine, path: Path, format: str | None = None, mapping: dict[str, str] | None = None,
                 timezone: str | None = None) -> Any:  # fmt: skip
    """Import with a progress bar on a terminal, without one anywhere else."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = _console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TextColumn("{task.fields[lines]:,} lines"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(path.name, total=None, lines=0)
        return engine.import_file(
            path, format, mapping, timezone,
            on_progress=lambda p: bar.update(task, completed=p.bytes_done, total=p.bytes_total, lines=p.lines),
        )  # fmt: skip


# -- query --------------------------------------------------------------------------------------------------------


def _add_query(commands: Any) -> None:
    command = _command(
        commands, "query", _query, "Ask a question and print the answer.",
        "  gnomon query --metrics events,people --dimensions time:day --date-range 7d\n"
        "  gnomon query --metrics requests,success_rate,p95_duration_ms --dimensions source --timezone Asia/Kathmandu\n"
        "  gnomon query --filter '[\"is\",\"type\",[\"request\"]]' --date-range 2025-01-01,2025-02-01 --format csv",
    )  # fmt: skip
    command.add_argument("--metrics", default="events", help="names, comma-separated, or a JSON list (default: events)")
    command.add_argument("--dimensions", default="", help="names, comma-separated, e.g. source,time:day")
    command.add_argument(
        "--date-range", default="all", help="24h, 7d, today, last_month, all, or START,END (default: all)"
    )
    command.add_argument(
        "--filter", action="append", default=[], help='JSON, e.g. \'["is","type",["x"]]\'; several must all hold'
    )
    command.add_argument("--timezone", help="IANA zone of days and dates (default: the store's)")
    command.add_argument("--order-by", action="append", default=[], metavar="COLUMN[:desc]")
    command.add_argument("--limit", type=int)
    command.add_argument("--compare", help="previous, year, or a range: adds the change in percent")
    command.add_argument("--totals", action="store_true", help="add the row over everything")
    command.add_argument("--dataset", choices=("events", "samples"), default="events")
    command.add_argument("--format", choices=("table", "json", "csv"), default="table")
    command.add_argument("--explain", action="store_true", help="print the plan and the SQL instead of the answer")


def _query(args: argparse.Namespace) -> int:
    question: dict[str, Any] = {
        "metrics": _json(args.metrics, "--metrics") if args.metrics.lstrip().startswith("[") else _names(args.metrics),
        "dimensions": _names(args.dimensions),
        "date_range": _range(args.date_range),
        "filters": [_json(text, "--filter") for text in args.filter] or None,
        "timezone": args.timezone,
        "order_by": [_order(text) for text in args.order_by],
        "limit": args.limit,
        "compare": _range(args.compare) if args.compare else None,
        "totals": args.totals,
        "dataset": args.dataset,
    }  # fmt: skip
    with _open(args, must_exist=True) as engine:
        if args.explain:
            print(engine.explain(**question))
        else:
            _print_result(engine.query(**question), args.format)
    return 0


def _order(text: str) -> tuple[str, str]:
    return (text.removesuffix(":desc"), "desc") if text.endswith(":desc") else (text.removesuffix(":asc"), "asc")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _range(text: str) -> Any:
    parts = [part.strip() for part in text.split(",")]
    return parts[0] if len(parts) == 1 else parts


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidValue(
            f"{option} is not JSON", remedy='For example ["is","type",["request"]].', code="bad-argument"
        ) from None


def _print_result(result: Result, format: str) -> None:
    if format == "json":
        print(json.dumps(result.to_dicts(), default=_plain, ensure_ascii=False, indent=1))
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([_cell(name) for name in result.columns])
        writer.writerows([[_cell(row[name]) for name in result.columns] for row in result])
    else:
        _table(result)
        if result.next:
            print(f"more rows: this page holds {len(result):,}", file=sys.stderr)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _cell(value: Any) -> Any:
    """A CSV cell; text that a spreadsheet would run as a formula gets one apostrophe in front."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        from gnomon.export.cells import guarded

        return guarded(value)
    return "" if value is None else value


def _table(result: Result, title: str | None = None, most: int = 1_000) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gnomon.query.result import show

    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        show_footer=result.totals is not None,
    )
    for place, name in enumerate(result.dimensions):
        table.add_column(Text(name), footer="total" if place == 0 else "", overflow="fold")
    for name in result.metrics:
        table.add_column(Text(name), justify="right", footer=show(result.totals[name]) if result.totals else "")
        if result.before is not None:
            table.add_column("change", justify="right")
    for row in result.rows[:most]:
        cells = [Text(result.text(row, name)) for name in result.dimensions]
        for name in result.metrics:
            cells.append(Text(result.text(row, name)))
            if result.before is not None:
                moved = result.change(name, row)
                cells.append(
                    Text(
                        "new"
                        if moved.change is None and row[name]
                        else "-"
                        if moved.change is None
                        else f"{moved.change:+.1%}"
                    )
                )
        table.add_row(*cells)
    console = _console()
    console.print(table)
    console.print(
        f"{result.span()}; {result.basis}\n",
        style="dim",
    )


# -- demo ---------------------------------------------------------------------------------------------------------


def _add_demo(commands: Any) -> None:
    command = _command(
        commands, "demo", _demo, "Import the sample data (10,000 web requests, 48,860 commits) and print a report.",
        "  gnomon demo\n  gnomon demo --store /tmp/demo.duckdb",
    )  # fmt: skip
    command.add_argument(
        "--data", type=Path, help="folder with access.log.gz and commits.csv.gz (default: examples/data)"
    )


def _demo(args: argparse.Namespace) -> int:
    data = args.data or next((p for p in _data_places() if (p / "access.log.gz").exists()), None)
    if data is None:
        raise InvalidValue(
            "the sample data is not here", remedy="Run it in the source tree, or give --data.", code="no-data"
        )
    if not args.store:
        DEMO_STORE.parent.mkdir(exist_ok=True)
        args.store = str(DEMO_STORE)
    from gnomon.engine import AnalyticsEngine

    settings = _settings(args)
    with AnalyticsEngine(settings.but(project="web")) as engine:
        print(_import_file(engine, data / "access.log.gz"))
        _report_requests(engine)
    with AnalyticsEngine(settings.but(project="commits")) as engine:
        print(_import_file(engine, data / "commits.csv.gz"))
        _report_commits(engine)
        books = engine.books()
        print(f"books of this project: {books.to_dict()}")
    store = shown(settings.database_url)
    print(f"The store is {store}. Ask it: gnomon query --store {store} --project web "
          "--metrics requests --dimensions endpoint --limit 10")  # fmt: skip
    if os.environ.get("SERVE", "0") not in ("", "0"):
        from gnomon.cli_serve import serve

        # Without background jobs: the sample data are older than the service keeps events for.
        serve(settings.but(scheduler=False), "127.0.0.1", int(os.environ.get("PORT", "8000")), dev=True)
    return 0


def _data_places() -> list[Path]:
    return [Path("examples") / "data", Path(__file__).resolve().parents[2] / "examples" / "data"]


def _report_requests(engine: AnalyticsEngine) -> None:
    span = ["2015-05-17", "2015-05-21"]
    _table(
        engine.query(["requests", "people", "sum_bytes_sent"], ["status_class"], span, totals=True),
        "Requests by status class",
    )
    _table(
        engine.query(["requests", "people", "success_rate"], ["endpoint"], span, limit=10, totals=True), "Top endpoints"
    )
    _table(engine.query(["requests", "people", "failures"], ["time:hour"], span, totals=True), "Requests by hour")


def _report_commits(engine: AnalyticsEngine) -> None:
    _table(engine.query(["events", "people"], ["source"], totals=True), "Commits by project")
    _table(
        engine.query(["people", "events"], ["time:month"], ["2025-09-01", "2026-09-01"], totals=True),
        "Active people a month",
    )


# -- backup and restore -------------------------------------------------------------------------------------------


def _add_backup(commands: Any) -> None:
    command = _command(
        commands, "backup", _backup, "Back up the whole store, all projects; it counts once restored and compared.",
        "  gnomon backup\n"
        "  gnomon backup --store usage.duckdb --target /mnt/backups\n"
        "  gnomon backup --target 's3://bucket/gnomon?region=eu-central-1'\n"
        "  gnomon backup --list",
    )  # fmt: skip
    command.add_argument(
        "--target", metavar="URL", help="folder or URL (default: GNOMON_BACKUP_TARGET, else backups/ beside the store)"
    )
    command.add_argument("--list", action="store_true", help="list the good backups instead of making one")


def _backup(args: argparse.Namespace) -> int:
    with _open(args, must_exist=True) as engine:
        if args.list:
            for kept in engine.backups(args.target):
                print(f"{kept.created_at:%Y-%m-%dT%H:%M:%SZ}  {kept.bytes:>15,} bytes  {kept.path}")
            return 0
        with _progress() as step:
            made = engine.trigger_backup(args.target, on_step=step)
    sealed = "encrypted" if made.encrypted else "not encrypted"
    print(f"{made.path}: {made.bytes:,} bytes, {sealed}, {made.counts['events']:,} events; "
          f"restored and compared ({made.seconds:.1f} s)")  # fmt: skip
    return 0


def _add_restore(commands: Any) -> None:
    command = _command(
        commands, "restore", _restore, "Put a backup in the place of everything that the store holds, all projects.",
        "  gnomon restore backups/gnomon-usage-20250131T020000.000000Z.tar.zst --store usage.duckdb\n"
        "  gnomon restore s3://bucket/gnomon/gnomon-usage-20250131T020000.000000Z.tar.zst.age",
    )  # fmt: skip
    command.add_argument("path", metavar="PATH", help="the archive: a file, or its URL as `gnomon backup --list` says")


def _restore(args: argparse.Namespace) -> int:
    with _open(args) as engine, _progress() as step:
        found = engine.restore_backup(args.path, on_step=step)
    gone = "content that could not be read" if found.replaced is None else f"{found.replaced:,} events"
    print(f"restored the backup of {found.created_at:%Y-%m-%d %H:%M:%S} UTC: {found.counts['events']:,} events, "
          f"in the place of {gone} ({found.seconds:.1f} s)")  # fmt: skip
    return 0


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, on a terminal; nothing anywhere else."""
    console = _console(stderr=True)
    with console.status("starting") as line:
        yield line.update


# -- doctor -------------------------------------------------------------------------------------------------------


def _add_doctor(commands: Any) -> None:
    command = _command(
        commands, "doctor", _doctor, "Check versions, files, journal and books; exit 0 when everything is sound.",
        "  gnomon doctor\n  gnomon doctor --store usage.duckdb --format json",
    )  # fmt: skip
    command.add_argument("--format", choices=("table", "json"), default="table")


def _doctor(args: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    with _open(args, must_exist=True) as engine:
        health = engine.health()
    if args.format == "json":
        print(json.dumps(health.to_dict(), default=_plain, indent=1))
        return 0 if health.sound else 1
    table = Table(box=None, show_header=False)
    for name, value in health.facts.items():
        table.add_row(
            name.replace("_", " "),
            Text(value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else str(value)),
        )
    console = _console()
    console.print(table)
    for finding in health.findings:
        console.print(Text(f"NOT SOUND: {finding.what}. {finding.remedy}", style="bold red"))
    if health.sound:
        console.print("Everything is sound.", style="bold green")
    return 0 if health.sound else 1


# -- audit --------------------------------------------------------------------------------------------------------


def _add_audit(commands: Any) -> None:
    command = _command(
        commands, "audit", _audit, "Check the audit of a store (exit 0 when it is sound), or print its head.",
        "  gnomon audit verify --store usage.duckdb\n"
        "  gnomon audit head\n"
        "  gnomon audit verify --expect COUNT:HASH",
    )  # fmt: skip
    command.add_argument("what", choices=("verify", "head"))
    command.add_argument("--expect", metavar="COUNT:HASH", help="a head printed earlier: it must be part of the chain")


def _audit(args: argparse.Namespace) -> int:
    """Reads the files only, so it works while a process has the store open, and when the store is damaged."""
    from gnomon.ingest.hold import file_of
    from gnomon.store import served
    from gnomon.upkeep import verify

    settings = _settings(args)
    file = file_of(settings)
    if file is None or not (file.exists() or served(settings.database_url)):
        raise _no_store()
    audit = file.with_name(f"{file.name}.audit")
    if args.what == "head":
        print(verify.head(audit))
        return 0
    verdict = verify.verify(audit, verify.Head.parse(args.expect) if args.expect else None)
    print(verdict)
    return 0 if verdict else 1
