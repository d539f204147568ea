"""What admins read and set: sampling, retention, backups, the audit, write keys and event types.

Each is one verb of the engine, in the caller's name, so rights and audit are the engine's.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gnomon.ingest.typerules import TypeRules
from gnomon.server.answers import json_answer
from gnomon.server.callers import Access, needs
from gnomon.server.calls import BODY_PROBLEMS, Call
from gnomon.server.keys import keys_of, make_key, revoke_key
from gnomon.server.problems import answers, not_found
from gnomon.timerange import from_us

_SAMPLING = {"low": 10_000.0, "high": 100_000.0, "rate": 0.1}
_RETENTION = {"raw_data_days": 90, "hourly_aggregates_days": 365, "daily_aggregates_days": None, "metric_days": 365,
              "by_type": {"heartbeat": 7}, "legal_hold_until": None}  # fmt: skip
_KEY = {"id": "3f9a0c1d2e4b", "name": "web shop", "origins": ["https://shop.example"],
        "created_at": "2026-01-15T12:00:00+00:00", "revoked_at": None}  # fmt: skip
_TYPES = {"allowed": ["page_view", "click"], "denied": [], "schemas": {"click": {"required": ["button"]}}}
_ROLLED = {"events": 1_200, "late": 0, "until": "2026-01-15T12:00:00+00:00", "seconds": 0.2}
_ENTRY = {"number": 7, "at": "2026-01-15T12:00:00+00:00", "project": "default", "who": "ann", "operation": "query",
          "range": None, "outcome": "ok", "rows": 3, "duration_ms": 1.5, "detail": {}, "hash": "..."}  # fmt: skip
_REFUSED = {"received_at": "2026-01-15T12:00:00+00:00", "code": "empty-name", "detail": "type: empty", "source": None,
            "id": None, "event": '{"type":""}'}  # fmt: skip
_BOOKS = {"received": 3, "stored": 2, "duplicate": 0, "sampled_out": 0, "pending": 0, "rejected": {"empty-name": 1},
          "shed": {}, "closes": True}  # fmt: skip
_BACKUP = {"path": "backups/gnomon-usage-20260115T120000.000000Z.tar.zst", "bytes": 12_345, "counts": {"events": 1_200},
           "verified": True, "created_at": "2026-01-15T12:00:00+00:00", "seconds": 1.2, "paused_seconds": 0.1,
           "encrypted": False}  # fmt: skip

_PRUNED = {"dry_run": True, "raw": 120_000, "hourly": 340, "daily": 0, "samples": 0, "bytes_freed": 4_500_000,
           "seconds": 0.3}  # fmt: skip
_FORGOTTEN = {"at": "2026-01-15T12:00:00+00:00", "deleted": False, "rows": 12, "named": 0, "samples": 0,
              "quarantined": 1, "days": 2, "remaining": [], "backups_gone": "2026-02-15T02:00:00+00:00",
              "backups": [{"target": "/var/lib/gnomon/backups", "backups": 30, "gone": "2026-02-15T02:00:00+00:00",
                           "reason": None}]}  # fmt: skip
_ALERT = {"alert": "disk-full", "state": "firing", "level": "warning", "project": None, "resolved": None,
          "message": "200 MiB are free on the disk of the store", "remedy": "Free disk space.",
          "since": "2026-01-15T12:00:00+00:00"}  # fmt: skip

_KEY_ID = Path(pattern="^[0-9a-f]{12}$", description="The id of a key")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Sampling(_Strict):
    """Thresholds of sampling: events a minute, and the share that is kept from `high` on."""

    low: float = Field(examples=[10_000])
    high: float = Field(examples=[100_000])
    rate: float = Field(examples=[0.1])


class Retention(_Strict):
    """How many days data is kept; null: for ever. What is left out stays as it is; a null ends a legal hold."""

    raw_data_days: int | None = Field(None, examples=[90])
    hourly_aggregates_days: int | None = Field(None, examples=[365])
    daily_aggregates_days: int | None = None
    metric_days: int | None = Field(None, examples=[365])
    by_type: dict[str, int] = Field(default_factory=dict, examples=[{"heartbeat": 7}])
    legal_hold_until: Annotated[datetime | None, Field(strict=False)] = None


class Span(_Strict):
    """Up to when to roll up; now when it is left out."""

    date_range: str | list[str] | None = Field(None, examples=["7d"])


class Pruning(_Strict):
    """Whether only to count what would go, which is so unless `false` is sent."""

    dry_run: bool = Field(True, examples=[True])


class Forgetting(_Strict):
    """Whom to erase, and whether their events go as well instead of staying as anonymous counts."""

    user_id: str = Field(examples=["u1"], min_length=1, max_length=200)
    delete_events: bool = False


class NewKey(_Strict):
    """A write key to be made: what it is called, and the origins whose pages may use it (none: any)."""

    name: str = Field(examples=["web shop"], max_length=200)
    origins: list[str] = Field([], examples=[["https://shop.example"]], max_length=100)


class Types(_Strict):
    """Which event types are taken (null: any), which are not, and JSON Schemas for the properties of some."""

    allowed: list[str] | None = Field(None, examples=[["page_view", "click"]])
    denied: list[str] = []
    schemas: dict[str, Any] = Field({}, examples=[{"click": {"type": "object", "required": ["button"]}}])


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["admin"], route_class=Call)
    _add_policies(routes)
    _add_upkeep(routes)
    _add_removal(routes)
    _add_keys(routes)
    _add_types(routes)
    return routes


def _add_policies(routes: APIRouter) -> None:
    @routes.get("/admin/sampling", responses=answers(_SAMPLING))
    def get_sampling(here: Access = needs("read")) -> Response:
        """The thresholds of sampling in force."""
        return json_answer(asdict(here.engine.sampling_thresholds()))

    @routes.put("/admin/sampling", responses=answers(_SAMPLING, *BODY_PROBLEMS))
    def put_sampling(wanted: Sampling, here: Access = needs("admin")) -> Response:
        """Set the thresholds of sampling; they are in force at once."""
        here.engine.set_sampling_thresholds(wanted.low, wanted.high, wanted.rate)
        return json_answer(asdict(here.engine.sampling_thresholds()))

    @routes.get("/admin/retention", responses=answers(_RETENTION))
    def get_retention(here: Access = needs("read")) -> Response:
        """How long data is kept."""
        return json_answer(here.engine.get_retention_policy())

    @routes.put("/admin/retention", responses=answers(_RETENTION, *BODY_PROBLEMS))
    def put_retention(wanted: Retention, here: Access = needs("admin")) -> Response:
        """Set how long data is kept; what is left out stays as it is, a legal hold as well."""
        here.engine.set_retention_policy(**wanted.model_dump(exclude_unset=True))
        return json_answer(here.engine.get_retention_policy())


def _add_upkeep(routes: APIRouter) -> None:
    @routes.post("/aggregate", responses=answers(_ROLLED, *BODY_PROBLEMS))
    def aggregate(span: Annotated[Span | None, Body()] = None, here: Access = needs("admin")) -> Response:
        """Bring the rollups up to date, and wait for it."""
        report = here.engine.trigger_aggregation(None if span is None else span.date_range)
        return json_answer({"events": report.events, "late": report.late, "until": from_us(report.until_us),
                            "seconds": report.seconds})  # fmt: skip

    @routes.post("/admin/backup", responses=answers(_BACKUP, 507))
    def backup(here: Access = needs("admin")) -> Response:
        """Make a backup of the whole store, restore and compare it, and wait for that."""
        made = here.engine.trigger_backup()
        return json_answer(asdict(made))

    @routes.get("/admin/audit", responses=answers({"entries": [_ENTRY]}, 422))
    def audit(
        here: Access = needs("read"),
        date_range: Annotated[str, Query(max_length=100, examples=["7d"])] = "all",
        user: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    ) -> Response:
        """Who did what, newest first; without the scope `admin` only what the caller did."""
        given: Any = date_range.split(",") if "," in date_range else date_range
        return json_answer({"entries": [entry.to_dict() for entry in here.engine.get_access_log(given, user, limit)]})

    @routes.get("/admin/quarantine", responses=answers({"events": [_REFUSED]}, 422))
    def quarantine(
        here: Access = needs("read"),
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
        code: Annotated[str | None, Query(max_length=100)] = None,
    ) -> Response:
        """The newest refused events, with the reason and what was sent (cut)."""
        return json_answer({"events": here.engine.quarantine(limit, code)})

    @routes.get("/admin/alerts", responses=answers({"alerts": [_ALERT]}))
    def alerts(here: Access = needs("admin")) -> Response:
        """What is wrong now with the store and the project, the oldest first; it is looked at for this call."""
        return json_answer({"alerts": [alert.to_dict() for alert in here.engine.alerts()]})

    @routes.get("/admin/books", responses=answers({"event": _BOOKS, "sample": _BOOKS}))
    def books(here: Access = needs("read")) -> Response:
        """Where every event and metric sample went that was ever received."""
        return json_answer({kind: here.engine.books(kind).to_dict() for kind in ("event", "sample")})


def _add_removal(routes: APIRouter) -> None:
    @routes.post("/admin/prune", responses=answers(_PRUNED, *BODY_PROBLEMS))
    def prune(wanted: Annotated[Pruning | None, Body()] = None, here: Access = needs("admin")) -> Response:
        """Delete what the policy no longer keeps, and wait for it; only counted unless `dry_run` is `false`.

        Both bring the rollups up to date first, which changes no number but may take long.
        """
        return json_answer(here.engine.prune(dry_run=wanted is None or wanted.dry_run))

    @routes.post("/admin/forget", responses=answers(_FORGOTTEN, *BODY_PROBLEMS))
    def forget(wanted: Forgetting, here: Access = needs("admin")) -> Response:
        """Erase a person, wait for it, and get the certificate; once more is no harm."""
        return json_answer(here.engine.forget(wanted.user_id, delete_events=wanted.delete_events))


def _add_keys(routes: APIRouter) -> None:
    @routes.get("/admin/keys", responses=answers({"keys": [_KEY]}))
    def keys(here: Access = needs("admin")) -> Response:
        """The write keys of the project, without their texts."""
        return json_answer({"keys": [key.told() for key in keys_of(here.own)]})

    made = answers({**_KEY, "key": "gwk_..."}, *BODY_PROBLEMS, status=201)

    @routes.post("/admin/keys", status_code=201, responses=made)
    def new_key(wanted: NewKey, here: Access = needs("admin")) -> Response:
        """Make a write key. This answer is the only one that shows it."""
        with here.named() as engine:
            key, text = make_key(engine, wanted.name, wanted.origins)
        return json_answer({**key.told(), "key": text}, 201)

    @routes.delete("/admin/keys/{key_id}", responses=answers(_KEY, 404))
    def end_key(key_id: Annotated[str, _KEY_ID], here: Access = needs("admin")) -> Response:
        """Revoke a write key; it is of no use within a second."""
        with here.named() as engine:
            key = revoke_key(engine, key_id)
        if key is None:
            raise not_found()
        here.service.keys.forget()
        return json_answer(key.told())


def _add_types(routes: APIRouter) -> None:
    @routes.get("/admin/types", responses=answers(_TYPES))
    def get_types(here: Access = needs("read")) -> Response:
        """Which event types the project takes, and their schemas."""
        return json_answer(here.service.rule_book(here.own).rules)

    @routes.put("/admin/types", responses=answers(_TYPES, *BODY_PROBLEMS))
    def put_types(wanted: Types, here: Access = needs("admin")) -> Response:
        """Set which event types the project takes, and their schemas; in force at once."""
        rules = msgspec.convert(wanted.model_dump(), TypeRules)
        with here.named() as engine, engine._audited("set_types") as note:
            note.detail = {"allowed": None if rules.allowed is None else len(rules.allowed),
                           "denied": len(rules.denied), "schemas": len(rules.schemas)}  # fmt: skip
            here.service.rule_book(here.own).set(rules)
        return json_answer(rules)
