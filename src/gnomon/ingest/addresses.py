"""What of an address may be kept: never its credentials. Owns the cutting of URLs, hosts, paths and of texts with URLs.

Nothing here refuses an address for its form, but a URL that cannot be taken apart.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from gnomon.ingest.rules import Refusal, exact

#: User name and password of a URL within a text, which may be JSON: a quote ends them, unless it is escaped.
_CREDENTIALS = re.compile(r'(?:(?<=//)|(?<=\\/\\/))(?:[^/?#\s"\\]|\\(?:["\\]|u[0-9a-fA-F]{4}))*@')
#: And of an address without a scheme: `user:password@host`.
_BARE_CREDENTIALS = re.compile(r"^[^\s/@:]*:[^\s/]*@")
#: Where the query of a path begins; `{id?}` and `(?P<id>..)` belong to the templates of routes.
_QUERY_OR_FRAGMENT = re.compile("[?#]")
_QUERY = re.compile(r"\?(?!\}|(?<=\(\?)[P:=!<])")


@lru_cache(maxsize=4_096)
def split_url(url: str) -> tuple[str | None, str | None]:
    """Host and path of a URL. Credentials, query and fragment never get further than here."""
    if not isinstance(url, str):
        raise Refusal("wrong-type", "url: not text")
    try:
        parts = urlsplit(_BARE_CREDENTIALS.sub("//", url))
        host, path = parts.hostname, parts.path
        if host is not None and parts.port is not None:
            host = f"{host}:{parts.port}"
    except ValueError:
        raise Refusal("bad-url", "url: cannot be taken apart") from None
    if parts.scheme and host is None:  # `http:/user:password@host`, which names no host for the library
        path = path.rpartition("@")[2]
    return host, path or ("/" if host else None)


def bare_url(url: Any) -> str:
    """A URL for the quarantine: its credentials and query are not kept there either."""
    try:
        host, path = split_url(url)
    except (Refusal, TypeError):
        return "not shown, as it may hold credentials"
    return f"{host or ''}{path or ''}"


def bare_address(domain: Any, endpoint: Any) -> tuple[Any, Any]:
    """Host and path as given by hand, see below. Nearly all of them have nothing to cut, which one look tells."""
    if (domain is None or type(domain) is str) and (endpoint is None or type(endpoint) is str):
        both = (domain or "") + (endpoint or "")
        if "@" not in both and "?" not in both and "#" not in both:
            return domain, endpoint
    return bare_domain(domain), bare_endpoint(endpoint)


def bare_domain(domain: Any) -> Any:
    """A host as given, without credentials, query and fragment; what is no text stays as it is, for the rules."""
    if not isinstance(domain, str):
        return domain
    domain = exact(domain)
    if "@" not in domain and "?" not in domain and "#" not in domain:
        return domain
    scheme, slashes, rest = domain.rpartition("//")
    authority, slash, path = rest.partition("/")
    return _QUERY_OR_FRAGMENT.split(f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}", maxsplit=1)[0]


def bare_endpoint(endpoint: Any) -> Any:
    """A path as given, without credentials and query, and without a fragment that names values (`#token=1`)."""
    if not isinstance(endpoint, str):
        return endpoint
    endpoint = whole = exact(endpoint)
    if "@" in endpoint:
        endpoint = bare_text(endpoint)
    if "?" in endpoint:
        endpoint = _QUERY.split(endpoint, maxsplit=1)[0]
    if "#" in endpoint:
        head, _, fragment = endpoint.partition("#")
        endpoint = head if "=" in fragment else endpoint
    return endpoint if endpoint or not whole else None


def bare_source(source: Any) -> Any:
    """A source as given, without credentials: a rotator's entry is often the address of a proxy, password included."""
    if not issubclass(type(source), str):  # not isinstance: that asks the value
        return source
    source = exact(source)
    return bare_text(source) if "@" in source else source


def bare_text(text: str) -> str:
    """A text without the credentials of the URLs in it, and of an address at its start."""
    return _BARE_CREDENTIALS.sub("", bare_urls(text))


def bare_urls(text: str) -> str:
    """A text, or JSON, without the credentials of the URLs in it."""
    return _CREDENTIALS.sub("", text) if "@" in text and ("//" in text or "\\/" in text) else text
