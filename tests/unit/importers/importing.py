"""What the tests of importers share: short ways to read files and to look at what came out."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, settings

from gnomon.ingest.importers import BadLine, Candidate, read_file

DATA = Path(__file__).parents[3] / "examples" / "data"
TS = "2025-01-01T00:00:00Z"
LOG = b'1.2.3.4 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 5 "-" "ua"'
one_at_a_time = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def items(path, **options):
    return [item for chunk in read_file(path, **options) for item in chunk]


def log(load, line, **options):
    (found,) = load(line, "a.log", format="combined", **options)
    return found


def ids(found):
    return [item.fields["id"] for item in found if isinstance(item, Candidate)]


def codes(found):
    return [item.code if isinstance(item, BadLine) else "ok" for item in found]


def nd(load, *rows, **options):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    return load(text, "a.ndjson", **options)
