"""The command line. It owns words, tables and exit codes; every answer is the engine's, or the audit's own check."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from gnomon import __version__
from gnomon.cli.asking import add_query
from gnomon.cli.checking import add_audit, add_doctor
from gnomon.cli.copying import add_copy
from gnomon.cli.demo import add_demo
from gnomon.cli.exporting import add_export
from gnomon.cli.importing import add_import
from gnomon.cli.keeping import add_prune, add_rollup
from gnomon.cli.migrating import add_migrate
from gnomon.cli.safekeeping import add_backup, add_restore
from gnomon.cli.serving import add_serve, add_token
from gnomon.cli.working import add_worker
from gnomon.config import read_settings
from gnomon.errors import GnomonError
from gnomon.log import logging_as


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 something is not sound, 2 a refused argument or question."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        with logging_as(read_settings()):
            code: int = args.run(args)
    except GnomonError as error:
        print(f"gnomon: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gnomon", description="The analytics engine you import: record, keep, ask.",
        epilog="Start with: gnomon demo", formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"gnomon {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_demo(commands)
    add_import(commands)
    add_query(commands)
    add_export(commands)
    add_backup(commands)
    add_restore(commands)
    add_prune(commands)
    add_rollup(commands)
    add_migrate(commands)
    add_copy(commands)
    add_doctor(commands)
    add_audit(commands)
    add_serve(commands)
    add_worker(commands)
    add_token(commands)
    return parser
