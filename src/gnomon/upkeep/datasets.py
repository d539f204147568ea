"""Backups as versions of a Kaggle dataset, through Kaggle's own client. Make the dataset, private, beforehand.

Each version holds one archive, and Kaggle keeps the versions before: only the newest is listed and can be fetched by
its name here, and none is removed. Others run that service, so archives there must be encrypted.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnomon.errors import GnomonError, MissingExtra
from gnomon.upkeep.targets import KeptBackup, bad_target, in_order, kept_from, not_there, unavailable

READY_SECONDS = 3_600.0  #: for Kaggle to take a version in
POLL_SECONDS = 5.0


class Dataset:
    """`kaggle://owner/dataset`. The client finds its credentials itself."""

    published = True

    def __init__(self, dataset: str, store: str, scratch: Path) -> None:
        self._dataset, self._store, self._scratch = dataset.strip("/"), store, scratch
        if self._dataset.count("/") != 1:
            raise bad_target("the backup target is no Kaggle dataset", "Write kaggle://owner/dataset.")
        self._api = _client()

    def place(self) -> Path | None:
        """See `Target.place`."""
        return None

    def put(self, file: Path, name: str) -> str:
        """See `Target.put`. It counts once Kaggle has taken the version in and names the file with its size."""
        folder = self._scratch / "version"
        folder.mkdir()
        words = {"id": self._dataset, "title": self._dataset.rpartition("/")[2]}
        (folder / "dataset-metadata.json").write_text(json.dumps(words), "utf-8")
        size = file.stat().st_size
        shutil.move(file, folder / name)
        with _speaking():
            self._api.dataset_create_version(str(folder), name, quiet=True, convert_to_csv=False)
        until = time.monotonic() + READY_SECONDS
        while not self._taken_in(name, size):
            if time.monotonic() > until:
                raise unavailable("Kaggle did not take the version in", "Look at the dataset's page.")
            time.sleep(POLL_SECONDS)
        return f"kaggle://{self._dataset}/{name}"

    def entries(self) -> list[KeptBackup]:
        """See `Target.entries`: the one in the newest version."""
        with _speaking():
            files = self._files()
        address = f"kaggle://{self._dataset}/"
        return in_order([kept_from(name, size, address + name, self._store) for name, size in files.items()])

    def get(self, name: str, file: Path) -> None:
        """See `Target.get`."""
        folder = self._scratch / "download"
        with _speaking():
            if name not in self._files():
                raise not_there()
            self._api.dataset_download_file(self._dataset, name, path=str(folder), force=True, quiet=True)
        (folder / name).replace(file)

    def remove(self, name: str) -> None:
        """Nothing: Kaggle removes versions only all at once."""

    def clean(self) -> None:
        """Nothing: a version that was not created is not there."""

    def _taken_in(self, name: str, size: int) -> bool:
        with _speaking():
            return self._api.dataset_status(self._dataset) == "ready" and self._files().get(name) == size

    def _files(self) -> dict[str, int]:
        found = self._api.dataset_list_files(self._dataset, page_size=200).dataset_files
        return {file.name: file.total_bytes for file in found or ()}


@contextmanager
def _speaking() -> Iterator[None]:
    try:
        yield
    except GnomonError:
        raise
    except Exception as error:  # the client raises what its HTTP library raises
        raise unavailable(f"Kaggle refused or failed ({type(error).__name__})", "Check the dataset's name.") from error


def _client() -> Any:
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi
    except ImportError:
        raise MissingExtra("kaggle", "kaggle") from None
    api = KaggleApi()
    try:
        api.authenticate()
    except (Exception, SystemExit) as error:  # without credentials it prints what to do, and exits
        raise unavailable("Kaggle's client finds no credentials", "See the documentation of `kaggle`.") from error
    return api
