"""The engines of the differential test, filled once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from worlds import World, opened


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    with opened(tmp_path_factory.mktemp("differential")) as found:
        yield found
