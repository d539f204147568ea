"""Who is asking, what they may do, and the note that an operation leaves for the audit.

A principal has scopes; `RIGHTS` names the one that each public name of the engine needs. A name that is not in it is
refused to everybody, so that a new method stays closed until somebody decides who may call it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from gnomon.errors import Forbidden, InvalidValue, unknown_name
from gnomon.timerange import DateRange

SCOPES = ("ingest", "ingest:any", "read", "admin")
_IMPLIED = {"admin": "read", "ingest:any": "ingest"}

#: The scope that each public name of the engine needs. Reading is `read`; what changes or removes anything is `admin`.
RIGHTS: Mapping[str, str] = {
    "track": "ingest", "record_request": "ingest", "record_metric": "ingest", "flush": "ingest",
    "import_file": "ingest:any",
    "query": "read", "run": "read", "explain": "read", "query_usage": "read", "compare_periods": "read",
    "active_users": "read", "summary": "read", "user": "read", "dashboard": "read",
    "books": "read", "quarantine": "read", "health": "read", "waiting": "read", "get_access_log": "read",
    "export_analytics": "read", "get_export_status": "read", "exports": "read", "download_export": "read",
    "export_file": "read", "stream_export": "read",
    "sampling_thresholds": "read", "get_retention_policy": "read",
    "settings": "read", "clock": "read", "zone": "read", "owns_store": "read", "strict": "read",
    "set_sampling_thresholds": "admin", "trigger_aggregation": "admin", "set_retention_policy": "admin",
    "prune": "admin", "backups": "admin", "trigger_backup": "admin", "restore_backup": "admin", "copy_to": "admin",
    "forget": "admin",
    "set_legal_hold": "admin", "run_jobs": "admin", "alerts": "admin", "on_alert": "admin",
    "audit_head": "admin", "verify_audit": "admin", "prune_audit": "admin", "acting_as": "admin", "close": "admin",
}  # fmt: skip


@dataclass(frozen=True, init=False)
class Principal:
    """A caller: a name, and scopes of `ingest`, `ingest:any`, `read`, `admin`, as a collection or parted by spaces.

    `admin` implies `read`, `ingest:any` implies `ingest`, nothing else is implied. Raises `InvalidValue`
    (bad-principal) for a name that is no text of 1 to 200 bytes, `UnknownName` for another scope.
    """

    name: str
    scopes: frozenset[str]

    def __init__(self, name: str, scopes: Iterable[str] = ()) -> None:
        _check_name(name)
        if not isinstance(scopes, Iterable):
            raise InvalidValue("scopes must be a collection of texts", code="bad-principal")
        given = scopes.split() if isinstance(scopes, str) else list(scopes)
        for scope in given:
            if scope not in SCOPES:
                raise unknown_name("scope", scope, SCOPES)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "scopes", frozenset(given))

    def may(self, scope: str | None) -> bool:
        """Whether this caller has a scope, itself or implied; None, the right of an unlisted name, has nobody."""
        return scope in self.scopes or any(_IMPLIED.get(held) == scope for held in self.scopes if scope is not None)

    def refusal(self, name: str) -> Forbidden | None:
        """The error for calling `name` of the engine, or None where this caller may."""
        needed = RIGHTS.get(name)
        if self.may(needed):
            return None
        remedy = f"Ask for the scope `{needed}`." if needed else "Nobody may call it in another's name."
        return Forbidden("the caller has no right to do this", remedy=remedy)


def _check_name(name: object) -> None:
    try:
        fits = isinstance(name, str) and 0 < len(name.encode()) <= 200 and "\x00" not in name
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise InvalidValue("the name of a principal must be a text of 1 to 200 bytes", code="bad-principal")


#: Whoever holds the engine itself: code of the host, which could read the files as well.
LOCAL = Principal("local", ["admin"])

_SPEAKING: ContextVar[Principal] = ContextVar("gnomon_principal", default=LOCAL)


def speaking() -> Principal:
    """In whose name the present call is made."""
    return _SPEAKING.get()


@contextmanager
def speaking_as(principal: Principal) -> Iterator[None]:
    """Calls within are made, and audited, in the name of `principal`."""
    token = _SPEAKING.set(principal)
    try:
        yield
    finally:
        _SPEAKING.reset(token)


@dataclass(frozen=True, slots=True)
class Person:
    """An id of a person within a note: the audit keeps a keyed digest of it, never the id."""

    id: str


@dataclass(slots=True)
class Note:
    """What an operation says about itself, for its audit entry; it is filled in while the operation runs.

    `rows` counts what was answered, written or removed. `detail` holds plain values of JSON, and a `Person` wherever
    an id of a person would stand; nothing else from events or filters belongs into it.
    """

    operation: str
    range: DateRange | None = None
    rows: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)
