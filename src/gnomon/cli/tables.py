"""Answers on a terminal, and single values as JSON and CSV have them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from gnomon.cli.command import console_of

if TYPE_CHECKING:
    from gnomon.query.result import Result


def plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def cell(value: Any) -> Any:
    """A CSV cell; text that a spreadsheet would run as a formula gets one apostrophe in front."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        from gnomon.export.cells import guarded

        return guarded(value)
    return "" if value is None else value


def print_table(result: Result, title: str | None = None, most: int = 1_000) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gnomon.query.result import show

    table = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        show_footer=result.totals is not None,
    )
    for place, name in enumerate(result.dimensions):
        table.add_column(Text(name), footer="total" if place == 0 else "", overflow="fold")
    for name in result.metrics:
        table.add_column(Text(name), justify="right", footer=show(result.totals[name]) if result.totals else "")
        if result.before is not None:
            table.add_column("change", justify="right")
    for row in result.rows[:most]:
        cells = [Text(result.text(row, name)) for name in result.dimensions]
        for name in result.metrics:
            cells.append(Text(result.text(row, name)))
            if result.before is not None:
                moved = result.change(name, row)
                cells.append(
                    Text(
                        "new"
                        if moved.change is None and row[name]
                        else "-"
                        if moved.change is None
                        else f"{moved.change:+.1%}"
                    )
                )
        table.add_row(*cells)
    console = console_of()
    console.print(table)
    console.print(
        f"{result.span()}; {result.basis}\n",
        style="dim",
    )
