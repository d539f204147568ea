"""The SQL of where in time there are rows of a weight other than 1: spans, that a write adds and a checkpoint joins.

Spans that are less than an hour apart are one. Between them all weights are 1, of which the sum is the count: an answer
about that time is as right as without, though it calls itself an estimate. So spans may grow and never shrink.
"""

from __future__ import annotations

from gnomon.store.texts import quoted
from gnomon.timerange import US_DAY, US_HOUR

GAP_US = US_HOUR  #: at most 24 spans a day are left, whatever comes in; one where there are weights all the time

_SPANS = "SELECT project, epoch_us(first_ts) AS first_us, epoch_us(last_ts) AS last_us FROM weighted"
_SORTED = "OVER (PARTITION BY project ORDER BY first_us, last_us ROWS"
_SO_FAR = f"max(last_us) {_SORTED} BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
_BEGINS = f"CASE WHEN first_us <= so_far + {GAP_US} THEN 0 ELSE 1 END"
_PLACE = f"sum({_BEGINS}) {_SORTED} UNBOUNDED PRECEDING)"
#: Project, first and last moment of each span as they are when joined, in UTC microseconds, and of how many rows it is.
JOINED = (
    "SELECT project, min(first_us) AS since, max(last_us) AS until, count(*) AS n FROM "
    f"(SELECT project, first_us, last_us, {_PLACE} AS place FROM (SELECT *, {_SO_FAR} AS so_far FROM ({_SPANS}) AS s) "
    "AS t) AS p GROUP BY project, place"
)
_MOMENTS = "project, make_timestamp(since) AS first_ts, make_timestamp(until) AS last_ts"
#: Of the spans that several rows say, one for each.
SEVERAL = f"SELECT {_MOMENTS} FROM ({JOINED}) AS j WHERE n > 1"
#: A row of `weighted` that is a part of a row of `j`.
WITHIN = "weighted.project = j.project AND weighted.first_ts BETWEEN j.first_ts AND j.last_ts"
#: How many rows there are, and would be with a row for each span; and what leaves these, for a store that has no keys.
ROWS = f"SELECT (SELECT count(*) FROM weighted), (SELECT count(*) FROM ({JOINED}) AS j)"
FOLD_ALL = [
    f"CREATE TEMP TABLE folded_weights AS SELECT {_MOMENTS} FROM ({JOINED}) AS j",
    "TRUNCATE TABLE weighted",
    "INSERT INTO weighted (project, first_ts, last_ts) SELECT project, first_ts, last_ts FROM folded_weights",
]


def prune_weights(project: str, before_us: int) -> str:
    """Remove spans of a time of which nothing is left: rollups by hour are kept two days longer, and raw rows may have
    come in while it was pruned."""
    me, before = f"project = {quoted(project)}", f"make_timestamp({before_us - 2 * US_DAY})"
    raw = f"(SELECT count(*) FROM events WHERE {me} AND ts < {before} AND weight <> 1)"
    rolled = f"(SELECT count(*) FROM rolled WHERE {me} AND ts < {before})"
    return f"DELETE FROM weighted WHERE {me} AND last_ts < {before} AND {raw} + {rolled} = 0"
