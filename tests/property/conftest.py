"""The engines of the differential test, filled once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from worlds import World, copied, copied_to_clickhouse, opened


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    with opened(tmp_path_factory.mktemp("differential")) as found:
        yield found


@pytest.fixture(scope="session")
def postgres_worlds(
    worlds: dict[str, World], postgres: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, World]]:
    with copied(worlds, postgres, tmp_path_factory.mktemp("postgres")) as found:
        yield found


@pytest.fixture(scope="session")
def clickhouse_worlds(worlds: dict[str, World], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    with copied_to_clickhouse(worlds, tmp_path_factory.mktemp("clickhouse")) as found:
        yield found
