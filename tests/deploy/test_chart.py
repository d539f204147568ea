"""The Helm chart, rendered by Helm itself and checked against the schemas of Kubernetes."""

from __future__ import annotations

import copy
import json
import re

import kubernetes_validate
import pytest
from shipped import CREDENTIALS, DEPLOY, KNOWN, command_faults, paths_of, read_yaml, sign_faults, unknown_names

import gnomon
from gnomon.config import PLAIN_ALIASES, PREFIX, SECRETS

helm = pytest.importorskip("helm_python", reason="Helm has no package for this machine: the chart was not rendered")

CHART = DEPLOY / "helm" / "gnomon"
PLAIN = {"existingSecret": "gnomon"}
SERVED = {**PLAIN, "store": "postgres", "service": {"replicas": 3, "workers": 2}}
FULL = {
    **SERVED,
    "worker": {"enabled": True, "replicas": 2},
    "exports": {"existingClaim": "shared"},
    "autoscaling": {"enabled": True},
    "ingress": {"enabled": True, "host": "*.a.example", "tlsSecret": "tls", "className": "nginx"},
    "settings": {"GNOMON_TRUSTED_PROXIES": "10.0.0.0/8"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "analytics", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "serviceMonitor": {"enabled": True, "tokenSecret": {"name": "metrics"}},
    "networkPolicy": {
        "enabled": True,
        "ingressFrom": [{"podSelector": {}}],
        "egressTo": [{"to": [{"podSelector": {}}]}],
    },
    "image": {"pullSecrets": [{"name": "pull"}]},
}
#: Files of keys, settings and certificates, which nobody but the owner of the release can name.
MOUNTED = {
    **FULL,
    "settings": {**FULL["settings"], "JWT_JWKS_FILE": "/keys/jwks.json", "GNOMON_BACKUP_KEY_FILE": "/keys/backup.txt"},
    "extraVolumes": [{"name": "keys", "secret": {"secretName": "gnomon-keys", "defaultMode": 0o440}}],
    "extraVolumeMounts": [{"name": "keys", "mountPath": "/keys", "readOnly": True}],
}
LOSSY = {**FULL, "store": "clickhouse", "persistence": {"enabled": False, "acceptLoss": True}}
VARIANTS = {"plain": PLAIN, "served": SERVED, "full": FULL, "lossy": LOSSY, "mounted": MOUNTED}
#: The oldest that Chart.yaml allows, and the newest whose schemas there are.
RELEASES = ("1.29", "1.36")


@pytest.fixture(scope="module")
def chart():
    with helm.Chart.load(str(CHART)) as found:
        yield found


def rendered(chart, values, name="demo") -> list[dict]:
    texts = chart.render(values, name=name, namespace="prod")
    return [found for name, text in sorted(texts.items()) if name.endswith(".yaml") for found in read_yaml(text)]


def pods(documents: list[dict]) -> list[tuple[dict, dict]]:
    return [(one, one["spec"]["template"]["spec"]) for one in documents if "template" in one.get("spec", {})]


@pytest.fixture(scope="module")
def paths():
    with gnomon.open(":memory:") as engine:
        return paths_of(engine)


def faults(documents: list[dict], paths: set[str]) -> list[str]:
    """Everything that is wrong with what the chart makes."""
    found = [*misnamed(documents), *["placed apart"] * (len({repr(placed(pod)) for _, pod in pods(documents)}) > 1)]
    for one, pod in pods(documents):
        say = f"{one['kind']}/{one['metadata']['name']}: ".__add__
        secure = pod["securityContext"]
        found += [say("may be root")] * (secure.get("runAsNonRoot") is not True or secure.get("runAsUser") != 10001)
        found += [say("no seccomp")] * (secure.get("seccompProfile") != {"type": "RuntimeDefault"})
        found += [say("has an account")] * (pod.get("automountServiceAccountToken") is not False)
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
        for box in pod["containers"]:
            inner = box["securityContext"]
            found += [say("may be written")] * (inner.get("readOnlyRootFilesystem") is not True)
            found += [say("capabilities")] * (inner.get("capabilities") != {"drop": ["ALL"]})
            found += [say("privileges")] * (inner.get("allowPrivilegeEscalation") is not False)
            found += [say("no limit")] * ("memory" not in box["resources"].get("limits", {}))
            found += [say(f"no setting {name}") for name in unknown_names([env["name"] for env in box["env"]])]
            found += [say("set twice")] * (len({env["name"] for env in box["env"]}) != len(box["env"]))
            found += [say(fault) for fault in command_faults(box.get("command", []) + box.get("args", []))]
            found += [say(f"no path {path}") for path in probed(box) if path not in paths]
            found += [say("mounts nothing")] * ({mount["name"] for mount in box["volumeMounts"]} != volumes)
        if one["kind"] != "Job":
            wanted, given = one["spec"]["selector"]["matchLabels"], one["spec"]["template"]["metadata"]["labels"]
            found += [say("selects others")] * (not wanted.items() <= given.items() or not one["spec"]["selector"])
    found += [f"no path {e['path']}" for one in documents if one["kind"] == "ServiceMonitor"
              for e in one["spec"]["endpoints"] if e["path"] not in paths]  # fmt: skip
    return found


def placed(pod: dict) -> list:
    """On which nodes a pod may be."""
    return [pod.get(name) for name in ("nodeSelector", "tolerations", "affinity")]


def misnamed(documents: list[dict]) -> list[str]:
    """Names that Kubernetes refuses: that of a Service has to be a label of DNS-1035, and that of a workload becomes a
    label of its pods with the hash of a revision behind it."""
    names = [(one["kind"], one["metadata"]["name"]) for one in documents]
    wrong = [
        name for kind, name in names if kind == "Service" and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    ]
    wrong += [name for kind, name in names if kind in ("StatefulSet", "Deployment", "Job") and len(name) > 63 - 11]
    return [f"no name: {name}" for name in wrong + [name for _, name in names if len(name) > 63]]


def probed(box: dict) -> list[str]:
    probes = [box.get(f"{kind}Probe", {}).get("httpGet") for kind in ("startup", "readiness", "liveness")]
    return [probe["path"] for probe in probes if probe]


@pytest.mark.parametrize("name", VARIANTS)
def test_what_the_chart_makes_is_sound(chart, paths, name):
    documents = rendered(chart, VARIANTS[name])
    for one in documents:
        if one["kind"] != "ServiceMonitor":  # of the Prometheus operator
            for release in RELEASES:
                kubernetes_validate.validate(one, release, strict=True)
    assert faults(documents, paths) == []


def kinds(documents: list[dict]) -> list[str]:
    return sorted(one["kind"] for one in documents)


def test_each_variant_is_what_it_says(chart):
    assert kinds(rendered(chart, PLAIN)) == ["Service", "Service", "ServiceAccount", "StatefulSet"]
    assert kinds(rendered(chart, SERVED)) == ["Job", "PodDisruptionBudget", "Service", "Service", "ServiceAccount",
                                              "StatefulSet"]  # fmt: skip
    assert set(kinds(rendered(chart, FULL))) == {
        "Deployment", "HorizontalPodAutoscaler", "Ingress", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service",
        "ServiceAccount", "ServiceMonitor", "StatefulSet",
    }  # fmt: skip
    (service,) = [one for one in rendered(chart, LOSSY) if one["metadata"]["name"] == "demo-gnomon" and
                  one["kind"] in ("Deployment", "StatefulSet")]  # fmt: skip
    assert service["kind"] == "Deployment" and "replicas" not in service["spec"]


def test_no_secret_is_in_what_the_chart_makes(chart):
    documents = rendered(chart, FULL)
    assert "Secret" not in kinds(documents)
    held = [env for _, pod in pods(documents) for box in pod["containers"] for env in box["env"] if "valueFrom" in env]
    assert {env["name"] for env in held} == {name_of(secret) for secret in SECRETS} | {NEEDED_URL} | CREDENTIALS
    assert all(env["valueFrom"]["secretKeyRef"]["name"] == "gnomon" for env in held)


NEEDED_URL = "GNOMON_DATABASE_URL"


def name_of(secret: str) -> str:
    """The name in the environment by which the chart takes a secret setting."""
    plain = {setting: name for name, setting in PLAIN_ALIASES.items()}
    return PREFIX + "DATABASE_URL" if secret == "database_url" else plain.get(secret, PREFIX + secret.upper())


def taken(documents: list[dict], name: str) -> dict[str, bool]:
    """The keys of the Secret that the pods of a workload take, and whether they have to be there."""
    (pod,) = [pod for one, pod in pods(documents) if one["metadata"]["name"] == name]
    found = [env["valueFrom"]["secretKeyRef"] for env in pod["containers"][0]["env"] if "valueFrom" in env]
    return {key["key"]: not key.get("optional", False) for key in found}


def test_every_secret_can_be_given_to_services_and_workers(chart):
    optional = {name_of(secret) for secret in SECRETS if "celery" not in secret and "jwt" not in secret} | CREDENTIALS
    needed = {NEEDED_URL, "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"}
    documents = rendered(chart, FULL)
    worker = dict.fromkeys(optional, False) | dict.fromkeys(needed, True)
    assert taken(documents, "demo-gnomon-worker") == worker
    assert taken(documents, "demo-gnomon") == worker | {"JWT_SECRET_KEY": True}
    assert taken(documents, "demo-gnomon-migrate") == {NEEDED_URL: True}
    assert taken(documents, "demo-gnomon-beat") == dict.fromkeys(needed, True)


def test_what_stands_in_a_mounted_file_needs_no_key_of_the_secret(chart):
    documents = rendered(chart, MOUNTED)
    assert not taken(documents, "demo-gnomon")["JWT_SECRET_KEY"] and taken(documents, "demo-gnomon")[NEEDED_URL]
    kept = rendered(chart, {**MOUNTED, "settings": {"GNOMON_CONFIG": "/keys/gnomon.toml"}})
    for one, pod in pods(kept):
        assert not any(taken(kept, one["metadata"]["name"]).values())
        assert {"name": "keys", "mountPath": "/keys", "readOnly": True} in pod["containers"][0]["volumeMounts"]


def test_no_secret_stands_in_the_settings(chart):
    names = {PREFIX + secret.upper() for secret in (*SECRETS, "database_url")}
    names |= {name for name, setting in PLAIN_ALIASES.items() if setting in (*SECRETS, "database_url")} | CREDENTIALS
    for name in names:
        with pytest.raises(helm.HelmError, match=f"invalid propertyName '{name}'"):
            chart.render({**PLAIN, "settings": {name: "x"}}, name="demo")


def test_selectors_tell_the_parts_of_a_release_apart(chart):
    documents = rendered(chart, FULL)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one, _ in pods(documents)]
    (main,) = [one for one in documents if one["kind"] == "Service" and one["metadata"]["name"] == "demo-gnomon"]
    assert sum(main["spec"]["selector"].items() <= label.items() for label in labels) == 1
    (monitor,) = [one for one in documents if one["kind"] == "ServiceMonitor"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert sum(wanted <= one["metadata"]["labels"].items() for one in documents if one["kind"] == "Service") == 1


def test_the_pod_outlives_the_drain_of_the_service(chart):
    from gnomon.server.running import DRAIN_SECONDS

    for values in (PLAIN, FULL, LOSSY):
        for one, pod in pods(rendered(chart, values)):
            if one["metadata"]["name"] == "demo-gnomon":
                assert pod["terminationGracePeriodSeconds"] >= DRAIN_SECONDS + 30


DIGEST = "sha256:" + "0a" * 32


def test_an_image_may_be_named_by_its_digest(chart):
    for image, wanted in (({}, f"gnomon:{gnomon.__version__}"), ({"tag": "9"}, "gnomon:9"),
                          ({"repository": "r/g", "tag": "9", "digest": DIGEST}, f"r/g@{DIGEST}")):  # fmt: skip
        boxes = [pod["containers"][0] for _, pod in pods(rendered(chart, {**FULL, "image": image}))]
        assert [box["image"] for box in boxes] == [wanted] * 4


@pytest.mark.parametrize("name", ["my.app.v1", "a" * 53, "a" * 43 + "--" + "b" * 8, "gnomon." + "x" * 46, "g"])
def test_whatever_helm_allows_as_a_name_becomes_names_that_kubernetes_allows(chart, paths, name):
    documents = rendered(chart, FULL, name)
    assert faults(documents, paths) == []
    (scaler,) = [one for one in documents if one["kind"] == "HorizontalPodAutoscaler"]
    assert scaler["spec"]["scaleTargetRef"]["name"] in {one["metadata"]["name"] for one, _ in pods(documents)}


def test_a_name_that_begins_with_a_digit_is_refused(chart):
    with pytest.raises(helm.HelmError, match="begins with a digit"):
        chart.render(PLAIN, name="1st")


def test_the_nodes_of_every_pod_can_be_chosen(chart):
    wanted = [FULL[name] for name in ("nodeSelector", "tolerations", "affinity")]
    assert [placed(pod) for _, pod in pods(rendered(chart, FULL))] == [wanted] * 4


def test_every_setting_that_is_no_secret_can_be_given_and_nothing_else():
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    hidden = {PREFIX + secret.upper() for secret in (*SECRETS, "database_url")} | {PREFIX + "DATA_DIR"}  # the volume
    hidden |= {name for name, setting in PLAIN_ALIASES.items() if setting in (*SECRETS, "database_url")}
    assert schema["properties"]["settings"]["propertyNames"]["enum"] == sorted(KNOWN - hidden)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "existingSecret is empty"),
        ({**PLAIN, "service": {"replicas": 2}}, "service.replicas > 1 cannot work with store: duckdb"),
        ({**PLAIN, "service": {"workers": 2}}, "service.workers > 1 cannot work with store: duckdb"),
        ({**PLAIN, "autoscaling": {"enabled": True}}, "autoscaling cannot work with store: duckdb"),
        ({**PLAIN, "worker": {"enabled": True}}, "worker.enabled cannot work with store: duckdb"),
        ({**PLAIN, "persistence": {"enabled": False, "acceptLoss": True}}, "persistence.enabled must be true"),
        ({**SERVED, "persistence": {"enabled": False}}, "loses acknowledged events"),
        ({**SERVED, "autoscaling": {"enabled": True, "minReplicas": 9}}, "minReplicas is more than"),
        ({**PLAIN, "serviceMonitor": {"enabled": True}}, "serviceMonitor needs"),
        ({**FULL, "settings": {"GNOMON_EXPORT_DIR": "/x"}}, "GNOMON_EXPORT_DIR is /exports"),
        ({**SERVED, "settings": {"GNOMON_BACKUP_DAILY": True}}, "GNOMON_BACKUP_DAILY needs GNOMON_BACKUP_TARGET"),
        ({**PLAIN, "ingress": {"enabled": True}}, "ingress.host is empty"),
        ({**FULL, "settings": {}}, "ingress.enabled needs settings.GNOMON_TRUSTED_PROXIES"),
        ({**PLAIN, "settings": {"GNOMON_LOGLEVEL": "x"}}, "invalid propertyName 'GNOMON_LOGLEVEL'"),
        ({**PLAIN, "settings": {"GNOMON_DATA_DIR": "/other"}}, "invalid propertyName 'GNOMON_DATA_DIR'"),
        ({**PLAIN, "image": {"repository": f"r/g@{DIGEST}"}}, "/image/repository"),
        ({**PLAIN, "image": {"digest": "sha256:abc"}}, "/image/digest"),
        ({**PLAIN, "store": "mysql"}, "must be one of 'duckdb', 'postgres', 'clickhouse'"),
        ({**PLAIN, "replicas": 2}, "additional properties 'replicas' not allowed"),
        ({**PLAIN, "settings": {"JWT_SECRET_KEY": "x"}}, "invalid propertyName 'JWT_SECRET_KEY'"),
        ({**PLAIN, "service": {"replicas": "two"}}, "/service/replicas"),
        ({**MOUNTED, "extraVolumes": []}, "extraVolumeMounts names the volume keys"),
        ({**PLAIN, "extraVolumes": [{"name": "data", "emptyDir": {}}]}, "/extraVolumes/0/name"),
    ],
)
def test_values_that_cannot_work_are_refused_with_the_reason(chart, values, told):
    with pytest.raises(helm.HelmError) as refused:
        chart.render(values, name="demo")
    assert told in str(refused.value)


def test_a_worker_is_started_again_when_it_hangs_and_not_when_its_broker_is_away(chart, tmp_path):
    (worker,) = [
        pod["containers"][0] for one, pod in pods(rendered(chart, FULL)) if "-worker" in one["metadata"]["name"]
    ]
    (shell, option, probe) = worker["livenessProbe"]["exec"]["command"]
    assert (shell, option) == ("sh", "-c") and sign_faults(probe, tmp_path) == []
    assert "--without-heartbeat" in worker["command"]  # which hangs with its broker
    for wrong in ("celery -A gnomon.worker:app inspect ping", probe.replace("-10", "-100"), probe.replace("-n", "-z"),
                  "find /data/workers/alive -mmin -10"):  # fmt: skip
        assert sign_faults(wrong, tmp_path)


def test_figures_may_be_public_instead_of_a_token(chart):
    chart.render(
        {**PLAIN, "serviceMonitor": {"enabled": True}, "settings": {"GNOMON_METRICS_PUBLIC": True}}, name="demo"
    )


def box_of(documents: list[dict]) -> dict:
    return pods(documents)[-1][1]["containers"][0]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda box: box["securityContext"].update(readOnlyRootFilesystem=False), "may be written"),
        (lambda box: box["readinessProbe"]["httpGet"].update(path="/health"), "no path /health"),
        (lambda box: box["args"].append("--replicas=2"), "no command"),
        (lambda box: box["env"].append({"name": "GNOMON_LOGLEVEL"}), "no setting GNOMON_LOGLEVEL"),
        (lambda box: box["env"].append(box["env"][0]), "set twice"),
        (lambda box: box["resources"].pop("limits"), "no limit"),
        (lambda box: box["volumeMounts"].pop(), "mounts nothing"),
    ],
)
def test_a_broken_one_is_found(chart, paths, change, fault):
    documents = copy.deepcopy(rendered(chart, PLAIN))
    change(box_of(documents))
    assert any(fault in found for found in faults(documents, paths))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda one, pod: pod.pop("nodeSelector"), "placed apart"),
        (lambda one, pod: pod.pop("tolerations"), "placed apart"),
        (lambda one, pod: one["metadata"].update(name="a" * 53), "no name: aaa"),
        (lambda one, pod: one.update(kind="Service", metadata={"name": "my.app"}), "no name: my.app"),
    ],
)
def test_a_broken_pod_is_found(chart, paths, change, fault):
    documents = copy.deepcopy(rendered(chart, FULL))
    change(*pods(documents)[-1])
    assert any(fault in found for found in faults(documents, paths))


def test_helm_finds_nothing():
    found = helm.lint(str(CHART))
    assert found["errors"] == [] and [one["error"] for one in found["messages"] if one["severity"] > 1] == []


def test_the_chart_is_of_this_version():
    (chart,) = read_yaml((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == gnomon.__version__
    text = (CHART / "templates" / "NOTES.txt").read_text("utf-8")
    assert not command_faults(["token", *re.search(r"-- gnomon token (.*)", text)[1].replace('"', "").split()[:4]])
