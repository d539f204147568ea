"""The command line of the benchmarks: `python -m bench [NAME ...] [--quick] [--json PATH] [--keep | --forget]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.dataset import CACHE
from bench.figures import Figure, Size, table

#: In the order in which they run; cheap and easily disturbed ones first.
NAMES = (
    "recording",
    "middleware",
    "cpu",
    "sampling",
    "startup",
    "memory",
    "importing",
    "exports",
    "size",
    "queries",
    "side_by_side",
    "rollups",
    "scale",
    "people",
    "growth",
    "service",
)


def main() -> int:
    """Run the named benchmarks, or all, and print one table each."""
    asked = _arguments()
    print(_machine(), flush=True)
    size, found = Size(asked.quick), {}
    for name in asked.names or NAMES:
        module = import_module(f"bench.{name}")
        started = time.perf_counter()
        try:
            figures: list[Figure] = module.run(size)
        except Exception as error:
            figures = [Figure("failed", None, note=f"{type(error).__name__}: {error}"[:300])]
        found[name] = figures
        print(f"\n{table(module.TITLE, figures)}\n  ({name}: {time.perf_counter() - started:.0f} s)", flush=True)
    judged = [figure.met for figures in found.values() for figure in figures if figure.met is not None]
    print(f"\n{sum(judged)} of {len(judged)} goals met")
    if asked.json:
        body: dict[str, Any] = {"machine": _machine(), "quick": size.quick}
        body["figures"] = {name: [figure.as_dict() for figure in figures] for name, figures in found.items()}
        Path(asked.json).write_text(json.dumps(body, indent=1) + "\n", "utf-8")
    if asked.forget:
        shutil.rmtree(CACHE, ignore_errors=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Figures and ratios against peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; all when left out")
    parser.add_argument("--quick", action="store_true", help="less data and fewer rounds: below two minutes")
    parser.add_argument("--json", metavar="PATH", help="write the figures as JSON as well")
    parser.add_argument("--forget", action="store_true", help=f"remove the generated stores in {CACHE} afterwards")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark named {unknown[0]}; there are {', '.join(NAMES)}")
    return asked


def _machine() -> str:
    import duckdb

    import gnomon

    model = next(
        (line.split(":", 1)[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    load = f"load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    parts = (model, f"{os.cpu_count()} cores", load, f"Python {platform.python_version()}",
             f"duckdb {duckdb.__version__}", f"gnomon {gnomon.__version__}", platform.platform(terse=True))  # fmt: skip
    return ", ".join(part for part in parts if part)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main())
