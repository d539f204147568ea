"""The engines of the differential test, filled once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from worlds import World, in_files, opened


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    with opened(in_files(tmp_path_factory.mktemp("differential"))) as found:
        yield found


@pytest.fixture(scope="session")
def postgres_worlds(tmp_path_factory: pytest.TempPathFactory, postgres: Any) -> Iterator[dict[str, World]]:
    folder = tmp_path_factory.mktemp("postgres")
    with opened(lambda name: {"url": postgres.url(), "data_dir": str(folder / name)}) as found:
        yield found
