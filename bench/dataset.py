"""Generated events in a store file: a million a day for 30 days, made once and kept for the next run.

The file is made by `gnomon.open`, then filled inside DuckDB in time order, 20,000 rows a transaction with a
checkpoint every 262,144 rows, as the engine's writer does it. Pushing 30M rows through Python would take minutes;
`bench size` shows that a file filled through the engine has about the same bytes an event.

Ids are random UUIDs given by the client (16 bytes that nothing compresses); durations are lognormal in steps of a
microsecond; endpoints and users follow Zipf's law (s = 1); a fifth of the events are page views and purchases
with properties.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

CACHE = Path(tempfile.gettempdir()) / "gnomon-bench"
DAYS = 30
KEPT = (1, 3, 10, DAYS)  #: days after which the file is copied
START = datetime(2025, 3, 15, tzinfo=UTC)  # Berlin's clocks change within the 30 days
END = START + timedelta(days=DAYS)
TRANSACTION, CHECKPOINT = 20_000, 262_144
_START_US = int(START.timestamp()) * 1_000_000

_ATTACH = "ATTACH '{path}' AS store (RECOVERY_MODE no_wal_writes)"  # the engine's own way: the journal is its log
# 0.11 of a turn of the sine moves events from night to day; the function stays monotonic.
_DAY = """
CREATE OR REPLACE TEMP TABLE day AS
WITH drawn AS (
  SELECT i, (i + random()) / {per_day} AS part, random() AS a, random() AS b, random() AS c, random() AS d,
         random() AS e, random() AS f, random() AS g, random() AS h, random() AS j, random() AS k
  FROM range({per_day}) AS days(i)),
shaped AS (
  SELECT *, {day_us} + (86400e6 * (part - 0.11 * sin(2 * pi() * part)))::BIGINT AS us,
         CASE WHEN a < 0.8 THEN 'request' WHEN a < 0.97 THEN 'page_view' ELSE 'purchase' END AS type,
         floor(exp(b * ln(21)))::INTEGER AS source_no, floor(exp(c * ln(201)))::INTEGER AS endpoint_no,
         floor(exp(d * ln(50001)))::INTEGER AS user_no,
         CASE WHEN e < 0.93 THEN 200 WHEN e < 0.95 THEN 304 WHEN e < 0.97 THEN 404 WHEN e < 0.98 THEN 429
              WHEN e < 0.993 THEN 500 ELSE 503 END AS status,
         sqrt(-2 * ln(1 - f)) * cos(2 * pi() * g) AS normal, sqrt(-2 * ln(1 - f)) * sin(2 * pi() * g) AS other
  FROM drawn)
SELECT uuid() AS id, make_timestamp(us) AS ts, make_timestamp((us // 200000 + 1) * 200000) AS received_at, type,
  'u' || user_no AS user_id, 'source-' || source_no AS source,
  CASE WHEN h < 0.6 THEN 'crawler' WHEN h < 0.9 THEN 'web' ELSE 'mobile' END AS application,
  CASE WHEN type = 'request' THEN 'api' || (source_no % 5) || '.example.com' END AS domain,
  '/' || ['users', 'orders', 'items', 'search', 'export'][endpoint_no % 5 + 1] || '/' || endpoint_no AS endpoint,
  CASE WHEN type = 'request' THEN CASE WHEN j < 0.85 THEN 'GET' ELSE 'POST' END END AS method,
  CASE WHEN type = 'request' THEN status END AS status_code,
  CASE WHEN type = 'request' THEN round(exp(4 + 0.2 * (source_no % 4) + 0.8 * normal), 3) END AS duration_ms,
  CASE WHEN type = 'request' THEN (200 + 800 * k)::BIGINT END AS bytes_sent,
  CASE WHEN type = 'request' THEN exp(8 + 1.2 * other)::BIGINT END AS bytes_received,
  CASE WHEN type = 'request' THEN status < 400 END AS success,
  CASE WHEN type = 'request' AND status >= 500 THEN ['timeout', 'reset', 'refused'][(k * 3)::INTEGER % 3 + 1] END
    AS error_code,
  CASE WHEN type <> 'request' THEN '{{"plan":"' || ['free', 'pro', 'team', 'trial'][floor(exp(j * ln(5)))::INTEGER] ||
    '","items":' || (k * 20)::INTEGER || '}}' END AS properties
FROM shaped ORDER BY us
"""
_INSERT = """
INSERT INTO events BY NAME SELECT 'default' AS project, *, {version} AS version, 1.0 AS weight FROM day
WHERE rowid >= {first} AND rowid < {last}
"""


@dataclass(frozen=True)
class Store:
    """One generated file and how many events it holds."""

    path: Path
    events: int

    def copied(self, folder: Path) -> Path:
        """A copy that may be written to."""
        return Path(shutil.copyfile(self.path, folder / "store.duckdb"))


def clock() -> datetime:
    """The moment just after the last event, for engines that open a generated file."""
    return END


def stores(per_day: int, tell: Callable[[str], None] = print) -> dict[int, Store]:
    """Stores that hold the first 1, 3, 10 and 30 days of the same data, by days; made where they are missing."""
    from gnomon.store import migrations

    steps = sorted(path for path in resources.files(migrations).iterdir() if path.name.startswith("duckdb_"))
    recipe = _ATTACH + _DAY + _INSERT + "".join(step.read_text("utf-8") for step in steps)
    key = hashlib.sha256(recipe.encode()).hexdigest()[:10]
    found = {days: Store(CACHE / f"{key}-{per_day}x{days}.duckdb", per_day * days) for days in KEPT}
    if not all(store.path.exists() for store in found.values()):
        CACHE.mkdir(parents=True, exist_ok=True)
        tell(f"  generating {per_day * DAYS:,} events in {CACHE} ...")
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _generate(Path(folder) / "new.duckdb", per_day, found)
    return found


def _generate(path: Path, per_day: int, wanted: dict[int, Store]) -> None:
    import duckdb

    import gnomon
    from gnomon.config import Settings

    gnomon.open(path, settings=Settings(), clock=clock).close()
    version = since = 0
    for day in range(DAYS):
        with duckdb.connect(config={"checkpoint_threshold": "1TB"}) as con:
            con.execute(_ATTACH.format(path=path))
            con.execute("USE store")
            con.execute(_DAY.format(per_day=per_day, day_us=_START_US + day * 86_400_000_000))
            for first in range(0, per_day, TRANSACTION):
                version += 1
                last = min(per_day, first + TRANSACTION)
                con.execute(_INSERT.format(version=version, first=first, last=last))
                since += last - first
                if since >= CHECKPOINT:
                    con.execute("CHECKPOINT store")
                    since = 0
            _book(con, version)
            con.execute("CHECKPOINT store")
        if day + 1 in wanted:
            shutil.copyfile(path, target := wanted[day + 1].path.with_suffix(".part"))
            target.rename(wanted[day + 1].path)


def _book(con: object, version: int) -> None:
    """What the writer would have noted: the data version, and books that close."""
    run = con.execute  # type: ignore[attr-defined]
    run("DELETE FROM state WHERE key = 'version'")
    run("INSERT INTO state VALUES ('version', ?)", [str(version)])
    for outcome in ("received", "stored"):
        run(
            "INSERT INTO books (project, kind, source, outcome, reason, n) "
            "SELECT project, 'event', source, ?, '', count(*) FROM day, (SELECT 'default' AS project) GROUP BY ALL",
            [outcome],
        )
