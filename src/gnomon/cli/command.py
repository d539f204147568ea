"""What every command shares: how it is declared, and what its options open."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gnomon.config import Settings, read_settings
from gnomon.errors import InvalidValue

if TYPE_CHECKING:
    from rich.console import Console

    from gnomon.engine import AnalyticsEngine
    from gnomon.upkeep.copying import CopyProgress


def declare(commands: Any, name: str, run: Any, about: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=f"examples:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.set_defaults(run=run)
    command.add_argument(
        "--store", metavar="URL", help="store to use (default: GNOMON_DATABASE_URL, else gnomon.duckdb here)"
    )
    command.add_argument("--project", help="project to use (default: GNOMON_PROJECT, else `default`)")
    return command


def settings_of(args: argparse.Namespace) -> Settings:
    """A command records nothing (imports are no recording), so its being there must not hide that nobody else was."""
    settings = read_settings().but(enabled=False)
    if args.store:
        settings = settings.but(database_url=args.store)
    return settings.but(project=args.project) if args.project else settings


def opened(args: argparse.Namespace, *, must_exist: bool = False) -> AnalyticsEngine:
    from gnomon.engine import AnalyticsEngine
    from gnomon.store import store_there

    settings = settings_of(args)
    if must_exist and store_there(settings.database_url) is None:
        raise no_store()
    return AnalyticsEngine(settings)


def no_store() -> InvalidValue:
    return InvalidValue(
        "there is no store at that path or URL", code="no-store",
        remedy="Check --store (SRC of copy), also the schema or database in a URL, or import something first.",
    )  # fmt: skip


def projects_in(engine: AnalyticsEngine) -> list[str]:
    """Every project that something ever came in for."""
    from gnomon.query.books import projects_of

    return projects_of(engine._own_or_refuse(), engine.settings.query_timeout_seconds)


def console_of(**options: Any) -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False, **options)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line that says what is being done, on a terminal; nothing anywhere else."""
    console = console_of(stderr=True)
    with console.status("starting") as line:
        yield line.update


@contextmanager
def row_bar() -> Iterator[Callable[[CopyProgress], None]]:
    """A bar of the rows that are carried and compared, on a terminal; nothing anywhere else."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = console_of(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=None)

        def show(told: CopyProgress) -> None:
            total = told.total or None
            bar.update(task, description=f"{told.step} {told.table}", completed=told.rows, total=total)

        yield show
