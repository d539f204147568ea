"""The HTTP service: an ASGI app around an engine. Only this folder imports a web framework or a JWT library."""

from gnomon.errors import MissingExtra

for _package in ("fastapi", "jwt", "limits"):
    try:
        __import__(_package)
    except ImportError as error:
        raise MissingExtra(_package, "server") from error
