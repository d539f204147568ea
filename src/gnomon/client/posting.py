"""One batch on its way over HTTP: sent until the service has it, with patience, or has said why it never will.

Owns what each status means: what is tried again, what is cut in half, and what is reported and dropped. A 2xx counts
only with the service's own answer in it, as a proxy may say 200 as well. Refuses to give up on a service that is away.
"""

from __future__ import annotations

import gzip
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import msgspec

__all__ = ["Patience", "Post", "Sent", "Token", "authorization", "problem_of", "retry_after"]

log = logging.getLogger("gnomon.client")

Token = str | Callable[[], str]

#: A body below this is not worth packing.
_PACK_BYTES = 512
_AGAIN = frozenset((408, 425, 429))
_LONGEST_WAIT = 300.0
_TELL_AFTER = 3


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait before trying again: doubled with each failure, up to `most_seconds`, a random half of it."""

    first_seconds: float = 0.5
    most_seconds: float = 30.0

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (from 1)."""
        most = min(self.first_seconds * 2.0 ** min(failures - 1, 30), self.most_seconds)
        return most * (0.5 + random.random() / 2)  # jitter, so that clients do not come back together


@dataclass(slots=True)
class Sent:
    """What became of a batch: refused entries with their code, and those given up because the client closes."""

    refused: list[tuple[str, Any]] = field(default_factory=list)
    unsent: list[bytes] = field(default_factory=list)


class Later(Exception):
    """The service may take it another time, after so many seconds at least."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds


class Post:
    """Sends batches to one path. `link` gives the connection of the present process."""

    def __init__(self, link: Callable[[], httpx.Client], path: str, token: Token, patience: Patience) -> None:
        self._link, self._path, self._token, self._patience = link, path, token, patience
        self._stopping = threading.Event()

    def reset(self) -> None:
        """A new process: whatever the parent was told holds for the parent."""
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Give up what is being tried again."""
        self._stopping.set()

    def send(self, batch: list[bytes]) -> Sent:
        """Send entries until each has come to an end."""
        sent = Sent()
        parts = [batch]
        while parts:
            part = parts.pop()
            body, packed = _body(part)
            failures = 0
            while True:
                try:
                    more = self._once(part, body, packed, sent)
                except Later as later:
                    failures += 1
                    if failures == _TELL_AFTER:
                        log.warning("the service has not taken a batch of %d yet; it is tried again", len(part))
                    if self._stopping.wait(max(self._patience.wait(failures), min(later.seconds, _LONGEST_WAIT))):
                        sent.unsent = [*part, *(entry for rest in reversed(parts) for entry in rest)]
                        return sent
                else:
                    parts += reversed(more)
                    break
        return sent

    def _once(self, part: list[bytes], body: bytes, packed: bool, sent: Sent) -> list[list[bytes]]:
        """One attempt; returns the smaller parts to send instead. Raises `Later`."""
        answer = self._ask(body, packed)
        status = answer.status_code
        if 200 <= status < 300:
            _note_refused(part, _answered(answer, len(part)), sent)
            return []
        if status in _AGAIN or status >= 500:
            raise Later(retry_after(answer))
        if (told := _rejected(answer)) is not None and status in (403, 422):
            _note_refused(part, told, sent)
            return []
        if status in (400, 413, 422) and len(part) > 1:
            middle = len(part) // 2  # one bad entry must not take the others along
            return [part[:middle], part[middle:]]
        code = problem_of(answer).get("type") or f"http-{status}"
        log.warning("the service refused a batch of %d: %s", len(part), code)
        sent.refused += [(str(code), _shown(entry)) for entry in part]
        return []

    def _ask(self, body: bytes, packed: bool) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        if packed:
            headers["Content-Encoding"] = "gzip"
        try:
            answer = self._link().post(self._path, content=body, headers=headers | authorization(self._token))
            if answer.status_code == 401 and callable(self._token):  # it may have run out while it was in use
                answer = self._link().post(self._path, content=body, headers=headers | authorization(self._token))
        except Exception as error:  # a token that cannot be fetched now, as well as whatever the way does
            log.info("the service was not reached: %s", type(error).__name__)
            raise Later from error
        return answer


def authorization(token: Token) -> dict[str, str]:
    """The header for a token, which may be a callable that gives a fresh one."""
    return {"Authorization": f"Bearer {token() if callable(token) else token}"}


def _body(part: list[bytes]) -> tuple[bytes, bool]:
    body = b"[" + b",".join(part) + b"]"
    if len(body) < _PACK_BYTES:
        return body, False
    return gzip.compress(body, 5, mtime=0), True


def _answered(answer: httpx.Response, count: int) -> list[dict[str, Any]]:
    """What the service rejected of a batch that it took. Raises `Later` where that is no answer to this batch."""
    told = problem_of(answer)
    rejected = told.get("rejected")
    if not isinstance(rejected, list) or told.get("ingested") != count - len(rejected):
        raise Later
    return rejected


def _rejected(answer: httpx.Response) -> list[dict[str, Any]] | None:
    rejected = problem_of(answer).get("rejected")
    return rejected if isinstance(rejected, list) and rejected else None


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty where it is none."""
    try:
        told = msgspec.json.decode(answer.content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return told if isinstance(told, dict) else {}


def _note_refused(part: list[bytes], rejected: list[dict[str, Any]], sent: Sent) -> None:
    for one in rejected:
        place = one.get("index") if isinstance(one, dict) else None
        if isinstance(place, int) and 0 <= place < len(part):
            sent.refused.append((str(one.get("code")), _shown(part[place])))


def _shown(entry: bytes) -> Any:
    return msgspec.json.decode(entry)


def retry_after(answer: httpx.Response) -> float:
    """Seconds, given as such or as a date; 0 where nothing usable is said."""
    told = answer.headers.get("retry-after", "").strip()
    if told.isdecimal():
        return float(told[:9])
    try:
        moment = parsedate_to_datetime(told)
    except ValueError:
        return 0.0
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
