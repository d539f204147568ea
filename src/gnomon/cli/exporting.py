"""`gnomon export`: events or an answer as a file, to a path or to standard output, with progress on a terminal."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.cli.command import declare, opened, projects_in
from gnomon.errors import InvalidValue, unknown_name
from gnomon.export import ALIASES, FORMATS

if TYPE_CHECKING:
    from gnomon.export.running import ExportStream

_TEXTS = ("csv", "json", "ndjson")


def add_export(commands: Any) -> None:
    """Declare the command."""
    command = declare(
        commands, "export", _export, "Write events, or the answer to a query, into a file.",
        "  gnomon export --date-range 7d --output events.csv\n"
        "  gnomon export --date-range 2025-01-01,2025-02-01 --fields ts,type,user_id --output january.xlsx\n"
        "  gnomon export --filter '[\"is\",\"type\",[\"order\"]]' --format ndjson | gzip > orders.ndjson.gz\n"
        '  gnomon export --query \'{"metrics":["events"],"dimensions":["source","time:day"]}\' --output days.csv',
    )  # fmt: skip
    command.add_argument("--format", choices=tuple(FORMATS), help="default: by the ending of FILE, else csv")
    command.add_argument(
        "--date-range", default="all", help="24h, 7d, today, last_month, all, or START,END (default: all)"
    )
    command.add_argument("--fields", help="names of fields, comma-separated (default: all)")
    command.add_argument(
        "--filter", action="append", default=[], help='JSON, e.g. \'["is","type",["x"]]\'; several must all hold'
    )
    command.add_argument("--query", metavar="JSON", help="the arguments of a query: its answer instead of events")
    command.add_argument("--output", default="-", metavar="FILE", help="a file, or - for standard output (default)")


def _export(args: argparse.Namespace) -> int:
    ending = Path(args.output).suffix[1:]
    format = args.format or (ALIASES.get(ending, ending) if ALIASES.get(ending, ending) in FORMATS else "csv")
    span = [part.strip() for part in args.date_range.split(",")]
    order: dict[str, Any] = {
        "time_range": span[0] if len(span) == 1 else span,
        "format": format,
        "fields": None if args.fields is None else [name.strip() for name in args.fields.split(",")],
        "filters": [_json(text, "--filter") for text in args.filter] or None,
        "query": None if args.query is None else _json(args.query, "--query"),
    }  # fmt: skip
    if args.output == "-" and format not in _TEXTS and sys.stdout.isatty():
        raise InvalidValue("that format is not for a terminal", remedy="Give --output FILE.", code="bad-argument")
    with opened(args, must_exist=True) as engine:
        known = projects_in(engine)
        if known and engine.settings.project not in known:  # of which an empty file would say nothing
            raise unknown_name("project", engine.settings.project, known)
        with closing(engine.stream_export(**order, read_ahead=1)) as stream:
            _put(stream, args.output)
    return 0


def _put(stream: ExportStream, output: str) -> None:
    if output == "-":
        _write(stream, sys.stdout.buffer if hasattr(sys.stdout, "buffer") else _Texts())
    else:
        _to_file(stream, Path(output))
        print(f"{output}: {stream.rows:,} rows, {Path(output).stat().st_size:,} bytes")
    if stream.sampled:
        print("Some of these events stand for several, as sampling left others out: sum the weights.",
              file=sys.stderr)  # fmt: skip


def _to_file(stream: ExportStream, path: Path) -> None:
    """Write it beside `path` first, so that no half of a file is ever taken for the whole."""
    from gnomon.export.jobs import writing

    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with writing():
        try:
            with part.open("wb") as file:
                _write(stream, file)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _write(stream: ExportStream, file: Any) -> None:
    """All of it, with a bar where standard error is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("rows", total=None)
        for data in stream:
            file.write(data)
            bar.update(task, completed=stream.rows, total=stream.total)
    file.flush()


class _Texts:
    """Standard output of a program that put a text stream in its place."""

    def write(self, data: bytes) -> int:
        """Write UTF-8 as text."""
        return sys.stdout.write(data.decode())

    def flush(self) -> None:
        """Flush it."""
        sys.stdout.flush()


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidValue(
            f"{option} is not JSON", remedy='For example ["is","type",["request"]].', code="bad-argument"
        ) from None
