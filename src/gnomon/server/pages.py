"""The description of the API as a page: made from the OpenAPI document, without any script.

A list of calls needs no program in the reader's browser, so the page may forbid scripts altogether.
"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gnomon.server.callers import service_of
from gnomon.server.problems import not_found

_POLICY = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h2 { border-top: 1px solid #d0d7de; padding-top: 1rem; font-size: 1.05rem }
pre, code { background: #f3f5f7; border-radius: 4px } pre { padding: .6rem; overflow-x: auto } code { padding: 0 .2rem }
table { border-collapse: collapse } td, th { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } pre, code { background: #161b22 } }
"""


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter()

    @routes.get("/docs", include_in_schema=False)
    def docs(request: Request) -> Response:
        _check_shown(request)
        return Response(page(request.app.openapi()), media_type="text/html",
                        headers={"Content-Security-Policy": _POLICY})  # fmt: skip

    @routes.get("/docs.css", include_in_schema=False)
    def style(request: Request) -> Response:
        _check_shown(request)
        return Response(_STYLE, media_type="text/css", headers={"Cache-Control": "max-age=3600"})

    return routes


def _check_shown(request: Request) -> None:
    if not service_of(request).settings.docs_public:
        raise not_found()


def page(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Gnomon API</title>',
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="docs.css"></head><body>',
        f"<h1>Gnomon API {escape(document['info']['version'])}</h1>",
        '<p>Every call but <code>healthz</code> needs <code>Authorization: Bearer TOKEN</code>. '
        'For programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]  # fmt: skip
    calls = [(method, path, call) for path, found in document["paths"].items() for method, call in found.items()]
    links = "".join(
        f'<li><a href="#{_anchor(m, p)}"><code>{m.upper()} {escape(p)}</code></a></li>' for m, p, _ in calls
    )
    parts += [f"<ul>{links}</ul>", *(_call(*one) for one in calls)]
    return "".join([*parts, "</body></html>"])


def _anchor(method: str, path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{method}{path}".lower()).strip("-")


def _told(text: str) -> str:
    """A text of the description: paragraphs, and what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)).replace("\n\n", "</p><p>")


def _call(method: str, path: str, call: dict[str, Any]) -> str:
    title = f"<code>{method.upper()} {escape(path)}</code>"
    found = f'<h2 id="{_anchor(method, path)}">{title}</h2><p>{_told(call.get("description", ""))}</p>'
    rows = "".join(
        f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}</td>"
        f"<td>{_told(one.get('description', ''))}</td></tr>"
        for one in call.get("parameters", [])
    )
    if rows:
        found += f"<table><tr><th>parameter</th><th>in</th><th></th></tr>{rows}</table>"
    for content in call.get("requestBody", {}).get("content", {}).values():
        for example in content.get("examples", {}).values():
            found += f"<pre>{escape(json.dumps(example['value'], indent=1))}</pre>"
    for content in call["responses"].get("200", {}).get("content", {}).values():
        if "example" in content:
            found += f"<p>An answer:</p><pre>{escape(json.dumps(content['example'], indent=1))}</pre>"
    answers = ", ".join(f"{status} {escape(told['description'])}" for status, told in call["responses"].items())
    return f"{found}<p>Answers: {answers}.</p>"
