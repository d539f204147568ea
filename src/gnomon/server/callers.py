"""From a request to what it may use: the engine of its project, in the name of whoever holds the token.

`needs("read")` is all that a route has to ask for. Without a valid token or key it answers 401, always in the same
form; without the scope 403, which the audit keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.security import HTTPBearer

from gnomon.access import Principal, speaking_as
from gnomon.engine import AnalyticsEngine
from gnomon.errors import Forbidden
from gnomon.server.problems import Problem

if TYPE_CHECKING:
    from gnomon.server.service import Service

ANY_PROJECT = "*"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who holds a token: a principal, the project (`*`: every one), and for a write key its id and origins."""

    principal: Principal
    project: str
    key_id: str | None = None
    origins: tuple[str, ...] = ()

    def chosen(self, wanted: str | None, home: str) -> str:
        """The project that a request is about. Raises `Forbidden` for one that is not the caller's.

        A token of every project that names none is about `home`.
        """
        if self.project != ANY_PROJECT:
            if wanted is None or wanted == self.project:
                return self.project
            raise Forbidden("the token is for another project", code="foreign-project",
                            remedy="Leave the project out, or use a token of that project.")  # fmt: skip
        return home if wanted is None else wanted


@dataclass(frozen=True, slots=True)
class Access:
    """What one request may use. `engine` has the caller's rights and is audited in its name; `own` has all rights."""

    engine: AnalyticsEngine
    project: str
    caller: Caller
    service: Service
    own: AnalyticsEngine

    @contextmanager
    def named(self) -> Iterator[AnalyticsEngine]:
        """`own`, for what is no verb of the engine; what it does is audited in the caller's name."""
        with speaking_as(self.caller.principal):
            yield self.own


def unauthorized() -> Problem:
    """The one answer for every fault of a token."""
    return Problem(401, "the token or key is missing or not valid", code="unauthorized",
                   remedy="Get a new one, and send it as Bearer.")  # fmt: skip


def presented(request: Request) -> str:
    """The token or key of a request, empty where there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if token:
        return token.strip() if scheme.lower() == "bearer" else ""
    return request.headers.get("x-gnomon-key") or request.query_params.get("key") or ""


def service_of(request: Request) -> Service:
    """The service that a request has come to."""
    service: Service = request.app.state.service
    return service


_BEARER = HTTPBearer(auto_error=False, bearerFormat="JWT", scheme_name="token", description="A JWT, or a write key")
_PROJECT = Query(max_length=200, description="Which project; only for tokens of every project (`*`)")


def keyed_by_token() -> Any:
    """Says in the description that a route takes tokens; the route itself asks `Service.admit`."""
    return Depends(_BEARER)


def project_wanted(request: Request) -> str | None:
    """The project that a request names, see `Caller.chosen`."""
    return request.query_params.get("project")


def needs(scope: str) -> Any:
    """The dependency of a route of the class `Call`: `here: Access = needs("read")`."""

    def access(request: Request, project: Annotated[str | None, _PROJECT] = None,
               _: Any = Depends(_BEARER)) -> Iterator[Access]:  # fmt: skip
        service = service_of(request)
        caller: Caller = request.state.caller  # `Call` has admitted it
        chosen = caller.chosen(project, service.settings.project)
        with service.projects.using(chosen) as engine:
            if not caller.principal.may(scope):
                raise refused(engine, caller, request, scope)
            yield Access(engine.acting_as(caller.principal), chosen, caller, service, engine)

    return Depends(access)


def refused(engine: AnalyticsEngine, caller: Caller, request: Request, scope: str) -> Forbidden:
    """The error for a caller without a scope; the audit has it then."""
    error = Forbidden("the caller has no right to do this", remedy=f"Ask for the scope `{scope}`.")
    name = getattr(request.scope.get("route"), "name", "http")
    with speaking_as(caller.principal):
        engine._audit.refused(engine.settings.project, name, error)
    return error


def refuse(service: Service, project: str, caller: Caller, request: Request, scope: str) -> None:
    """As `refused`, for a route without an engine in hand; raises the error."""
    with service.projects.using(project) as engine:
        raise refused(engine, caller, request, scope)
