"""The engine's verbs of rights and audit: calls in another's name, the access log, the check, the head, pruning."""

from __future__ import annotations

import inspect
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from zoneinfo import ZoneInfo

from gnomon.access import Note, Person, Principal, speaking, speaking_as
from gnomon.config import Settings, without_keys
from gnomon.errors import Forbidden, InvalidValue
from gnomon.timerange import Clock, resolve_range
from gnomon.upkeep.audit import Audit, Audited

if TYPE_CHECKING:
    from gnomon.upkeep.verify import AuditEntry, Head, Verdict

#: A call of these is not audited, so it needs no span around it either.
_RECORDING = frozenset({"track", "record_request", "record_metric"})


class Accounting:
    """Who may do what, and what was done. Mixed into the engine."""

    settings: Settings
    clock: Clock
    zone: ZoneInfo
    _audit: Audit

    def _begin_accounting(self, store_file: Path, *, durable: bool) -> None:
        self._audit = Audit(store_file, self.clock, durable=durable)

    def _audited(self, operation: str, **said: Any) -> Audited:
        """The span of an audited operation; `said` are fields of its `Note` that are known already.

        `with self._audited("prune") as note: ...; note.rows = n`. An operation that is not among `READINGS` is a
        change, and refused where no entry could be written.
        """
        return self._audit.audited(self.settings.project, Note(operation, **said))

    def acting_as(self, principal: Principal) -> Self:
        """This engine with the rights of `principal`: what it may not do raises `Forbidden`, and all is in its name.

        Both are audited. Closing needs `admin`: the engine stays the host's.
        """
        if not isinstance(principal, Principal):
            raise InvalidValue("acting_as takes a Principal", remedy="For example gnomon.Principal(name, ['read']).")
        return cast(Self, Acting(self, principal))

    def get_access_log(
        self, time_range: Any = "all", user_filter: str | None = None, limit: int = 10_000
    ) -> list[AuditEntry]:
        """The newest entries of the audit of this project, newest first; `user_filter` is the name of a principal.

        Without the scope `admin` a caller sees its own entries only. Raises `Forbidden` for those of others,
        `InvalidValue` for a bad range or limit.
        """
        with self._audited("access_log") as note:
            caller = speaking()
            if not caller.may("admin"):
                if user_filter not in (None, caller.name):
                    raise Forbidden("only an admin sees what others did", remedy="Ask for the scope `admin`.")
                user_filter = caller.name
            if type(limit) is not int or limit < 1:
                raise InvalidValue("limit must be a whole number of at least 1", code="bad-query")
            note.range = resolve_range(time_range, now=self.clock(), zone=self.zone, earliest_us=lambda: 0)
            note.detail = {} if user_filter is None else {"people": [Person(user_filter)]}
            from gnomon.upkeep import verify

            found = verify.entries(self._audit.path, self.settings.project, note.range, user_filter, limit)
            note.rows = len(found)
        return found

    def audit_head(self) -> Head:
        """Number and hash of the newest entry of the store, of all projects. Its text, noted elsewhere, can be proven.

        Raises `StoreDamaged` (audit-broken) when the entries and their anchor do not fit together.
        """
        from gnomon.upkeep import verify

        return verify.head(self._audit.path)

    def verify_audit(self, expect: str | Head | None = None) -> Verdict:
        """Check every entry of the store's audit; the verdict is true when all is as written, else names the first bad.

        `expect` is a head that was noted earlier: it must still be part of the chain.
        """
        from gnomon.upkeep import verify

        return verify.verify(self._audit.path, verify.Head.parse(expect) if isinstance(expect, str) else expect)

    def prune_audit(self) -> int:
        """Drop entries older than `audit_days` and return how many; the others still verify.

        Raises `StoreDamaged` (audit-broken) for an audit that does not verify: pruning would hide it.
        """
        with self._audited("prune_audit") as note:
            note.rows = self._audit.prune(self.settings.audit_days)
        return note.rows


class Acting:
    """An engine in the name of a principal: every public name is checked, then called with that principal speaking."""

    __slots__ = ("_engine", "_principal")

    def __init__(self, engine: Accounting, principal: Principal) -> None:
        self._engine, self._principal = engine, principal

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"an engine in another's name has no attribute {name!r}")
        if not callable(inspect.getattr_static(self._engine, name)):
            self._check(name)
            found = getattr(self._engine, name)
            return without_keys(found) if isinstance(found, Settings) else found
        if name in _RECORDING and self._principal.refusal(name) is None:
            return getattr(self._engine, name)

        @wraps(getattr(self._engine, name))
        def call(*args: Any, **named: Any) -> Any:
            with speaking_as(self._principal):
                self._check(name)
                return getattr(self._engine, name)(*args, **named)

        return call

    def _check(self, name: str) -> None:
        error = self._principal.refusal(name)
        if error is not None:
            with speaking_as(self._principal):
                self._engine._audit.refused(self._engine.settings.project, name, error)
            raise error

    def __repr__(self) -> str:
        return f"<engine in the name of {self._principal.name!r}>"
