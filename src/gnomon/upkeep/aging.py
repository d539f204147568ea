"""Backups that hold a person who was forgotten: where they are, and when the last of them goes.

A target is remembered when a backup goes to it, without anything that could be a secret. Only a schedule that makes
backups there removes old ones, and git and Kaggle keep what was removed; so a date is given only where that holds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from gnomon.config import Settings
from gnomon.errors import GnomonError
from gnomon.upkeep.alerts import watch_of
from gnomon.upkeep.backup import one_at_a_time
from gnomon.upkeep.jobs import backs_up
from gnomon.upkeep.targets import open_target, remembered, store_label, target_url, unavailable, without_secrets

if TYPE_CHECKING:
    from gnomon.ingest.hold import Hold

PERIOD = timedelta(days=1)  #: of the job that makes backups, and so removes old ones
#: Kept by the place itself after a backup was removed here.
_KEEPING = {"kaggle": "keeps-versions", "git+ssh": "keeps-history", "git+https": "keeps-history",
            "git+file": "keeps-history"}  #: by scheme  # fmt: skip


@dataclass(frozen=True, slots=True)
class BackupsLeft:
    """Backups at one target that may hold the person: how many are listed (None: it could not be looked at), and when
    the last is gone. Where none goes by itself `gone` is None, and `reason` says why: `no-schedule`, `keeps-versions`,
    `keeps-history`, `elsewhere` (a folder that another host used), or the code of the error."""

    target: str
    backups: int | None
    gone: datetime | None
    reason: str | None = None


def backups_left(hold: Hold, settings: Settings, now: datetime) -> tuple[BackupsLeft, ...]:
    """What is left at every target that was ever used, at that of the settings and in the folders without one.

    The person is erased by now, so nothing is raised: what cannot be looked at is told.
    """
    try:
        used, elsewhere = remembered(hold.journal)
    except Exception as error:  # noqa: BLE001  the certificate must not be lost
        return (BackupsLeft("every target that was ever used", None, None, _code(error)),)
    urls, left = {plain: plain for plain in used}, [BackupsLeft(place, None, None, "elsewhere") for place in elsewhere]
    usual = None
    try:
        if settings.backup_target or not hold.in_memory:
            url = target_url(hold, None, settings)
            usual = without_secrets(url)
            urls[usual] = url
            folders = {hold.file.parent, Path(settings.data_dir or hold.file.parent)} if not hold.in_memory else ()
            for place in (str(Path(os.path.realpath(folder)) / "backups") for folder in folders):
                urls.setdefault(place, place)  # there before data_dir or backup_target was set
    except Exception as error:  # noqa: BLE001  as above; what the setting says may be a secret
        left.append(BackupsLeft("backup_target", None, None, _code(error)))
    scheduled = watch_of(hold).scheduled and backs_up(settings) and bool(settings.backup_target or not hold.served)
    for plain, url in urls.items():
        found = _left(hold, url, plain, settings.backup_days if scheduled and plain == usual else None, plain in used)
        left += [] if found is None else [found]
    return tuple(sorted(left, key=lambda one: (one.target, one.backups is None)))


def last_gone(left: tuple[BackupsLeft, ...]) -> datetime | None:
    """When all are gone; None where there are none, or where some do not go by themselves."""
    dates = [one.gone for one in left if one.gone is not None]
    return max(dates) if dates and len(dates) == len(left) else None


def _left(hold: Hold, url: str, plain: str, days: int | None, used: bool) -> BackupsLeft | None:
    """`days`: how long a schedule keeps backups there; None: there is none."""
    try:
        if used and "://" not in plain and not Path(plain).is_dir():
            raise unavailable("the folder is not there", "It may be on another host or disk.")
        with one_at_a_time(hold) as scratch:
            found = open_target(url, store_label(hold.file), scratch).entries()
        gone = found[-1].created_at + timedelta(days=days) + PERIOD if found and days is not None else None
    except Exception as error:  # noqa: BLE001  as above
        return BackupsLeft(plain, None, None, _code(error))
    kept = _KEEPING.get(plain.partition("://")[0]) if "://" in plain else None
    if not found and not (used and kept):
        return None
    if kept or days is None:
        return BackupsLeft(plain, len(found), None, kept or "no-schedule")
    return BackupsLeft(plain, len(found), gone)


def _code(error: Exception) -> str:
    return error.code if isinstance(error, GnomonError) else "target-unavailable"
