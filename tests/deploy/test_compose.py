"""The compose files: of the form that Compose reads, hardened, without a secret, and of names that exist."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
from importlib import resources
from xml.etree import ElementTree

import jsonschema
import pytest
import yaml
from shipped import DEPLOY, ROOT, SECRET, command_faults, pinned, read_yaml, sign_faults, unknown_names

FOLDER = DEPLOY / "compose"
FILES = sorted(FOLDER.glob("*.yaml"))
#: Servers take as long as they need at their first start; jobs and the clock of the worker have no health.
WITHOUT_HEALTH = {"migrate", "beat"}


def read(name: str) -> dict:
    (found,) = read_yaml((FOLDER / f"{name}.yaml").read_text("utf-8"))
    return found


def ours(service: dict) -> bool:
    return service["image"].startswith("gnomon:")


def words_of(service: dict) -> list[str]:
    if "entrypoint" in service:  # Compose then leaves out what the image would run
        return service["entrypoint"] + service.get("command", [])
    return ["gnomon", *service.get("command", ["serve"])]


def faults(document: dict) -> list[str]:
    """Everything that is wrong with a compose file of ours."""
    found = []
    for name, service in document["services"].items():
        say = f"{name}: ".__add__
        image = service["image"].replace("${IMAGE_TAG:-0.1.0}", "0.1.0")
        found += [say("moving image")] * (not pinned(image))
        found += [say("may be written")] * (service.get("read_only") is not True)
        found += [say("capabilities")] * (service.get("cap_drop") != ["ALL"] or "cap_add" in service)
        found += [say("privileges")] * (service.get("security_opt") != ["no-new-privileges:true"])
        found += [say("privileges")] * any(key in service for key in ("privileged", "pid", "ipc", "network_mode"))
        found += [say("a user of root's")] * (not re.fullmatch(r"[1-9]\d*:[1-9]\d*", service.get("user", "")))
        found += [say("no limit")] * (not {"cpus", "mem_limit", "pids_limit"} <= service.keys())
        found += [say("no restart")] * (service.get("restart") != ("no" if name == "migrate" else "unless-stopped"))
        found += [say("endless log")] * ("max-size" not in service.get("logging", {}).get("options", {}))
        found += [say("listens to everybody")] * any(not p.startswith("127.0.0.1:") for p in service.get("ports", []))
        if not ours(service) and "healthcheck" not in service:  # the image of Gnomon has one
            found.append(say("no health check"))
        if ours(service):
            found += [say(f"no setting {word}") for word in unknown_names(list(service["environment"]))]
            found += [say(fault) for fault in command_faults(words_of(service))]
            off = service.get("healthcheck", {}).get("disable", False)
            found += [say("health")] * (off != (name in WITHOUT_HEALTH))
        found += [say(f"a secret with a default: {key}") for key, value in service.get("environment", {}).items()
                  if SECRET.search(key) and not key.endswith("_FILE") and not asked_for(value)]  # fmt: skip
        found += [
            say(f"waits for {other}") for other in service.get("depends_on", {}) if other not in document["services"]
        ]
        found += [say(f"mounts {source}") for source in sources(service) if not there(source, document)]
        found += [say(f"cannot be given {name}") for name in copied(service, document)]
    return found


def copied(service: dict, document: dict) -> list[str]:
    """Secrets and configs that Compose would copy into the root file system, and refuses to where that is read-only:
    it mounts those that are files."""
    given = [(kind, one if isinstance(one, str) else one["source"])
             for kind in ("secrets", "configs") for one in service.get(kind, [])]  # fmt: skip
    return [name for kind, name in given if "file" not in document.get(kind, {}).get(name, {})]


def asked_for(value: str) -> bool:
    """Whether Compose refuses to start while a secret is missing or empty."""
    held = re.findall(r"\$\{(\w+)(:?[-?+]?)", value)
    return bool(held) and all(kind == ":?" for _, kind in held)


def sources(service: dict) -> list[str]:
    return [volume.split(":")[0] for volume in service.get("volumes", [])]


def there(source: str, document: dict) -> bool:
    return (FOLDER / source).resolve().is_file() if source.startswith(".") else source in document.get("volumes", {})


@pytest.fixture(scope="module")
def schema():
    found = resources.files("check_jsonschema").joinpath("builtin_schemas", "vendor", "compose-spec.json")
    return jsonschema.validators.validator_for(json.loads(found.read_text("utf-8")))(
        json.loads(found.read_text("utf-8"))
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_compose_file_is_sound(file, schema):
    document = read(file.stem)
    assert [error.message for error in schema.iter_errors(document)] == []
    assert faults(document) == []


def test_every_store_has_one():
    assert [file.stem for file in FILES] == ["clickhouse", "duckdb", "postgres"]
    for name, scheme in (("clickhouse", "clickhouse://"), ("postgres", "postgresql://")):
        assert read(name)["services"]["gnomon"]["environment"]["GNOMON_DATABASE_URL"].startswith(scheme)


def broken(change):
    document = copy.deepcopy(read("postgres"))
    change(document["services"]["gnomon"], document)
    return faults(document)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda one, _: one.update(read_only=False), "may be written"),
        (lambda one, _: one.update(cap_add=["SYS_ADMIN"]), "capabilities"),
        (lambda one, _: one.update(user="0:0"), "a user of root's"),
        (lambda one, _: one.pop("mem_limit"), "no limit"),
        (lambda one, _: one.update(ports=["8000:8000"]), "listens to everybody"),
        (lambda one, _: one.update(image="gnomon:latest"), "moving image"),
        (lambda one, _: one["environment"].update(JWT_SECRET_KEY="${JWT_SECRET_KEY:-change-me}"), "a secret with"),
        (lambda one, _: one["environment"].update(JWT_SECRET_KEY="${JWT_SECRET_KEY}"), "a secret with"),
        (lambda one, _: one["environment"].update(GNOMON_DATABASE_ULR="x"), "no setting GNOMON_DATABASE_ULR"),
        (lambda one, _: one.update(command=["serve", "--prot", "1"]), "no command"),
        (lambda one, _: one.update(depends_on={"redis": {}}), "waits for redis"),
        (lambda one, _: one.update(volumes=["other:/data"]), "mounts other"),
        (lambda one, whole: (one.update(secrets=["p"]), whole.update(secrets={"p": {"environment": "P"}})), "given p"),
        (
            lambda one, whole: (one.update(configs=[{"source": "c"}]), whole.update(configs={"c": {"content": "x"}})),
            "given c",
        ),
        (lambda _, whole: whole["services"]["valkey"].pop("healthcheck"), "no health check"),
        (lambda _, whole: whole["services"]["worker"]["entrypoint"].__setitem__(2, "gnomon:app"), "no app of ours"),
        (lambda _, whole: whole["services"]["migrate"].update(restart="always"), "no restart"),
    ],
)
def test_a_broken_one_is_found(change, fault):
    assert any(fault in found for found in broken(change))


def test_a_key_that_stands_twice_is_found():
    with pytest.raises(yaml.constructor.ConstructorError):
        read_yaml("services:\n  a: {image: x}\n  a: {image: y}\n")


def test_the_worker_of_the_compose_file_tells_whether_it_lives(tmp_path):
    worker = read("postgres")["services"]["worker"]
    kind, probe = worker["healthcheck"]["test"]
    assert kind == "CMD-SHELL" and sign_faults(probe.replace("$$", "$"), tmp_path) == []
    assert "--without-heartbeat" in worker["entrypoint"]


def test_each_process_has_a_folder_of_its_own_and_all_share_that_of_exports():
    services = read("postgres")["services"]
    mine = [sources(services[name]) for name in ("gnomon", "worker", "beat")]
    assert len({one for volumes in mine for one in volumes}) == 4 and all("exports" in volumes for volumes in mine[:2])
    assert services["gnomon"]["environment"]["GNOMON_EXPORT_DIR"] == "/exports"
    assert services["gnomon"]["environment"].items() >= services["worker"]["environment"].items()  # but for its key


# -- ClickHouse ---------------------------------------------------------------------------------------------------


def xml(name: str) -> ElementTree.Element:
    return ElementTree.parse(DEPLOY / "clickhouse" / f"{name}.xml").getroot()


def test_the_cluster_is_that_of_the_services():
    services, server, keeper = read("clickhouse")["services"], xml("server"), xml("keeper")
    servers = {name for name in services if name.startswith("clickhouse-")}
    keepers = {name for name in services if name.startswith("keeper-")}
    shards = [[host.text for host in shard.iter("host")] for shard in server.find("remote_servers").iter("shard")]
    told = {(one["environment"]["CLICKHOUSE_SHARD"], one["environment"]["CLICKHOUSE_REPLICA"]): name
            for name, one in services.items() if name in servers}  # fmt: skip
    assert shards == [[told[f"{s}", f"{r}"] for r in (1, 2)] for s in (1, 2)] and len(servers) == 4
    assert [one.text for one in server.findall("remote_servers/*/shard/internal_replication")] == ["true"] * 2
    assert {host.text for host in server.find("zookeeper").iter("host")} == keepers
    assert {(one.find("id").text, one.find("hostname").text) for one in keeper.iter("server")} == {
        (services[name]["environment"]["KEEPER_ID"], name) for name in keepers
    }
    assert len(keepers) == 3
    url = services["gnomon"]["environment"]["GNOMON_DATABASE_URL"]
    assert re.search(r"@clickhouse-1-1:8123/gnomon\?cluster=gnomon$", url) and server.find("remote_servers/gnomon")
    assert {node.get("from_env") for node in [*server.iter(), *xml("users").iter(), *keeper.iter()]} - {None} <= {
        key for one in services.values() for key in one["environment"]
    }


def unbounded(server: ElementTree.Element) -> list[str]:
    """Tables of ClickHouse about itself that grow without end."""
    logs = [node for node in server if node.tag.endswith("_log")]
    gone = {node.tag for node in logs if node.get("remove")}
    kept = {node.tag for node in logs if "INTERVAL" in (node.findtext("ttl") or "")}
    return sorted({node.tag for node in logs} - gone - kept) + sorted({"text_log", "trace_log", "metric_log"} - gone)


def test_clickhouse_keeps_no_endless_log_of_itself():
    assert unbounded(xml("server")) == []
    endless = xml("server")
    endless.find("query_log").remove(endless.find("query_log/ttl"))
    assert unbounded(endless) == ["query_log"]
    endless.remove(endless.find("trace_log"))
    assert unbounded(endless) == ["query_log", "trace_log"]


def test_no_user_of_clickhouse_is_without_a_password():
    users = xml("users").find("users")
    assert users.find("default").get("remove") and all(
        one.find("password").get("from_env") for one in users if len(one)
    )


def test_clickhouse_knows_the_settings():
    """Asked of the ClickHouse that chdb embeds, in a process of its own."""
    pytest.importorskip("chdb")
    grants = [one.text for one in xml("users").iter("query")]
    asked = {"merge_tree_settings": [one.tag for one in xml("server").find("merge_tree")],
             "settings": [one.tag for one in xml("users").find("profiles/gnomon")]}  # fmt: skip
    ask = "import chdb, sys; [print(chdb.query(text, 'CSV')) for text in sys.argv[1:]]"
    texts = [f"SELECT name FROM system.{table}" for table in asked]
    texts += [f"SELECT formatQuery('{grant} TO gnomon')" for grant in grants]  # which raises where it cannot be read
    done = subprocess.run([sys.executable, "-c", ask, *texts], capture_output=True, text=True, check=True)
    known = set(re.findall(r'"(\w+)"', done.stdout))
    assert len(known) > 500 and not {name for names in asked.values() for name in names} - known


def test_the_commands_of_the_guide_name_files_that_are_there():
    for line in re.findall(r"docker compose .*", (ROOT / "docs" / "deployment.md").read_text("utf-8")):
        words = shlex.split(line.rstrip("\\`"))
        for place, word in enumerate(words):
            if word in ("-f", "--file"):
                assert (ROOT / words[place + 1]).is_file(), line
