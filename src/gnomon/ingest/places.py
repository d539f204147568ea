"""Where the files of a store lie: the store itself, or the name beside which everything else of it is found."""

from __future__ import annotations

import os
from pathlib import Path

from gnomon.config import Settings
from gnomon.errors import InvalidValue, StoreUnavailable
from gnomon.store import embedded_folder, served, served_name, store_path, unknown_store

DATA_DIR = "gnomon-data"  #: in the working directory: what lies beside a store that is no file


def file_of(settings: Settings) -> Path | None:
    """The file of a store, beside which everything else of it lies; one that is never made where a server keeps the
    store (its name in `data_dir`); None for a store in memory."""
    path = store_path(settings.database_url)
    folder = embedded_folder(settings.database_url)
    if folder is not None:
        return folder
    if path is None or not served(path):
        return None if path is None else Path(os.path.realpath(path))
    return Path(os.path.realpath(settings.data_dir or DATA_DIR)) / served_name(path)


def made(file: Path | None) -> Path:
    assert file is not None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable("data_dir cannot be made", remedy="Make it, or set another data_dir.") from error
    return file


def checked(path: str) -> Path:
    folder = embedded_folder(path)
    if folder is not None:
        return _checked_folder(folder)
    if "://" in path:
        raise unknown_store()
    file = Path(os.path.realpath(path))
    if not file.parent.is_dir():
        raise StoreUnavailable("the folder of the store does not exist", remedy="Make it, or give another path.")
    if file.is_dir():
        raise InvalidValue("the store's path is a folder", remedy="Give the path of a file.", code="bad-store")
    if not _may_be_ours(file):
        raise InvalidValue("the file is not a store", remedy="Give another path.", code="foreign-file")
    return file


def _checked_folder(folder: Path) -> Path:
    if not folder.parent.is_dir():
        raise StoreUnavailable("the folder of the store does not exist", remedy="Make it, or give another path.")
    if folder.is_file():
        raise InvalidValue("the store's path is a file", remedy="Give the path of a folder.", code="bad-store")
    return folder


def _may_be_ours(file: Path) -> bool:
    """Whether a file may be opened, and set aside if damaged: one that has a journal, or begins as DuckDB's do."""
    if not file.exists() or file.stat().st_size == 0 or file.with_name(file.name + ".journal").exists():
        return True
    with file.open("rb") as start:
        return start.read(12)[8:] == b"DUCK"
