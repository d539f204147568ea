"""`import gnomon` beside the bare interpreter, and `gnomon.open` on a new file beside connecting to DuckDB by hand."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

from bench.figures import Figure, Size
from bench.timing import interleaved, median, python

TITLE = "Start: fresh interpreters, medians"
_CLOCK = "import sys, time; started = time.perf_counter()"
_TOLD = "print(time.perf_counter() - started)"
_OPEN = f"{_CLOCK}; import gnomon; engine = gnomon.open(sys.argv[1]); {_TOLD}"
_BY_HAND = f"{_CLOCK}; import duckdb; con = duckdb.connect(sys.argv[1]); {_TOLD}"
_AGAIN = f"{_CLOCK}; import gnomon; engine = gnomon.open(sys.argv[1]); engine.track('x'); engine.flush(); {_TOLD}"


def run(size: Size) -> list[Figure]:
    """Wall time of whole processes for the import, of what happens inside them for the opening."""
    rounds = size.pick(21, 9)
    python("import gnomon; gnomon.open(':memory:').flush()")  # writes what the interpreter compiles
    bare, imported = interleaved([lambda: python("pass"), lambda: python("import gnomon")], rounds)
    with tempfile.TemporaryDirectory() as folder:
        fresh = (str(Path(folder) / f"{n}.duckdb") for n in count())
        times: dict[str, list[float]] = {code: [] for code in (_BY_HAND, _OPEN, _AGAIN)}
        for _ in range(rounds):
            for code, found in times.items():
                found.append(float(python(code, next(fresh))))
    by_hand, opened, used = (median(found) * 1_000 for found in times.values())
    return [
        Figure("import gnomon", (imported - bare) * 1_000, "ms", 50, note=f"bare interpreter {bare * 1_000:.1f} ms"),
        Figure("gnomon.open, over DuckDB by hand", opened - by_hand, "ms", 100,
               note=f"import and open: {opened:.0f} ms; import duckdb and connect: {by_hand:.0f} ms"),
        Figure("open, first track() and flush()", used, "ms"),
    ]  # fmt: skip
