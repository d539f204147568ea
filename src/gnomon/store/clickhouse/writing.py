"""The rows of one write: without repeats, samples, books, quarantine, sightings, spans; all under one batch number.

Nothing here is seen before the number is committed (`ledger`). The lock of the store is held, so whatever is looked at
stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from gnomon.event import SAMPLE_AT, SAMPLE_ROW, Batch
from gnomon.store.aliveness import ALIVE, Change, changed
from gnomon.store.clickhouse.connecting import Connection, Settings
from gnomon.store.clickhouse.rows import Columns, event_columns, turned
from gnomon.store.dialect_clickhouse import spoken
from gnomon.store.incoming import (
    EDGES,
    QUARANTINE_ROWS,
    RECENT_US,
    Edges,
    Key,
    key_of,
    without_own_repeats,
)
from gnomon.store.texts import quoted
from gnomon.store.work import Work

#: One row in any case, as the columns of an answer without rows have to be asked for. Keys come as the bytes that the
#: engine holds, in one literal: 60,000 literals take it ten times as long to read.
_HELD = """SELECT groupArray((id, id_text, toUnixTimestamp64Micro(ts), toUnixTimestamp64Micro(received_at)))
FROM events WHERE project = {project} AND {condition} AND id IN (
  SELECT reinterpretAsUUID(substring(unhex('{keys}'), 16 * number + 1, 16)) FROM numbers({count}))"""
#: Whether there is any row of a span that came before a moment.
_OLDER = """SELECT count() FROM (SELECT 1 FROM {table} WHERE project = {project} AND {span}
AND received_at < fromUnixTimestamp64Micro({before}) LIMIT 1)"""
_IN_SPAN = "ts BETWEEN fromUnixTimestamp64Micro({}) AND fromUnixTimestamp64Micro({})"
_RECENT = "received_at >= fromUnixTimestamp64Micro({})"
_HELD_SAMPLES = """SELECT id, toUnixTimestamp64Micro(ts), toUnixTimestamp64Micro(received_at) FROM samples
WHERE project = {project} AND {condition} AND id IN ({keys})"""
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
        books, refused = work.part(edges)
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
        keys = list(map(key_of, work.column("id")))
        for project in work.doubtful:
            self._leave_out_repeats(work, project, keys)
        if len(work.left_out) == len(work.rows):
            return
        self.put("events", event_columns(work, keys, version))
        self._put_rows("weighted", ("project", "first_ts", "last_ts"), work.weighted())

    def _leave_out_repeats(self, work: Work, project: str, keys: Sequence[Key]) -> None:
        """Rows that the store has: with the same id and moment, or, of an id from outside, received within a day."""
        numbers = [n for n, (owner, doubt) in enumerate(zip(work.owners, work.doubts, strict=True))
                   if doubt and owner == project and n not in work.left_out]  # fmt: skip
        if not numbers:
            return
        moments, received_at = work.column("ts"), work.column("received_at")
        held = self._held(project, [moments[n] for n in numbers], [received_at[n] for n in numbers],
                          [keys[n][0] for n in numbers], checked=any(work.doubts[n] > 1 for n in numbers))  # fmt: skip
        for n in numbers if held else ():
            ts, received = moments[n], received_at[n]
            if any(then == ts or (work.doubts[n] > 1 and came >= received - RECENT_US)
                   for then, came in held.get(keys[n], ())):  # fmt: skip
                work.left_out[n] = "duplicate"

    def _held(self, project: str, moments: Sequence[int], received_at: Sequence[int], keys: Sequence[bytes], *,
              checked: bool) -> dict[Key, set[tuple[int, int]]]:  # fmt: skip
        """Moment and receipt of the rows that have one of these keys, of the span of `moments`, and of the last day."""
        me = spoken(quoted(project))  # of the rest, which is long, nothing has to be renamed
        named = b"".join(map(_as_held, keys)).hex()
        found: dict[Key, set[tuple[int, int]]] = {}
        for condition in self._where("events", project, moments, received_at if checked else ()):
            asked = _HELD.format(project=me, condition=condition, keys=named, count=len(keys))
            for key, text, ts, received in self._run(asked)[0][0]:
                found.setdefault((key.bytes, text), set()).add((ts, received))
        return found

    def _where(self, table: str, project: str, moments: Sequence[int], received_at: Sequence[int]) -> list[str]:
        """The conditions of rows that such incoming ones may repeat: of the span of `moments`, and of the last day.

        What came within the day is found by its id alone, so only rows that came before need a look at the span.
        """
        span = _IN_SPAN.format(min(moments), max(moments))
        if not received_at:
            return [span]
        since, last = (max(0, one(received_at) - RECENT_US) for one in (min, max))
        ((older,),) = self._asked(_OLDER.format(table=table, project=quoted(project), span=span, before=last))
        return [_RECENT.format(since), *[span][:older]]

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
        named = [row for _, _, row in own if row[at_id] is not None]
        if named:
            held: dict[str, list[tuple[int, int]]] = {}
            moments, received_at = ([row[at] for row in named] for at in (at_ts, at_received))
            keys = ", ".join(map(quoted, sorted({row[at_id] for row in named})))
            for condition in self._where("samples", project, moments, received_at):
                asked = _HELD_SAMPLES.format(project=quoted(project), condition=condition, keys=keys)
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
        books.update(work.booked())
        self._put_rows("books", _BOOKS, [(*entry, n) for entry, n in books.items()])

    def _put_sightings(self, work: Work, edges: Edges, version: int) -> None:
        seen = ((batch.project, tuple(row)) for _, batch in work.batches for row in batch.sightings)
        kept = dict.fromkeys(pair for pair in seen if pair[1][0] >= edges.of(pair[0], pair[1][2]))
        rows = [(project, *row, version) for project, row in kept]
        self._put_rows("sightings", (*_SIGHTINGS, "version"), rows)

    # -- the database -------------------------------------------------------------------------------------------

    def _asked(self, text: str) -> list[tuple[Any, ...]]:
        return self._run(spoken(text))

    def _run(self, text: str) -> list[tuple[Any, ...]]:
        return self._con.run(text, self._settings).rows

    def _put_rows(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self.put(table, turned(names, rows))

    def put(self, table: str, columns: Columns, part: int = 0) -> None:
        """One insert. Its token is a hash of the content under the number of the batch: sent again, it is there once,
        while the same content in another batch, or another `part` of this one, is other rows."""
        count = len(next(iter(columns.values())))
        kinds = self._kinds[table]
        columns = {**columns, "batch": [self._batch] * count}
        token = f"{self._batch}:{table}:{part}:{_hashed(columns.values())}"
        self._con.put(
            table, [(name, kinds[name], values) for name, values in columns.items()],
            {**self._settings, "insert_deduplication_token": token},
        )  # fmt: skip


def _as_held(key: bytes) -> bytes:
    """A UUID as ClickHouse holds it: its halves as little-endian numbers."""
    return key[7::-1] + key[:7:-1]


def _hashed(columns: Iterable[Sequence[Any]]) -> str:
    found = blake2b(digest_size=16)
    for values in columns:
        found.update(msgspec.json.encode(values, enc_hook=repr))
    return found.hexdigest()
