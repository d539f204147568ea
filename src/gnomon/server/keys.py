"""Write keys: public keys that may send events to one project, and nothing else. Made, listed and revoked by admins.

A key is shown once, when it is made; what is kept is its digest, beside the journal's other policies. So a key is in
force in every process of the store within about a second, and so is its end.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256

import msgspec

from gnomon.access import Principal
from gnomon.engine import AnalyticsEngine
from gnomon.errors import InvalidValue
from gnomon.ingest.journal import Journal
from gnomon.server.callers import Caller
from gnomon.timerange import from_us, to_us

LOOK_SECONDS = 1.0
MOST_KEYS = 1_000  #: of a store
_FORM = re.compile(r"gwk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]{1,253}(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class WriteKey:
    """A key as it is kept. `origins` are those whose pages may use it; none: any."""

    id: str
    project: str
    name: str
    digest: str
    created_us: int
    origins: tuple[str, ...] = ()
    revoked_us: int | None = None

    def told(self) -> dict[str, str | list[str] | datetime | None]:
        """What an admin may see."""
        ended = None if self.revoked_us is None else from_us(self.revoked_us)
        return {"id": self.id, "name": self.name, "origins": [*self.origins], "created_at": from_us(self.created_us),
                "revoked_at": ended}  # fmt: skip


def make_key(engine: AnalyticsEngine, name: str, origins: Sequence[str] = ()) -> tuple[WriteKey, str]:
    """A new key of the engine's project, and its text, which is not kept. Audited; raises what `_audited` raises."""
    for origin in origins:
        check_origin(origin)
    if not 0 < len(name.encode()) <= 200 or not name.isprintable():
        raise InvalidValue("the name of a key must be a printable text of 1 to 200 bytes", code="bad-argument")
    journal, id_ = engine._hold.journal, secrets.token_hex(6)
    text = f"gwk_{id_}_{secrets.token_urlsafe(32)}"
    with engine._audited("make_write_key") as note:
        note.detail = {"key": id_, "origins": [*origins]}
        if sum(name.startswith("key:") for name in journal.all_kept()) >= MOST_KEYS:
            raise InvalidValue("there are too many write keys", remedy="Revoke some; see docs.", code="too-many-keys")
        key = WriteKey(id_, engine.settings.project, name, _digest(text), to_us(engine.clock()), tuple(origins))
        _keep(journal, key)
    return key, text


def keys_of(engine: AnalyticsEngine) -> list[WriteKey]:
    """The keys of the engine's project, also those that were revoked, the oldest first."""
    found = [_opened(text) for name, text in engine._hold.journal.all_kept().items() if name.startswith("key:")]
    return sorted((key for key in found if key.project == engine.settings.project), key=lambda key: key.created_us)


def revoke_key(engine: AnalyticsEngine, id_: str) -> WriteKey | None:
    """End a key of the engine's project; None where it has no such key. Audited."""
    key = next((key for key in keys_of(engine) if key.id == id_), None)
    if key is None:
        return None
    with engine._audited("revoke_write_key") as note:
        note.detail = {"key": id_}
        if key.revoked_us is None:
            key = replace(key, revoked_us=to_us(engine.clock()))
            _keep(engine._hold.journal, key)
    return key


class WriteKeys:
    """Finds out whose key was sent. Thread-safe; what it knows is at most `LOOK_SECONDS` old."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._keys: dict[str, WriteKey] = {}
        self._look_at = 0.0
        self._lock = threading.Lock()

    def caller(self, text: str) -> Caller | None:
        """Whom a key speaks for; None where it is no key, or not in force. Raises what the journal raises."""
        form = _FORM.fullmatch(text)
        if form is None:
            return None
        key, given = self._known().get(form[1]), _digest(text)
        if not hmac.compare_digest(given, "" if key is None else key.digest) or key is None or key.revoked_us:
            return None
        return Caller(Principal(f"key:{key.id}", ["ingest"]), key.project, key.id, key.origins)

    def origins(self) -> frozenset[str]:
        """Every origin that some key names; `*` where a key in force has none."""
        live = [key for key in self._known().values() if not key.revoked_us]
        return frozenset(origin for key in live for origin in (key.origins or ("*",)))

    def forget(self) -> None:
        """Read the keys again at the next call."""
        self._look_at = 0.0

    def _known(self) -> dict[str, WriteKey]:
        if time.monotonic() >= self._look_at:
            with self._lock:
                kept = self._journal.all_kept()
                found = [_opened(text) for name, text in kept.items() if name.startswith("key:")]
                self._keys = {key.id: key for key in found}
                self._look_at = time.monotonic() + LOOK_SECONDS
        return self._keys


def check_origin(origin: str) -> None:
    """Raise `InvalidValue` (bad-origin) unless it is one as browsers send it, as `https://example.com`."""
    if not _ORIGIN.fullmatch(origin):
        raise InvalidValue("an origin is not of the form https://host or https://host:port, in lower case",
                           remedy="Leave path and trailing slash out.", code="bad-origin")  # fmt: skip


def looks_like_key(text: str) -> bool:
    """Whether a text begins as a write key does."""
    return text.startswith("gwk_")


def _digest(text: str) -> str:
    """Of 256 random bits, so that a plain digest cannot be turned round."""
    return sha256(text.encode()).hexdigest()


def _keep(journal: Journal, key: WriteKey) -> None:
    journal.keep(f"key:{key.id}", msgspec.json.encode(key).decode())


def _opened(text: str) -> WriteKey:
    return msgspec.json.decode(text, type=WriteKey)
