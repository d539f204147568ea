"""`gnomon serve`: the app under uvicorn, with the limits that hold before a call begins, until a signal ends it.

At the end no call is cut off: the listening socket closes first, calls that run are answered, everything is drained.
"""

from __future__ import annotations

import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from gnomon.config import Settings
from gnomon.errors import InvalidValue
from gnomon.server.connection import Connection

DRAIN_SECONDS = 25  #: how long the end waits for calls; orchestrators usually kill after 30
KEEP_ALIVE_SECONDS = 75
#: Containers that may come to be before those that nobody needs are looked for. Python's 700 are the rows of a batch,
#: and each such look takes others along: 2 us of the 11 that an event of a batch cost.
COLLECT_AFTER = 20_000


def serving(settings: Settings) -> dict[str, Any]:
    """The options of uvicorn that belong to the service."""
    return {
        "http": Connection, "ws": "none", "lifespan": "on", "access_log": False, "server_header": False,
        "proxy_headers": bool(settings.trusted_proxies), "forwarded_allow_ips": list(settings.trusted_proxies),
        "timeout_keep_alive": KEEP_ALIVE_SECONDS, "timeout_graceful_shutdown": DRAIN_SECONDS, "backlog": 2_048,
    }  # fmt: skip


def listen(host: str, port: int) -> socket.socket:
    """A socket on the address. Raises `InvalidValue` (bad-address) where it cannot be had."""
    try:
        if not 0 <= port <= 65_535:
            raise OverflowError
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2_048)
    except (OSError, OverflowError) as error:
        raise InvalidValue("the address cannot be listened on", code="bad-address",
                           remedy="Give another --host or --port, or end what uses it.") from error  # fmt: skip


def run(app: Any, settings: Settings, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, and return then, so that the caller can close what it opened.

    uvicorn raises the signal once more behind its end, for whoever handled it before: that is this function. One that
    comes before uvicorn looks for signals ends it as well, else it would be lost.
    """
    ours, theirs = logging.getLogger("gnomon"), logging.getLogger("uvicorn")
    theirs.handlers, theirs.propagate = ours.handlers, False  # lines of one form
    theirs.setLevel(ours.level)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, **serving(settings)))
    before = {number: signal.signal(number, _ending(server)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with _rarely_collected():
            if not server.should_exit:
                server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """A process of our own, so its garbage collector is ours to set: what is there at the start stays anyway."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _ending(server: uvicorn.Server) -> Callable[[int, Any], None]:
    def end(_number: int, _frame: Any) -> None:
        server.should_exit = True

    return end
