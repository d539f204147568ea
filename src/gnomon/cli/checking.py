"""`gnomon doctor` and `gnomon audit`: whether everything is sound."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gnomon.cli.command import console_of, declare, no_store, opened, projects_in, settings_of
from gnomon.cli.tables import plain


def add_doctor(commands: Any) -> None:
    command = declare(
        commands, "doctor", _doctor, "Check versions, files, journal and books; exit 0 when everything is sound.",
        "  gnomon doctor\n  gnomon doctor --store usage.duckdb --format json",
    )  # fmt: skip
    command.add_argument("--format", choices=("table", "json"), default="table")


def _doctor(args: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    with opened(args, must_exist=True) as engine:
        health = engine.health()
        health.facts["projects"] = projects_in(engine)
    if args.format == "json":
        print(json.dumps(health.to_dict(), default=plain, indent=1))
        return 0 if health.sound else 1
    table = Table(box=None, show_header=False)
    for name, value in health.facts.items():
        table.add_row(
            name.replace("_", " "),
            Text(_said(value)),
        )
    console = console_of()
    console.print(table)
    for finding in health.findings:
        console.print(Text(f"NOT SOUND: {finding.what}. {finding.remedy}", style="bold red"))
    if health.sound:
        console.print("Everything is sound.", style="bold green")
    return 0 if health.sound else 1


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


def add_audit(commands: Any) -> None:
    command = declare(
        commands, "audit", _audit, "Check the audit of a store (exit 0 when it is sound), or print its head.",
        "  gnomon audit verify --store usage.duckdb\n"
        "  gnomon audit head\n"
        "  gnomon audit verify --expect COUNT:HASH",
    )  # fmt: skip
    command.add_argument("what", choices=("verify", "head"))
    command.add_argument("--expect", metavar="COUNT:HASH", help="a head printed earlier: it must be part of the chain")


def _audit(args: argparse.Namespace) -> int:
    """Reads the files only, so it works while a process has the store open, and when the store is damaged."""
    from gnomon.ingest.places import file_of
    from gnomon.store import served, store_there
    from gnomon.upkeep import verify

    settings = settings_of(args)
    file = file_of(settings)
    if file is None or not (served(settings.database_url) or store_there(settings.database_url) is not None):
        raise no_store()
    audit = file.with_name(f"{file.name}.audit")
    if args.what == "head":
        print(verify.head(audit))
        return 0
    verdict = verify.verify(audit, verify.Head.parse(args.expect) if args.expect else None)
    print(verdict)
    return 0 if verdict else 1
