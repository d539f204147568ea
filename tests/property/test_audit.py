"""The audit finds every edit, cut and swap: 10,000 random ones on real files, and the same run on broken builds.

A tampering is made with SQLite in a transaction that the check sees and that is rolled back; the last tests write it
to the files and go through `verify`, the engine and the command line.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import gnomon
from gnomon import cli
from gnomon.errors import GnomonError
from gnomon.testing import ManualClock
from gnomon.upkeep import anchor as anchors
from gnomon.upkeep import chain as chains
from gnomon.upkeep import verify as verifying
from gnomon.upkeep.anchor import Anchor, read_key
from gnomon.upkeep.audit import Audit
from gnomon.upkeep.verify import examine, key_of, verify

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
COLUMNS = [*chains.COLUMNS.split(", "), "hash"]
TRIALS = 10_000


@dataclass
class Scene:
    """An audit on disk: its file, key, and every anchor it ever had, oldest first."""

    file: Path
    blocks: list[bytes]
    db: sqlite3.Connection

    @property
    def key(self):
        return read_key(key_of(self.file))

    def sound(self, block: bytes | None = None):
        return examine(self.db, Anchor.unsealed(self.blocks[-1] if block is None else block, self.key), self.key)

    def rows(self):
        return self.db.execute("SELECT * FROM entry ORDER BY number").fetchall()


def lived(folder: Path, pruned: bool) -> tuple[Path, list[bytes]]:
    """The audit of a store that was asked, refused and asked again, by several callers in two projects."""
    clock, blocks = ManualClock(NOW - timedelta(days=500 if pruned else 100)), []
    with (
        gnomon.open(folder / "s.duckdb", clock=clock) as one,
        gnomon.open(folder / "s.duckdb", project="two", clock=clock) as two,
    ):
        for place in range(12):
            clock.advance(days=1)
            for engine in (one, two.acting_as(gnomon.Principal(f"caller {place % 3}", ["read"]))):
                filters = [["is", "user_id", [f"u{place}"]], ["gt", "duration_ms", place]]
                engine.query(["events"], ["source"] * (place % 2), "7d", filters)
                with contextlib.suppress(GnomonError):
                    engine.query(["nope"])
                with contextlib.suppress(GnomonError):
                    engine.prune_audit()
                blocks.append((folder / "s.duckdb.audit.anchor").read_bytes())
        if pruned:
            clock.now = NOW - timedelta(days=494) + timedelta(days=365)
            assert one.prune_audit() > 5
            blocks.append((folder / "s.duckdb.audit.anchor").read_bytes())
    return folder / "s.duckdb.audit", blocks


@pytest.fixture(scope="module", params=["whole", "pruned"])
def scene(request, tmp_path_factory) -> Iterator[Scene]:
    file, blocks = lived(tmp_path_factory.mktemp("audit"), request.param == "pruned")
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("PRAGMA synchronous=OFF")
    yield Scene(file, blocks, db)
    db.close()


# -- tampering ----------------------------------------------------------------------------------------------------


def other_value(rng: random.Random, old):
    """A value that SQLite stores differently from `old`."""
    choices = [rng.randrange(-(2**63), 2**63), rng.random() * 1e9, rng.randbytes(rng.randrange(33)), "", "x" * 40, 0]
    if old is None:
        choices += [float("inf")] * 6
    if isinstance(old, int):
        choices += [old + 1, old - 1, -old, old ^ 1]
    if isinstance(old, str):
        choices += [old + " ", old[:-1], old.upper(), old.encode(), old + "\x00"]
    if isinstance(old, bytes) and old:
        place = rng.randrange(len(old))
        choices += [old[:-1], old[:place] + bytes([old[place] ^ 1 << rng.randrange(8)]) + old[place + 1 :], old.hex()]
    return rng.choice(choices)


def edit(rng, scene):
    """One column of one entry: any value, or the one that another entry has there."""
    rows, column = scene.rows(), rng.choice(COLUMNS)
    number, at = rng.choice(rows)[0], COLUMNS.index(column)
    query = f"SELECT rowid, {column}, typeof({column}) FROM entry WHERE {column} IS NOT NULL OR rowid = ?"
    before = {row[0]: row[1:] for row in scene.db.execute(query, (number,))}
    value = rng.choice(rows)[at] if rng.random() < 0.3 else other_value(rng, before[number][0])
    with contextlib.suppress(sqlite3.IntegrityError, sqlite3.OperationalError):
        scene.db.execute(f"UPDATE entry SET {column} = ? WHERE number = ?", (value, number))
    after = {row[0]: row[1:] for row in scene.db.execute(query, (number,))}
    if before == after:
        return None
    return min(number, value) if column == "number" and value < 1 else number


def cut(rng, scene):
    """A run of entries: at the front, in the middle, at the end, or all."""
    numbers = [row[0] for row in scene.rows()]
    size = rng.choice([1, 1, 2, 5, len(numbers)])
    start = rng.choice([0, len(numbers) - size, rng.randrange(len(numbers) - size + 1)])
    gone = numbers[start : start + size]
    scene.db.execute("DELETE FROM entry WHERE number BETWEEN ? AND ?", (gone[0], gone[-1]))
    return gone[0]


def swap(rng, scene):
    """Two entries change their places: their contents, their hashes only, or everything but the hash."""
    rows = scene.rows()
    one, two = rng.sample(rows, 2)
    columns = rng.choice([COLUMNS[1:], COLUMNS[1:-1], COLUMNS[-1:]])
    if all(one[COLUMNS.index(c)] == two[COLUMNS.index(c)] for c in columns):
        return None
    for number, source in ((one[0], two), (two[0], one)):
        scene.db.execute(
            f"UPDATE entry SET {', '.join(f'{c} = ?' for c in columns)} WHERE number = ?",
            (*[source[COLUMNS.index(c)] for c in columns], number),
        )
    return min(one[0], two[0])


def renumber(rng, scene):
    """An entry is closed over: all behind it move down by one, so that no number is missing."""
    numbers = [row[0] for row in scene.rows()]
    gone = rng.choice(numbers)
    scene.db.execute("DELETE FROM entry WHERE number = ?", (gone,))
    for number in numbers[numbers.index(gone) + 1 :]:
        scene.db.execute("UPDATE entry SET number = ? WHERE number = ?", (number - 1, number))
    return gone


def add(rng, scene):
    """An entry that was never written, with the content of another one."""
    rows = scene.rows()
    number = rng.choice([rows[-1][0] + 1, rows[-1][0] + 7, 0, -3])
    scene.db.execute(f"INSERT INTO entry VALUES (?{', ?' * 11})", (number, *rng.choice(rows)[1:]))
    return number


def rename(rng, scene):
    """The name behind a digest: changed, given to another, or gone."""
    names = scene.db.execute("SELECT who, project, name FROM name").fetchall()
    who, _, name = rng.choice(names)
    how = rng.randrange(3)
    if how == 0:
        scene.db.execute("UPDATE name SET name = ? WHERE who = ?", (other_value(rng, name), who))
    elif how == 1:
        scene.db.execute("UPDATE name SET project = 'three' WHERE who = ?", (who,))
    else:
        scene.db.execute("DELETE FROM name WHERE who = ?", (who,))
    return None if scene.db.execute("SELECT who, project, name FROM name").fetchall() == names else "name"


def other_anchor(rng, scene):
    """The anchor: an older one, a changed byte, cut short, longer, or gone."""
    block = scene.blocks[-1]
    place = rng.randrange(len(block))
    changed = block[:place] + bytes([block[place] ^ 1 << rng.randrange(8)]) + block[place + 1 :]
    return rng.choice([rng.choice(scene.blocks[:-1]), changed, block[:place], block + b"\n", b"", None, block.upper()])


TAMPERINGS = [edit, edit, edit, edit, cut, swap, renumber, add, rename, "anchor"]


def missed(scene: Scene, trials: int, seed: int = 1, kinds=TAMPERINGS) -> list[str]:
    """Tamperings that the check did not find, or whose first bad entry it did not name."""
    rng, found = random.Random(seed), []
    assert scene.sound()
    for trial in range(trials):
        kind = rng.choice(kinds)
        if kind == "anchor":
            block = other_anchor(rng, scene)
            verdict = examine(scene.db, None if block is None else Anchor.unsealed(block, scene.key), scene.key)
            bad = None
        else:
            scene.db.execute("BEGIN")
            bad = kind(rng, scene)
            verdict = scene.sound() if bad is not None else None
            scene.db.execute("ROLLBACK")
        if verdict:
            found.append(f"{trial}: {kind} {bad}: not found")
        elif verdict is not None and isinstance(bad, int) and kind is not add and verdict.first_bad != bad:
            found.append(f"{trial}: {kind} {bad}: named {verdict.first_bad}")
    assert scene.sound()
    return found


def test_10000_random_tamperings_are_found(scene):
    assert missed(scene, TRIALS) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_as_many_with_other_seeds(scene, seed):
    assert missed(scene, TRIALS, seed) == []


# -- builds that are broken on purpose ------------------------------------------------------------------------------


@pytest.fixture
def own_scene(tmp_path) -> Iterator[Scene]:
    """A scene made within the test, so by whatever the test has broken."""
    made: list[sqlite3.Connection] = []

    def make() -> Scene:
        file, blocks = lived(tmp_path, pruned=False)
        made.append(sqlite3.connect(file, isolation_level=None))
        return Scene(file, blocks, made[0])

    yield make
    for db in made:
        db.close()


@pytest.mark.parametrize("column", [name for name in COLUMNS if name not in ("number", "hash")])
def test_a_column_that_the_hash_leaves_out_would_be_found(own_scene, monkeypatch, column):
    place, honest = COLUMNS.index(column), chains._encode

    def without(fields):
        return honest([*fields[:place], *fields[place + 1 :]])

    monkeypatch.setattr(chains, "_encode", without)
    monkeypatch.setattr(verifying, "_encode", without)
    assert any("not found" in line for line in missed(own_scene(), 500, kinds=[edit]))


@pytest.mark.parametrize(
    "broken", ["no-end", "no-compare", "open-anchor", "old-anchor", "no-types", "no-numbers", "no-names"]
)
def test_a_check_that_leaves_something_out_would_be_found(own_scene, monkeypatch, broken):
    if broken == "no-end":
        monkeypatch.setattr(verifying._Trail, "end", lambda self: None)
    elif broken == "no-compare":
        monkeypatch.setattr(verifying._Trail, "_compare", lambda self: None)
        monkeypatch.setattr(verifying._Trail, "end", lambda self: None)
    elif broken == "open-anchor":
        monkeypatch.setattr(anchors.hmac, "compare_digest", lambda one, two: True)
    elif broken == "old-anchor":
        honest = verifying._Trail.end
        monkeypatch.setattr(
            verifying._Trail, "end", lambda self: honest(self) if self.number <= self.anchor.last else None
        )
    elif broken == "no-types":
        monkeypatch.setattr(verifying, "_TYPES", ((int, float, str, bytes, type(None)),) * 11)
    elif broken == "no-numbers":
        honest = verifying._Trail.follow

        def follow(self, row):
            self.number = max(row[0] - 1, self.number)
            honest(self, row)

        monkeypatch.setattr(verifying._Trail, "follow", follow)
    else:
        monkeypatch.setattr(verifying._Trail, "check_names", lambda self, names: None)
    assert missed(own_scene(), 1_500)


def test_an_append_never_mends_what_was_cut(tmp_path):
    """Entries that are written after a cut do not cover it, whatever was cut and whichever anchor is there."""
    for place, (start, end) in enumerate([(5, 5), (60, 72), (72, 72), (1, 72)]):
        folder = tmp_path / str(place)
        folder.mkdir()
        file, _ = lived(folder, pruned=False)
        with sqlite3.connect(file, isolation_level=None) as db:
            db.execute("DELETE FROM entry WHERE number BETWEEN ? AND ?", (start, end))
        with gnomon.open(folder / "s.duckdb") as engine:
            for _ in range(100):
                engine.query(["events"])
            verdict = engine.verify_audit()
            assert not verdict and verdict.first_bad == start
            assert not engine.health().sound or end != 72
        assert not verify(file)


def test_an_append_that_mends_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Anchor, "met", lambda self, number, hash: self._replace(last=number, head=hash))
    with pytest.raises(AssertionError):
        test_an_append_never_mends_what_was_cut(tmp_path)


# -- through the files ----------------------------------------------------------------------------------------------


def copied(scene: Scene, folder: Path) -> Path:
    for ending in ("", ".anchor", ".key"):
        shutil.copy2(f"{scene.file}{ending}", folder)
    (folder / "s.duckdb").touch()
    return folder / scene.file.name


def test_tampering_with_the_files_is_found_by_the_command_and_the_engine(scene, tmp_path, capsys):
    rng = random.Random(5)
    for trial in range(60):
        folder = tmp_path / str(trial)
        folder.mkdir()
        file = copied(scene, folder)
        words = ["audit", "verify", "--store", str(folder / "s.duckdb")]
        assert cli.main(words) == 0
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
            bad = rng.choice([edit, cut, swap])(rng, Scene(file, [], db))
        if bad is not None:
            capsys.readouterr()
            assert cli.main(words) == 1
            assert f"NOT sound at entry {bad}:" in capsys.readouterr().out
            if trial < 5:
                with gnomon.open(folder / "s.duckdb") as engine:
                    assert engine.verify_audit().first_bad == bad


@pytest.mark.parametrize("ending", ["", ".anchor", ".key"])
@pytest.mark.parametrize("how", ["gone", "empty", "cut", "foreign"])
def test_a_missing_or_foreign_file_is_found(scene, tmp_path, ending, how):
    file = Path(f"{copied(scene, tmp_path)}{ending}")
    if how == "gone":
        file.unlink()
    elif how == "foreign":
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy2(f"{lived(other, pruned=False)[0]}{ending}", file)
    else:
        whole = file.read_bytes()
        file.write_bytes(whole[: 0 if how == "empty" else len(whole) // 2])
    try:
        assert not verify(tmp_path / scene.file.name)
    except GnomonError as error:
        assert error.code == "audit-broken"
    assert cli.main(["audit", "verify", "--store", str(tmp_path / "s.duckdb")]) in (1, 2)


def test_whatever_a_changed_byte_does_a_sound_verdict_means_the_same_entries(scene, tmp_path):
    rng, file = random.Random(9), copied(scene, tmp_path)
    whole, wanted = file.read_bytes(), scene.rows()
    found = 0
    for _ in range(400):
        place = rng.randrange(100, len(whole))
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        try:
            verdict = verify(file)
        except GnomonError as error:
            assert error.code == "audit-broken"
            continue
        if verdict:
            with contextlib.closing(sqlite3.connect(file)) as db:
                assert db.execute("SELECT * FROM entry ORDER BY number").fetchall() == wanted
        else:
            found += 1
    assert found > 50


def test_a_head_noted_elsewhere_shows_another_history(tmp_path):
    """Whoever has the key can write a new chain; only what was noted outside shows it."""
    audit = Audit(tmp_path / "s.duckdb", lambda: NOW, durable=True)
    for place in range(20):
        audit.add(chains.Draft(place, "p", "me", "query"))
    noted = verifying.head(audit.path)
    audit.close()
    assert verify(audit.path, noted)
    for ending in ("", ".anchor"):
        Path(f"{audit.path}{ending}").unlink()
    forged = chains.Chain(audit.path)
    key = forged.key_path.read_bytes()
    forged.key_path.unlink()
    forged.append([chains.Draft(0, "p", "me", "query")])
    forged.close()
    assert verify(audit.path) and len(key) == 65
    verdict = verify(audit.path, noted)
    assert not verdict and verdict.first_bad == 2
