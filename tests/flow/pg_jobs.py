"""A child that looks for due jobs until it is killed.

Run as a program: `python pg_jobs.py URL DATA_DIR LEDGER NAME SECONDS`. The one job has a period of a second and takes
SECONDS; it writes `begin NAME` and `end NAME` into the ledger.
"""

from __future__ import annotations

import os
import sys
import time


def run(url: str, data_dir: str, ledger: str, name: str, seconds: float) -> None:
    import gnomon
    from gnomon.upkeep import jobs

    out = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def work(_engine: object) -> None:
        os.write(out, f"begin {name}\n".encode())
        time.sleep(seconds)
        os.write(out, f"end {name}\n".encode())

    jobs.JOBS = (jobs.Job("only", 1, work),)
    engine = gnomon.open(url, settings=gnomon.Settings(data_dir=data_dir), project="kill")
    os.write(1, b"up\n")
    while True:
        jobs.run_due(engine)
        time.sleep(0.05)


if __name__ == "__main__":
    run(*sys.argv[1:5], float(sys.argv[5]))
