"""The SQL of erasure: one person's traces in every table, and the rollups of the days on which there were some.

A trace is a row of the person, or their id as a whole JSON text, a whole segment of a path or a whole name (of a type,
source and the like) in any row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnomon.event import FIELDS
from gnomon.store.dialect import quoted
from gnomon.store.pruning import only_type
from gnomon.store.rollups import Days, Rollups
from gnomon.timerange import US_DAY

_BLANK = ("user_id", "device_id", "session_id", "domain", "endpoint", "error_code", "properties")
_KEPT = [field.name for field in FIELDS if field.name not in (*_BLANK, "id")]
#: What a row of anybody may be called by, in the tables that have it; a type or a name of a sample cannot be missing.
_NAMES = ("type", "source", "application", "domain", "method", "error_code")
_OF_ACTIVITY = ("type", "source", "application")
_MUST = ("type", "name")
FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class Traces:
    """All that one person may be kept as. `ids`: the id as given and its pseudonyms; `texts`: what a property may hold.

    `texts` are the pseudonyms of the id where it stands in a named property; they are looked for in JSON only.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...] = ()


def own_rows(project: str, who: Traces) -> str:
    """The condition of a person's raw rows."""
    return f"project = {quoted(project)} AND {_any_of('coalesce(user_id, device_id)', who)}"


def foreign_rows(project: str, who: Traces) -> str:
    """The condition of other people's raw rows that name the person."""
    return (
        f"project = {quoted(project)} AND NOT {_any_of('coalesce(user_id, device_id)', who)} AND "
        f"({_names(who, 'properties')} OR {_segment(who, 'endpoint')} OR {_any_of('device_id', who)} "
        f"OR {_any_of('session_id', who)} OR {_any_of('id_text', who)} OR {_called(who, _NAMES)})"
    )


def touched_days(project: str, who: Traces) -> str:
    """The UTC days of everything that will be changed."""
    both = f"({own_rows(project, who)}) OR ({foreign_rows(project, who)})"
    return f"SELECT DISTINCT divide(epoch_us(ts), {US_DAY}) FROM events WHERE {both} ORDER BY 1"


def counts(project: str, who: Traces) -> str:
    """How many own rows, rows of others, samples and quarantined events there are."""
    samples, quarantine = _samples(project, who), _quarantine(project, who)
    return (
        f"SELECT (SELECT count(*) FROM events WHERE {own_rows(project, who)}), "
        f"(SELECT count(*) FROM events WHERE {foreign_rows(project, who)}), "
        f"(SELECT count(*) FROM samples WHERE {samples}), (SELECT count(*) FROM quarantine WHERE {quarantine})"
    )


def erase(project: str, who: Traces, *, delete: bool) -> list[str]:
    """Make the person's rows anonymous, or delete them, and remove them from all other tables."""
    me, own, foreign = quoted(project), own_rows(project, who), foreign_rows(project, who)
    person = f"(SELECT number FROM people WHERE project = {me} AND {_any_of('actor', who)})"
    names = ["project", "id", "id_text", "version", *_KEPT, *_BLANK]
    renamed = {name: _renamed(who, name) for name in _NAMES}
    anonymous = _rows(names, renamed | dict.fromkeys(("id_text", *_BLANK), _NONE) | {"id": _ID}, own)
    gone = renamed | {name: _renamed(who, name) for name in ("domain", "error_code")}
    gone |= {name: _unless(who, name, says) for name, says in _NAMING.items()}
    others = _rows(names, gone | {"id": _ID, "id_text": _NONE}, foreign)
    rows = others if delete else f"{anonymous} UNION ALL {others}"
    steps = [
        f"CREATE TEMP TABLE anonymous AS {rows}",
        f"DELETE FROM events WHERE ({own}) OR ({foreign})",
        f"INSERT INTO events ({', '.join(names)}) SELECT * FROM anonymous",
        "DROP TABLE anonymous",
        f"DELETE FROM activity WHERE project = {me} AND person IN {person}",
        f"DELETE FROM active_days WHERE project = {me} AND person IN {person}",
        f"DELETE FROM people WHERE project = {me} AND {_any_of('actor', who)}",
        f"DELETE FROM sightings WHERE project = {me} AND {_any_of('actor', who)}",
        f"DELETE FROM quarantine WHERE {_quarantine(project, who)}",
        f"UPDATE samples SET labels = NULL, id = {_sample_id(who)}, name = {_renamed(who, 'name')} "
        f"WHERE {_samples(project, who)}",
        f"UPDATE rolled SET endpoint = NULL WHERE project = {me} AND {_segment(who, 'endpoint')}",
        _rename("rolled", project, who, _NAMES),
        _rename("activity", project, who, _OF_ACTIVITY),
        _rename("sightings", project, who, _OF_ACTIVITY),
        _rename("books", project, who, ("source",)),
    ]
    if delete:
        booked = f"SELECT {me}, 'event', source, 'erased', '', count(*) FROM events WHERE {own} GROUP BY source"
        steps.insert(0, f"INSERT INTO books {booked}")
    return steps


def _rows(names: Sequence[str], other: dict[str, str], where: str) -> str:
    words = ", ".join(f"{other[name]} AS {name}" if name in other else name for name in names)
    return f"SELECT {words} FROM events WHERE {where}"


def whole_types(edges: dict[str | None, int], start_us: int) -> str | None:
    """The condition of the event types whose raw rows from a UTC midnight on are all there; None if no type's are."""
    own = {type_: edge <= start_us for type_, edge in edges.items() if type_ is not None}
    if edges.get(None, start_us) <= start_us:
        return only_type(None, [type_ for type_, there in own.items() if not there])
    there = [quoted(type_) for type_, is_there in own.items() if is_there]
    return f"type IN ({', '.join(there)})" if there else None


def raw_of_day(day: int, until_us: int, version: int, only: str) -> str:
    """The condition of one UTC day's raw rows below the watermark, of the types that `only` admits."""
    return f"{_span(day * US_DAY, min((day + 1) * US_DAY, until_us))} AND {only} AND version <= {version}"


def any_weights(project: str, where: str) -> str:
    """Whether a row has a weight other than 1."""
    return f"SELECT count(*) > 0 FROM events WHERE project = {quoted(project)} AND {where} AND weight <> 1"


def rebuild_hours(words: Rollups, project: str, width: int, rollups: Sequence[str], day: int, until_us: int,
                  version: int, only: str, *, weighted: bool) -> list[str]:  # fmt: skip
    """Make the hours of one UTC day again, of the raw rows below the watermark, for the types that `only` admits."""
    span = _span(day * US_DAY, min((day + 1) * US_DAY, until_us))
    return [
        *words.stage(project, width, rollups, raw_of_day(day, until_us, version, only), weighted=weighted),
        f"DELETE FROM rolled WHERE project = {quoted(project)} AND tier = 'hour' AND {span} AND {only}",
        *words.put(),
    ]


def rebuild_day(
    words: Rollups, project: str, rollups: Sequence[str], days: Days, start_us: int, end_us: int
) -> list[str]:
    """Make one local day again, of its hours."""
    hours = f"project = {quoted(project)} AND {_span(start_us, end_us)}"
    return [
        *words.again(rollups, hours, days),
        f"DELETE FROM rolled WHERE {hours} AND tier = {quoted(days.tier)}",
        *words.put(),
    ]


def _span(start_us: int, end_us: int) -> str:
    return f"ts >= make_timestamp({start_us}) AND ts < make_timestamp({end_us})"


_NONE = "CAST(NULL AS VARCHAR)"  #: a null of a text, as a table is made of it
_ID = "CASE WHEN id_text IS NULL THEN id ELSE gen_random_uuid() END"


def _any_of(column: str, who: Traces) -> str:
    return f"coalesce({column} IN ({', '.join(map(quoted, who.ids))}), false)"


def _is(who: Traces, column: str) -> str:
    return _any_of(column, who)


def _names(who: Traces, column: str) -> str:
    texts = {form for text in (*who.ids, *who.texts) for form in _json(text)}
    found = " OR ".join(f"strpos({column}, {quoted(text)}) > 0" for text in sorted(texts))
    return f"coalesce({found}, false)"


def _json(text: str) -> tuple[str, str]:
    return json.dumps(text), json.dumps(text, ensure_ascii=False)


def _shown(text: str) -> set[str]:
    """A text as it stands in what the quarantine shows: as it is, as JSON, as Python writes it, in a line of CSV."""
    return {text, *(form[1:-1] for form in (*_json(text), ascii(text))), text.replace('"', '""')}


def _segment(who: Traces, column: str) -> str:
    found = " OR ".join(f"strpos('/' || {column} || '/', {quoted('/' + text + '/')}) > 0" for text in who.ids)
    return f"coalesce({found}, false)"


def _called(who: Traces, columns: Sequence[str]) -> str:
    return " OR ".join(_any_of(column, who) for column in columns)


def _renamed(who: Traces, column: str) -> str:
    """The column, without a name that is the person's id."""
    instead = quoted(FORGOTTEN) if column in _MUST else "NULL"
    return f"CASE WHEN {_any_of(column, who)} THEN {instead} ELSE {column} END"


def _rename(table: str, project: str, who: Traces, columns: Sequence[str]) -> str:
    changes = ", ".join(f"{column} = {_renamed(who, column)}" for column in columns)
    return f"UPDATE {table} SET {changes} WHERE project = {quoted(project)} AND ({_called(who, columns)})"


def _unless(who: Traces, column: str, says: Callable[[Traces, str], str]) -> str:
    return f"CASE WHEN {says(who, column)} THEN NULL ELSE {column} END"


#: Columns in which a row of somebody else may name the person, and how.
_NAMING = {"device_id": _is, "session_id": _is, "endpoint": _segment, "properties": _names}


def _samples(project: str, who: Traces) -> str:
    return f"project = {quoted(project)} AND ({_names(who, 'labels')} OR {_called(who, ('id', 'name'))})"


_IS_UUID = " AND ".join([
    "length(id) = 36", "translate(id, '0123456789abcdef', '') = '----'",
    *(f"substr(id, {place}, 1) = '-'" for place in (9, 14, 19, 24)),
])  # fmt: skip


def _sample_id(who: Traces) -> str:
    """A UUID says nothing and stays, so that a resend is found; any other id may be made of the person's."""
    return f"CASE WHEN {_IS_UUID} AND NOT {_any_of('id', who)} THEN id END"


def _quarantine(project: str, who: Traces) -> str:
    texts = {form for text in (*who.ids, *who.texts) for form in _shown(text)}
    found = " OR ".join(f"strpos(event, {quoted(text)}) > 0" for text in sorted(texts))
    return f"project = {quoted(project)} AND ({_called(who, ('id', 'source'))} OR coalesce({found}, false))"
