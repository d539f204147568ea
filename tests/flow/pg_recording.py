"""A child that records into a PostgreSQL store until it is killed or has done its share.

Run as a program: `python pg_recording.py URL DATA_DIR LEDGER FIRST COUNT [same]`. A line `from to` in the ledger for
every flush (of the journal, not of the store); with `same` the ids are given, so that others may send them too.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime


def run(url: str, data_dir: str, ledger: str, first: int, count: int, same: bool) -> None:
    import gnomon
    from gnomon.errors import StoreUnavailable

    settings = gnomon.Settings(flush_seconds=0.005, checkpoint_seconds=0.1, data_dir=data_dir)
    engine = gnomon.open(url, settings=settings, project="kill")
    out = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(1, b"up\n")
    number = first
    while number < first + count:
        for n in range(number, number + 50):
            given = {"id": f"n{n}", "ts": datetime.fromtimestamp(1_768_478_400 + n, UTC)} if same else {}
            engine.track("tick", user_id=f"u{n % 7}", source=f"s{n % 3}", properties={"n": n}, **given)
        try:
            engine.flush(timeout=0.0 if not same else 60.0)
        except StoreUnavailable as error:
            assert error.code == "not-queryable"
        os.write(out, f"{number} {number + 50}\n".encode())
        number += 50
    engine.close()


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6:] == ["same"])
