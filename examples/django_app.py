"""A Django project in one file that records its requests, under ASGI and under WSGI.

DJANGO_SECRET_KEY=... uvicorn --app-dir examples django_app:application
"""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

import gnomon
from gnomon.instrument import asgi, wsgi

if not settings.configured:
    settings.configure(
        SECRET_KEY=os.environ["DJANGO_SECRET_KEY"],
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        # Django keeps its route to itself; this tells it to the recording middleware around the application.
        MIDDLEWARE=["gnomon.instrument.django.TellRoute"],
    )
    django.setup()

engine = gnomon.open(os.environ.get("GNOMON_DATABASE_URL", "usage.duckdb"))


async def order(request: HttpRequest, order_id: int) -> JsonResponse:
    return JsonResponse({"order": order_id})


def report(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(f"{line}\n" for line in range(1_000))


def usage(request: HttpRequest) -> JsonResponse:
    rows = engine.query(["requests", "p95_duration_ms"], ["endpoint"], "24h").to_dicts()
    return JsonResponse({"usage": rows})


urlpatterns = [path("orders/<int:order_id>/", order), path("report", report), path("usage", usage)]

application = asgi.RecordingMiddleware(ASGIHandler(), engine, application="shop")
wsgi_application = wsgi.RecordingMiddleware(WSGIHandler(), engine, application="shop")
