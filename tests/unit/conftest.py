"""A PostgreSQL store of its own for a test: its URL, the schema in it, the store."""

from __future__ import annotations

import pytest
from on_postgres import DEFAULTS


@pytest.fixture
def url(postgres):
    return postgres.url()


@pytest.fixture
def schema(url):
    return url.rpartition("schema=")[2]


@pytest.fixture
def store(url):
    from gnomon.store.postgres import PostgresStore  # which needs the driver

    opened = PostgresStore(url, DEFAULTS)
    yield opened
    opened.close()
