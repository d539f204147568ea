"""The names of a project, types and property keys, as the journal keeps them for the service's limits.

Several processes may keep names of one project, and an erasure takes some away, so nobody writes over what another one
has kept since.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import uuid4

import msgspec

from gnomon.ingest.journal import Journal


class KeptNames(msgspec.Struct, frozen=True):
    """`looked`: the store's rows of versions up to this one have been looked at; `erased` names the last erasure."""

    types: list[str] = []
    keys: list[str] = []
    looked: int = 0
    erased: str = ""


def key_of(project: str) -> str:
    """Under which key the names of a project are kept."""
    return f"names:{project}"


def opened(text: str | None) -> KeptNames:
    """The names of a kept text."""
    return KeptNames() if text is None else msgspec.json.decode(text, type=KeptNames)


def sealed(names: KeptNames) -> str:
    """The text of names."""
    return msgspec.json.encode(names).decode()


def forget_names(journal: Journal, project: str, gone: Collection[str]) -> None:
    """Take names of a person away. Whoever has names in memory takes up what is kept, before it keeps any again."""
    while True:
        before = journal.kept(key_of(project))
        names = opened(before)
        types, keys = ([name for name in known if name not in gone] for known in (names.types, names.keys))
        left = KeptNames(types, keys, names.looked, uuid4().hex)
        if journal.keep_instead(key_of(project), before, sealed(left)):
            return
