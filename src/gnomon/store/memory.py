"""How much memory an embedded store may take, and a file that is opened beside a store for a while."""

from __future__ import annotations

import re

from gnomon.config import Settings
from gnomon.errors import InvalidValue

#: Of a file that a backup or a restore looks into; measured to do for 15 million rows, and for rows of 29 kB.
ASIDE = "256MB"
_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def bytes_of(text: str) -> int:
    """What `memory_limit` says, in bytes: `1GB`, `512MiB`. Raises `InvalidValue` (`bad-config`)."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)(I?)B?\s*", text.upper())
    if found is None:
        raise InvalidValue("memory_limit is no size", remedy="Write it like 1GB or 512MiB.", code="bad-config")
    size = _SIZES[found[2]] if not found[3] else 1_024 ** "KMGT".index(found[2]) * 1_024
    return int(float(found[1]) * size)


def aside(settings: Settings) -> Settings:
    """The settings for a file beside the store, which has its own `memory_limit` in use at the same time."""
    try:
        modest = bytes_of(settings.memory_limit) <= bytes_of(ASIDE)
    except InvalidValue:  # DuckDB takes other forms too, as 80%
        modest = False
    return settings if modest else settings.but(memory_limit=ASIDE)
