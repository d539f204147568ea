"""A small ClickHouse server for tests: the embedded engine behind as much of ClickHouse's HTTP interface as a client
needs. A query in the URL or the body, Native blocks in and out, settings as parameters, errors with their code."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import embedded

URI_BYTES = 1 << 20  #: `http_max_uri_size`
USER, PASSWORD = "gnomon", "pass word"
_OURS = ("database", "query", "query_id", "session_id", "compress", "decompress", "wait_end_of_query", "role",
         "quota_key", "client_protocol_version", "enable_http_compression", "http_headers_progress_interval_ms",
         "user", "password", "send_progress_in_http_headers",
         "cancel_http_readonly_queries_on_client_close")  # fmt: skip
_INSERT = re.compile(rb"^\s*(INSERT\s+INTO\s.*?)\s+FORMAT\s+Native\n", re.IGNORECASE | re.DOTALL)
_FORMAT = re.compile(r"\sFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)


class Server:
    """Serves on a port of its own until `close()`. `before` and `after` are called with each statement; what they
    raise breaks the connection."""

    def __init__(self):
        self.before = self.after = lambda text: None
        self.statements = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            engine, words = None, []

            def setup(self):
                super().setup()
                owner._open.add(self.connection)

            def finish(self):
                owner._open.discard(self.connection)
                with contextlib.suppress(OSError):
                    super().finish()
                if self.engine is not None:
                    self.engine.close()

            def handle_one_request(self):
                """As it is, but for the length of a URI that is refused."""
                self.raw_requestline = self.rfile.readline(URI_BYTES + 1)
                if len(self.raw_requestline) > URI_BYTES:
                    self.requestline = self.request_version = self.command = ""
                    self.send_error(400, "HTTP request URI invalid or too long")
                elif not self.raw_requestline:
                    self.close_connection = True
                elif self.parse_request():
                    self.do_POST()
                    self.wfile.flush()

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if (self.headers.get("Transfer-Encoding") or "").lower() == "chunked":
                    body = b"".join(self._chunks())
                owner._serve(self, body)

            def _chunks(self):
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = False  # an engine that is in use when the interpreter ends takes it down
        self._open = set()
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def url(self, database=None, password=PASSWORD):
        name = database or embedded.url().partition("database=")[2]
        return f"clickhouse://{USER}:{password.replace(' ', '%20')}@127.0.0.1:{self.port}/{name}"

    def close(self):
        if not self._thread.is_alive():
            return
        self._http.shutdown()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()
        self._thread.join()

    def _serve(self, request, body):
        import chdb

        given = dict(parse_qsl(urlsplit(request.path).query, keep_blank_values=True))
        body = _unpacked(body, request.headers.get("Content-Encoding"))
        if not self._may(request, given):
            return _answer(request, 516, b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)")
        text = given.get("query", "").encode() + (b"\n" if "query" in given and body else b"") + body
        if request.engine is None:
            request.engine = chdb.connect(embedded.folder())
            request.engine.query("SET max_query_size = 268435456")  # of our SET below; parameters have no such limit
        engine = request.engine
        try:
            self.statements.append(text[:2_000])
            self.before(text)
            words = [f"{name} = {_quoted(value)}" for name, value in given.items() if name not in _OURS]
            engine.query(f"USE {given.get('database', 'default')}")
            if words and words != request.words:
                engine.query(f"SET {', '.join(words)}")
                request.words = words
            found = _run(engine, text)
            self.after(text)
            return _answer(request, 0, found)
        except RuntimeError as error:
            message = str(error)
            number = re.search(r"Code: (\d+)", message)
            return _answer(request, int(number[1]) if number else 1_001, message.encode())
        except ConnectionError:
            request.close_connection = True
            return None

    @staticmethod
    def _may(request, given):
        import base64

        told = request.headers.get("Authorization", "")
        if told.startswith("Basic "):
            return base64.b64decode(told[6:]).decode() == f"{USER}:{PASSWORD}"
        named = request.headers.get("X-ClickHouse-User", given.get("user"))
        return (named, request.headers.get("X-ClickHouse-Key", given.get("password"))) == (USER, PASSWORD)


def _run(engine, text):
    inserting = _INSERT.match(text)
    if inserting:
        stream = engine.send_insert(inserting[1].decode(), "Native")
        try:
            stream.append(text[inserting.end() :])
            stream.finish()
        except BaseException:
            stream.cancel()
            raise
        return b""
    words = text.decode()
    form = _FORMAT.search(words)
    return engine.query(words[: form.start()] if form else words, form[1] if form else "TabSeparated").bytes()


def _quoted(value):
    words = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{words}'"


def _unpacked(body, encoding):
    """A body without its compression, of which the driver makes a frame for each block."""
    if encoding == "lz4":
        import lz4.frame

        parts = []
        while body:
            frame = lz4.frame.LZ4FrameDecompressor()
            parts.append(frame.decompress(body))
            body = frame.unused_data
        return b"".join(parts)
    if encoding == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True).read()
    if encoding == "gzip":
        import gzip

        return gzip.decompress(body)
    return body


def _answer(request, code, body):
    request.send_response(200 if not code else 403 if code == 516 else 500)
    if code:
        request.send_header("X-ClickHouse-Exception-Code", str(code))
    request.send_header("X-ClickHouse-Format", "Native")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
