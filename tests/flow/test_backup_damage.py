"""Whatever bit of an archive changes, wherever it is cut, whichever key is given: it is said, and nothing changes."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pyrage
import pytest
from test_disk_full import fill, small_disk  # noqa: F401  the fixture

import gnomon
from gnomon.errors import DiskFull, GnomonError, InvalidValue, MissingExtra, StoreDamaged
from gnomon.upkeep import archive, encryption, packing
from gnomon.upkeep.archive import unpack
from gnomon.upkeep.encryption import Keys

pytestmark = pytest.mark.timeout(120)
FORMS = ["gz", "zst", "age"]


@pytest.fixture
def key(tmp_path):
    """A key file as age-keygen writes it."""
    file = tmp_path / "backup.key"
    identity = pyrage.x25519.Identity.generate()
    file.write_text(f"# created: 2025-01-31\n# public key: {identity.to_public()}\n{identity}\n")
    return str(file)


def made(folder: Path, form: str, key: str, monkeypatch) -> Path:
    """A small archive in one of the forms."""
    if form == "gz":
        monkeypatch.setattr(packing, "_zstd", lambda: None)
    settings = gnomon.Settings(backup_key_file=key if form == "age" else "")
    with gnomon.open(folder / "s.duckdb", settings=settings) as engine:
        for number in range(50):
            engine.track("secret-type", properties={"n": number})
        path = Path(engine.trigger_backup().path)
    assert path.name.endswith(form)
    return path


def damages(whole: bytes, rng: random.Random):
    """Archives with one flipped bit, cut ones, and ones with something behind."""
    ends = [*range(24), *range(len(whole) - 90, len(whole))]  # heads and digest, every byte of them
    for place in [*ends, *(rng.randrange(len(whole)) for _ in range(120))]:
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.randrange(8)
        yield bytes(broken)
    for size in [0, 1, 4, 90, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(30))]:
        yield whole[:size]
    yield whole + b"\0"
    yield whole + whole


def missed(path: Path, folder: Path, keys: Keys | None, *, strict: bool = True) -> int:
    """How many of the damages are not found; if `strict` each by an error that says so."""
    whole, found = path.read_bytes(), 0
    cases = list(damages(whole, random.Random(7)))
    assert len(cases) > 250
    for number, broken in enumerate(cases):
        path.write_bytes(broken)
        place = folder / str(number)
        place.mkdir(parents=True)
        try:
            unpack(path, place, keys)
            found += 1
        except StoreDamaged as error:
            assert error.code == "backup-damaged" and error.remedy
        except InvalidValue as error:
            assert (
                error.code == "wrong-backup-key" or not strict
            )  # the head of an encrypted one says which key it is for
        except MissingExtra:
            assert broken[:4] == b"\x28\xb5\x2f\xfd"
        except Exception:
            if strict:
                raise
    path.write_bytes(whole)
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_flipped_bit_and_every_cut_is_found(form, tmp_path, key, monkeypatch):
    path = made(tmp_path, form, key, monkeypatch)
    assert missed(path, tmp_path / "look", Keys(key)) == 0
    whole = tmp_path / "whole"
    whole.mkdir()
    assert unpack(path, whole, Keys(key)).tables["events"][0] == 50


def test_without_the_digest_some_would_be_missed(tmp_path, key, monkeypatch):
    path = made(tmp_path, "zst", key, monkeypatch)
    monkeypatch.setattr(archive, "_check_digest", lambda *_: None)
    assert missed(path, tmp_path / "look", None, strict=False) > 5


def test_a_damaged_archive_changes_nothing(tmp_path, key, monkeypatch):
    path = made(tmp_path, "zst", key, monkeypatch)
    whole = path.read_bytes()
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        engine.track("later")
        engine.flush()
        for broken in (whole[:-1], b"", whole[: len(whole) // 2], b"no archive at all"):
            path.write_bytes(broken)
            with pytest.raises(StoreDamaged) as caught:
                engine.restore_backup(path)
            assert caught.value.code == "backup-damaged"
        assert engine.query(["events"])[0]["events"] == 51 and engine.books("restore").received == 0


def test_the_standard_programs_read_an_archive(tmp_path, key, monkeypatch):
    path = made(tmp_path, "gz", key, monkeypatch)
    assert subprocess.run(["gzip", "--test", path], capture_output=True).returncode == 0
    listed = subprocess.run(["tar", "-tzf", path], capture_output=True, text=True)
    assert (listed.stdout.split(), listed.stderr) == (
        ["manifest.json", "store.duckdb", "kept.json", "audit", "audit.anchor", "audit.key"],
        "",
    )


def test_an_encrypted_archive_shows_nothing_and_opens_with_its_key_only(tmp_path, key, monkeypatch):
    path = made(tmp_path, "age", key, monkeypatch)
    assert b"secret-type" not in path.read_bytes() and encryption.is_encrypted(path)
    other = tmp_path / "other.key"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    both = tmp_path / "both.key"  # a new key on top, the old one below
    both.write_text(other.read_text() + "\n" + Path(key).read_text())
    wanted = [("", "no-backup-key"), (str(other), "wrong-backup-key"), (str(tmp_path / "no"), "bad-backup-key")]
    for file, code in wanted:
        with gnomon.open(tmp_path / "t.duckdb", settings=gnomon.Settings(backup_key_file=file)) as engine:
            with pytest.raises(InvalidValue) as caught:
                engine.restore_backup(path)
            assert caught.value.code == code and caught.value.remedy
            assert engine.query(["events"])[0]["events"] == 0
    (tmp_path / "empty.key").write_text("# nothing\n")
    (tmp_path / "text.key").write_text("a password\n")
    for name in ("empty.key", "text.key"):
        with pytest.raises(InvalidValue) as caught:
            Keys(str(tmp_path / name))
        assert caught.value.code == "bad-backup-key"
    with gnomon.open(tmp_path / "t.duckdb", settings=gnomon.Settings(backup_key_file=str(both))) as engine:
        engine.restore_backup(path)
        assert engine.query(["events"])[0]["events"] == 50


def test_sealing_that_does_nothing_would_be_found(tmp_path, key, monkeypatch):
    monkeypatch.setattr(Keys, "encrypt", lambda self, plain, file: plain.rename(file).touch() or plain.touch())
    monkeypatch.setattr(packing, "_zstd", lambda: None)
    path = made(tmp_path, "age", key, monkeypatch)
    assert not encryption.is_encrypted(path)


def test_what_is_not_installed_is_named(tmp_path, key, monkeypatch):
    path = made(tmp_path, "zst", key, monkeypatch)
    sealed = made(tmp_path, "age", key, monkeypatch)
    monkeypatch.setattr(packing, "_zstd", lambda: None)
    monkeypatch.setitem(sys.modules, "pyrage", None)
    settings = gnomon.Settings(backup_key_file=key)
    for settings, file in ((gnomon.Settings(), path), (settings, sealed)):  # noqa: B020
        with gnomon.open(tmp_path / "t.duckdb", settings=settings) as engine, pytest.raises(MissingExtra) as caught:
            engine.restore_backup(file)
        assert "gnomon[backup]" in caught.value.remedy


def test_a_full_target_is_said_and_nothing_of_it_counts(small_disk, tmp_path):  # noqa: F811
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        for number in range(2_000):
            engine.track("a", properties={"text": f"{number:0100x}"})
        good = engine.trigger_backup(small_disk)
        ballast = fill(small_disk)
        with pytest.raises(DiskFull) as caught:
            engine.trigger_backup(small_disk)
        assert caught.value.code == "target-full" and caught.value.remedy
        assert [kept.path for kept in engine.backups(small_disk)] == [good.path]
        assert {path.name for path in small_disk.iterdir()} == {"ballast", Path(good.path).name}
        ballast.unlink()
        assert engine.trigger_backup(small_disk).verified
        assert engine.books().closes()


def test_a_full_disk_under_the_store_is_said_and_heals(small_disk, tmp_path):  # noqa: F811
    with gnomon.open(small_disk / "s.duckdb") as engine:
        for number in range(5_000):
            engine.track("a", properties={"text": f"{number:0200x}"})
        made = engine.trigger_backup(tmp_path)
        ballast = fill(small_disk)
        for call in (lambda: engine.trigger_backup(tmp_path), lambda: engine.restore_backup(made.path)):
            with pytest.raises(GnomonError) as caught:
                call()
            assert caught.value.code in ("target-full", "store-unavailable", "disk-full")
        ballast.unlink()
        engine._hold.writer.look_again()
        engine.track("after")
        engine.flush()
        assert engine.books().stored == 5_001 and engine.books().closes()
        engine.restore_backup(engine.trigger_backup(tmp_path).path)
        assert engine.query(["events"])[0]["events"] == 5_001


def test_taking_a_half_written_archive_for_good_would_be_found(small_disk, tmp_path, monkeypatch):  # noqa: F811
    """Writing that says nothing of a full disk: the archive is cut, and the comparison finds it."""
    honest = archive.pack

    def silent(*args):
        try:
            honest(*args)
        except OSError:
            return

    monkeypatch.setattr(archive, "pack", silent)
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        engine.track("a")
        fill(small_disk)
        with pytest.raises(StoreDamaged) as caught:
            engine.trigger_backup(small_disk)
        assert caught.value.code == "backup-damaged" and engine.backups(small_disk) == []
