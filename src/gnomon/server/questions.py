"""The body of `POST /query`: read strictly, and made a `Query`.

Our own words and those of the Plausible Stats API (v2) are taken; what a word means is ours. Whatever has another name
or form is refused with the nearest that exists, and never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from gnomon.errors import InvalidValue, RangeTooLarge, unknown_name
from gnomon.query.model import Query
from gnomon.server.problems import Problem
from gnomon.server.wire import malformed

MOST_SKIPPED = 200_000  #: rows that `offset` may pass over
_PLACE = re.compile(r"\$[A-Za-z0-9_.\[\]]*")
_MODES = {"previous_period": "previous", "year_over_year": "year"}


class Comparisons(Struct, forbid_unknown_fields=True):
    """With what to compare; a `custom` one needs its range."""

    mode: str
    date_range: Any = None


class Include(Struct, forbid_unknown_fields=True):
    """What to tell besides the rows. `imports` changes nothing: what was imported is data as any other."""

    imports: bool = False
    time_labels: bool = False
    total_rows: bool = False
    totals: bool = False
    comparisons: Comparisons | None = None


class Pagination(Struct, forbid_unknown_fields=True):
    """Which rows: so many, behind so many others, or behind the page whose `next` is given as `after`."""

    limit: int | None = None
    offset: int = 0
    after: str | None = None


class Question(Struct, forbid_unknown_fields=True):
    """The body of a question."""

    metrics: list[str | dict[str, Any]]
    site_id: str | None = None
    dimensions: list[str] = []
    date_range: Any = "all"
    filters: list[Any] | None = None
    timezone: str | None = None
    order_by: list[Any] | None = None
    include: Include | None = None
    pagination: Pagination | None = None
    limit: int | None = None
    compare: Any = None
    after: str | None = None
    totals: bool = False
    dataset: str = "events"
    basis: str = "auto"

    @property
    def asked_for(self) -> Include:
        """What to include."""
        return self.include or Include()

    @property
    def offset(self) -> int:
        """How many rows to pass over."""
        return self.pagination.offset if self.pagination else 0

    def query(self, max_rows: int) -> Query:
        """The checked question. Raises `InvalidValue`, `UnknownName`, `RangeTooLarge`."""
        pages = self.pagination or Pagination()
        limit, after = _one("limit", self.limit, pages.limit), _one("after", self.after, pages.after)
        if limit is not None and limit > max_rows:
            raise RangeTooLarge(f"a page has at most {max_rows:,} rows", remedy="Ask for fewer, and follow `next`.")
        if not 0 <= self.offset <= MOST_SKIPPED or (self.offset and after is not None):
            raise InvalidValue(f"offset is a whole number of 0 to {MOST_SKIPPED:,}, and excludes `after`",
                               code="bad-query")  # fmt: skip
        compare = _one("compare", self.compare, _compared(self.asked_for.comparisons))
        return Query.build(
            self.metrics, self.dimensions, self.date_range, self.filters, self.timezone, self.order_by, limit, compare,
            after, self.totals or self.asked_for.totals, self.dataset, self.basis,
        )  # fmt: skip

    @property
    def is_fixed(self) -> bool:
        """Whether the range, and that of a comparison, are the same whenever it is asked."""
        ranges = [self.date_range, self.compare, self.asked_for.comparisons and self.asked_for.comparisons.date_range]
        return isinstance(self.date_range, list | Mapping) and all(
            each in (None, "previous", "previous_period", "year", "year_over_year") or isinstance(each, list | Mapping)
            for each in ranges[1:]
        )


def read_question(body: bytes) -> Question:
    """The question that a body holds. Raises `Problem` (400, 422) and `UnknownName`."""
    try:
        content = msgspec.json.decode(body)
    except RecursionError:
        raise Problem(422, "the question is nested too deeply", code="too-deep", remedy="Nest it less.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        raise malformed() from None
    if not isinstance(content, dict):
        raise _bad("the body is no object")
    _check_names(content, Question, "field of a question")
    if isinstance(content.get("include"), dict):
        _check_names(content["include"], Include, "thing to include")
        if isinstance(content["include"].get("comparisons"), dict):
            _check_names(content["include"]["comparisons"], Comparisons, "part of a comparison")
    if isinstance(content.get("pagination"), dict):
        _check_names(content["pagination"], Pagination, "part of pagination")
    try:
        return msgspec.convert(content, Question)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        where = "" if place is None else place[0].removeprefix("$").lstrip(".")
        raise _bad(f"{where or 'a field that is needed'} has not the form that it needs, or is missing") from None


def _check_names(given: dict[str, Any], kind: type[Struct], what: str) -> None:
    known = kind.__struct_fields__
    for name in given:
        if name not in known:
            raise unknown_name(what, name, known)


def _one(name: str, mine: Any, theirs: Any) -> Any:
    """A value that may be given in two places, but not in both."""
    if mine is not None and theirs is not None:
        raise InvalidValue(f"{name} is given twice", remedy="Give it once.", code="bad-query")
    return theirs if mine is None else mine


def _compared(given: Comparisons | None) -> Any:
    if given is None:
        return None
    if given.mode == "custom":
        if given.date_range is None:
            raise InvalidValue("a custom comparison needs a date_range", code="bad-query")
        return given.date_range
    if given.mode not in _MODES:
        raise unknown_name("mode of comparison", given.mode, [*_MODES, "custom"])
    return _MODES[given.mode]


def _bad(what: str) -> Problem:
    return Problem(422, what, code="bad-query", remedy='For example {"metrics": ["events"], "date_range": "7d"}.')
