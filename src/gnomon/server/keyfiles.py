"""The keys that tokens are checked with: secrets from the settings, public keys from PEM and JWKS files.

A file is read again when it has changed, so that keys rotate without a restart. One that cannot be read then leaves
the keys as they were, and is logged; at the start it is refused.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gnomon.errors import InvalidValue
from gnomon.pseudonyms import weakness

log = logging.getLogger("gnomon.server.auth")

LOOK_SECONDS = 1.0  #: how often the files are looked at
LEAST_RSA_BITS = 2_048


@dataclass(frozen=True, slots=True)
class Key:
    """A key, the one algorithm it is used with, and the `kid` of its JWKS entry."""

    value: Any
    algorithm: str
    id: str | None = None

    def __repr__(self) -> str:
        return f"<key for {self.algorithm}>"


def secrets_of(secrets: Sequence[str]) -> list[Key]:
    """The secrets of the settings. Raises `InvalidValue` (weak-secret) for one that could be guessed."""
    for place, secret in enumerate(secrets, 1):
        reason = weakness(secret)
        if reason:
            raise InvalidValue(
                f"the JWT secret {place} {reason}", code="weak-secret",
                remedy='Make one: python -c "import secrets; print(secrets.token_urlsafe(32))".',
            )  # fmt: skip
    return [Key(secret, "HS256") for secret in secrets]


class KeyFiles:
    """The keys in PEM and JWKS files. Thread-safe. Raises `InvalidValue` (bad-key-file) at the start."""

    def __init__(self, pem_files: Sequence[str], jwks_file: str) -> None:
        self._pem = [Path(name) for name in pem_files]
        self._jwks = Path(jwks_file) if jwks_file else None
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._stamp = self._stamps()
        self._keys = self._read()

    def keys(self) -> list[Key]:
        """The keys as they were read last."""
        return self._keys

    def changed(self) -> bool:
        """Look whether a file has changed, at most once a second, and read it then; whether the keys are new."""
        if time.monotonic() < self._look_at or not (self._pem or self._jwks):
            return False
        with self._lock:
            self._look_at = time.monotonic() + LOOK_SECONDS
            stamp = self._stamps()
            if stamp == self._stamp:
                return False
            try:
                self._keys = self._read()
            except InvalidValue as error:
                log.error("the keys stay as they were: %s", error)
                return False
            self._stamp = stamp
            log.info("the keys of tokens were read again: %d", len(self._keys))
            return True

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in [*self._pem, *([self._jwks] if self._jwks else [])]]

    def _read(self) -> list[Key]:
        found = [key for path in self._pem for key in _from_pem(path)]
        return found + (_from_jwks(self._jwks) if self._jwks else [])


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino


def _bad(reason: str) -> InvalidValue:
    remedy = "Give RSA (2,048 bits or more), P-256 or Ed25519 public keys, as PEM or JWKS."
    return InvalidValue(f"a file of public keys {reason}", remedy=remedy, code="bad-key-file")


def _from_pem(path: Path) -> list[Key]:
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        raise _bad("cannot be read") from None
    if "PRIVATE KEY" in text:
        raise _bad("holds a private key")
    end = "-----END PUBLIC KEY-----"
    found = []
    for part in text.split(end)[:-1]:
        try:
            found.append(_key(load_pem_public_key((part[part.find("-----BEGIN") :] + end).encode()), None))
        except (ValueError, UnsupportedAlgorithm):
            raise _bad("holds a key that cannot be read") from None
    if not found:
        raise _bad("holds no key")
    return found


def _from_jwks(path: Path) -> list[Key]:
    try:
        entries = json.loads(path.read_text("utf-8"))["keys"]
        usable = [entry for entry in entries if entry.get("use", "sig") == "sig" and entry["kty"] != "oct"]
        if any("d" in entry for entry in usable):
            raise _bad("holds a private key")
        return [_key(jwt.PyJWK(entry).key, entry.get("kid")) for entry in usable]
    except InvalidValue:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, jwt.PyJWTError):
        raise _bad("cannot be read") from None


def _key(public: Any, id: str | None) -> Key:
    if isinstance(public, RSAPublicKey) and public.key_size >= LEAST_RSA_BITS:
        return Key(public, "RS256", id)
    if isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return Key(public, "ES256", id)
    if isinstance(public, Ed25519PublicKey):
        return Key(public, "EdDSA", id)
    raise _bad("holds a key of another kind")
