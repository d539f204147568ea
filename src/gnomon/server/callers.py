"""From a request to what it may use: the engine of its project, in the name of whoever holds the token.

`needs("read")` is all that a route has to ask for. Without a valid token or key it answers 401, always in the same
form; without the scope, for another project or from a foreign page 403, which the audit keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

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
        """The project that a call is about: the caller's own, or for a token of every project the one wanted."""
        if self.project != ANY_PROJECT:
            return self.project
        return home if wanted is None else wanted

    def fault(self, request: Request, wanted: str | None, scope: str) -> Forbidden | None:
        """Why a call is not allowed: a page that may not use the key, a project that is not the caller's, no scope."""
        if self.origins:
            origin = request.headers.get("origin")
            if origin is not None and origin not in self.origins:
                return Forbidden("the key is not for pages of this origin", remedy="Add the origin to a new key.",
                                 code="foreign-origin")  # fmt: skip
        if wanted is not None and self.project not in (wanted, ANY_PROJECT):
            return Forbidden("the token is for another project", code="foreign-project",
                             remedy="Leave the project out, or use a token of that project.")  # fmt: skip
        if self.principal.may(scope):
            return None
        return Forbidden("the caller has no right to do this", remedy=f"Ask for the scope `{scope}`.")


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
        error = caller.fault(request, project, scope)
        if error is not None:
            refuse(service, caller, request, project, error)
        chosen = caller.chosen(project, service.settings.project)
        with service.projects.using(chosen) as engine:
            request.state.project = chosen
            yield Access(engine.acting_as(caller.principal), chosen, caller, service, engine)

    return Depends(access)


def refuse(service: Service, caller: Caller, request: Request, wanted: str | None, error: Forbidden) -> NoReturn:
    """Raise what a call is refused with; the audit of the caller's project has it then."""
    name = getattr(request.scope.get("route"), "name", "http")
    service.refusals.add(caller.chosen(wanted, service.settings.project), caller.principal, name, error)
    raise error
