"""Every call of the description: who may make it, whose data it shows, what it does with input that nobody meant."""

from __future__ import annotations

import json
import re
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import API, bearer, served

DOCS = Path(__file__).resolve().parents[2] / "docs" / "server.md"
SCOPES = ("", "ingest", "ingest:any", "read", "admin")
OPENS = {"ingest": {"ingest", "ingest:any"}, "read": {"read", "admin"}, "admin": {"admin"}}
#: Nothing of it may be seen from another project.
MARK = "secretb"


@pytest.fixture(scope="module")
def service():
    with served(max_new_names_per_minute=0) as found:
        yield found


def scopes_of_the_docs() -> dict[str, str]:
    """`{"get /path": scope}` of the table of routes."""
    found = {}
    for routes, scopes in re.findall(r"^\| (`[A-Z]+ /.*?) \| (.*?) \|", DOCS.read_text("utf-8"), re.MULTILINE):
        named = [tuple(one.split(" ")) for one in re.findall(r"`([^`]+)`", routes)]
        words = re.findall(r"`([^`]+)`", scopes) or [""]
        for place, (method, path) in enumerate(named):
            found[f"{method.lower()} {path}"] = words[min(place, len(words) - 1)]
    return found


def calls(service):
    """Method, path below the prefix, and description of every call that needs a token."""
    for path, found in service.app.openapi()["paths"].items():
        for method, call in found.items():
            if path.startswith(API) and call.get("security"):
                yield method, path.removeprefix(API), call


def example(call, schemas) -> object:
    """A body that fits a call."""
    for content in call.get("requestBody", {}).get("content", {}).values():
        for one in content.get("examples", {}).values():
            return one["value"]
        kind = content["schema"]
        kind = next((one for one in kind.get("anyOf", [kind]) if "$ref" in one), kind)
        fields = schemas[kind["$ref"].rsplit("/", 1)[1]]["properties"] if "$ref" in kind else {}
        return {name: field["examples"][0] for name, field in fields.items() if field.get("examples")}
    return None


def made(service, method: str, path: str, call, query: str = "", **claims):
    body = example(call, service.app.openapi()["components"]["schemas"])
    where = re.sub(r"\{[^}]+\}", "3f9a0c1d2e4b", path) + query
    return service.client.request(method, API + where, json=body, headers=bearer(**claims) if claims else {})


def test_every_call_asks_for_the_scope_that_the_docs_say(service):
    known, seen = scopes_of_the_docs(), 0
    for method, path, call in calls(service):
        name = f"{method} {path}"
        assert name in known, f"{name} is missing in the table of routes of docs/server.md"
        assert made(service, method, path, call).status_code == 401, name
        for scope in SCOPES:
            status = made(service, method, path, call, sub="u1", scope=scope).status_code
            if scope in OPENS[known[name]]:
                assert status not in (401, 403) and status < 500, (name, scope, status)
            else:
                assert status == 403, (name, scope, status)
            seen += 1
    assert seen > 50
    documented = {name for name, scope in known.items() if scope}
    assert documented == {f"{method} {path}" for method, path, _ in calls(service)}


def test_no_call_reaches_another_project(service):
    far = {"project": f"{MARK}-project", "sub": f"{MARK}-user", "scope": "ingest:any admin"}
    key = service.post("/admin/keys", {"name": f"{MARK}-key"}, claims=far).json()["id"]
    job = service.post("/exports", {"format": "csv"}, claims=far).json()["id"]
    event = {"type": f"{MARK}-type", "source": f"{MARK}-source", "user_id": f"{MARK}-user", "id": f"{MARK}-id"}
    assert service.post("/ingest", [event, {"type": "", "source": f"{MARK}-bad"}], claims=far).status_code == 200
    service.engine.flush()
    assert service.get(f"/exports/{job}", claims=far).status_code == 200
    foreign = {"key_id": key, "user_id": f"{MARK}-user", "job_id": job}
    own = {"sub": "u1", "scope": "ingest:any admin", "project": "neighbour"}
    for method, path, call in calls(service):
        name = f"{method} {path}"
        far_off = made(service, method, path, call, f"?project={MARK}-project", **own)
        assert far_off.status_code == 403 and MARK not in far_off.text, name
        near = made(service, method, path, call, **own)
        assert MARK not in near.text, name
    known = set()
    for method, path, _ in calls(service):
        ids = re.findall(r"{(\w+)}", path)
        for sub in ("u1", far["sub"]) if ids else ():  # also one of the same name, whose own it would be
            headers = bearer(**{**own, "sub": sub})
            there = service.client.request(method, API + path.format_map(foreign), headers=headers)
            assert there.status_code == 404 and MARK not in there.text, (method, path)
        known |= {*ids}
    assert known == {*foreign}  # a route with another id has raised KeyError
    kept = service.get("/admin/keys", claims=far).json()["keys"]
    assert [one["revoked_at"] for one in kept] == [None]


def hunted(service, examples: int, document=None) -> None:
    """Ask every call things that its description allows and does not; the client may name any project."""
    document = document or json.loads(json.dumps(service.app.openapi()))
    schema = schemathesis.openapi.from_dict(document)
    faults = []

    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=examples, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
        )  # fmt: skip
        @hypothesis.given(case=operation.as_strategy())
        def ask(case):
            answer = case.call(base_url=f"http://127.0.0.1:{service.port}",
                               headers=bearer(scope="ingest:any admin", project="*"))  # fmt: skip
            case.validate_response(answer, checks=CHECKS)

        try:
            ask()
        except (Exception, BaseExceptionGroup) as error:  # all faults at once are more use than the first
            faults.append(f"{operation.label}: {error} {getattr(error, 'exceptions', '')}")
    assert not faults, "\n\n".join(faults)
    for engine in service.app.state.service.projects.opened():
        assert engine.books().closes() and engine.books("sample").closes()


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_generated_calls_meet_no_unplanned_fault(service):
    hunted(service, 4)


def test_a_call_that_is_not_as_described_is_found(service):
    document = json.loads(json.dumps(service.app.openapi()))
    paths = document["paths"]
    document["paths"] = {path: paths[path] for path in (f"{API}/admin/sampling", f"{API}/admin/audit")}
    paths[f"{API}/admin/audit"]["get"]["responses"].pop("422")
    with pytest.raises(AssertionError, match="Undocumented"):
        hunted(service, 30, document)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_many_generated_calls_meet_no_unplanned_fault(service):
    hunted(service, 150)
