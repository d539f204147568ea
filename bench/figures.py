"""What a benchmark yields: figures with their goals, and how they are printed and judged."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Figure:
    """One measured number. `goal` is the bound it should keep on the side that `sense` names; None: only shown."""

    name: str
    value: float | None
    unit: str = ""
    goal: float | None = None
    sense: Literal["<=", ">="] = "<="
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.value is None:
            return None
        return self.value <= self.goal if self.sense == "<=" else self.value >= self.goal

    def cells(self) -> tuple[str, str, str, str, str]:
        goal = "" if self.goal is None else f"{self.sense} {_number(self.goal)}"
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        return self.name, "-" if self.value is None else f"{_number(self.value)} {self.unit}", goal, verdict, self.note

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True)
class Size:
    """How much work a run does. `quick` keeps everything below two minutes."""

    quick: bool

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full


def table(title: str, figures: list[Figure]) -> str:
    """The figures of one benchmark as aligned text."""
    rows = [("", "figure", "goal", "", ""), *(figure.cells() for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [title]
    for name, value, goal, verdict, note in rows:
        cells = (name.ljust(widths[0]), value.rjust(widths[1]), goal.rjust(widths[2]), verdict.ljust(widths[3]), note)
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _number(value: float) -> str:
    if math.isinf(value):
        return "failed"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
