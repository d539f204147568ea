"""What `deploy/` ships, read strictly, and what is true of a command, a name or an image wherever it stands."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import yaml

from gnomon import cli
from gnomon.config import NOT_SETTINGS, PLAIN_ALIASES, PREFIX, Settings
from gnomon.server.app import create_app

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KNOWN = {PREFIX + name.upper() for name in Settings.__dataclass_fields__} | set(PLAIN_ALIASES) | NOT_SETTINGS
#: What the object stores of backups take.
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY",
               "GOOGLE_SERVICE_ACCOUNT_KEY"}  # fmt: skip
#: What holds a secret, by its name.
SECRET = re.compile(r"SECRET|PASSWORD|DATABASE_URL|BROKER_URL|RESULT_BACKEND|LIMIT_URL|CACHE_URL|PSEUDONYM_KEYS|TOKEN")


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.value != "<<"]
        if len(keys) != len(set(keys)):
            raise yaml.constructor.ConstructorError(None, None, "a key stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> list[Any]:
    return [document for document in yaml.load_all(text, _Strict) if document is not None]


def extras() -> dict[str, list[str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def unknown_names(names: Iterator[str] | list[str]) -> list[str]:
    """Names in the environment of a Gnomon process that no setting has."""
    foreign = {"PATH", "HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "TMPDIR"}
    return sorted(name for name in names if name not in KNOWN | foreign | CREDENTIALS)


def pinned(image: str) -> bool:
    """Whether an image is named with a version, and not by one that moves."""
    tag = image.rpartition(":")[2] if ":" in image else ""
    return bool(re.match(r"\d+\.\d+\.?\d*", tag)) and "latest" not in tag


def command_faults(words: list[str]) -> list[str]:
    """What is wrong with the words of a container: of `gnomon`, or of `celery` on the app of the worker."""
    if words[:1] != ["celery"]:
        try:
            cli._parser().parse_args(words[1:] if words[:1] == ["gnomon"] else words)
        except SystemExit:
            return [f"no command: {words}"]
        return []
    if words[1:3] != ["-A", "gnomon.worker:app"]:
        return [f"no app of ours: {words}"]
    if find_spec("celery") is None:
        return []
    import click
    from celery.bin.celery import celery

    command = celery.commands.get(words[3])
    if command is None:
        return [f"no command of celery: {words}"]
    try:
        command.make_parser(click.Context(command)).parse_args(list(words[4:]))
    except click.UsageError as error:
        return [f"{words}: {error}"]
    return []


def sign_faults(probe: str, folder: Path) -> list[str]:
    """What is wrong with the probe of a worker: it asks for the file that the worker touches, and for nothing else."""
    if "celery" in probe:
        return ["asks the broker"]
    file = folder / "workers" / "alive"
    file.parent.mkdir(exist_ok=True)
    found = []
    for age, well in ((None, False), (30, True), (300, True), (1_200, False)):
        if age is not None:
            file.touch()
            os.utime(file, (time.time() - age,) * 2)
        done = subprocess.run(["sh", "-c", probe.replace("/data/", f"{folder}/")], capture_output=True, timeout=20)
        found += [f"says {not well} of a sign {age} s old"] * ((done.returncode == 0) is not well)
    file.unlink()
    return found


def paths_of(engine: Any) -> set[str]:
    """Every path that the service answers, those that its description leaves out too."""
    app = create_app(engine)

    async def answered(path: str) -> bool:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return (await client.get(path)).status_code != 404

    hidden = {path for path in ("/livez", "/healthz", "/nothing") if asyncio.run(answered(path))}
    return set(app.openapi()["paths"]) | hidden
