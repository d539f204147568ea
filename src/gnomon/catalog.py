"""What can be asked for: the declared dimensions and measures of each dataset. An unknown name gets a suggestion.

A dimension groups and filters; a measure is a number on a row. `properties.<key>` (and `labels.<key>` of samples)
are always valid and carry their JSON type with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from gnomon.errors import InvalidValue, UnknownName, unknown_name
from gnomon.event import NAME_BYTES

ValueKind: TypeAlias = Literal["text", "number", "boolean", "json", "time"]


@dataclass(frozen=True, slots=True)
class Dimension:
    """Something to group or filter by. `column` is a column, or one of the derived names the compiler knows."""

    name: str
    kind: ValueKind
    column: str
    json_key: str | None = None
    grain: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """One table to ask: its plain dimensions, its measures, and the JSON column behind dotted names."""

    name: str
    dimensions: Mapping[str, Dimension]
    measures: tuple[str, ...]
    json_prefix: str
    json_column: str
    has_weight: bool


TIME_GRAINS = ("minute", "hour", "day", "week", "month", "quarter", "year", "hour_of_day", "day_of_week")

_TEXTS = (
    "type", "user_id", "device_id", "session_id", "source", "application", "domain", "endpoint", "method",
    "error_code",
)  # fmt: skip


def _dimensions(*found: Dimension) -> dict[str, Dimension]:
    return {dimension.name: dimension for dimension in found}


EVENTS = Dataset(
    name="events",
    dimensions=_dimensions(
        *(Dimension(name, "text", name) for name in _TEXTS),
        Dimension("actor", "text", "actor"),
        Dimension("status_code", "number", "status_code"),
        Dimension("status_class", "text", "status_class"),
        Dimension("success", "boolean", "success"),
        Dimension("duration_ms", "number", "duration_ms"),
        Dimension("bytes_sent", "number", "bytes_sent"),
        Dimension("bytes_received", "number", "bytes_received"),
    ),
    measures=("duration_ms", "bytes_sent", "bytes_received", "status_code"),
    json_prefix="properties.",
    json_column="properties",
    has_weight=True,
)
SAMPLES = Dataset(
    name="samples",
    dimensions=_dimensions(Dimension("name", "text", "name"), Dimension("kind", "text", "kind"),
                           Dimension("value", "number", "value")),
    measures=("value",),
    json_prefix="labels.",
    json_column="labels",
    has_weight=False,
)  # fmt: skip
DATASETS = {dataset.name: dataset for dataset in (EVENTS, SAMPLES)}

#: Names of the Plausible Stats API that mean one of ours.
ALIASES = {
    "event:name": "type",
    "event:goal": "type",
    "event:page": "endpoint",
    "event:hostname": "domain",
    "visit:source": "source",
}


def dataset(name: str) -> Dataset:
    """The dataset of that name. Raises `UnknownName`."""
    if not isinstance(name, str) or name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    return DATASETS[name]


def find_dimension(data: Dataset, name: object) -> Dimension:
    """The dimension of that name: declared, `time:<grain>`, or a key of the JSON column. Raises `UnknownName`."""
    if not isinstance(name, str):
        raise InvalidValue("a dimension must be given by its name", code="bad-query")
    plain = ALIASES.get(name, name)
    if plain.startswith("event:props:"):
        plain = data.json_prefix + plain.removeprefix("event:props:")
    if plain == "time":
        plain = "time:day"
    found = _declared(data, plain)
    return found if plain == name else replace(found, name=name)


def _declared(data: Dataset, name: str) -> Dimension:
    if name.startswith("time:"):
        grain = name.removeprefix("time:")
        if grain not in TIME_GRAINS:
            raise unknown_name("time dimension", name, [f"time:{known}" for known in TIME_GRAINS])
        return Dimension(name, "time", "ts", grain=grain)
    if name.startswith(data.json_prefix):
        return Dimension(name, "json", data.json_column, json_key=_key(name[len(data.json_prefix) :]))
    if name not in data.dimensions:
        raise _unknown(data, name)
    return data.dimensions[name]


def _key(key: str) -> str:
    """A key that the gate would let pass."""
    try:
        if 1 <= len(key.encode()) <= NAME_BYTES and "\x00" not in key:
            return key
    except UnicodeEncodeError:
        pass
    raise InvalidValue(f"the name of a property is a text of 1 to {NAME_BYTES} bytes", code="bad-query")


def _unknown(data: Dataset, name: str) -> UnknownName:
    known = [*data.dimensions, *(f"time:{grain}" for grain in TIME_GRAINS), data.json_prefix + "<key>"]
    return unknown_name("dimension", name, known)


def check_id(user_id: object) -> str:
    """The id, if an event could have it. Raises `InvalidValue`."""
    try:
        if isinstance(user_id, str) and 0 < len(user_id.encode()) <= NAME_BYTES and "\x00" not in user_id:
            return user_id
    except UnicodeEncodeError:
        pass
    raise InvalidValue(
        f"the id of a person is a text of 1 to {NAME_BYTES} bytes", code="bad-query",
        remedy="Give the user_id, or the device_id, with which the events came.",
    )  # fmt: skip
