"""`gnomon backup` and `gnomon restore`."""

from __future__ import annotations

import argparse
from typing import Any

from gnomon import __version__
from gnomon.cli.command import declare, opened, progress, row_bar, settings_of
from gnomon.config import Settings
from gnomon.store import is_file
from gnomon.timerange import system_clock


def add_backup(commands: Any) -> None:
    command = declare(
        commands, "backup", _backup, "Back up the whole store, all projects; it counts once restored and compared.",
        "  gnomon backup\n"
        "  gnomon backup --store usage.duckdb --target /mnt/backups\n"
        "  gnomon backup --target 's3://bucket/gnomon?region=eu-central-1'\n"
        "  gnomon backup --list",
    )  # fmt: skip
    command.add_argument(
        "--target",
        metavar="URL",
        help="folder or URL (default: GNOMON_BACKUP_TARGET, else backups/ in GNOMON_DATA_DIR, else beside the store)",
    )
    command.add_argument("--list", action="store_true", help="list the good backups instead of making one")


def _backup(args: argparse.Namespace) -> int:
    with opened(args, must_exist=True) as engine:
        if args.list:
            for kept in engine.backups(args.target):
                print(f"{kept.created_at:%Y-%m-%dT%H:%M:%SZ}  {kept.bytes:>15,} bytes  {kept.path}")
            return 0
        with progress() as step:
            made = engine.trigger_backup(args.target, on_step=step)
    sealed = "encrypted" if made.encrypted else "not encrypted"
    print(f"{made.path}: {made.bytes:,} bytes, {sealed}, {made.counts['events']:,} events; "
          f"restored and compared ({made.seconds:.1f} s)")  # fmt: skip
    return 0


def add_restore(commands: Any) -> None:
    command = declare(
        commands, "restore", _restore,
        "Put a backup in the place of everything that a DuckDB file holds, all projects; or into a new database.",
        "  gnomon restore backups/gnomon-usage-20250131T020000.000000Z.tar.zst --store usage.duckdb\n"
        "  gnomon restore backups/gnomon-usage-20250131T020000.000000Z.tar.zst --store chdb://usage\n"
        "  gnomon restore s3://bucket/gnomon/gnomon-usage-20250131T020000.000000Z.tar.zst.age",
    )  # fmt: skip
    command.add_argument("path", metavar="PATH", help="the archive: a file, or its URL as `gnomon backup --list` says")


def _restore(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if not is_file(settings.database_url):
        return _restore_into(args.path, settings)
    with opened(args) as engine, progress() as step:
        found = engine.restore_backup(args.path, on_step=step)
    gone = "content that could not be read" if found.replaced is None else f"{found.replaced:,} events"
    print(f"restored the backup of {found.created_at:%Y-%m-%d %H:%M:%S} UTC: {found.counts['events']:,} events, "
          f"in the place of {gone} ({found.seconds:.1f} s)")  # fmt: skip
    return 0


def _restore_into(path: str, settings: Settings) -> int:
    from gnomon.upkeep.bringing import restore_into

    with row_bar() as show:
        found = restore_into(path, settings, system_clock(), __version__, show)
    again = "; went on with the restore that was begun" if found.resumed else ""
    print(f"restored the backup of {found.created_at:%Y-%m-%d %H:%M:%S} UTC into a new store: "
          f"{found.counts['events']:,} events, {sum(found.counts.values()):,} rows compared "
          f"({found.seconds:.1f} s{again})")  # fmt: skip
    return 0
