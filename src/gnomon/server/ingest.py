"""`POST /ingest` and `POST /samples`: from the raw body to an acknowledgement, which means that it is kept.

The body is read here, within its size and time; the threads of `Intake` do the rest. Nothing of a body that is refused
as a whole is stored; what is wrong with single events is listed in the answer, and kept in the quarantine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gnomon.engine import AnalyticsEngine
from gnomon.ingest.gate import Refused
from gnomon.ingest.intake import Rule, Sender
from gnomon.server.answers import json_answer
from gnomon.server.callers import Caller, project_wanted, refuse, service_of
from gnomon.server.calls import announced, check_json, read_body
from gnomon.server.description import INGEST, SAMPLES
from gnomon.server.intake import Outcome, Rules
from gnomon.server.problems import Problem, problems
from gnomon.server.service import Service

_CODES_ARE = "The codes of refusal are described in the documentation."
_FORMS_ARE = "Send one event as an object of its fields, or several as an array of such objects."


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["ingest"])
    about = problems(400, 408, 413, 415, 422, 507)

    routes.post("/ingest", responses=about, openapi_extra=INGEST)(ingest)
    routes.post("/samples", responses=about, openapi_extra=SAMPLES)(samples)
    return routes


async def ingest(request: Request) -> Response:
    """Take in one event or a batch. The answer comes when they are durable; the same `id` counts once.

    Without the scope `ingest:any` a `user_id` must be the token's `sub`, which is filled in where it is missing.
    """
    return await _take(request, samples=False)


async def samples(request: Request) -> Response:
    """Take in one metric sample or a batch: `name`, `value`, and if wanted `kind`, `labels`, `ts` and `id`."""
    return await _take(request, samples=True)


async def _take(request: Request, *, samples: bool) -> Response:
    service = service_of(request)
    caller = await service.admit(request)
    project = caller.chosen(project_wanted(request), service.settings.project)
    if not caller.principal.may("ingest"):
        await asyncio.to_thread(refuse, service, project, caller, request, "ingest")
    size, encoding, rules = begun(service, request, caller)
    try:
        body = await read_body(request, size, service.settings.max_body_bytes)
        outcome = await service.intake.take(project, body, encoding, rules, samples)
    finally:
        service.intake.release(size)
    service.sums.add(project, caller.principal.name, service.address(request), outcome.accepted, len(outcome.refused))
    return answer_of(outcome)


def begun(service: Service, request: Request, caller: Caller) -> tuple[int, str, Rules]:
    """Room for a body that may come in, to be released at the end; its encoding, and the rules for its sender.

    Raises `Problem` (400, 411, 413, 415) and what `Intake.reserve` raises.
    """
    _check_type(request, caller)
    size = announced(request, service.settings.max_body_bytes)
    service.intake.reserve(size)
    return size, request.headers.get("content-encoding", "").strip().lower(), _rules(service, caller)


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules for what a sender sends, besides those of the gate; equal where the sender may send the same."""

    service: Service
    sender: Sender

    def __call__(self, engine: AnalyticsEngine) -> Sequence[Rule]:
        return [self.sender, *self.service.rules(engine)]


def _rules(service: Service, caller: Caller) -> _Rules:
    trusted = caller.principal.may("ingest:any")
    return _Rules(service, Sender(None if trusted or caller.key_id else caller.principal.name, weights=trusted))


def _check_type(request: Request, caller: Caller) -> None:
    """JSON only. A beacon, which has the key in its address, cannot say so without asking first, and sends text."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (given == "text/plain" and caller.key_id and "key" in request.query_params):
        check_json(request, packed=True)


def answer_of(outcome: Outcome) -> Response:
    """The answer for what became of a body. Raises `Problem` (403, 422) where nothing of it was accepted."""
    rejected = [_told(one) for one in outcome.refused]
    if outcome.accepted or not rejected:
        return json_answer({"ingested": outcome.accepted, "rejected": rejected})
    first = outcome.refused[0]
    if outcome.alone and first.code == "foreign-user":
        raise Problem(403, first.detail, remedy="Leave user_id out, or ask for the scope `ingest:any`.",
                      code=first.code, rejected=rejected)  # fmt: skip
    if outcome.alone:
        remedy = _FORMS_ARE if first.code == "unknown-field" else _CODES_ARE  # often it is an object around a batch
        raise Problem(422, first.detail, remedy=remedy, code=first.code, rejected=rejected)
    raise Problem(422, "no event of the batch passes", remedy=_CODES_ARE, code="all-rejected", rejected=rejected)


def _told(one: Refused) -> dict[str, Any]:
    return {"index": one.index, "id": one.id, "code": one.code}
