"""What the description of the API (OpenAPI) says about questions and reports: their shape, with answers as they are."""

from __future__ import annotations

from typing import Any

_RANGE: dict[str, Any] = {
    "description": "A named range, or a start and an end, of which the end is not part",
    "anyOf": [
        {"type": "string", "examples": ["7d", "today", "last_month", "all"]},
        {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 2, "maxItems": 2},
        {"type": "object", "required": ["start", "end"], "additionalProperties": False,
         "properties": {"start": {"type": ["string", "number"]}, "end": {"type": ["string", "number"]}}},
    ],
}  # fmt: skip
_METRIC: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "required": ["agg"], "additionalProperties": False, "properties": {
            "agg": {"type": "string"}, "field": {"type": "string"}, "as": {"type": "string"}, "where": {}}},
    ]
}  # fmt: skip
_INCLUDE: dict[str, Any] = {
    "type": ["object", "null"],
    "additionalProperties": False,
    "properties": {
        **{name: {"type": "boolean"} for name in ("imports", "time_labels", "total_rows", "totals")},
        "comparisons": {
            "type": ["object", "null"],
            "required": ["mode"],
            "additionalProperties": False,
            "properties": {"mode": {"enum": ["previous_period", "year_over_year", "custom"]}, "date_range": _RANGE},
        },
    },
}
_PAGES: dict[str, Any] = {
    "type": ["object", "null"],
    "additionalProperties": False,
    "properties": {
        "limit": {"type": ["integer", "null"], "minimum": 1, "maximum": 10_000},
        "offset": {"type": "integer", "minimum": 0, "maximum": 200_000},
        "after": {"type": ["string", "null"], "description": "`next` of the page before"},
    },
}
_BODY: dict[str, Any] = {
    "type": "object",
    "title": "Question",
    "required": ["metrics"],
    "additionalProperties": False,
    "properties": {
        "site_id": {"type": ["string", "null"], "description": "The project; only a token of every project needs it"},
        "metrics": {"type": "array", "items": _METRIC, "minItems": 1, "maxItems": 50},
        "dimensions": {"type": "array", "items": {"type": "string"}, "maxItems": 10},
        "date_range": _RANGE,
        "filters": {"type": ["array", "null"], "items": {}, "examples": [[["is", "event:page", ["/pricing"]]]]},
        "timezone": {"type": ["string", "null"]},
        "order_by": {"type": ["array", "null"], "items": {}, "examples": [[["visitors", "desc"]]]},
        "include": _INCLUDE,
        "pagination": _PAGES,
        "limit": {"type": ["integer", "null"], "minimum": 1, "maximum": 10_000},
        "compare": {"anyOf": [*_RANGE["anyOf"], {"type": "null"}]},
        "after": {"type": ["string", "null"]},
        "totals": {"type": "boolean"},
        "dataset": {"enum": ["events", "samples"]},
        "basis": {"enum": ["auto", "raw"]},
    },
}
_QUESTIONS = {
    "plausible": {
        "summary": "As the Plausible Stats API has it",
        "value": {"site_id": "default", "metrics": ["visitors", "pageviews"], "dimensions": ["event:page"],
                  "date_range": "7d", "filters": [["is", "visit:source", ["web"]]],
                  "order_by": [["visitors", "desc"]], "pagination": {"limit": 100}},
    },
    "series": {
        "summary": "By day, beside the days before",
        "value": {"metrics": ["requests", "success_rate", "p95_duration_ms"], "dimensions": ["time:day"],
                  "date_range": ["2026-01-01", "2026-01-08"], "timezone": "Europe/Berlin", "compare": "previous"},
    },
}  # fmt: skip
_ROWS = {
    "results": [{"dimensions": ["/pricing"], "metrics": [42, 61]}],
    "meta": {"basis": "raw", "exact": True, "percentile_error": 0.0, "uncollected_seconds": 0.0, "gap_rows": [],
             "next": None},
    "query": {"site_id": "default", "metrics": ["visitors", "pageviews"], "dimensions": ["event:page"],
              "date_range": ["2026-01-08T12:00:00+00:00", "2026-01-15T12:00:00+00:00"], "timezone": "UTC"},
}  # fmt: skip
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The client has just this answer"}}
QUESTION: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _BODY, "examples": _QUESTIONS}}},
    "responses": {
        "200": {
            "description": "The answer",
            "content": {
                "application/json": {"schema": {"type": "object", "required": ["meta", "query"]}, "example": _ROWS},
                "text/csv": {
                    "schema": {"type": "string"},
                    "example": "event:page,visitors,pageviews\n/pricing,42,61\n",
                },
                "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
}

_META = {"start": "2026-01-14T12:00:00+00:00", "end": "2026-01-15T12:00:00+00:00", "timezone": "UTC", "basis": "raw",
         "exact": True, "percentile_error": 0.0, "uncollected_seconds": 0.0}  # fmt: skip
_SUMMARY = {
    "period_hours": 24.0, "events": 20, "people": 7, "requests": 10, "successes": 8, "failures": 2, "unknown": 10,
    "success_rate": 0.8, "mean_duration_ms": 62.5, "by_type": {"page_view": 10, "request": 10}, "meta": _META,
}  # fmt: skip
_PERIOD = {
    **_SUMMARY, "sessions": 7, "sessions_until": None, "p95_duration_ms": 85.0,
    "top_pages": [{"page": "/buy", "events": 10}], "reasons": {},
    "top_types": [{"type": "page_view", "events": 10}, {"type": "request", "events": 10}],
}  # fmt: skip
ANSWER_EXAMPLES: dict[str, Any] = {
    "summary": _SUMMARY,
    "user": {
        "user_id": "u1", "first_seen": "2026-01-02T08:00:00+00:00", "last_seen": "2026-01-15T11:00:00+00:00",
        "events": 14, "failures": 1, "mean_duration_ms": 71.0, "by_type": {"page_view": 7, "request": 7},
        "recent": [], "meta": {"exact": True, "detail_since": None},
    },
    "dashboard": {
        **dict.fromkeys(("today", "last_24_hours", "last_7_days", "last_30_days"), _PERIOD),
        "health": {"level": "critical", "period": "last_24_hours", "reasons": [
            {"metric": "error_rate", "value": 0.2, "threshold": 0.1, "level": "critical"}]},
        "reasons": {},
    },
}  # fmt: skip
