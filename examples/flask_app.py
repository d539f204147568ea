"""A Flask application that records its requests and shows its own usage.

flask --app examples/flask_app:create_app run
"""

from __future__ import annotations

from flask import Flask, Response, abort, request, session

import gnomon
from gnomon.instrument.wsgi import NOTES, RecordingMiddleware


def create_app(store: str = "usage.duckdb") -> Flask:
    app = Flask(__name__)
    app.engine = gnomon.open(store)  # closed when the interpreter ends
    app.wsgi_app = RecordingMiddleware(app.wsgi_app, app.engine, application="shop", exclude=["/health"])

    @app.before_request
    def who() -> None:
        if app.secret_key and "user_id" in session:  # a signed session: the id is verified
            request.environ.get(NOTES, {})["user_id"] = session["user_id"]

    @app.get("/orders/<int:order_id>")
    def order(order_id: int) -> dict[str, int]:
        if order_id > 1_000:
            abort(404)
        return {"order": order_id}

    @app.get("/report")
    def report() -> Response:
        return Response((f"{line}\n" for line in range(10_000)), mimetype="text/plain")

    @app.get("/usage")
    def usage() -> list:
        return app.engine.query(["requests", "error_rate", "p95_duration_ms"], ["endpoint"], "24h").to_dicts()

    return app
