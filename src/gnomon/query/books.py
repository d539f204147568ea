"""The books: where every event that was ever received went. They always close, and this file says what that means.

received = stored + duplicate + sampled_out + rejected + shed + pending, per project and source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any, TypeAlias

from gnomon.store import Store
from gnomon.store.carrying import NOTE, finished, unfinished_copy
from gnomon.timerange import from_us

OUTCOMES = ("stored", "duplicate", "sampled_out", "rejected", "shed", "pending")


@dataclass
class Account:
    """The counts of one source, or of all together. `rejected` and `shed` are counted by reason."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    sampled_out: int = 0
    pending: int = 0
    pruned: int = 0  #: of the stored ones, how many raw rows retention has deleted since
    erased: int = 0  #: of the stored ones, how many were deleted with the person they were of
    rejected: Counter[str] = field(default_factory=Counter)
    shed: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: str, reason: str, n: int) -> None:
        """Add `n` events of one outcome."""
        if outcome in ("rejected", "shed"):
            getattr(self, outcome)[reason] += n
        else:
            setattr(self, outcome, getattr(self, outcome) + n)

    def accounted(self) -> int:
        """The events whose whereabouts are known."""
        known = self.stored + self.duplicate + self.sampled_out + self.pending
        return known + self.rejected.total() + self.shed.total()

    def closes(self) -> bool:
        """Whether every received event is accounted for."""
        return self.received == self.accounted()


@dataclass
class Books(Account):
    """The account of everything, and of each source in `by_source` (None = no source given)."""

    by_source: dict[str | None, Account] = field(default_factory=dict)

    def closes(self) -> bool:
        """Whether every received event is accounted for, in total and for every source."""
        return Account.closes(self) and all(account.closes() for account in self.by_source.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        plain = {name: getattr(self, name) for name in ("received", "stored", "duplicate", "sampled_out", "pending")}
        return {**plain, "rejected": dict(self.rejected), "shed": dict(self.shed), "closes": self.closes()}


Entry: TypeAlias = tuple[str | None, str, str, int]  #: source, outcome, reason, n


def store_books(store: Store, project: str, kind: str, journal_id: str, timeout: float) -> tuple[list[Entry], int]:
    """The entries that the store holds for one project and kind, and the journal position they include."""
    from sqlglot import exp  # deferred: building SQL is not needed to record

    sql = exp.select("source", "outcome", "reason", "SUM(n)").from_("books").group_by("source", "outcome", "reason")
    sql = sql.where(
        exp.column("project").eq(exp.Literal.string(project)), exp.column("kind").eq(exp.Literal.string(kind))
    )
    journal = f"journal:{journal_id}"
    kept = exp.select("key", "value").from_("state").where(exp.column("key").isin(journal, NOTE))
    found, state = store.ask([part.sql(dialect=store.dialect.sqlglot) for part in (sql, kept)], timeout)
    values = dict(state.rows)
    if not finished(values.get(NOTE)):
        raise unfinished_copy()
    entries = [(source, outcome, reason, int(n)) for source, outcome, reason, n in found.rows]
    return entries, int(values.get(journal, 0))


def projects_of(store: Store, timeout: float) -> list[str]:
    """Every project that something ever came in for. Raises `StoreUnavailable` (`unfinished-copy`)."""
    store.data_version()  # which refuses a copy that is not finished
    return [row[0] for row in store.ask(["SELECT DISTINCT project FROM books ORDER BY project"], timeout)[0].rows]


def quarantined(
    store: Store, project: str, limit: int, code: str | None, zone: tzinfo, timeout: float
) -> list[dict[str, Any]]:
    """The newest quarantined events of one project. Raises `StoreUnavailable` (`unfinished-copy`)."""
    store.data_version()  # as above
    from sqlglot import exp  # deferred, as above

    moment = store.dialect.epoch_us(exp.column("received_at"))
    sql = exp.select(moment, "code", "detail", "source", "id", "event").from_("quarantine")
    sql = sql.where(exp.column("project").eq(exp.Literal.string(project)))
    if code is not None:
        sql = sql.where(exp.column("code").eq(exp.Literal.string(code)))
    sql = sql.order_by("received_at DESC").limit(max(0, int(limit)))
    rows = store.ask([sql.sql(dialect=store.dialect.sqlglot)], timeout)[0].rows
    names = ("code", "detail", "source", "id", "event")
    return [{"received_at": from_us(row[0], zone), **dict(zip(names, row[1:], strict=True))} for row in rows]


def books_of(entries: Iterable[Entry]) -> Books:
    """The books made of `(source, outcome, reason, n)` entries."""
    books = Books()
    for source, outcome, reason, n in entries:
        books.add(outcome, reason, n)
        books.by_source.setdefault(source, Account()).add(outcome, reason, n)
    return books
