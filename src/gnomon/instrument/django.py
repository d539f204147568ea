"""What Django keeps to itself: a middleware that tells the recording one around it which route and user it was.

Goes into `MIDDLEWARE`, as the first. Works under ASGI and WSGI. Refuses to load a user that the view did not ask for,
so it costs no query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from gnomon.instrument import shielded
from gnomon.instrument.serving import NOTES

__all__ = ["TellRoute"]


class TellRoute:
    """`"gnomon.instrument.django.TellRoute"` in `MIDDLEWARE`: the route's template, and the user if it was loaded."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        self._waits = iscoroutinefunction(get_response)
        if self._waits:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """The answer of what stands behind, or a coroutine of it."""
        if self._waits:
            return self._later(request)
        response = self._get_response(request)
        shielded(_tell, request)
        return response

    async def _later(self, request: Any) -> Any:
        response = await self._get_response(request)
        shielded(_tell, request)
        return response


def _tell(request: Any) -> None:
    place = request.scope if hasattr(request, "scope") else request.environ
    notes = place.get(NOTES)
    if notes is None:
        return
    if request.resolver_match is not None:
        notes.setdefault("endpoint", f"/{request.resolver_match.route}")
    user = getattr(request, "_cached_user", None) or getattr(request, "_acached_user", None)
    if user is not None and user.is_authenticated:
        notes.setdefault("user_id", user.pk)
