"""Answers that are no error: plain values as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

encoded = msgspec.json.Encoder(enc_hook=str, decimal_format="string").encode


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None,
                media_type: str = "application/json") -> Response:  # fmt: skip
    """`value` as JSON: datetimes in ISO 8601 with their offset, decimals as text, NaN as null."""
    return Response(encoded(value), status, headers, media_type)
