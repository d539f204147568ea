"""The description of the API in the repository is that of the service, and says of every call what it has to say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import gnomon

FILE = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
PUBLIC = ("/healthz", "/metrics")


@pytest.fixture(scope="module")
def document():
    with gnomon.open(":memory:") as engine:
        return gnomon.create_app(engine).openapi()


def calls(document):
    for path, found in document["paths"].items():
        for method, call in found.items():
            yield f"{method} {path}", call


def test_the_file_is_the_description(document):
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("WRITE_OPENAPI"):
        FILE.write_text(text, "utf-8")
    assert FILE.read_text("utf-8") == text, "run `make openapi`"


def test_every_call_is_described_with_its_errors_and_an_example(document):
    assert document["openapi"].startswith("3.1")
    assert {"token", "key", "key_in_query"} <= set(document["components"]["securitySchemes"])
    for name, call in calls(document):
        assert call.get("description"), name
        responses = call["responses"]
        if not name.endswith(PUBLIC):
            assert call.get("security"), name
            assert {"401", "403", "429", "503"} <= set(responses), name
        for status, told in responses.items():
            for kind, content in (
                told.get("content", {}).items() if int(status) < 300 and name != "get /metrics" else ()
            ):
                binary = kind.startswith("application/vnd.")  # of Parquet, Arrow and Excel
                assert binary or {"example", "examples"} & content.keys(), (name, kind)
            if int(status) >= 400 and not name.endswith("/healthz"):
                assert list(told["content"]) == ["application/problem+json"], (name, status)


def test_every_schema_is_one(document):
    for kind in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(kind)
    for _, call in calls(document):
        for content in call.get("requestBody", {}).get("content", {}).values():
            Draft202012Validator.check_schema(content["schema"])
