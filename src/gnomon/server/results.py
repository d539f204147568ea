"""A `Result` as an answer: Plausible's form, flat rows, CSV or Arrow. Times are ISO texts with their offset.

Numbers that JSON cannot say are null, integers beyond 64 bits become floats. In CSV a text that a spreadsheet would run
as a formula gets one apostrophe in front, and so does one that begins with an apostrophe, so that it can be taken off
again.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from gnomon.export.cells import guarded
from gnomon.query.result import Result, Row
from gnomon.server.questions import Question
from gnomon.timerange import DateRange, Grain, bucket_starts, from_us, load_zone, to_us


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)
    return value


def results_body(result: Result, question: Question, project: str, total_rows: int | None,
                 max_buckets: int) -> dict[str, Any]:  # fmt: skip
    """`{results, meta, query}`: a list of dimensions and one of metrics a row, in the order of the question."""
    results = []
    for row in result:
        told: dict[str, Any] = {
            "dimensions": [plain(row[name]) for name in result.dimensions],
            "metrics": [plain(row[name]) for name in result.metrics],
        }
        if result.before is not None:
            told["comparison"] = _comparison(result, row)
        results.append(told)
    return {"results": results, "meta": _meta(result, question, total_rows, max_buckets),
            "query": _echo(result, question, project)}  # fmt: skip


def rows_body(result: Result, question: Question, project: str, total_rows: int | None,
              max_buckets: int) -> dict[str, Any]:  # fmt: skip
    """`{rows, meta, query}`: a flat object a row."""
    meta = _meta(result, question, total_rows, max_buckets)
    if result.before is not None:
        meta["comparisons"] = [_comparison(result, row) for row in result]
    rows = [{name: plain(value) for name, value in row.items()} for row in result]
    return {"rows": rows, "meta": meta, "query": _echo(result, question, project)}


def csv_text(result: Result) -> str:
    """The rows as CSV (RFC 4180) with a line of names; null is empty."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(map(guarded, result.columns))
    writer.writerows([_cell(value) for value in row.values()] for row in result)
    return out.getvalue()


def arrow_bytes(result: Result) -> bytes:
    """The rows as an Arrow IPC stream. Raises `MissingExtra` without pyarrow."""
    table = result.to_arrow()
    import pyarrow.ipc

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _cell(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, str):
        return guarded(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value


# -- parts ----------------------------------------------------------------------------------------------------------


def _comparison(result: Result, row: Row) -> dict[str, Any]:
    """How the metrics of a row changed, as lists in the order of the metrics; `reasons` say why one is null."""
    changes = [result.change(name, row) for name in result.metrics]
    return {
        "metrics": [plain(change.before) for change in changes],
        "change": [plain(change.change) for change in changes],
        "points": [plain(change.points) for change in changes],
        "reasons": [change.reason for change in changes],
    }


def _meta(result: Result, question: Question, total_rows: int | None, max_buckets: int) -> dict[str, Any]:
    basis, wanted = result.basis, question.asked_for
    meta: dict[str, Any] = {
        "basis": basis.source,
        "exact": basis.exact,
        "percentile_error": basis.percentile_error,
        "uncollected_seconds": basis.uncollected_seconds,
        "gap_rows": sorted(result.gap_rows),
        "next": result.next,
    }
    if not basis.exact:
        meta["intervals"] = [[_ends(result, name, row) for name in result.metrics] for row in result]
        meta["no_interval"] = dict(result.reasons)
    if result.totals is not None:
        meta["totals"] = {name: plain(value) for name, value in result.totals.items()}
    if wanted.total_rows:
        meta["total_rows"] = total_rows
    if wanted.time_labels:
        meta["time_labels"] = _labels(result, max_buckets)
    return meta


def _ends(result: Result, name: str, row: Row) -> list[Any] | None:
    found = result.interval(name, row)
    return None if found.low is None or found.high is None else [plain(found.low), plain(found.high)]


def _labels(result: Result, max_buckets: int) -> list[str]:
    """Every bucket of the range, also those without a row; none where time is no dimension."""
    grains = [name.removeprefix("time:") for name in result.dimensions if name.startswith("time:")]
    grains += ["day" for name in result.dimensions if name == "time"]
    if not grains or grains[0] not in set(Grain):
        return []
    basis = result.basis
    span = DateRange(to_us(basis.start), to_us(basis.end), load_zone(basis.timezone))
    starts = bucket_starts(span, Grain(grains[0]), max_buckets)
    return [from_us(start, span.zone).isoformat() for start in starts]


def _echo(result: Result, question: Question, project: str) -> dict[str, Any]:
    """The question as it was understood, with the range that it meant."""
    given: Mapping[str, Any] = msgspec.to_builtins(question)
    told = {name: value for name, value in given.items() if value not in (None, False, [])}
    basis = result.basis
    resolved = {"site_id": project, "date_range": [basis.start.isoformat(), basis.end.isoformat()]}
    return {**told, **resolved, "dimensions": given["dimensions"], "timezone": basis.timezone}
