"""From a request to the template of the route that answered it, so that endpoints stay as few as there are routes.

Owns the table of an application's routes, built once by walking it and looked up by the function that was called. It
knows Starlette and FastAPI by the shape of their routes and imports neither. Refuses to hand out a raw path: what no
route of the table explains is `UNMATCHED`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["UNMATCHED", "Routes"]

#: The endpoint of every request that no route answered, however many paths a scanner tries.
UNMATCHED = "(unmatched)"

_DEEPEST = 12  #: mounts within mounts, and middleware around an application, that are followed
_MOST_ROUTERS = 16
_RETRY_SECONDS = 1.0  #: a table that lacks a function is read again this often at most: routes may come later
_PARAMETER = re.compile(r"\{\w+(:\w+)?\}")


@dataclass(frozen=True, slots=True)
class Place:
    """One route. `inner` says that it is a mounted application with routes of its own."""

    template: str
    pattern: re.Pattern[str]
    endpoint: Any  # held, as the table knows it by its id
    inner: bool = False


class Table:
    """The routes below one router, by the function or mounted application that each of them calls."""

    def __init__(self, router: Any) -> None:
        self.router = router
        self.read_at = time.monotonic()
        self.places = list(_walk(_routes_of(router), "", 0))
        self._by_endpoint: dict[int, list[Place]] = {}
        for place in self.places:
            self._by_endpoint.setdefault(id(place.endpoint), []).append(place)

    def of_endpoint(self, endpoint: Any, scope: Mapping[str, Any]) -> Place | None:
        """The route that called this function; where several routes share it, the one that fits the path."""
        places = self._by_endpoint.get(id(endpoint))
        if not places:
            return None
        return places[0] if len(places) == 1 else _fitting(places, scope)

    def of_path(self, scope: Mapping[str, Any]) -> Place | None:
        """The first route that fits the path: for answers given before any route was chosen."""
        return _fitting(self.places, scope)


class Routes:
    """The tables of whatever routers answer behind one middleware."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._tables: dict[int, Table] = {}

    def template(self, scope: Mapping[str, Any], status: int | None) -> str:
        """The template of the route that answered, `UNMATCHED` if none did."""
        named = scope.get("path_template")  # Litestar says it
        if type(named) is str:
            return named
        endpoint = scope.get("endpoint")
        if endpoint is None and status == 404:
            return UNMATCHED
        table = self._table(scope.get("router"))
        place = table.of_endpoint(endpoint, scope) if endpoint is not None else None
        if place is None and endpoint is not None and time.monotonic() - table.read_at > _RETRY_SECONDS:
            table = self._tables[id(table.router)] = Table(table.router)
            place = table.of_endpoint(endpoint, scope)
        if place is None or place.inner:
            # Below a mounted application only its own routes count, and 404 says that there was none.
            place = None if status == 404 else table.of_path(scope)
        return UNMATCHED if place is None else place.template

    def _table(self, router: Any) -> Table:
        """The first router of a request is the outermost, so its table holds the templates in full."""
        found = self._app if router is None else router
        table = self._tables.get(id(found))
        if table is None:
            if len(self._tables) >= _MOST_ROUTERS:
                self._tables.clear()
            table = self._tables[id(found)] = Table(found)
        return table


def path_below_root(scope: Mapping[str, Any]) -> str:
    """The path without what a proxy or the server put in front of the outermost application."""
    path: str = scope["path"]
    root: str = scope.get("app_root_path", scope.get("root_path", "")).rstrip("/")
    rest = path[len(root) :]
    return rest if path.startswith(root) and rest[:1] in ("", "/") else path


def _fitting(places: Iterable[Place], scope: Mapping[str, Any]) -> Place | None:
    path = path_below_root(scope)
    return next((place for place in places if not place.inner and place.pattern.fullmatch(path)), None)


def _routes_of(app: Any) -> list[Any]:
    """The routes of an application, also through middleware that keeps it as `app`."""
    for _ in range(_DEEPEST):
        routes = getattr(app, "routes", None)
        if isinstance(routes, list | tuple):
            return list(routes)
        app = getattr(app, "app", None)
        if app is None:
            break
    return []


def _walk(routes: Iterable[Any], prefix: str, depth: int) -> Iterator[Place]:
    """Every route below, its path in full. `prefix` has its parameters with their kinds, as `/t/{id:int}`."""
    for route in _plain(routes):
        path, endpoint, app = (
            getattr(route, "path", None),
            getattr(route, "endpoint", None),
            getattr(route, "app", None),
        )
        if isinstance(path, str) and endpoint is not None:
            yield _place(prefix + path, endpoint)
        elif app is not None and depth < _DEEPEST:  # a mount, or a host, which has no path
            below, whole = _routes_of(app), prefix + (path if isinstance(path, str) else "")
            yield from _walk(below, whole, depth + 1)
            yield _place(f"{whole}/{{path:path}}", app, inner=bool(below))


def _plain(routes: Iterable[Any]) -> Iterator[Any]:
    """Routes as they are reached: FastAPI keeps an included router whole, and tells the paths that it leads to."""
    for route in routes:
        reached = getattr(route, "effective_route_contexts", None)
        for one in (route,) if reached is None else reached():
            yield getattr(one, "starlette_route", None) or one


def _place(path: str, endpoint: Any, inner: bool = False) -> Place:
    pattern, end = "", 0
    for found in _PARAMETER.finditer(path):
        pattern += re.escape(path[end : found.start()]) + (".*" if found[1] == ":path" else "[^/]+")
        end = found.end()
    template = _PARAMETER.sub(lambda found: found[0].replace(found[1] or "}", "") if found[1] else found[0], path)
    return Place(template or "/", re.compile(pattern + re.escape(path[end:]), re.DOTALL), endpoint, inner)
