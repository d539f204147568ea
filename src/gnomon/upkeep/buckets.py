"""Backups in an object store (S3 and what speaks like it, Google Cloud Storage, Azure), through `obstore`.

Objects cannot be renamed, so an archive counts by a second object beside it, `<name>.good`, which is put after the
archive was read back from the store and found to be the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gnomon.errors import MissingExtra
from gnomon.upkeep.archive import digest_of
from gnomon.upkeep.targets import KeptBackup, bad_target, failed, in_order, kept_from, not_there, unavailable

GOOD = ".good"


class Bucket:
    """`s3://bucket/prefix`, with `?endpoint=https://host` and `&region=name` for servers of one's own.

    Credentials are those that obstore finds in the environment (AWS_ACCESS_KEY_ID, ...).
    """

    published = False

    def __init__(self, url: str, store: str) -> None:
        try:
            import obstore
            import obstore.store
        except ImportError:
            raise MissingExtra("obstore", "s3") from None
        self._api: Any = obstore
        self._store = store
        where, mark, query = url.partition("?")
        self._url, self._query = where.rstrip("/"), mark + query
        given: dict[str, Any] = {name: values[-1] for name, values in parse_qs(query).items()}
        if set(given) - {"endpoint", "region"} or not urlsplit(url).netloc:
            raise bad_target("the backup target is no bucket")
        given["client_options"] = {"allow_http": True}  # whoever names an http:// endpoint means it
        try:
            self._bucket: Any = self._api.store.from_url(self._url, **given)
        except Exception as error:
            raise bad_target("the backup target is no bucket that obstore can open") from error

    def place(self) -> Path | None:
        """See `Target.place`."""
        return None

    def put(self, file: Path, name: str) -> str:
        """See `Target.put`."""
        wanted = digest_of(file)
        with self._speaking():
            self._api.put(self._bucket, name, file)
            if self._digest(name) != wanted:
                self._api.delete(self._bucket, name)
                raise unavailable("what was uploaded reads back differently", "Try again; check the object store.")
            mark = json.dumps({"sha256": wanted, "bytes": file.stat().st_size}).encode()
            self._api.put(self._bucket, name + GOOD, mark)
        return self._address(name)

    def entries(self) -> list[KeptBackup]:
        """See `Target.entries`."""
        with self._speaking():
            sizes = self._sizes()
        return in_order(
            [
                kept_from(name, size, self._address(name), self._store)
                for name, size in sizes.items()
                if name + GOOD in sizes
            ]
        )

    def get(self, name: str, file: Path) -> None:
        """See `Target.get`."""
        with self._speaking():
            try:
                parts = self._api.get(self._bucket, name).stream()
            except FileNotFoundError:
                raise not_there() from None
            with file.open("wb") as copy:
                for part in parts:
                    copy.write(part)

    def remove(self, name: str) -> None:
        """See `Target.remove`."""
        with self._speaking():
            self._api.delete(self._bucket, name + GOOD)  # first, so that no half of a backup counts
            self._api.delete(self._bucket, name)

    def clean(self) -> None:
        """See `Target.clean`."""
        with self._speaking():
            sizes = self._sizes()
            for name in sizes:
                archive = name.removesuffix(GOOD)
                whole = archive in sizes and archive + GOOD in sizes
                if not whole and kept_from(archive, 0, "", self._store):
                    self._api.delete(self._bucket, name)

    def _address(self, name: str) -> str:
        return f"{self._url}/{name}{self._query}"

    def _sizes(self) -> dict[str, int]:
        """Bytes of the objects directly below the prefix, by name."""
        found = self._api.list_with_delimiter(self._bucket)["objects"]
        return {meta["path"].rpartition("/")[2]: meta["size"] for meta in found}

    def _digest(self, name: str) -> str:
        found = hashlib.sha256()
        for part in self._api.get(self._bucket, name).stream():
            found.update(part)
        return found.hexdigest()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """The client's errors in our words; its own texts may hold addresses and answers of the server."""
        try:
            yield
        except FileNotFoundError as error:
            raise unavailable("the bucket does not exist", "Make it, or give another one.") from error
        except self._api.exceptions.BaseError as error:
            raise unavailable(
                f"the object store refused or failed ({type(error).__name__})", "Check address, credentials and rights."
            ) from error
        except OSError as error:
            raise failed(error) from error
