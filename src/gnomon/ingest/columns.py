"""Which column of a file is which field of an event: as the caller maps it, by its name, by an alias, or a property."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, TypeAlias

import msgspec

from gnomon.errors import InvalidValue, unknown_name
from gnomon.event import BY_NAME, GIVEN
from gnomon.ingest.lines import BadLine, LineFault, bad_line
from gnomon.ingest.occurrences import Occurrences, row_content
from gnomon.ingest.parquet import UNREADABLE
from gnomon.ingest.values import CONVERT, json_value, moment, number_or_text
from gnomon.timerange import load_zone

_ALIASES: dict[str, tuple[str, ...]] = {
    "ts": ("timestamp", "time", "date", "datetime", "created_at"),
    "type": ("event", "event_type", "name", "event_name"),
    "user_id": ("user", "userid", "uid", "customer_id"),
    "status_code": ("status", "http_status"),
    "duration_ms": ("duration", "response_time_ms", "latency_ms"),
    "source": ("src",),
    "endpoint": ("path", "url_path"),
    "domain": ("host",),
    "application": ("app",),
    "error_code": ("error",),
    "properties": ("payload",),
}
_WIRE_ALIASES: dict[str, tuple[str, ...]] = {"source": ("src",), "properties": ("payload",), "ts": ("timestamp",)}


Row: TypeAlias = tuple[int, Sequence[Any]]  # which line of the file, and its values


class Candidate(msgspec.Struct, frozen=True):  # made for every line, which a frozen dataclass does slowly
    """What a line says, under the names of the event row; the gate decides whether it becomes an event.

    `ts` is UTC microseconds (int), an aware datetime, or text as it stood in the file.
    """

    line: int
    fields: dict[str, Any]


class Plan:
    """What the caller said about a whole file: columns by name, constants, zone; and the ids given so far."""

    def __init__(self, kind: str, mapping: Mapping[str, str] | None, timezone: str | None, id_key: bytes = b"") -> None:
        self.kind = kind
        self.ids = Occurrences(key=id_key)
        self.columns: dict[str, str] = {}
        self.constants: dict[str, Any] = {}
        self.zone = load_zone(timezone) if timezone is not None else None
        for name, target in (mapping or {}).items():
            if target.startswith("="):
                self.constants[_known(name)] = self._constant(name, target[1:])
            elif kind == "combined":
                remedy = 'Only constants, such as {"source": "=web"}, can be given.'
                raise InvalidValue("an access log has no columns to map", code="bad-mapping", remedy=remedy)
            else:
                self.columns[self.folded(name)] = target and _known(target)
        self.fields = {name: value for name, value in self.constants.items() if name in GIVEN}
        self.properties: dict[str, Any] = self.fields.pop("properties", {})
        self.properties |= {_key(name): value for name, value in self.constants.items() if name not in GIVEN}

    def folded(self, name: str) -> str:
        return name if self.kind == "ndjson" else name.strip().lower().replace(" ", "_").replace("-", "_")

    def convert(self, target: str) -> Callable[[Any], Any]:
        """How the values of a column become values of a field or a property."""
        if target == "ts":
            return lambda value: moment(value, self.zone)
        if self.kind == "ndjson" and target != "properties":
            return lambda value: value
        if target in GIVEN:
            after = CONVERT[BY_NAME[target].kind]
            return (lambda value: after(json_value(value))) if self.kind == "parquet" else after
        return json_value if self.kind == "parquet" else number_or_text

    def _constant(self, target: str, text: str) -> Any:
        if not text or target == "id":
            remedy = 'Write "=value" with a value, and map a column to the id or let it be derived.'
            raise InvalidValue(
                "a constant is empty, or would give all events one id", code="bad-mapping", remedy=remedy
            )
        try:
            if target == "ts":
                return moment(text, self.zone)
            return CONVERT[BY_NAME[target].kind](text) if target in GIVEN else number_or_text(text)
        except LineFault as fault:
            remedy = "Correct the constant in the mapping."
            raise InvalidValue(fault.reason, code="bad-mapping", remedy=remedy) from fault


def _known(target: str) -> str:
    if target not in GIVEN and not (target.startswith("properties.") and _key(target)):
        raise unknown_name("field", target, [*GIVEN, "properties.<key>"])
    return target


def _key(target: str) -> str:
    return target.removeprefix("properties.")


class Columns:
    """Where each column of one header goes; a row of values becomes the fields of an event."""

    def __init__(self, header: Sequence[str], plan: Plan) -> None:
        self.plan = plan
        self.names = list(header)
        targets = self._targets([plan.folded(name) for name in header])
        self.targets = [(at, to, plan.convert(to)) for at, to in enumerate(targets) if to in GIVEN]
        self.extras = [(at, _key(to)) for at, to in enumerate(targets) if to not in GIVEN and to]
        self.extra = plan.convert("properties.<key>")
        self._blank = None if plan.kind == "ndjson" else ""
        self.start = dict(plan.fields)
        if plan.kind != "ndjson" and "type" not in targets:
            self.start.setdefault("type", "event")

    def _targets(self, folded: list[str]) -> list[str]:
        """For every column a field, `properties.<key>`, or "" if it is left out."""
        columns = self.plan.columns
        if self.plan.kind != "ndjson":
            for name in columns.keys() - set(folded):
                raise unknown_name("column", name, folded)
        found: dict[int, str] = {at: columns[name] for at, name in enumerate(folded) if name in columns}
        aliases = _WIRE_ALIASES if self.plan.kind == "ndjson" else _ALIASES
        for target in GIVEN:
            if target in found.values():
                continue
            for name in (target, *aliases.get(target, ())):
                if name in folded and (at := folded.index(name)) not in found:
                    found[at] = target
                    break
        targets = [found[at] if at in found else self._property(at) for at in range(len(folded))]
        used = [target for target in targets if target]
        if len(set(used)) < len(used) or len(set(self.names)) < len(self.names):
            remedy = 'Rename one of them, or map one of them to something else (to "" to leave it out).'
            raise InvalidValue("two columns have one name or fill one field", code="duplicate-column", remedy=remedy)
        return ["" if target in self.plan.constants else target for target in targets]

    def _property(self, at: int) -> str:
        name = self.names[at].strip() if self.plan.kind != "ndjson" else self.names[at]
        return name if name.startswith("properties.") and _key(name) else f"properties.{name or f'column_{at + 1}'}"

    def fields(self, values: Sequence[Any], id_: str | None = None) -> dict[str, Any]:
        """The fields of one row; `id_` where its id was derived before."""
        fields = dict(self.start)
        try:
            for at, name, convert in self.targets:
                value = values[at]
                if value is not None and value != self._blank and (value := convert(value)) is not None:
                    fields[name] = value
            properties = self._properties(fields.pop("properties", {}), values)
            if "id" not in fields:
                fields["id"] = id_ or self.plan.ids.id_of(row_content(self.names, values))
        except (ValueError, OverflowError, RecursionError) as error:
            raise LineFault("bad-line", "a value is too large or nested too deeply") from error
        fields["properties"] = properties
        return fields

    def _properties(self, given: Any, values: Sequence[Any]) -> dict[str, Any]:
        if type(given) is not dict:
            raise LineFault("bad-line", "the properties are not a JSON object")
        properties = {**given, **self.plan.properties}
        for at, key in self.extras:
            value = values[at]
            if self._blank is not None and (value is None or value == "" or (value := self.extra(value)) is None):
                continue
            if key in properties:
                raise LineFault("bad-line", "a property is given twice")
            properties[key] = value
        return properties


def candidates(rows: Iterable[Row | BadLine], columns: Columns,
               ids: Iterable[str | None] = repeat(None)) -> Iterator[Candidate | BadLine]:  # fmt: skip
    """Rows with their lines, one by one; `ids` where they were derived before."""
    for row, id_ in zip(rows, ids, strict=False):
        if isinstance(row, BadLine):
            yield row
            continue
        number, values = row
        try:
            yield Candidate(number, columns.fields(values, id_))
        except LineFault as fault:
            shown = ",".join("" if value is None or value is UNREADABLE else str(value) for value in values)
            yield bad_line(number, fault, shown.encode("utf-8", "replace"))
