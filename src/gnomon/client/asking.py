"""The verbs of asking over HTTP: the question goes as it was put, the answer comes back as a `Result`.

Names, ranges and filters are the service's to judge. A question whose answer got lost is put again, as it changes
nothing. Reports come as the plain values that the engine's have as `to_dict()`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from gnomon.client.answers import error_of, result_of
from gnomon.client.posting import Patience, Token, authorization, problem_of, retry_after
from gnomon.errors import InvalidValue, StoreUnavailable, unknown_name
from gnomon.query.result import Result
from gnomon.query.usage import Usage
from gnomon.timerange import DateRange, Grain, load_zone, period_number, period_start_us, to_us

__all__ = ["ATTEMPTS", "Asking", "given", "json_of", "range_of", "unreachable"]

ATTEMPTS = 4
LONGEST_WAIT = 5.0  #: before another attempt; a service that wants more time is told to the caller
_AGAIN = frozenset((408, 429, 502, 503, 504))
#: With these nothing was done.
_NOT_DONE = frozenset((408, 429, 503))
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_ACTIVE = ("day", "week", "month")


class Asking(Usage):
    """Questions to one service. Mixed into the client, which knows the connection and the token."""

    _token: Token
    _patience: Patience
    _link: Callable[[], httpx.Client]

    def query(self, metrics: Sequence[Any], dimensions: Sequence[str] = (), date_range: Any = "all",
              filters: Sequence[Any] | None = None, timezone: str | None = None,
              order_by: Sequence[Sequence[str]] | None = None, limit: int | None = None, compare: Any = None,
              after: str | None = None, totals: bool = False, dataset: str = "events",
              basis: str = "auto") -> Result:  # fmt: skip
        """Answer a question, as `AnalyticsEngine.query`. The basis has no steps, and there is no SQL.

        Raises what the engine raises, and `StoreUnavailable` (service-unreachable, service-fault) where the service
        cannot be reached.
        """
        asked = {
            "metrics": metrics, "dimensions": dimensions, "date_range": range_of(date_range), "filters": filters,
            "timezone": timezone, "order_by": order_by, "limit": limit, "compare": range_of(compare), "after": after,
            "totals": totals, "dataset": dataset, "basis": basis,
        }  # fmt: skip
        told = {name: value for name, value in asked.items() if value is not None}
        answer = self._call("POST", "query", content=json_of(told), params={"format": "rows"})
        return result_of(answer, list(dimensions), list(metrics))

    def active_users(self, date_range: Any = "30d", grain: str = "day", timezone: str | None = None,
                     filters: Sequence[Any] | None = None) -> Result:  # fmt: skip
        """People by `day`, `week` or `month`, as `AnalyticsEngine.active_users`: the range is widened to whole ones."""
        if grain not in _ACTIVE:
            raise unknown_name("grain of active users", grain, _ACTIVE)
        name = f"time:{grain}"
        found = self.query(["people"], [name], date_range, filters, timezone)
        zone = load_zone(found.basis.timezone)
        start, end = to_us(found.basis.start), to_us(found.basis.end)
        first, last = (period_number(Grain(grain), us, zone) for us in (start, end - 1))
        whole = period_start_us(Grain(grain), first, zone), period_start_us(Grain(grain), last + 1, zone)
        if whole == (start, end):
            return found
        return self.query(["people"], [name], DateRange(*whole, zone), filters, timezone or found.basis.timezone)

    def summary(self, hours: float | None = None, date_range: str | None = None,
                timezone: str | None = None) -> dict[str, Any]:  # fmt: skip
        """The main numbers of the last `hours` (24) or a named range, as `AnalyticsEngine.summary(...).to_dict()`."""
        return self._call("GET", "summary", params=given(hours=hours, date_range=date_range, timezone=timezone))

    def user(self, user_id: str, recent: int = 50) -> dict[str, Any]:
        """One person, as `AnalyticsEngine.user(...).to_dict()`. Raises `InvalidValue` (not-found) for nobody known."""
        return self._call("GET", f"user/{quote(user_id, safe='')}", params={"recent": recent})

    def dashboard(self, timezone: str | None = None) -> dict[str, Any]:
        """Four periods at a glance and how well it goes, as `AnalyticsEngine.dashboard(...).to_dict()`."""
        return self._call("GET", "dashboard", params=given(timezone=timezone))

    def catalog(self) -> dict[str, Any]:
        """What can be asked there: metrics, dimensions, measures, filters, ranges."""
        return self._call("GET", "catalog")

    def books(self, kind: str = "event") -> dict[str, Any]:
        """Where every event (or sample, `kind="sample"`) that the service received of this project went, by outcome.
        `delivery()` tells the same of this process alone."""
        told = self._call("GET", "admin/books")
        if kind not in told:
            raise unknown_name("kind of books", kind, told)
        found: dict[str, Any] = told[kind]
        return found

    def quarantine(self, limit: int = 100, code: str | None = None) -> list[dict[str, Any]]:
        """The newest events that the service refused, with time, code, detail, source, id and what was sent (cut)."""
        told = self._call("GET", "admin/quarantine", params=given(limit=limit, code=code))
        found: list[dict[str, Any]] = told["events"]
        return found

    def _call(self, method: str, path: str, *, repeat: bool = True, **named: Any) -> dict[str, Any]:
        """One call and its answer; put again where nothing, or nothing usable, came back."""
        return problem_of(self._reach(method, path, repeat=repeat, **named))

    def _reach(self, method: str, path: str, *, repeat: bool = True, file: bool = False,
               headers: Mapping[str, str] | None = None, **named: Any) -> httpx.Response:  # fmt: skip
        """The answer to a call, once it is the service's own; that which is a `file` is still to be read.

        What may not be done twice (not `repeat`) is sent again only where it cannot have been done.
        """
        for attempt in range(1, ATTEMPTS + 1):
            last, wait = attempt == ATTEMPTS, self._patience.wait(attempt)
            try:
                link = self._link()
                request = link.build_request(method, path, headers={**self._headers(), **(headers or {})}, **named)
                answer = link.send(request, stream=file)
                if (_is_file if file else _is_told)(answer):
                    return answer
                answer.read()
            except httpx.HTTPError as error:
                if last or not (repeat or isinstance(error, _NOT_SENT)):
                    raise unreachable() from error
            else:
                wait, status = max(wait, retry_after(answer)), answer.status_code
                again = status in (_AGAIN if repeat else _NOT_DONE) or (status == 401 and callable(self._token))
                if last or not again or wait > LONGEST_WAIT:
                    raise error_of(status, problem_of(answer))
            time.sleep(min(wait, LONGEST_WAIT))
        raise AssertionError("the last attempt returns or raises")

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", **authorization(self._token)}


def unreachable() -> StoreUnavailable:
    """No answer came, or only a part of it."""
    return StoreUnavailable("the service was not reached", remedy="See whether it runs at this address.",
                            code="service-unreachable")  # fmt: skip


def json_of(told: Any) -> bytes:
    """A body. Raises `InvalidValue` (bad-query)."""
    try:
        return msgspec.json.encode(told)
    except (TypeError, ValueError) as error:
        raise InvalidValue("a part of the question is no JSON", code="bad-query",
                           remedy="Give texts, numbers, lists and times.") from error  # fmt: skip


def range_of(given: Any) -> Any:
    """A range as JSON has it."""
    return [given.start.isoformat(), given.end.isoformat()] if isinstance(given, DateRange) else given


def given(**named: Any) -> Mapping[str, Any]:
    """Parameters of an address, without those that are left out."""
    return {name: value for name, value in named.items() if value is not None}


def _is_file(answer: httpx.Response) -> bool:
    return answer.status_code in (200, 206) and "content-disposition" in answer.headers


def _is_told(answer: httpx.Response) -> bool:
    return answer.status_code in (200, 202) and bool(problem_of(answer))
