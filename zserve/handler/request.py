"""The request that a handler is given: a werkzeug Request that is built only as far as it is read.

A werkzeug Request costs 13 to 18 us to build and read, more than the rest of the path together, and most handlers want
the body or one query parameter.  So :class:`ServeRequest` keeps the bytes that came and computes each attribute of
werkzeug's constructor when it is first asked for.
"""

from __future__ import annotations

import io
import typing as t
from typing import Any

import msgspec
import orjson
from werkzeug.datastructures import EnvironHeaders
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Request

from ..http.head import RequestHead, decode_head

__all__ = ["ServeRequest"]

_UNREAD = object()

_JSON_DECLARED = b"\x92\xc4\x0ccontent-type\xc4\x10application/json"
"""The usual way to declare JSON, as it stands in an encoded head: found without decoding that, which costs three times
as much.  These bytes can not be part of anything else there: text is UTF-8, header values have no control characters.
"""


class ServeRequest(Request):
    """A werkzeug ``Request`` over a head and a body as they came from the gateway.

    Besides what werkzeug has: ``view_args``, the variables of the route's path.  Different from werkzeug: ``data`` is
    the body of form posts too; JSON is parsed by orjson (UTF-8, no NaN).
    """

    # The gateway's limit on bodies holds; a second, smaller one for form fields would only surprise.
    max_form_memory_size = None

    _head: RequestHead | None = None
    _json: Any = _UNREAD
    _ahead: Any = _UNREAD

    def __init__(self, head: bytes, body: bytes) -> None:
        self._raw_head = head
        self._body = body

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not there yet: one of the attributes that werkzeug's constructor would have set.
        compute = _ATTRIBUTES.get(name)
        if compute is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = self.__dict__[name] = compute(self)
        return value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url!r} [{self.method}]>"

    def _get_head(self) -> RequestHead:
        head = self._head
        if head is None:
            try:
                head = self._head = decode_head(self._raw_head)
            except msgspec.MsgspecError as error:
                raise BadRequest(f"malformed request head: {error}") from None
        return head

    @property
    def view_args(self) -> dict[str, Any]:
        """The variables of the route's path."""
        return dict(self._get_head().params)

    def get_data(  # type: ignore[override]
        self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False
    ) -> bytes | str:
        """The body.  It is in memory, so the arguments of werkzeug's method change nothing but *as_text*."""
        if as_text:
            return self._body.decode(errors="replace")
        return self._body

    @property
    def data(self) -> bytes:
        """The body."""
        return self._body

    def look_ahead(self) -> None:
        """Parse the body now, if it is the usual JSON, because the handler is going to ask for that."""
        if _JSON_DECLARED in self._raw_head:
            try:
                self._ahead = orjson.loads(self._body)
            except orjson.JSONDecodeError:
                pass  # whoever asks is told

    @property
    def asked_for_json(self) -> bool:
        """Whether the handler has read the body as JSON."""
        return self._json is not _UNREAD

    @property
    def is_json(self) -> bool:
        content_type = self._content_type()
        if content_type == b"application/json":
            return True
        essence = content_type.partition(b";")[0].strip().lower()
        return essence == b"application/json" or (essence.startswith(b"application/") and essence.endswith(b"+json"))

    def _content_type(self) -> bytes:
        for name, value in self._get_head().headers:
            if name == b"content-type":
                return value
        return b""

    @property
    def json(self) -> Any:
        """The body as JSON; 415 when it is not declared as such, 400 when it is malformed."""
        if self._ahead is not _UNREAD:
            self._json, self._ahead = self._ahead, _UNREAD
            return self._json
        if _JSON_DECLARED in self._raw_head and self._json is _UNREAD:
            try:
                value = self._json = orjson.loads(self._body)
                return value
            except orjson.JSONDecodeError:
                pass  # get_json says what is wrong with it
        return self.get_json()

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """As werkzeug's: *force* ignores the content type, *silent* gives None instead of raising."""
        if self._json is not _UNREAD and cache:
            return self._json
        if self._ahead is not _UNREAD and cache:
            return self.json
        if not (force or self.is_json):
            return None if silent else self.on_json_loading_failed(None)
        try:
            value = orjson.loads(self._body)
        except orjson.JSONDecodeError as error:
            return None if silent else self.on_json_loading_failed(error)
        if cache:
            self._json = value
        return value

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        if e is not None:
            raise BadRequest(f"Failed to decode JSON object: {e}")
        return super().on_json_loading_failed(e)


def _server(request: ServeRequest) -> tuple[str, int | None]:
    head = request._get_head()
    host = next((value.decode("latin-1") for name, value in head.headers if name == b"host"), "") or "localhost"
    name, colon, port = host.rpartition(":")
    if colon and port.isdigit() and not name.endswith(":"):
        return name, int(port)
    return host, 443 if head.scheme == "https" else 80


def _environ(request: ServeRequest) -> dict[str, Any]:
    """The WSGI environment (PEP 3333) of the request."""
    head = request._get_head()
    name, port = _server(request)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.http_method,
        "SCRIPT_NAME": head.root.encode().decode("latin-1"),
        "PATH_INFO": head.path.encode().decode("latin-1"),
        "QUERY_STRING": head.query.decode("latin-1"),
        "SERVER_NAME": name,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.remote_addr or "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": head.scheme,
        "wsgi.input": io.BytesIO(request._body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "werkzeug.request": request,
    }
    for key, raw in head.headers:
        value = raw.decode("latin-1")
        field = key.decode("latin-1").upper().replace("-", "_")
        if field not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            field = "HTTP_" + field
        before = environ.get(field)
        if before is None:
            environ[field] = value
        else:  # a list field sent in several lines (RFC 9110, 5.3); cookies are joined by semicolons (RFC 9113, 8.2.3)
            environ[field] = f"{before}{'; ' if key == b'cookie' else ','}{value}"
    if request._body or "CONTENT_LENGTH" in environ:
        environ["CONTENT_LENGTH"] = str(len(request._body))
    return environ


_ATTRIBUTES: dict[str, t.Callable[[ServeRequest], Any]] = {
    "method": lambda request: request._get_head().http_method,
    "scheme": lambda request: request._get_head().scheme,
    "server": _server,
    "root_path": lambda request: request._get_head().root.rstrip("/"),
    "path": lambda request: "/" + request._get_head().path.lstrip("/"),
    "query_string": lambda request: request._get_head().query,
    "headers": lambda request: EnvironHeaders(request.environ),
    "remote_addr": lambda request: request._get_head().client.rpartition(":")[0] or None,
    "environ": _environ,
    "shallow": lambda request: False,
}
