"""Writing batches inside one transaction: rows without repeats, samples, books, quarantine, sightings, spans.

Rows are staged first. Then the transaction takes the lock of the store (the row of `version`), so that whatever it
looks at stays as it is and versions are handed out in the order of the commits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from gnomon.errors import StoreUnavailable
from gnomon.event import SAMPLE_AT, Batch
from gnomon.store.aliveness import ALIVE, EVERYBODY, Change, addition, changed, folded
from gnomon.store.carrying import NOTE, finished, unfinished_copy
from gnomon.store.dialect import quoted
from gnomon.store.incoming import (
    EDGES,
    QUARANTINE_ROWS,
    RECENT_US,
    Edges,
)
from gnomon.store.postgres.months import ATTACHED, LOCK, months_of, name_of
from gnomon.store.postgres.opening import KNOWN, Connection
from gnomon.store.postgres.rows import COLUMNS, EPOCH_US, copy_in, stage, stage_samples
from gnomon.store.weights import SEVERAL, WITHIN
from gnomon.store.work import Work

US_HOUR = 3_600_000_000

#: In one partition. Nothing but the id may choose the index: without statistics (a partition of this minute) others
#: look as good, and are read from end to end for each row.
_HELD = f"""EXISTS (SELECT 1 FROM {{}} e WHERE e.id = s.id AND e.id_text IS NOT DISTINCT FROM s.id_text
AND e.project || '' = s.project AND (e.ts = s.ts OR (s.doubt > 1
AND e.received_at >= s.received_at - {RECENT_US} * interval '1 microsecond')))"""
_REPEATS = "SELECT s.n FROM pg_temp.staging s WHERE s.doubt > 0 AND s.n <> ALL(%s::integer[]) AND ({})"
_INSERT = f"""INSERT INTO events ({COLUMNS}, version)
SELECT {COLUMNS}, %s FROM pg_temp.staging WHERE n <> ALL(%s::integer[]) ORDER BY n"""
_SAMPLES = "project, ts, received_at, name, kind, value, labels, id"
#: As with events: the same id with the same moment, or with another one and received within a day.
_SAMPLES_KNOWN = f"""SELECT s.n FROM pg_temp.sample_staging s WHERE s.id IS NOT NULL AND EXISTS (
SELECT 1 FROM samples o WHERE o.project = s.project AND o.id = s.id
AND (o.ts = s.ts OR o.received_at >= s.received_at - {RECENT_US} * interval '1 microsecond'))"""
_INSERT_SAMPLES = f"""INSERT INTO samples ({_SAMPLES}, version)
SELECT {_SAMPLES}, %s FROM pg_temp.sample_staging s WHERE n <> ALL(%s::integer[])
AND NOT (s.doubtful AND EXISTS (SELECT 1 FROM samples o WHERE o.project = s.project AND o.ts = s.ts
AND o.received_at = s.received_at AND o.name = s.name AND o.kind = s.kind AND o.value = s.value
AND o.labels IS NOT DISTINCT FROM s.labels))"""
_STATE = "SELECT key, value FROM state WHERE key = ANY(%s)"
_MONTHS = "SELECT month FROM months WHERE last_received >= %s"
NOTE_MONTHS = """INSERT INTO months VALUES (%s, %s) ON CONFLICT (month)
DO UPDATE SET last_received = greatest(months.last_received, excluded.last_received)"""
SET_STATE = "INSERT INTO state VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
#: The version with its mark, see `gnomon.store.Marked`.
KEEP_FIRST = "INSERT INTO state VALUES (%s, %s) ON CONFLICT (key) DO NOTHING"
KEEP_INSTEAD = "UPDATE state SET value = %s WHERE key = %s AND value = %s"
SET_VERSION = SET_STATE.replace("(%s, %s)", "('version', %s), ('mark', %s)")
FOLD_BOOKS = """WITH several AS (SELECT project, kind, source, outcome, reason FROM books
GROUP BY project, kind, source, outcome, reason HAVING count(*) > 1),
gone AS (DELETE FROM books b USING several s WHERE b.project = s.project AND b.kind = s.kind
AND b.source IS NOT DISTINCT FROM s.source AND b.outcome = s.outcome AND b.reason = s.reason RETURNING b.*)
INSERT INTO books SELECT project, kind, source, outcome, reason, sum(n)::bigint FROM gone
GROUP BY project, kind, source, outcome, reason"""
FOLD_WEIGHTS = f"""WITH j AS MATERIALIZED ({SEVERAL}),
gone AS (DELETE FROM weighted USING j WHERE {WITHIN}) INSERT INTO weighted SELECT project, first_ts, last_ts FROM j"""
BOUND_QUARANTINE = "DELETE FROM quarantine WHERE place <= (SELECT max(place) FROM quarantine) - %s"


class Writing:
    """One transaction that writes; begun already, and ended by the caller."""

    def __init__(self, con: Connection, slack_us: int) -> None:
        self._con = con
        self._slack_us = slack_us

    def stage(self, work: Work) -> None:
        """Bring rows and samples to the server. Needs no lock."""
        if work.rows:
            stage(self._con, zip(range(len(work.rows)), work.doubts, work.owners, work.rows, strict=True))
        if work.samples:
            numbered = enumerate(work.samples)
            # Those with an id are told by it.
            stage_samples(self._con, ((n, project, replayed and row[SAMPLE_AT["id"]] is None, row)
                                      for n, (project, replayed, row) in numbered))  # fmt: skip

    def lock(self) -> int:
        """Wait until nobody else changes the store; returns its version."""
        row = self._con.execute(LOCK).fetchone()
        if row is None:
            raise StoreUnavailable(
                "the tables of the store are gone or not complete", code="store-foreign",
                remedy="Restore the database, or open the store again to make a new one.",
            )  # fmt: skip
        return int(row[0])

    def state(self, *keys: str) -> dict[str, str]:
        """Values of the state. Raises `StoreUnavailable` where a newer version has changed the schema meanwhile."""
        found: dict[str, str] = dict(self._con.execute(_STATE, [[*keys, "schema_least", NOTE]]).fetchall())
        if int(found["schema_least"]) > KNOWN:
            raise StoreUnavailable(
                "a newer version of Gnomon has changed the store", remedy="Upgrade gnomon.", code="newer-schema"
            )
        if not finished(found.get(NOTE)):
            raise unfinished_copy()
        return found

    def look_alive(self, batches: Sequence[tuple[int, Batch]]) -> list[Change]:
        """What the beats of these batches change, by project."""
        beats: dict[str, list[tuple[int, int, bool]]] = {}
        for _, batch in batches:
            if batch.beats:
                beats.setdefault(batch.project, []).extend(batch.beats)
        found = []
        for project, told in beats.items():
            spans = [(first, last) for first, last in self._con.execute(ALIVE.format(quoted(project))).fetchall()]
            found.append(changed(project, spans, told, self._slack_us))
        return [change for change in found if change is not None]

    def note_alive(self, changes: list[Change]) -> None:
        """Store what `look_alive` found."""
        if changes:
            self._con.execute(addition([(change.project, *span) for change in changes for span in change.new]))

    def write(self, work: Work, version: int) -> None:
        """Store everything but spans, position and version. The lock is held."""
        edges = Edges(self._con.execute(EDGES).fetchall())
        books, refused = work.part(edges)
        self._insert_events(work, version)
        self._insert_samples(work, version)
        self._book(work, books)
        self._insert_beside(work, edges, version)
        if refused:
            quarantine = "quarantine (project, received_at, code, detail, source, id, event)"
            entries = ((project, us - EPOCH_US, *rest) for project, us, *rest in refused[:QUARANTINE_ROWS])
            copy_in(self._con, quarantine, ["text", "int8", *["text"] * 5], entries)

    def _insert_events(self, work: Work, version: int) -> None:
        if not work.rows:
            return
        if work.doubtful:
            self._look_for_repeats(work)
        done = self._con.execute(_INSERT, [version, list(work.left_out)])
        assert done.rowcount == len(work.rows) - len(work.left_out)
        self._note_months(work.stored(work.column("ts")), max(work.stored(work.column("received_at")), default=0))
        for span in work.weighted():
            self._con.execute("INSERT INTO weighted VALUES (%s, make_timestamp(%s), make_timestamp(%s))", span)

    def _insert_samples(self, work: Work, version: int) -> None:
        if not work.samples:
            return
        if any(row[SAMPLE_AT["id"]] is not None for _, _, row in work.samples):
            work.samples_left_out.update(n for (n,) in self._con.execute(_SAMPLES_KNOWN).fetchall())
        self._con.execute(_INSERT_SAMPLES, [version, list(work.samples_left_out)])

    def _look_for_repeats(self, work: Work) -> None:
        held = " OR ".join(_HELD.format(name) for name in self._places(work))
        self._con.execute(
            "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off"
        )
        found = self._con.execute(_REPEATS.format(held), [list(work.left_out)]).fetchall()
        work.left_out.update((n, "duplicate") for (n,) in found)

    def _places(self, work: Work) -> list[str]:
        """The partitions that may hold a repeat: those of the rows' own months, of months that had rows in the day
        before where ids came from outside, and the default one."""
        months = months_of(ts for ts, doubt in zip(work.column("ts"), work.doubts, strict=True) if doubt)
        received = [us for us, doubt in zip(work.column("received_at"), work.doubts, strict=True) if doubt > 1]
        if received:
            since = _moment(min(received) - RECENT_US)
            months.update(month for (month,) in self._con.execute(_MONTHS, [since]).fetchall())
        there = {name for (name,) in self._con.execute(ATTACHED).fetchall()}
        return ["events_default", *sorted(there & set(map(name_of, months)))]

    def _note_months(self, moments: Sequence[int], newest: int) -> None:
        latest: dict[datetime, int] = {}
        for month in months_of(moments):
            latest[month] = -(-newest // US_HOUR) * US_HOUR
        known: dict[datetime, datetime] = (
            dict(self._con.execute("SELECT month, last_received FROM months").fetchall()) if latest else {}
        )
        for month, us in latest.items():
            if known.get(month, datetime.min) < _moment(us):
                self._con.execute(NOTE_MONTHS, [month, _moment(us)])

    def _book(self, work: Work, books: Counter[tuple[Any, ...]]) -> None:
        books.update(work.booked())
        if books:
            types = ["text"] * 5 + ["int8"]
            copy_in(self._con, "books", types, ((*entry, n) for entry, n in books.items()))

    def _insert_beside(self, work: Work, edges: Edges, version: int) -> None:
        seen = ((batch.project, tuple(row)) for _, batch in work.batches for row in batch.sightings)
        sightings = dict.fromkeys(pair for pair in seen if pair[1][0] >= edges.of(pair[0], pair[1][2]))
        if sightings:
            types = ["text", "int8", "int8", *["text"] * 4]
            rows = ((project, version, ts - EPOCH_US, *rest) for project, (ts, *rest) in sightings)
            copy_in(self._con, "sightings", types, rows)

    def fold(self) -> None:
        """Leave one row for each line of the books and for each span, and the newest of the quarantine."""
        self._con.execute(FOLD_BOOKS)
        rows = [(project, first, last) for project, first, last in self._con.execute(EVERYBODY).fetchall()]
        kept = folded(rows, self._slack_us)
        if len(kept) < len(rows):
            self._con.execute("DELETE FROM alive")
            self._con.execute(addition(kept))
        self._con.execute(FOLD_WEIGHTS)
        self._con.execute(BOUND_QUARANTINE, [QUARANTINE_ROWS])


def _moment(us: int) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=us)
