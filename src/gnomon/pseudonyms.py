"""Pseudonyms: keyed digests in place of the ids of people and of the values of named properties.

A pseudonym is a function of a key, the project, the field and the value, and of nothing else: every process with the
key makes the same one, and nobody without it can tell whose it is. Nothing here reads settings, rows or files.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from hashlib import blake2b
from hmac import digest
from itertools import pairwise
from math import isfinite
from typing import Any

from gnomon.errors import InvalidValue

KEY_BYTES = 32
#: Pseudonyms that are remembered, as making one costs ten times as much as finding it; about 15 MB when all are used.
MOST_REMEMBERED = 50_000
LONGEST_ID = 200  #: bytes, as of the fields of the event row; a longer one is refused, not digested
#: What stands in the quarantine for what can be no pseudonym.
HIDDEN = "(not shown)"
_FORM = re.compile(r"~k([0-9a-f]{4})\.[A-Za-z0-9_-]{22}")
_EXAMPLES = re.compile(
    r"example|change.?me|password|placeholder|secret.?key|your.?(secret|key)|insecure|pseudonym", re.I
)
_PERSON = "person"
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Pseudonyms:
    """What the keys make of values in one project. The first key makes the new ones, all keys recognise.

    Raises `InvalidValue` (`weak-key`, `bad-config`) for keys and names of properties that cannot be used.
    """

    def __init__(self, keys: Sequence[str], properties: Sequence[str], project: str,
                 most_bytes: int = 8_192, most_levels: int = 16) -> None:  # fmt: skip
        check_keys(keys)
        check_properties(properties)
        self._rings = [_Ring(key, project) for key in keys]
        self._keys = frozenset(properties)
        self._most_bytes, self._most_levels = most_bytes, most_levels
        # Plain dicts, emptied when full: looking into one takes half the time of a call to `lru_cache`.
        self._people: dict[str, str] = {}
        self._values: dict[str, dict[str, str]] = {key: {} for key in properties}
        #: For ids that are digests of what a file says: the oldest key, as such ids must outlive a rotation.
        self.id_key = digest(keys[-1].encode(), f"gnomon import\0{project}".encode(), "sha256")

    def __repr__(self) -> str:
        return f"<pseudonyms: {self.told()}>"

    def told(self) -> str:
        """What is in force, in words: the names of keys and properties, never a key."""
        new, *older = (f"k{ring.name}" for ring in self._rings)
        return "; ".join(
            [f"on, key {new}", *([f"older keys {', '.join(older)}"] if older else []),
             *([f"properties {', '.join(sorted(self._keys))}"] if self._keys else [])]
        )  # fmt: skip

    # -- at the gate: what has to be refused stays as it is, for the rules to say why ------------------------------

    def of_event(self, user: Any, device: Any, session: Any, properties: Any, imported: bool) -> tuple[Any, ...]:
        """User, device, session and properties of an event as they may be kept."""
        known = self._people
        if user is not None:
            found = known.get(user) if type(user) is str and not imported else None
            user = found or self.of_id(user, imported)
        if device is not None:
            found = known.get(device) if type(device) is str and not imported else None
            device = found or self.of_id(device, imported)
        if session is not None:
            found = known.get(session) if type(session) is str and not imported else None
            session = found or self.of_id(session, imported)
        if self._keys and properties:
            properties = self.of_properties(properties, imported)
        return user, device, session, properties

    def of_id(self, value: Any, imported: bool = False) -> Any:
        """The pseudonym of an id of a person, device or session. A file may bring pseudonyms that were exported."""
        if type(value) is not str:
            if not issubclass(type(value), str):
                return value
            value = str.__str__(value)
        if len(value) > LONGEST_ID or (imported and value.startswith("~") and self.is_own(value)):
            return value
        found = self._people.get(value)
        if found is None and _fits(value, LONGEST_ID) and value:
            found = _remembered(self._people, value, self._rings[0].make(_PERSON, value), MOST_REMEMBERED)
        return found or value

    def of_properties(self, properties: Any, imported: bool = False, unfit: Any = None) -> Any:
        """Properties or labels with named values replaced; `unfit` stands for those that will be refused."""
        if not isinstance(properties, dict) or self._keys.isdisjoint(properties):
            return properties
        replaced = {}
        for key in self._keys:
            value = properties.get(key)
            if type(value) is str and not imported and (found := self._values[key].get(value)):
                replaced[key] = found
            elif value is not None and type(value) is not bool:
                replaced[key] = self._of_value(key, value, 3, imported, unfit)
        return {**properties, **replaced}

    def _of_value(self, key: str, value: Any, level: int, imported: bool, unfit: Any) -> Any:
        """One value under a named key: every text and number in it is replaced, also the names within an object."""
        if isinstance(value, dict | list | tuple):
            if level > self._most_levels:
                return value if unfit is None else unfit
            inner = partial(self._of_value, key, level=level + 1, imported=imported, unfit=unfit)
            if isinstance(value, dict):
                return {inner(name) if name else name: inner(part) for name, part in value.items()}
            return [inner(part) for part in value]
        if imported and isinstance(value, str) and self.is_own(value):
            return value
        text = self._tagged(value)
        if text is None:
            return value if unfit is None or value is None or isinstance(value, bool) else unfit
        made = self._rings[0].make(f"property:{key}", text)
        if type(value) is str and len(value) <= LONGEST_ID:
            _remembered(self._values[key], value, made, MOST_REMEMBERED // len(self._keys))
        return made

    def hidden(self, sent: Any, known: Mapping[str, Any] | frozenset[str]) -> Any:
        """What was sent and refused, as the quarantine may hold it: only known fields, and none that names a person."""
        if not isinstance(sent, Mapping):
            return HIDDEN
        return {name: self._hidden(name, value) if name in known else HIDDEN for name, value in sent.items()}

    def _hidden(self, name: str, value: Any) -> Any:
        if name in ("user_id", "device_id", "session_id"):
            found = self.of_id(value)
            return found if found is None or (isinstance(found, str) and self.is_own(found)) else HIDDEN
        if name in ("properties", "payload", "labels"):
            return self.of_properties(value, unfit=HIDDEN) if isinstance(value, dict) else value and HIDDEN
        return value if value is None or isinstance(value, str | int | float | datetime) else HIDDEN

    # -- asking and forgetting: whoever knows the value finds it under every key -----------------------------------

    def is_own(self, text: str) -> bool:
        """Whether a text has the form of a pseudonym of one of these keys."""
        found = _FORM.fullmatch(text)
        return found is not None and any(ring.name == found[1] for ring in self._rings)

    def names_key(self, key: str | None) -> bool:
        """Whether the values of a property are replaced."""
        return key in self._keys

    def ids(self, text: str) -> tuple[str, ...]:
        """All that an id of a person may be kept as: as it is, and under every key."""
        return (text, *(ring.make(_PERSON, text) for ring in self._rings))

    def values(self, key: str, value: Any) -> tuple[Any, ...]:
        """All that a text or number under a named key may be kept as."""
        text = self._tagged(value)
        return (value,) if text is None else (value, *(ring.make(f"property:{key}", text) for ring in self._rings))

    def mentions(self, text: str) -> tuple[str, ...]:
        """All that an id may be kept as where it is the value of a named property."""
        return tuple(found for key in sorted(self._keys) for found in self.values(key, text)[1:])

    # -- making ------------------------------------------------------------------------------------------------------

    def _tagged(self, value: Any) -> str | None:
        """A text or number so that neither can be taken for the other, None for what is neither or will be refused."""
        if isinstance(value, str):
            text = str.__str__(value)
            return f"t{text}" if _fits(text, self._most_bytes) else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if isinstance(value, int):
            whole = int.__int__(value)
            return f"n{whole}" if -(2**63) <= whole < 2**63 else None
        real = float.__float__(value)
        if not isfinite(real):
            return None
        return f"n{int(real)}" if real.is_integer() and abs(real) < 2**53 else f"n{real!r}"  # 1 and 1.0 are one number


def _fits(text: str, most_bytes: int) -> bool:
    """Whether the rules of the gate would let a text pass; what they refuse they get as it is."""
    try:
        return len(text) <= most_bytes and len(text.encode()) <= most_bytes and "\x00" not in text
    except UnicodeEncodeError:
        return False


def _remembered(known: dict[str, str], value: str, made: str, most: int) -> str:
    if len(known) >= most:
        known.clear()
    known[value] = made
    return made


class _Ring:
    """One key in one project; each field has a key of its own made of it, so that nothing links two fields."""

    def __init__(self, key: str, project: str) -> None:
        self._secret, self._project = key.encode(), project
        self.name = key_name(key)
        self._start = f"~k{self.name}."
        self._own: dict[str, Any] = {}

    def make(self, field: str, text: str) -> str:
        """The pseudonym of a text: 128 bits of keyed BLAKE2b (RFC 7693) behind the name of the key."""
        own = self._own.get(field)
        if own is None:
            key = digest(self._secret, f"gnomon pseudonym\0{self._project}\0{field}".encode(), "sha512")
            own = self._own[field] = blake2b(digest_size=16, key=key)
        made = own.copy()
        made.update(text.encode())
        return self._start + b2a_base64(made.digest(), newline=False).translate(_URL_SAFE)[:22].decode()


def key_name(key: str) -> str:
    """Four digits that tell keys apart and say nothing of them."""
    return digest(key.encode(), b"gnomon name of a key", "sha256").hex()[:4]


def check_keys(keys: Sequence[str]) -> None:
    """Raise `InvalidValue` (`weak-key`) for a key that could be guessed, or that cannot be told from another."""
    for place, key in enumerate(keys, 1):
        reason = weakness(key)
        if reason:
            raise InvalidValue(
                f"pseudonym key {place} {reason}",
                remedy='Make one: python -c "import secrets; print(secrets.token_urlsafe(32))".', code="weak-key",
            )  # fmt: skip
    if len({key_name(key) for key in keys}) < len(keys):
        raise InvalidValue("two pseudonym keys are the same, or have the same name", remedy="Make another new key.",
                           code="weak-key")  # fmt: skip


def weakness(key: str) -> str:
    """Why a secret could be guessed, as the rest of a sentence; empty where nothing speaks against it."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "is no text"
    if size < KEY_BYTES:
        return f"is shorter than {KEY_BYTES} bytes"
    if len(set(key)) < 10 or key in (key + key)[1:-1]:
        return "repeats itself"
    if _EXAMPLES.search(key) or any(_runs(key[at : at + 10]) for at in range(size - 9)):
        return "looks like an example"
    return ""


def _runs(text: str) -> bool:
    """Whether each of ten characters follows the one before, as in `0123456789`."""
    return len(text) == 10 and all(ord(b) - ord(a) == 1 for a, b in pairwise(text))


def check_properties(properties: Sequence[str]) -> None:
    """Raise `InvalidValue` (`bad-config`) for a name that no property can have, or that was not meant so."""
    for name in properties:
        if not name or name.startswith(("properties.", "labels.")):
            raise InvalidValue("a name among pseudonym_properties is empty or begins with `properties.`",
                               remedy="Give the key alone, as in `email`.", code="bad-config")  # fmt: skip
