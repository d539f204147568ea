"""What tests of instruments share: an engine that keeps what it is told, and the example with its site and proxies."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "proxy_rotator.py"


class Engine:
    """The caller's side."""

    def __init__(self):
        self.records = []

    def record_request(self, **fields):
        self.records.append(fields)

    @property
    def only(self):
        assert len(self.records) == 1, self.records
        return self.records[0]


def _example():
    spec = importlib.util.spec_from_file_location("proxy_rotator", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


example = _example()
