"""Who a token speaks for: signature, algorithm, times, audience and issuer are checked here, and nowhere else.

A key is used only with the algorithm that it is made for, so a public key can never be taken for a secret. Key files
are read again when they change. Whatever is wrong with a token, the answer is the same 401.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import isfinite
from typing import Any

import jwt

from gnomon.access import SCOPES, Principal
from gnomon.config import Settings
from gnomon.errors import GnomonError, InvalidValue
from gnomon.server.callers import Caller, unauthorized
from gnomon.server.keyfiles import Key, KeyFiles, secrets_of
from gnomon.timerange import Clock

log = logging.getLogger("gnomon.server.auth")

MOST_BYTES = 8_192  #: of a token
MOST_REMEMBERED = 1_024
LEEWAY_SECONDS = 30  #: how far the issuer's clock may be ahead of ours (`nbf`)
ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")


class Tokens:
    """Thread-safe. Raises `InvalidValue` (weak-secret, bad-key-file, bad-config) for keys that cannot be used."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        for name in settings.jwt_algorithms:
            if name not in ALGORITHMS:
                raise InvalidValue("a JWT algorithm is not supported", code="bad-config",
                                   remedy=f"Give some of {', '.join(ALGORITHMS)}.")  # fmt: skip
        self._allowed = settings.jwt_algorithms or ALGORITHMS
        self._audience, self._issuer = settings.jwt_audience, settings.jwt_issuer
        self._clock = clock
        self._secrets = secrets_of(settings.jwt_secret_key)
        self._files = KeyFiles([*settings.jwt_public_key_file], settings.jwt_jwks_file)
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def any(self) -> bool:
        """Whether there is any key, so that a token can be valid."""
        return bool(self._secrets or self._files.keys())

    def caller(self, token: str) -> Caller:
        """Whom a token speaks for. Raises `Problem` (401)."""
        if len(token) > MOST_BYTES or not token.isascii():
            raise unauthorized()
        now = self._clock().timestamp()
        if self._files.changed():
            with self._lock:
                self._known.clear()
        name = sha256(token.encode()).digest()
        with self._lock:
            known = self._known.get(name)
        if known is not None and now < known[0]:
            return known[1]
        found = self._checked(token, now)
        with self._lock:
            self._known[name] = found
            while len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        return found[1]

    def _checked(self, token: str, now: float) -> tuple[float, Caller]:
        """When a token ends, and whom it speaks for."""
        try:
            claims = self._claims(token)
            return _ends(claims, now), _caller(claims)
        except (jwt.PyJWTError, GnomonError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            log.info("a token was refused: %s", type(error).__name__)
            raise unauthorized() from None

    def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._allowed or "crit" in header:
            raise ValueError
        options = {"require": ["exp", "sub"], "verify_exp": False, "verify_nbf": False, "verify_iat": False,
                   "verify_aud": bool(self._audience), "verify_iss": bool(self._issuer)}  # fmt: skip
        fault: Exception = ValueError()
        for key in self._fitting(algorithm, kid):
            try:
                claims: dict[str, Any] = jwt.decode(
                    token, key.value, algorithms=[algorithm], options=options,  # type: ignore[arg-type]
                    audience=self._audience or None, issuer=self._issuer or None,
                )  # fmt: skip
            except jwt.InvalidSignatureError as error:
                fault = error
            else:
                return claims
        raise fault

    def _fitting(self, algorithm: str, kid: Any) -> Sequence[Key]:
        """The keys that may have signed a token: those of its algorithm, and where it names one, that one first."""
        keys = [key for key in [*self._secrets, *self._files.keys()] if key.algorithm == algorithm]
        named = [key for key in keys if key.id is not None and key.id == kid]
        return named or [key for key in keys if key.id is None or kid is None]


def _ends(claims: Mapping[str, Any], now: float) -> float:
    ends = _moment(claims["exp"])
    if now >= ends or ("nbf" in claims and now < _moment(claims["nbf"]) - LEEWAY_SECONDS):
        raise ValueError
    return ends


def _moment(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError
    return float(value)


def _caller(claims: Mapping[str, Any]) -> Caller:
    """What the claims say. Scopes of other services are left out; a name that no principal can have is refused."""
    given = claims.get("scope", "")
    words = given.split() if isinstance(given, str) else given
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError
    project = claims.get("project", "default")
    if not isinstance(project, str) or not 0 < len(project.encode()) <= 200 or "\x00" in project:
        raise ValueError
    return Caller(Principal(claims["sub"], [word for word in words if word in SCOPES]), project)


def minted(settings: Settings, *, sub: str, project: str, scope: str, seconds: int) -> str:
    """A token signed with the first secret, for development. Raises `InvalidValue` where there is none."""
    if not settings.jwt_secret_key:
        raise InvalidValue("there is no secret to sign with", code="no-secret",
                           remedy="Set JWT_SECRET_KEY to a random text of at least 32 bytes.")  # fmt: skip
    (key, *_) = secrets_of(settings.jwt_secret_key)
    who = Principal(sub, scope)
    claims: dict[str, Any] = {"sub": who.name, "project": project, "scope": " ".join(sorted(who.scopes)),
                              "iat": int(time.time()), "exp": int(time.time()) + seconds}  # fmt: skip
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    return jwt.encode(claims, key.value, algorithm="HS256")
