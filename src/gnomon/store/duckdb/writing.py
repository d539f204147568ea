"""Writing one project's batches inside the store's transaction: rows without repeats, samples, books, quarantine.

Event tables have no index; a repeat is found by an anti-join over the batch's own span of time
(docs/decisions/0003).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from operator import itemgetter

import duckdb

from gnomon.event import SAMPLE_AT, SAMPLE_ROW, Batch, Field, Row, column, in_a_row
from gnomon.store.aliveness import ALIVE, EVERYBODY, Change, Span, addition, changed, folded, joined
from gnomon.store.dialect import quoted
from gnomon.store.duckdb.staging import Staging, selected
from gnomon.store.incoming import EDGES, QUARANTINE_ROWS, RECENT_US, Edges, booked, sealed_entries, without_own_repeats
from gnomon.store.weights import SEVERAL, WITHIN

APPENDED_AT_ONCE = 500  #: rows converted in one call, which keeps the interpreter for about 1 ms

_SAMPLE_STAGING = """CREATE TEMP TABLE sample_staging (
  ts BIGINT, received_at BIGINT, name VARCHAR, kind VARCHAR, value DOUBLE, labels VARCHAR, id VARCHAR)"""
assert SAMPLE_ROW == ("ts", "received_at", "name", "kind", "value", "labels", "id")
# A canonical UUID takes 16 bytes; any other id is text beside the UUID of its MD5, which only narrows the join.
_CANONICAL = "(try_cast(id AS UUID)::VARCHAR IS NOT DISTINCT FROM id)"
_KEY = f"CASE WHEN {_CANONICAL} THEN try_cast(id AS UUID) ELSE md5(id)::UUID END"
_TEXT = f"CASE WHEN {_CANONICAL} THEN NULL ELSE id END"


def _insert(key: str, text: str, fields: list[Field]) -> str:
    rest = [field for field in fields if field.name != "id"]
    columns = ", ".join(["project", "id", "id_text", "version", *(field.name for field in rest)])
    return f"INSERT INTO events ({columns}) SELECT ?, {key}, {text}, ?, {', '.join(map(selected, rest))} FROM staging"


#: Key and text of ids: of any, of such among which is no UUID (0.4 us less a row), and of those made here.
_ANY, _TEXTS, _OWN = (_KEY, _TEXT), ("md5(id)::UUID", "id"), ("id::UUID", "NULL")
_ID_CHARACTERS = 36  #: of a canonical UUID


def _repeats(key: str, text: str, condition: str) -> str:
    """Which staged rows the store has. A semi-join on equal values takes half the time of EXISTS, or of a join on what
    is not distinct; no id is empty, so that can stand for none.
    """
    return f"""SELECT s.id, s.ts FROM (SELECT id, ts, received_at, {key} AS key, {text} AS text FROM staging) s
SEMI JOIN events e ON e.project = ? AND e.id = s.key AND coalesce(e.id_text, '') = coalesce(s.text, '')
AND {condition}"""


_IN_SPAN = "e.ts = make_timestamp(s.ts) AND e.ts BETWEEN make_timestamp(?) AND make_timestamp(?)"
_RECENT = f"e.received_at >= make_timestamp(?) AND epoch_us(e.received_at) >= s.received_at - {RECENT_US}"
#: Whether there is any row of a span that came before a moment: zone maps tell in 0.3 ms that there is none.
_OLDER = """SELECT 1 FROM events WHERE ts BETWEEN make_timestamp(?) AND make_timestamp(?)
AND received_at < make_timestamp(?) LIMIT 1"""
_INSERT_SAMPLES = """INSERT INTO samples (project, version, ts, received_at, name, kind, value, labels, id)
SELECT ?, ?, make_timestamp(ts), make_timestamp(received_at), name, kind, value, labels, id FROM sample_staging s"""
_NOT_KEPT_YET = """ WHERE NOT EXISTS (SELECT 1 FROM samples o WHERE o.project = ? AND o.ts = make_timestamp(s.ts) AND
o.received_at = make_timestamp(s.received_at) AND o.version <= ? AND o.name = s.name AND o.kind = s.kind
AND o.value = s.value AND o.labels IS NOT DISTINCT FROM s.labels
AND s.id IS NULL)"""
# As with events: the same id with the same ts, or with another one and received within a day.
_SAMPLE_REPEATS = """SELECT s.id, s.ts FROM sample_staging s
WHERE EXISTS (SELECT 1 FROM samples o WHERE o.project = ? AND o.id = s.id AND """
_SAMPLES_IN_SPAN = (
    _SAMPLE_REPEATS + "o.ts = make_timestamp(s.ts) AND o.ts BETWEEN make_timestamp(?) AND make_timestamp(?))"
)
_SAMPLES_RECENT = (
    _SAMPLE_REPEATS
    + f"""o.received_at >= make_timestamp(?)
AND epoch_us(o.received_at) >= s.received_at - {RECENT_US})"""
)

FOLD_WEIGHTS = [
    f"CREATE OR REPLACE TEMP TABLE joined AS {SEVERAL}",
    f"DELETE FROM weighted USING joined AS j WHERE {WITHIN}",
    "INSERT INTO weighted SELECT project, first_ts, last_ts FROM joined",
]


class Writing:
    """The writing side of one connection. Call within a transaction."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, slack_us: int) -> None:
        self._connection = connection
        self._slack_us = slack_us
        self._staging = Staging()
        self._sealed: Edges | None = None
        self._alive: dict[str, list[Span]] = {}  #: the spans of projects that had a beat lately
        self._unfolded = False  #: whether there may be several rows of one span of somebody
        self._unjoined = True  #: and of weights, also from before: earlier versions left them
        connection.register("staging", self._staging)
        connection.execute(_SAMPLE_STAGING)

    def clear(self) -> None:
        """Let go of what a transaction that failed had staged."""
        self._staging.clear()
        self._alive.clear()
        self._unfolded = self._unjoined = True
        self._connection.execute("TRUNCATE sample_staging")

    def forget_edges(self) -> None:
        """Look again at what is pruned, and who was there, before the next batch."""
        self._sealed = None
        self._alive.clear()

    def _edges(self) -> Edges:
        if self._sealed is None:
            self._sealed = Edges(self._connection.execute(EDGES).fetchall())
        return self._sealed

    def write(self, project: str, batches: list[Batch], version: int) -> dict[str, list[Row]]:
        """Store one project's batches; returns the rows that were not stored, `duplicate` and `sealed` ones."""
        rows = in_a_row([batch.rows for batch in batches])
        edges = self._edges()
        rows, sealed = edges.part(project, rows)
        books = [[project, *count] for batch in batches for count in batch.counts]
        books += booked(project, "rejected", sealed, "sealed")
        repeats: list[Row] = []
        if rows:
            rows, repeats = self._write_events(project, rows, batches, version)
            books += booked(project, "stored", rows) + booked(project, "duplicate", repeats)
        samples = [row for batch in batches for row in batch.samples]
        if samples:
            doubtful = any(batch.replayed for batch in batches)
            repeats_of_samples = self._write_samples(project, samples, version, doubtful=doubtful)
            told = (("stored", len(samples) - repeats_of_samples), ("duplicate", repeats_of_samples))
            books += [[project, "sample", None, outcome, "", n] for outcome, n in told if n]
        if books:
            self._append("books", [tuple(entry) for entry in books])
        seen = (tuple(row) for batch in batches for row in batch.sightings)
        sightings = dict.fromkeys(row for row in seen if row[0] >= edges.of(project, row[2]))
        if sightings:
            self._append("sightings", [(project, version, _moment(ts), *rest) for ts, *rest in sightings])
        refused = [(project, *entry) for batch in batches for entry in batch.refused]
        refused += sealed_entries(project, sealed)
        if refused:
            self._connection.executemany(
                "INSERT INTO quarantine VALUES (?, make_timestamp(?), ?, ?, ?, ?, ?)", refused[:QUARANTINE_ROWS]
            )
        return {"duplicate": repeats, "sealed": sealed}

    def look_alive(self, batches: list[Batch]) -> list[Change]:
        """What the beats of these batches change, by project; may be called outside a transaction."""
        beats: dict[str, list[tuple[int, int, bool]]] = {}
        for batch in batches:
            if batch.beats:
                beats.setdefault(batch.project, []).extend(batch.beats)
        found = [changed(project, self._spans(project), told, self._slack_us) for project, told in beats.items()]
        return [change for change in found if change is not None]

    def _spans(self, project: str) -> list[Span]:
        if project not in self._alive:
            rows = self._connection.execute(ALIVE.format(quoted(project))).fetchall()
            self._alive[project] = joined(rows, self._slack_us)
        return self._alive[project]

    def note_alive(self, changes: list[Change]) -> None:
        """Store what `look_alive` found."""
        if changes:
            self._connection.execute(addition([(change.project, *span) for change in changes for span in change.new]))
            self._alive.update((change.project, change.then) for change in changes)
            self._unfolded = True

    def fold_spans(self) -> None:
        """Leave one row for each span; for a checkpoint, which rewrites small tables anyway."""
        if self._unjoined:
            self._unjoined = False
            for statement in FOLD_WEIGHTS:
                self._connection.execute(statement)
        if not self._unfolded:
            return
        self._unfolded = False
        rows = self._connection.execute(EVERYBODY).fetchall()
        kept = folded(rows, self._slack_us)
        if len(kept) < len(rows):
            self._connection.execute("DELETE FROM alive")
            self._connection.execute(addition(kept))

    def _write_events(self, project: str, rows: Sequence[Row], batches: list[Batch],
                      version: int) -> tuple[Sequence[Row], list[Row]]:  # fmt: skip
        """Store rows without repeats; returns what was stored and what was a repeat.

        Only ids that came from outside, or batches that were replayed, can be repeats: an id made here is new.
        """
        con = self._connection
        checked_ids = any(batch.checked_ids for batch in batches)
        doubtful = checked_ids or any(batch.replayed for batch in batches)
        rows, repeats = without_own_repeats(rows) if doubtful else (rows, [])
        self._staging.put(rows)
        key, text = _keys(rows) if checked_ids else _OWN
        known = self._repeats(project, rows, checked_ids) if doubtful else set()
        if known:
            repeats += [row for row in rows if (row[0], row[1]) in known]
            rows = [row for row in rows if (row[0], row[1]) not in known]
            self._staging.put(rows)
        if rows:
            con.execute(_insert(key, text, self._staging.present), [project, version])
            self._note_weights(project, rows)
        self._staging.clear()
        return rows, repeats

    def _repeats(self, project: str, rows: Sequence[Row], checked_ids: bool) -> set[tuple[str, int]]:
        """`(id, ts)` of the staged rows that the store already has.

        What came lately is looked at by id alone, which finds those of the same time as well; so only rows that came
        before need a look at the span of time, and with live events there are none.
        """
        moments = column(rows, "ts")
        span, (key, text), con = [min(moments), max(moments)], _keys(rows), self._connection
        if not checked_ids:
            return set(con.execute(_repeats(key, text, _IN_SPAN), [project, *span]).fetchall())
        received = column(rows, "received_at")
        since, last = (max(0, found(received) - RECENT_US) for found in (min, max))
        known = set(con.execute(_repeats(key, text, _RECENT), [project, since]).fetchall())
        if con.execute(_OLDER, [*span, last]).fetchall():
            known |= set(con.execute(_repeats(key, text, _IN_SPAN), [project, *span]).fetchall())
        return known

    def _note_weights(self, project: str, rows: Sequence[Row]) -> None:
        weights = column(rows, "weight")
        if weights.count(1) == len(weights):
            return
        moments = [ts for ts, weight in zip(column(rows, "ts"), weights, strict=True) if weight != 1]
        self._connection.execute(
            "INSERT INTO weighted VALUES (?, make_timestamp(?), make_timestamp(?))",
            [project, min(moments), max(moments)],
        )
        self._unjoined = True

    def _write_samples(self, project: str, samples: list[Row], version: int, *, doubtful: bool) -> int:
        """Store samples and return how many were repeats, which only those with an id can be.

        Of those without one, equal ones are taken for the same where a batch was replayed.
        """
        rows = self._new_samples(project, [(*row, None) if len(row) <= SAMPLE_AT["id"] else row for row in samples])
        self._append("sample_staging", rows)
        if doubtful:
            known = [project, version, project, version - 1]
            self._connection.execute(_INSERT_SAMPLES + _NOT_KEPT_YET, known)
        else:
            self._connection.execute(_INSERT_SAMPLES, [project, version])
        self._connection.execute("TRUNCATE sample_staging")
        return len(samples) - len(rows)

    def _new_samples(self, project: str, samples: list[Row]) -> list[Row]:
        """Samples without those whose id is known already."""
        at_id, at_ts = SAMPLE_AT["id"], SAMPLE_AT["ts"]
        named = [row for row in samples if row[at_id] is not None]
        if not named:
            return samples
        named = [*without_own_repeats(named, SAMPLE_AT)[0]]
        self._append("sample_staging", named)
        con, moments = self._connection, list(map(itemgetter(at_ts), named))
        since = min(map(itemgetter(SAMPLE_AT["received_at"]), named)) - RECENT_US
        known = set(con.execute(_SAMPLES_IN_SPAN, [project, min(moments), max(moments)]).fetchall())
        known |= set(con.execute(_SAMPLES_RECENT, [project, max(0, since)]).fetchall())
        con.execute("TRUNCATE sample_staging")
        fresh = [row for row in named if (row[at_id], row[at_ts]) not in known]
        return [row for row in samples if row[at_id] is None] + fresh

    def _append(self, table: str, rows: Sequence[Row]) -> None:
        appender = self._connection.appender(table)
        for start in range(0, len(rows), APPENDED_AT_ONCE):
            appender.append_rows(rows[start : start + APPENDED_AT_ONCE])
        appender.flush()


def _keys(rows: Sequence[Row]) -> tuple[str, str]:
    """How the ids of rows become the key and the text of the table, in SQL."""
    return _ANY if _ID_CHARACTERS in set(map(len, column(rows, "id"))) else _TEXTS


@lru_cache(maxsize=64)
def _moment(us: int) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=us)
