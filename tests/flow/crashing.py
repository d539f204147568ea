"""A child that kills itself at a named step, and the ledger of what `flush()` returned for before.

Run as a program: `python crashing.py STORE LEDGER STEP NTH FIRST`. STEP is `module:owner.name@when`, `when` one of
before, during and after; the NTH call of it is fatal. FIRST is the number of the first event.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import threading


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str, nth: int) -> None:
    """Replace the step by one that kills the process."""
    where, when = step.split("@")
    module, _, path = where.partition(":")
    owner: object = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    honest, calls = getattr(owner, name), [0]

    def deadly(*args, **kwargs):
        calls[0] += 1
        if calls[0] != nth:
            return honest(*args, **kwargs)
        if when == "before":
            die()
        if when == "during":
            threading.Timer(random.Random(step + str(nth)).uniform(0, 0.01), die).start()
        result = honest(*args, **kwargs)
        if when == "after":
            die()
        return result

    setattr(owner, name, deadly)


def run(store: str, ledger: str, step: str, nth: int, first: int) -> None:
    import gnomon

    arm(step, nth)
    out = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    settings = gnomon.Settings(flush_seconds=0.01, checkpoint_seconds=0.02, threads=1)
    engine = gnomon.open(store, settings=settings)
    for number in range(first, first + 200):
        for part in range(5):
            engine.track("tick", source=f"s{part}", properties={"n": number * 5 + part})
            engine.record_metric("gauge", number * 5 + part)
        engine.flush()
        os.write(out, f"{number}\n".encode())
    die()  # the step was never reached


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
