"""`gnomon query`: a question, and its answer as a table, JSON or CSV."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from typing import TYPE_CHECKING, Any

from gnomon.cli.command import declare, opened
from gnomon.cli.tables import cell, plain, print_table
from gnomon.errors import InvalidValue

if TYPE_CHECKING:
    from gnomon.query.result import Result


def add_query(commands: Any) -> None:
    command = declare(
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
    with opened(args, must_exist=True) as engine:
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
        print(json.dumps(result.to_dicts(), default=plain, ensure_ascii=False, indent=1))
    elif format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([cell(name) for name in result.columns])
        writer.writerows([[cell(row[name]) for name in result.columns] for row in result])
    else:
        print_table(result)
        if result.next:
            print(f"more rows: this page holds {len(result):,}", file=sys.stderr)
