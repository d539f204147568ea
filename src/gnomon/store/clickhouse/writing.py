"""The rows of one write: without repeats, samples, books, quarantine, sightings, spans; all under one batch number.

Nothing here is seen before the number is committed (`ledger`). The lock of the store is held, so whatever is looked at
stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any
from uuid import UUID

from gnomon.event import AT, SAMPLE_AT, SAMPLE_ROW, Batch, Row
from gnomon.store.aliveness import ALIVE, Change, changed
from gnomon.store.clickhouse.connecting import Connection, Settings
from gnomon.store.clickhouse.rows import Columns, event_columns, key_of, turned
from gnomon.store.dialect_clickhouse import spoken
from gnomon.store.incoming import (
    EDGES,
    QUARANTINE_ROWS,
    RECENT_US,
    Edges,
    booked,
    sealed_entries,
    without_own_repeats,
)
from gnomon.store.texts import quoted
from gnomon.store.work import Work, add

_HELD = """SELECT id, id_text, toUnixTimestamp64Micro(ts), toUnixTimestamp64Micro(received_at) FROM events
WHERE project = {project} AND {condition} AND id IN ({keys})"""
_IN_SPAN = "ts BETWEEN fromUnixTimestamp64Micro({}) AND fromUnixTimestamp64Micro({})"
_RECENT = "received_at >= fromUnixTimestamp64Micro({})"
_HELD_SAMPLES = """SELECT id, toUnixTimestamp64Micro(ts), toUnixTimestamp64Micro(received_at) FROM samples
WHERE project = {project} AND id IN ({keys})"""
_SAME_SAMPLES = f"""SELECT toUnixTimestamp64Micro(ts), toUnixTimestamp64Micro(received_at), name, kind, value, labels
FROM samples WHERE project = {{project}} AND {_IN_SPAN}"""
_BOOKS = ("project", "kind", "source", "outcome", "reason", "n")
_QUARANTINE = ("project", "received_at", "code", "detail", "source", "id", "event")
_SIGHTINGS = ("project", "ts", "actor", "type", "source", "application")


class Writing:
    """One write on one connection. `settings` make it see what is committed, and nothing else."""

    def __init__(self, con: Connection, settings: Settings, kinds: dict[str, dict[str, str]], batch: int) -> None:
        self._con, self._settings, self._kinds, self._batch = con, settings, kinds, batch

    def look_alive(self, batches: Sequence[tuple[int, Batch]], slack_us: int) -> list[Change]:
        """What the beats of these batches change, by project."""
        beats: dict[str, list[tuple[int, int, bool]]] = {}
        for _, batch in batches:
            if batch.beats:
                beats.setdefault(batch.project, []).extend(batch.beats)
        found = []
        for project, told in beats.items():
            spans = [(first, last) for first, last in self._asked(ALIVE.format(quoted(project)))]
            found.append(changed(project, spans, told, slack_us))
        return [change for change in found if change is not None]

    def note_alive(self, changes: list[Change]) -> None:
        """Put what `look_alive` found."""
        rows = [(change.project, *span) for change in changes for span in change.new]
        self._put_rows("alive", ("project", "first", "last"), rows)

    def write(self, work: Work, version: int) -> None:
        """Put everything but spans and the state."""
        edges = Edges(self._asked(EDGES))
        books: Counter[tuple[Any, ...]] = Counter()
        refused: list[tuple[Any, ...]] = []
        for _, batch in work.batches:
            refused += [(batch.project, *told) for told in batch.refused]
        for project, rows in work.by_project.items():
            kept, sealed = edges.part(project, rows)
            work.leave_out(sealed, "sealed")
            refused += sealed_entries(project, sealed)
            add(books, booked(project, "rejected", sealed, "sealed"))
            if project in work.doubtful:
                work.leave_out(without_own_repeats(kept)[1], "duplicate")
        self._put_events(work, version)
        self._put_samples(work, version)
        self._book(work, books)
        self._put_sightings(work, edges, version)
        self._put_rows("quarantine", _QUARANTINE, refused[:QUARANTINE_ROWS])

    def put_back(self, work: Work, version: int) -> int:
        """Put the rows that were stored once and are not there any more; the books know them. Returns how many."""
        edges = Edges(self._asked(EDGES))
        for project, rows in work.by_project.items():
            kept, sealed = edges.part(project, rows)
            work.leave_out(sealed, "sealed")
            work.leave_out(without_own_repeats(kept)[1], "duplicate")
        self._put_events(work, version)
        self._put_samples(work, version)
        return len(work.rows) - len(work.left_out) + len(work.samples) - len(work.samples_left_out)

    # -- events -------------------------------------------------------------------------------------------------

    def _put_events(self, work: Work, version: int) -> None:
        keys = {n: key_of(row[0]) for n, row in enumerate(work.rows) if n not in work.left_out}
        if work.doubtful:
            self._leave_out_repeats(work, keys)
        stored = [n for n in keys if n not in work.left_out]
        if not stored:
            return
        owned = [(work.owners[n], work.rows[n]) for n in stored]
        self.put("events", event_columns(owned, [keys[n] for n in stored], version))
        weighted: dict[str, list[int]] = {}
        for project, row in owned:
            if row[AT["weight"]] != 1:
                weighted.setdefault(project, []).append(row[AT["ts"]])
        spans = [(project, min(moments), max(moments)) for project, moments in weighted.items()]
        self._put_rows("weighted", ("project", "first_ts", "last_ts"), spans)

    def _leave_out_repeats(self, work: Work, keys: dict[int, tuple[UUID, str | None]]) -> None:
        """Rows that the store has: with the same id and moment, or, of an id from outside, received within a day."""
        for project in work.doubtful:
            numbers = [n for n in keys if work.owners[n] == project and work.doubts[n]]
            held = self._held(project, [work.rows[n] for n in numbers], [keys[n][0] for n in numbers],
                              checked=any(work.doubts[n] > 1 for n in numbers))  # fmt: skip
            for n in numbers if held else ():
                row = work.rows[n]
                ts, received = row[AT["ts"]], row[AT["received_at"]]
                if any(then == ts or (work.doubts[n] > 1 and came >= received - RECENT_US)
                       for then, came in held.get(keys[n], ())):  # fmt: skip
                    work.left_out[n] = "duplicate"

    def _held(self, project: str, rows: list[Row], keys: list[UUID], *,
              checked: bool) -> dict[tuple[UUID, str | None], set[tuple[int, int]]]:  # fmt: skip
        """Moment and receipt of the rows that have one of these keys, of the span of `rows`, and of the last day."""
        if not rows:
            return {}
        moments = list(map(itemgetter(AT["ts"]), rows))
        conditions = [_IN_SPAN.format(min(moments), max(moments))]
        if checked:
            since = min(map(itemgetter(AT["received_at"]), rows)) - RECENT_US
            conditions.append(_RECENT.format(max(0, since)))
        named = ", ".join(f"'{key}'" for key in keys)
        found: dict[tuple[UUID, str | None], set[tuple[int, int]]] = {}
        for condition in conditions:
            asked = _HELD.format(project=quoted(project), condition=condition, keys=named)
            for key, text, ts, received in self._asked(asked):
                found.setdefault((key, text), set()).add((ts, received))
        return found

    # -- samples ------------------------------------------------------------------------------------------------

    def _put_samples(self, work: Work, version: int) -> None:
        if not work.samples:
            return
        for project in {project for project, _, _ in work.samples}:
            self._leave_out_samples(work, project)
        rows = [(project, version, *row) for n, (project, _, row) in enumerate(work.samples)
                if n not in work.samples_left_out]  # fmt: skip
        self._put_rows("samples", ("project", "version", *SAMPLE_ROW), rows)

    def _leave_out_samples(self, work: Work, project: str) -> None:
        at_id, at_ts, at_received = SAMPLE_AT["id"], SAMPLE_AT["ts"], SAMPLE_AT["received_at"]
        own = [(n, replayed, row) for n, (owner, replayed, row) in enumerate(work.samples) if owner == project]
        named = {row[at_id] for _, _, row in own if row[at_id] is not None}
        if named:
            asked = _HELD_SAMPLES.format(project=quoted(project), keys=", ".join(map(quoted, sorted(named))))
            held: dict[str, list[tuple[int, int]]] = {}
            for id_, ts, received in self._asked(asked):
                held.setdefault(id_, []).append((ts, received))
            work.samples_left_out.update(
                n for n, _, row in own
                if any(ts == row[at_ts] or received >= row[at_received] - RECENT_US
                       for ts, received in held.get(row[at_id], ()))
            )  # fmt: skip
        doubtful = [(n, row) for n, replayed, row in own if replayed and row[at_id] is None]
        if doubtful:  # without an id, equal ones are taken for the same
            moments = [row[at_ts] for _, row in doubtful]
            there = set(self._asked(_SAME_SAMPLES.format(min(moments), max(moments), project=quoted(project))))
            work.samples_left_out.update(n for n, row in doubtful if (*row[:at_id],) in there)

    # -- beside -------------------------------------------------------------------------------------------------

    def _book(self, work: Work, books: Counter[tuple[Any, ...]]) -> None:
        for _, batch in work.batches:
            add(books, [[batch.project, *count] for count in batch.counts])
        for n, (project, _, _) in enumerate(work.samples):
            books[project, "sample", None, "duplicate" if n in work.samples_left_out else "stored", ""] += 1
        for n, (project, row) in enumerate(zip(work.owners, work.rows, strict=True)):
            outcome = work.left_out.get(n, "stored")
            if outcome != "sealed":
                books[project, "event", row[AT["source"]], outcome, ""] += 1
        self._put_rows("books", _BOOKS, [(*entry, n) for entry, n in books.items()])

    def _put_sightings(self, work: Work, edges: Edges, version: int) -> None:
        seen = ((batch.project, tuple(row)) for _, batch in work.batches for row in batch.sightings)
        kept = dict.fromkeys(pair for pair in seen if pair[1][0] >= edges.of(pair[0], pair[1][2]))
        rows = [(project, *row, version) for project, row in kept]
        self._put_rows("sightings", (*_SIGHTINGS, "version"), rows)

    # -- the database -------------------------------------------------------------------------------------------

    def _asked(self, text: str) -> list[tuple[Any, ...]]:
        return self._con.run(spoken(text), self._settings).rows

    def _put_rows(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self.put(table, turned(names, rows))

    def put(self, table: str, columns: Columns) -> None:
        """One insert. Its token is a hash of the content under the number of the batch: sent again, it is there once,
        while the same content in another batch is other rows."""
        count = len(next(iter(columns.values())))
        kinds = self._kinds[table]
        columns = {**columns, "batch": [self._batch] * count}
        token = f"{self._batch}:{table}:{_hashed(columns.values())}"
        self._con.put(
            table, [(name, kinds[name], values) for name, values in columns.items()],
            {**self._settings, "insert_deduplication_token": token},
        )  # fmt: skip


def _hashed(columns: Iterable[Sequence[Any]]) -> str:
    found = blake2b(digest_size=16)
    for values in columns:
        found.update(repr(values).encode("utf-8", "surrogatepass"))
    return found.hexdigest()
