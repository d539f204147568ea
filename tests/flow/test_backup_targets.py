"""Where backups go: a bucket (a real server on loopback), a git repository with LFS, a Kaggle dataset (its client's
edge only). What was not put there whole never counts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import types
import urllib.request
from pathlib import Path
from typing import ClassVar

import obstore
import pyrage
import pytest
from obstore.store import from_url

import gnomon
from gnomon.errors import InvalidValue, MissingExtra, StoreUnavailable
from gnomon.testing import ManualClock
from gnomon.upkeep import buckets, datasets
from gnomon.upkeep.targets import open_target

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server():
    """The address of an S3-compatible server with an empty bucket."""
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in child.stderr if "Running on http" in line)
        address = line.split()[-1].strip("/")
        urllib.request.urlopen(urllib.request.Request(f"{address}/kept", method="PUT")).close()
        yield address
    finally:
        child.terminate()
        child.wait()
        child.stderr.close()


@pytest.fixture
def bucket(server, monkeypatch, request):
    """The URL of a prefix of its own in the bucket."""
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    return f"s3://kept/{request.node.name}?endpoint={server}&region=us-east-1"


def names(bucket: str) -> list[str]:
    where, _, query = bucket.partition("?")
    endpoint = query.split("=")[1].partition("&")[0]
    store = from_url(where, endpoint=endpoint, region="us-east-1", client_options={"allow_http": True})
    return sorted(meta["path"] for page in obstore.list(store) for meta in page)


def test_a_bucket(bucket, tmp_path):
    clock = ManualClock()
    with gnomon.open(tmp_path / "s.duckdb", clock=clock, backup_target=bucket) as engine:
        engine.track("a")
        first = engine.trigger_backup()
        first_name = engine.backups()[0].name
        assert first.path.startswith("s3://kept/") and not (tmp_path / "backups").exists()
        assert names(bucket) == [first_name, f"{first_name}.good"]
        engine.track("b")
        clock.advance(days=31)
        second = engine.trigger_backup()
        assert [kept.path for kept in engine.backups()] == [second.path]  # the first was too old by then
        assert len(names(bucket)) == 2 and engine.backups()[0].bytes == second.bytes
        engine.track("c")
        engine.restore_backup(second.path)
        assert engine.query(["events"])[0]["events"] == 2
        with pytest.raises(InvalidValue) as caught:
            engine.restore_backup(bucket.replace("?", "/gnomon-s-none.tar.gz?"))
        assert caught.value.code == "no-such-file"


def test_an_upload_that_was_cut_short_never_counts_and_is_removed(bucket, tmp_path, monkeypatch):
    with gnomon.open(tmp_path / "s.duckdb", backup_target=bucket) as engine:
        engine.track("a")
        honest = obstore.put

        def dies_before_the_mark(store, name, content):
            if name.endswith(buckets.GOOD):
                raise KeyboardInterrupt
            return honest(store, name, content)

        monkeypatch.setattr(obstore, "put", dies_before_the_mark)
        with pytest.raises(KeyboardInterrupt):
            engine.trigger_backup()
        assert engine.backups() == [] and len(names(bucket)) == 1
        monkeypatch.setattr(obstore, "put", lambda store, name, content: honest(store, name, b"half of it"))
        with pytest.raises(StoreUnavailable) as caught:
            engine.trigger_backup()
        assert caught.value.code == "target-unavailable" and engine.backups() == [] and names(bucket) == []
        monkeypatch.setattr(buckets.Bucket, "_digest", lambda self, name: buckets.digest_of(next(tmp_path.glob(
            "*scratch*/*.partial"))))  # fmt: skip  # the deliberately broken one: nothing is read back
        engine.trigger_backup()
        assert len(engine.backups()) == 1 and engine.backups()[0].bytes == 10


def test_a_bucket_that_cannot_be_used(bucket, tmp_path, monkeypatch):
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        with pytest.raises(StoreUnavailable) as caught:
            engine.trigger_backup(bucket.replace("//kept/", "//not-there/"))
        assert caught.value.code == "target-unavailable" and "not-there" not in str(caught.value)
        for url in ("s3://?endpoint=http://127.0.0.1", f"{bucket}&secret=1", "s3://key:hunter@kept/x", "ftp://kept",
                    "kaggle://one", "http://[::1"):  # fmt: skip
            with pytest.raises(InvalidValue) as caught:
                engine.trigger_backup(url)
            assert caught.value.code == "bad-target" and "hunter" not in str(caught.value)
        monkeypatch.setitem(sys.modules, "obstore", None)
        with pytest.raises(MissingExtra) as caught:
            engine.trigger_backup(bucket)
        assert "gnomon[s3]" in caught.value.remedy


# -- git --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path):
    """Settings with a key: others may read a repository or a dataset."""
    file = tmp_path / "backup.key"
    file.write_text(str(pyrage.x25519.Identity.generate()))
    return gnomon.Settings(backup_key_file=str(file))


@pytest.fixture
def remote(tmp_path):
    """The URL of an empty bare repository."""
    place = tmp_path / "remote.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", place], check=True)
    return f"git+file://{place}"


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="needs the program git-lfs")
def test_a_repository(remote, sealed, tmp_path):
    clock = ManualClock()
    with gnomon.open(tmp_path / "s.duckdb", settings=sealed.but(backup_target=remote), clock=clock) as engine:
        engine.track("a")
        first = engine.trigger_backup()
        assert first.path.startswith(remote) and first.encrypted
        assert [(kept.path, kept.bytes) for kept in engine.backups()] == [(first.path, first.bytes)]
        engine.track("b")
        clock.advance(days=10)
        second = engine.trigger_backup()
        assert [kept.path for kept in engine.backups()] == [first.path, second.path]
        clock.advance(days=25)
        third = engine.trigger_backup()
        assert [kept.path for kept in engine.backups()] == [second.path, third.path]
        engine.track("c")
        engine.restore_backup(second.path)
        assert engine.query(["events"])[0]["events"] == 2
        with pytest.raises(InvalidValue) as caught:
            engine.restore_backup(first.path)
        assert caught.value.code == "no-such-file"
    shown = ["git", f"--git-dir={remote.removeprefix('git+file://')}", "show", f"main:{second.path.rpartition('/')[2]}"]
    assert b"git-lfs" in subprocess.run(shown, check=True, capture_output=True).stdout  # a pointer, not the archive


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="needs the program git-lfs")
def test_a_push_that_is_refused_never_counts(remote, sealed, tmp_path):
    refuse = Path(remote.removeprefix("git+file://")) / "hooks" / "pre-receive"
    with gnomon.open(tmp_path / "s.duckdb", settings=sealed.but(backup_target=remote)) as engine:
        engine.track("a")
        refuse.write_text("#!/bin/sh\nexit 1\n")
        refuse.chmod(0o755)
        with pytest.raises(StoreUnavailable) as caught:
            engine.trigger_backup()
        assert caught.value.code == "target-unavailable" and engine.backups() == []
        refuse.unlink()
        assert engine.trigger_backup().path == engine.backups()[0].path


def test_a_program_that_is_missing_is_named(remote, sealed, tmp_path, monkeypatch):
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", str(place))
    with gnomon.open(tmp_path / "s.duckdb", settings=sealed) as engine:
        for program in ("git", "git-lfs"):
            with pytest.raises(StoreUnavailable) as caught:
                engine.trigger_backup(remote)
            assert caught.value.code == "missing-program"
            assert f"{program} is not installed" in caught.value.message
            (place / "git").write_text('#!/bin/sh\n[ "$1" = --version ]\n')  # a git without lfs
            (place / "git").chmod(0o755)


@pytest.mark.parametrize("target", ["git+file:///x.git", "kaggle://me/data"])
def test_others_may_read_it_so_a_key_is_needed(target, tmp_path, monkeypatch, kaggle):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: types.SimpleNamespace(returncode=0))
    with gnomon.open(tmp_path / "s.duckdb") as engine:
        with pytest.raises(InvalidValue) as caught:
            engine.trigger_backup(target)
        assert caught.value.code == "no-backup-key"


# -- Kaggle: a stub of its client's edge ------------------------------------------------------------------------


class KaggleApi:
    """The calls of kaggle 2.2 that are used, with the same signatures; versions are folders."""

    versions: ClassVar[list[dict[str, bytes]]] = []
    ready = "ready"
    allowed = True

    def authenticate(self) -> None:
        if not self.allowed:
            sys.exit(1)

    def dataset_create_version(self, folder, version_notes, quiet=False, convert_to_csv=True,
                               delete_old_versions=False, dir_mode="skip", ignore_patterns=None):  # fmt: skip
        files = {name: Path(folder, name).read_bytes() for name in os.listdir(folder)}  # noqa: PTH208
        assert b'"id": "me/data"' in files.pop("dataset-metadata.json") and not convert_to_csv
        self.versions.append(files)

    def dataset_status(self, dataset, format=None):
        return self.ready

    def dataset_list_files(self, dataset, page_token=None, page_size=20):
        assert dataset == "me/data"
        if not self.versions:
            raise ConnectionError("404")
        files = [types.SimpleNamespace(name=n, total_bytes=len(c)) for n, c in self.versions[-1].items()]
        return types.SimpleNamespace(dataset_files=files)

    def dataset_download_file(self, dataset, file_name, path=None, force=False, quiet=True, licenses=(), unzip=False):
        Path(path).mkdir(exist_ok=True)
        Path(path, file_name).write_bytes(self.versions[-1][file_name])


@pytest.fixture
def kaggle(monkeypatch):
    stub = types.ModuleType("kaggle.api.kaggle_api_extended")
    stub.KaggleApi = type("KaggleApi", (KaggleApi,), {"versions": []})
    for name in ("kaggle", "kaggle.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    return stub.KaggleApi


def test_a_dataset(kaggle, sealed, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "READY_SECONDS", 0.1)
    monkeypatch.setattr(datasets, "POLL_SECONDS", 0.05)
    settings = sealed.but(backup_target="kaggle://me/data")
    with gnomon.open(tmp_path / "s.duckdb", settings=settings) as engine:
        engine.track("a")
        with pytest.raises(StoreUnavailable):
            engine.backups()  # there is no such dataset
        kaggle.versions.append({"README.md": b"x"})
        first = engine.trigger_backup()
        second = engine.trigger_backup()
        assert first.path != second.path and [kept.path for kept in engine.backups()] == [second.path]
        engine.track("b")
        engine.restore_backup(second.path)
        assert engine.query(["events"])[0]["events"] == 1
        with pytest.raises(InvalidValue) as caught:
            engine.restore_backup(first.path)  # in an older version
        assert caught.value.code == "no-such-file"
        kaggle.ready = "error"
        with pytest.raises(StoreUnavailable) as caught:
            engine.trigger_backup()
        assert caught.value.code == "target-unavailable"
        kaggle.allowed = False
        with pytest.raises(StoreUnavailable):
            engine.trigger_backup()


@pytest.mark.skipif(importlib.util.find_spec("kaggle") is not None, reason="the client is installed")
def test_without_the_client_the_extra_is_named(tmp_path):
    with pytest.raises(MissingExtra) as caught:
        open_target("kaggle://me/data", "s", tmp_path)
    assert "gnomon[kaggle]" in caught.value.remedy
