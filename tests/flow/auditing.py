"""A child that leaves entries in an audit until it is done or killed, and a line on standard output for each.

Run as a program: `python auditing.py STORE COUNT [STEP WHEN]`. STEP is a moment of the append at which the process
kills itself, with SIGKILL, in the entry number WHEN: intent, commit, final (before each), or done. BROKEN in the
environment makes a broken build.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from gnomon.access import Note
from gnomon.timerange import system_clock
from gnomon.upkeep.anchor import Anchor, AnchorFile
from gnomon.upkeep.audit import Audit
from gnomon.upkeep.chain import Chain


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def moment(anchor: Anchor) -> str:
    """Which write of the anchor this is: what is coming, what is there, or (a new file) neither."""
    return "intent" if anchor.pending > anchor.last else "final" if anchor.pending else "begin"


def arm(step: str) -> None:
    """From now on the process dies at this step of an append."""
    move, insert, append = Chain._move, Chain._insert, Chain.append

    def dying_move(self, key, anchor, *, sync):
        if step == moment(anchor):
            die()
        move(self, key, anchor, sync=sync)

    def dying_insert(self, *given):
        if step == "commit":
            die()
        insert(self, *given)

    def dying_append(self, *given):
        append(self, *given)
        die()

    Chain._move, Chain._insert = dying_move, dying_insert
    if step == "done":
        Chain.append = dying_append


def break_it(kind: str) -> None:
    if kind == "no-intent":  # the anchor does not say what is about to be committed
        move = Chain._move

        def late(self, key, anchor, *, sync):
            if moment(anchor) != "intent":
                move(self, key, anchor, sync=sync)

        Chain._move = late
    elif kind == "anchor-first":  # the anchor is moved before the entries are there
        replace = Anchor._replace

        def early(self, **changes):
            if "pending" in changes:
                changes |= {"last": changes["pending"], "head": changes["pending_hash"]}
            return replace(self, **changes)

        Anchor._replace = early
    elif kind == "no-lock":
        from contextlib import nullcontext

        def unlocked(self, seconds):
            if self._file is None:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            return nullcontext()

        AnchorFile.locked = unlocked
        honest = Chain._move

        def late(self, *given, **named):
            time.sleep(random.random() * 0.003)  # what the lock is there for happens every time
            honest(self, *given, **named)

        Chain._move = late


def run(store: str, count: int, step: str = "", when: int = 0) -> None:
    if os.environ.get("BROKEN"):
        break_it(os.environ["BROKEN"])
    audit = Audit(Path(store), system_clock, durable=True)
    for number in range(1, count + 1):
        if number == when:
            arm(step)
        with audit.audited("p", Note("query", detail={"n": number})):
            pass
        os.write(1, f"{number}\n".encode())
    audit.close()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:5]))
