"""The peer of `bench service`: an event service as one writes it in an afternoon, and a call that does nothing.

FastAPI, pydantic models, SQLAlchemy's ORM and PostgreSQL with its own settings; one commit a call, a unique id. It runs
as `python -m bench.plain_service PORT DATABASE_URL`.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel
from sqlalchemy import JSON, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker


class Incoming(BaseModel):
    """One event as it is sent."""

    id: str
    ts: datetime
    type: str
    user_id: str | None = None
    session_id: str | None = None
    source: str | None = None
    endpoint: str | None = None
    duration_ms: float | None = None
    properties: dict[str, Any] = {}


class Tables(DeclarativeBase):
    """What SQLAlchemy knows."""


class Event(Tables):
    """One event as it is kept."""

    __tablename__ = "events"
    id: Mapped[str] = mapped_column(primary_key=True)
    ts: Mapped[datetime] = mapped_column(index=True)
    type: Mapped[str] = mapped_column(index=True)
    user_id: Mapped[str | None] = mapped_column(index=True)
    session_id: Mapped[str | None]
    source: Mapped[str | None]
    endpoint: Mapped[str | None]
    duration_ms: Mapped[float | None]
    properties: Mapped[dict[str, Any]] = mapped_column(JSON)


def app_on(url: str) -> FastAPI:
    """The service on a database."""
    engine = create_engine(url, pool_size=10)
    Tables.metadata.create_all(engine)
    session = sessionmaker(engine)
    app = FastAPI()

    @app.post("/one")
    def one(event: Incoming) -> dict[str, int]:
        with session() as db:
            db.add(Event(**event.model_dump()))
            db.commit()
        return {"ingested": 1}

    @app.post("/many")
    def many(events: list[Incoming]) -> dict[str, int]:
        with session() as db:
            db.add_all([Event(**event.model_dump()) for event in events])
            db.commit()
        return {"ingested": len(events)}

    @app.post("/nothing")
    async def nothing(request: Request) -> dict[str, int]:
        await request.body()
        return {"ingested": 1}

    return app


if __name__ == "__main__":
    uvicorn.run(app_on(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
