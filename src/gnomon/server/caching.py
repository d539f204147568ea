"""Answers that a client may keep: the tag of a question about a fixed range, as long as the data is the same.

A tag is a keyed digest with a key of this process, so it tells nothing of the data and ends with the process. What
depends on the present time has none.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec
from fastapi import Request

from gnomon.engine import AnalyticsEngine
from gnomon.timerange import US_MINUTE, to_us

_KEY = secrets.token_bytes(32)
#: Said of every answer: no cache on the way keeps it, and the client asks again before it shows it once more.
FRESH = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}
UNKEPT = {"Cache-Control": "no-store"}


class Tag:
    """The tag of one question, as it is before it is answered; `headers()` belong to the answer."""

    def __init__(self, engine: AnalyticsEngine, question: Any, end_us: int | None) -> None:
        """`end_us` is the end of the fixed range; None: there is none, so nothing is kept."""
        self._store = engine._own_or_refuse()
        self._version = self._store.data_version()
        self.value: str | None = None
        if end_us is None or self._version % 2:
            return
        now = to_us(engine.clock())
        # Up to now a bucket may begin, or turn out to be a gap: that is told to the minute.
        minute = now // US_MINUTE if end_us > now - 10 * US_MINUTE else 0
        parts = [engine.settings.project, self._version, minute, question]
        digest = blake2b(msgspec.json.encode(parts, enc_hook=str), key=_KEY, digest_size=16).hexdigest()
        self.value = f'"{digest}"'

    def is_known(self, request: Request) -> bool:
        """Whether the client has just this answer. `*` is nobody's answer: the question may be one that is refused."""
        if self.value is None:
            return False
        given = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
        return self.value in given

    def headers(self) -> Mapping[str, str]:
        """The headers of the answer; without a tag where the data changed while it was made."""
        if self.value is None or self._store.data_version() != self._version:
            return UNKEPT
        return {**FRESH, "ETag": self.value}
