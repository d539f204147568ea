"""What the description of the API (OpenAPI) says besides what follows from the routes.

Bodies that are read raw, with examples; and that every error is a problem, as no route can say for itself.
"""

from __future__ import annotations

from typing import Any

from gnomon.event import FIELDS, GIVEN, SAMPLE_KINDS, WIRE_ALIASES, Field

_KINDS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"}, "integer": {"type": "integer"}, "real": {"type": "number"},
    "boolean": {"type": "boolean"}, "json": {"type": "object"}, "time": {"type": "string", "format": "date-time"},
}  # fmt: skip


def _field(field: Field) -> dict[str, Any]:
    told = dict(_KINDS[field.kind])
    if field.kind == "text":
        told |= {"minLength": 1, "maxLength": field.max_bytes}
    if field.low is not None:
        told["minimum"] = field.low
    if field.high is not None:
        told["maximum"] = field.high
    return told if field.name == "type" else {**told, "type": [told["type"], "null"]}


_FIELDS = {field.name: _field(field) for field in FIELDS if field.name in GIVEN}
EVENT: dict[str, Any] = {
    "type": "object",
    "title": "Event",
    "required": ["type"],
    "additionalProperties": False,
    "properties": {**_FIELDS, **{alias: _FIELDS[name] for alias, name in WIRE_ALIASES.items()}},
}
SAMPLE: dict[str, Any] = {
    "type": "object",
    "title": "Sample",
    "required": ["name", "value"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 200},
        "value": {"type": "number"},
        "kind": {"enum": list(SAMPLE_KINDS)},
        "labels": {"type": ["object", "null"]},
        "ts": {"type": ["string", "null"], "format": "date-time"},
        "id": {"type": ["string", "null"], "minLength": 1, "maxLength": 200},
    },
}
#: How a write key may be sent; tokens are described by the dependency that reads them.
KEYS = {
    "key": {"type": "apiKey", "in": "header", "name": "X-Gnomon-Key", "description": "A write key"},
    "key_in_query": {"type": "apiKey", "in": "query", "name": "key", "description": "A write key, for beacons"},
}
_PROJECT = {"name": "project", "in": "query", "required": False, "schema": {"type": "string", "maxLength": 200},
            "description": "Which project; only for tokens of every project (`*`)"}  # fmt: skip
_AN_EVENT = {"id": "0193-1", "ts": "2026-01-15T12:00:00Z", "type": "page_view", "user_id": "u1",
             "endpoint": "/pricing", "properties": {"plan": "pro"}}  # fmt: skip
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["ingested", "rejected"],
    "properties": {
        "ingested": {"type": "integer"},
        "rejected": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"index": {"type": "integer"}, "id": {"type": ["string", "null"]},
                               "code": {"type": "string"}},
            },
        },
    },
}  # fmt: skip


def _taking(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    body = {"anyOf": [schema, {"type": "array", "items": schema, "maxItems": 1_000}]}
    said = {"example": {"ingested": 1, "rejected": []}, "schema": _ANSWER}
    return {
        "security": [{"token": []}, *({name: []} for name in KEYS)],
        "parameters": [_PROJECT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body, "examples": {
            "one": {"value": example}, "batch": {"value": [example]}}}}},
        "responses": {"200": {"description": "Kept", "content": {"application/json": said}}},
    }  # fmt: skip


INGEST = _taking(EVENT, _AN_EVENT)
SAMPLES = _taking(SAMPLE, {"name": "queue_depth", "value": 12, "kind": "gauge", "labels": {"queue": "mail"}})

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}}


def finished(document: dict[str, Any]) -> dict[str, Any]:
    """The document of the framework, in which errors are what they are here."""
    for calls in document["paths"].values():
        for call in calls.values():
            for status, told in call["responses"].items():
                if int(status) >= 400:
                    told["content"] = PROBLEM
    document["components"]["securitySchemes"].update(KEYS)
    kinds = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        kinds.pop(name, None)
    return document
