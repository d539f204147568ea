from __future__ import annotations

import threading

import pytest
from sites import Site

from recorded import Engine, example


@pytest.fixture
def site():
    server = example.Server(Site)
    server.connections = 0
    server.released = threading.Event()
    with server:
        yield server
        server.released.set()


@pytest.fixture
def proxy():
    with example.ForwardProxy() as server:
        yield server


@pytest.fixture
def engine():
    return Engine()
