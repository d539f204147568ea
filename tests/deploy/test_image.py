"""The image: what its Dockerfile says is true, checked line by line, as there is no daemon here that could build it."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from fnmatch import fnmatch

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from shipped import DEPLOY, ROOT, SECRET, command_faults, extras, pinned, unknown_names

from gnomon.cli import main, serving

DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
HEALTHCHECK = DEPLOY / "healthcheck.py"


def lines_of(text: str) -> list[tuple[str, str]]:
    """`(INSTRUCTION, rest)` of every instruction."""
    bare = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found = [line.strip().split(None, 1) for line in bare.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word.upper(), " ".join(rest.split())) for word, rest in found]


def environment(rest: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", rest))


def faults(text: str) -> list[str]:
    """Everything that is wrong with a Dockerfile of ours."""
    lines = lines_of(text)
    stages = [place for place, (word, _) in enumerate(lines) if word == "FROM"]
    final = lines[stages[-1] :]
    arguments = dict(rest.split("=", 1) for word, rest in lines if word == "ARG" and "=" in rest)
    told = dict(final)
    env = {name: value for word, rest in final if word == "ENV" for name, value in environment(rest).items()}
    found = [f"moving base: {base}" for base in [arguments["PYTHON_IMAGE"]] if not pinned(base)]
    found += [f"a secret: {name}" for name in {*arguments, *env} if SECRET.search(name)]
    found += ["no numeric user"] * (not re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", told.get("USER", "")))
    found += ["no SIGTERM"] * (told.get("STOPSIGNAL") != "SIGTERM")
    found += ["ADD"] * any(word == "ADD" for word, _ in lines)
    found += ["curl"] * ("curl" in text or "wget" in text)
    found += [f"no setting: {name}" for name in unknown_names(list(env))]
    found += [f"no extra: {name}" for name in set(arguments["EXTRAS"].split(",")) - set(extras())]
    found += command_faults(json.loads(told["ENTRYPOINT"]) + json.loads(told["CMD"]))
    found += ["hashes are not checked"] * (
        "--require-hashes" not in text or "--constraints requirements.lock" not in text
    )
    found += ["the whole tree is copied"] * any(word == "COPY" and re.match(r"\. ", rest) for word, rest in lines)
    # A clone that was made with umask 077 has files for its owner only, and COPY keeps that.
    copied = [rest for word, rest in final if word == "COPY" and "--from" not in rest]
    found += [f"cannot be read: {rest}" for rest in copied if not re.match(r"--chmod=0?[4-7][4-7][4-7] ", rest)]
    check = told.get("HEALTHCHECK", "").partition("CMD ")[2]
    found += ["no health check"] * (
        not check or json.loads(check)[-2:] != ["/opt/gnomon/healthcheck.py", told["EXPOSE"]]
    )
    found += ["no volume"] * (told.get("VOLUME") != '["/data"]' or told.get("WORKDIR") != "/data")
    return found


def test_the_dockerfile_is_sound():
    assert faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("good", "bad", "fault"),
    [
        ("python:3.13.16-slim-trixie", "python:latest", "moving base: python:latest"),
        ("USER 10001:10001", "USER root", "no numeric user"),
        ("USER 10001:10001\n", "", "no numeric user"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "no SIGTERM"),
        ("ARG REVISION=unknown", "ARG JWT_SECRET_KEY=x", "a secret: JWT_SECRET_KEY"),
        ("GNOMON_DATA_DIR=/data", "GNOMON_DATA_DIRS=/data", "no setting: GNOMON_DATA_DIRS"),
        ("s3,excel", "s3,exel", "no extra: exel"),
        ("COPY src src", "COPY . .", "the whole tree is copied"),
        ("COPY --chmod=0644 deploy", "COPY deploy", "cannot be read: deploy/healthcheck.py"),
        ("--chmod=0644", "--chmod=0640", "cannot be read: --chmod=0640"),
        ('"8000"]\n', '"8001"]\n', "no health check"),
        ("--require-hashes ", "", "hashes are not checked"),
        ('"serve", "--host"', '"serve", "--hosts-of"', "no command"),
    ],
)
def test_a_broken_one_is_found(good, bad, fault):
    assert good in DOCKERFILE
    assert any(found.startswith(fault) for found in faults(DOCKERFILE.replace(good, bad, 1)))


def let_through(path: str, rules: list[str]) -> bool:
    kept = True
    for rule in rules:
        bare = rule.removeprefix("!")
        parts = path.split("/")
        heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if any(fnmatch(head, bare) or fnmatch("/" + head, bare.replace("**", "*")) for head in heads):
            kept = rule.startswith("!")
    return kept


def test_the_build_gets_what_it_copies_and_nothing_else():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    copied = [source for word, rest in lines_of(DOCKERFILE) if word == "COPY" and "--from" not in rest
              for source in rest.split()[:-1] if not source.startswith("--")]  # fmt: skip
    assert copied and all((ROOT / source).exists() and let_through(source, rules) for source in copied)
    for outside in (".git/config", ".venv/x", "secrets.env", "usage.duckdb", "src/usage.duckdb.journal", "tests/x.py",
                    "src/gnomon/__pycache__/x.pyc", "deploy/compose/duckdb.yaml"):  # fmt: skip
        assert not let_through(outside, rules), outside


def locked(name: str) -> dict[str, Version]:
    text = (DEPLOY / name).read_text("utf-8")
    pins = re.findall(r"^([a-z0-9.-]+)==([^ ;]+)(?: ;.*)? \\\n    --hash=sha256:", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)), "a line without a hash"
    assert "://" not in text
    return {package: Version(version) for package, version in pins}


def test_the_lock_file_has_what_the_extras_ask_for():
    pins = locked("requirements.lock")
    wanted = [line for word, rest in lines_of(DOCKERFILE) if word == "ARG" and rest.startswith("EXTRAS=")
              for extra in rest[7:].split(",") for line in extras().get(extra, [])]  # fmt: skip
    for line in [*wanted, "duckdb>=2.0,<3", "redis"]:
        need = Requirement(line)
        version = pins.get(need.name.lower().replace("_", "-").replace(".", "-"))
        assert version and version in need.specifier, f"{line}: compile the lock file anew, see docs/deployment.md"
    assert {"hatchling", "uv"} <= set(locked("build.lock"))


def test_the_lock_file_is_made_of_the_extras_of_the_image_and_nothing_else():
    """What stood in a file of its own beside them had fallen behind."""
    (image,) = [rest[7:] for word, rest in lines_of(DOCKERFILE) if word == "ARG" and rest.startswith("EXTRAS=")]
    page = (ROOT / "docs" / "deployment.md").read_text("utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"^uv pip compile (pyproject.toml .*) -o deploy/requirements.lock$", page, re.MULTILINE)
    assert re.findall(r"--extra (\w+)", command) == image.split(",") and ".in" not in command
    assert "-r deploy" not in (DEPLOY / "requirements.lock").read_text("utf-8")


def check(port: int) -> int:
    return subprocess.run([sys.executable, "-I", str(HEALTHCHECK), str(port)], timeout=30).returncode


def test_the_health_check_is_that_of_the_service_which_ends_when_it_is_told(tmp_path):
    class Away(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503)
            self.end_headers()

        def log_message(self, *_):
            pass

    run = "import sys; from gnomon.cli import main; sys.exit(main(['serve', '--dev', '--port', '0']))"
    bare = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}
    with subprocess.Popen(
        [sys.executable, "-c", run], cwd=tmp_path, env=bare, stdout=subprocess.PIPE, text=True
    ) as one:
        told = one.stdout.readline()
        port = int(re.search(r":(\d+) ", told)[1])
        until = time.monotonic() + 60
        while (found := check(port)) and time.monotonic() < until:  # it waits four seconds for its answer
            pass
        assert found == 0
        one.terminate()
        assert one.wait(60) == 0
    assert check(port) == 1  # nobody is there
    with http.server.HTTPServer(("127.0.0.1", 0), Away) as away:
        thread = threading.Thread(target=away.serve_forever)
        thread.start()
        assert check(away.server_port) == 1
        away.shutdown()
        thread.join()


def test_sigterm_during_the_start_ends_it(tmp_path, monkeypatch):
    """The first process of a container gets no signal that it has not asked for, so it has to ask for this one."""
    unheard = []
    before = signal.signal(signal.SIGTERM, lambda *_: unheard.append("during the start"))
    monkeypatch.setattr(serving, "serve", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--store", str(tmp_path / "s.duckdb")])
        assert ended.value.code == 0 and not unheard
        os.kill(os.getpid(), signal.SIGTERM)
        assert unheard  # what was there before is there again
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    subprocess.run(["hadolint", str(DEPLOY / "Dockerfile")], check=True)
