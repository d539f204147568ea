"""A program that copies a store until it is done or killed: `python copying_away.py SOURCE DESTINATION DATA_DIR`.

Slices are small and settled at once, so that a kill finds it anywhere. It says each table it comes to.
"""

from __future__ import annotations

import os
import sys


def run(source: str, destination: str, data_dir: str) -> None:
    import gnomon
    from gnomon.store import carrying
    from gnomon.upkeep import copying

    carrying.SLICE_ROWS = 200
    copying.SETTLE_ROWS = 200
    with gnomon.open(source, scheduler=False, enabled=False, threads=1, data_dir=data_dir) as engine:
        os.write(1, b"up\n")
        done = engine.copy_to(destination, data_dir=data_dir)
        os.write(1, f"done {done.carried} {done.resumed}\n".encode())


if __name__ == "__main__":
    run(*sys.argv[1:])
