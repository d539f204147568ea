"""Which event types a project takes from outside, and what their properties must look like: settings of an admin.

By default every type is taken, in any shape. A schema is JSON Schema (2020-12) for the properties of one type. It is
compiled once; it may name nothing outside itself, and its patterns take time in line with what they are given.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from gnomon.errors import GnomonError, InvalidValue, MissingExtra
from gnomon.ingest.calls import WireCalls
from gnomon.ingest.journal import Journal
from gnomon.ingest.rules import Refusal

log = logging.getLogger("gnomon.typerules")

LOOK_SECONDS = 1.0
MOST_TYPES = 1_000
MOST_SCHEMA_BYTES = 64 * 1024
MOST_BYTES = 1024 * 1024  #: of everything together


class TypeRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`allowed`: only these (None: any). `denied`: not these. `schemas`: by type."""

    allowed: list[str] | None = None
    denied: list[str] = []
    schemas: dict[str, Any] = {}


class RuleBook:
    """The rules in force for one project, and the check of an event against them. Thread-safe."""

    def __init__(self, project: str, journal: Journal) -> None:
        self._key = f"types:{project}"
        self._journal = journal
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._text: str | None = None
        self.rules = TypeRules()
        self._validators: dict[str, Any] = {}
        self._plain = True

    def look(self) -> RuleBook:
        """Have the rules that are in force, at most `LOOK_SECONDS` old. Raises what the journal raises."""
        if time.monotonic() >= self._look_at:
            with self._lock:
                text = self._journal.kept(self._key)
                if text != self._text:
                    self._use(TypeRules() if text is None else msgspec.json.decode(text, type=TypeRules), text)
                self._look_at = time.monotonic() + LOOK_SECONDS
        return self

    def set(self, rules: TypeRules) -> None:
        """Keep new rules: here at once, elsewhere within `LOOK_SECONDS`. Raises `InvalidValue` (bad-type-rules)."""
        text = msgspec.json.encode(rules).decode()
        names = [*(rules.allowed or ()), *rules.denied, *rules.schemas]
        if (
            len(names) > MOST_TYPES
            or len(text) > MOST_BYTES
            or not all(0 < len(name.encode()) <= 200 for name in names)
        ):
            raise InvalidValue("the rules are too large, or name a type that no event can have", code="bad-type-rules",
                               remedy=f"At most {MOST_TYPES} types of 1 to 200 bytes.")  # fmt: skip
        validators_of(rules.schemas)
        with self._lock:
            self._journal.keep(self._key, text)
            self._use(rules, text)

    def vet(self, fields: dict[str, Any]) -> None:
        """Raise `Refusal` for an event that the project does not take; the detail names keys, never values."""
        if self._plain:
            return
        type_ = fields.get("type")
        if not isinstance(type_, str):
            return  # the gate says that
        if type_ in self.rules.denied or (self.rules.allowed is not None and type_ not in self.rules.allowed):
            raise Refusal("type-not-allowed", "type: not among those that the project takes")
        validator = self._validators.get(type_)
        if validator is None:
            return
        given = fields.get("properties")
        fault = next(iter(validator.iter_errors({} if given is None else given)), None)
        if fault is not None:
            place = ".".join(["properties", *map(str, fault.instance_path)])
            raise Refusal("schema-violation", f"{_shown(place)}: does not fit the schema of its type")

    def passed(self, calls: WireCalls) -> WireCalls | None:
        """The calls; None where there are rules."""
        return calls if self._plain else None

    def _use(self, rules: TypeRules, text: str | None) -> None:
        try:
            self._validators = validators_of(rules.schemas)
        except GnomonError as error:
            log.error("the schemas of event types cannot be used here, nothing is checked against them: %s", error)
            self._validators = {}
        self.rules, self._text = rules, text
        self._plain = rules.allowed is None and not rules.denied and not self._validators


def validators_of(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """A compiled validator for each schema. Raises `InvalidValue` (bad-type-rules), `MissingExtra`."""
    if not schemas:
        return {}
    try:
        import jsonschema_rs
    except ImportError as error:
        raise MissingExtra("jsonschema-rs", "server") from error
    found = {}
    for name, schema in schemas.items():
        try:
            if not isinstance(schema, dict | bool) or len(msgspec.json.encode(schema)) > MOST_SCHEMA_BYTES:
                raise ValueError
            found[name] = jsonschema_rs.Draft202012Validator(
                schema, retriever=_retrieve_nothing, pattern_options=jsonschema_rs.RegexOptions()
            )
        except (ValueError, TypeError, RecursionError) as error:
            remedy = "Give JSON Schema 2020-12 without references to elsewhere, of at most 64 KiB."
            raise InvalidValue("a schema cannot be used", code="bad-type-rules", remedy=remedy) from error
    return found


def _retrieve_nothing(_uri: str) -> Any:
    raise ValueError("a schema may not refer to elsewhere")


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:200])
