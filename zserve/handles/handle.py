"""``serve.get_handle(endpoint)``: an endpoint as something to call."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..control.checks import check_name
from ..control.client import ControlClient
from ..errors import DeadlineExceeded, FabricUnreachable, ServeError
from ..http.head import RequestHead, encode_head
from ..wire.messages import FLAG_IDEMPOTENT
from .answer import ServeAnswer
from .caller import Submission
from .circumstances import Headers, circumstances
from .composition import send_when_ready
from .lines import Line, inside_replica, line_to
from .values import Packer

__all__ = ["ServeHandle", "get_handle"]

MAX_SLO_MS = 7 * 86_400_000.0
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS"))
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")  # RFC 9110, 5.6.2
_MAX_KEY = 1000


class Settings(NamedTuple):
    """What ``options()`` says; None where nothing was said."""

    method_name: str = ""
    shard_key: str = ""
    relative_slo_ms: float | None = None
    absolute_slo_ms: float | None = None
    http_method: str | None = None
    headers: Headers = ()


class ServeHandle:
    """Calls one endpoint from Python.

    Made by :func:`zserve.get_handle`; it may be used from any thread, kept for as long as the fabric is there, and be a
    part of a closure or a constructor's argument of a backend in the embedded fabric.
    """

    __slots__ = ("_line", "_settings", "endpoint")

    def __init__(self, endpoint: str, settings: Settings = Settings(), line: Line | None = None) -> None:  # noqa: B008
        self.endpoint = endpoint
        self._settings = settings
        self._line = line

    def __repr__(self) -> str:
        said = {name: value for name, value in self._settings._asdict().items() if value}
        return f"<ServeHandle {self.endpoint!r}{''.join(f' {name}={value!r}' for name, value in said.items())}>"

    def __reduce__(self) -> Any:
        return ServeHandle, (self.endpoint, self._settings)

    def remote(self, /, data: Any = None, **kwargs: Any) -> ServeAnswer:
        """Call the endpoint; returns at once.

        The backend gets *data* as ``request.data`` (``.json``, ``.form``), and each keyword as a keyword argument (or,
        if it takes none, in ``request.args``).  They may be None, bool, int, float, str, list, dict, bytes, tuple, set,
        datetime, UUID, Decimal, dataclasses of importable types, NumPy arrays and scalars, and types registered with
        :func:`zserve.register_type`.  Answers of other calls may be among them, at any depth: this call is made once
        they are there, and fails if one of them does.

        Raises TypeError naming the argument that cannot be sent, and FabricUnreachable after ``serve.shutdown()``.
        Everything else is raised where the answer is asked for: the backend's own exception, DeadlineExceeded,
        Overloaded, ReplicaDied, NoSuchEndpoint, NoSuchMethod.

        >>> import zserve as serve
        >>> answer = serve.get_handle("greet").remote({"name": "you"})
        >>> answer.result()
        'hello you'
        """
        line = self._line
        if line is None:
            line = self._line = _line_here()
        caller = line.caller()
        settings = self._settings
        now = time.monotonic()
        deadline, flags, passed_on = circumstances(settings.relative_slo_ms, settings.absolute_slo_ms, now)
        packer = Packer()
        parts = [b"" if data is None else packer.pack(data, "data"), packer.pack(kwargs, "") if kwargs else b""]
        answer = ServeAnswer()
        if packer.failed is not None:
            answer.fail_like(packer.failed)
            return answer
        if deadline <= now:
            answer.fail(DeadlineExceeded(f"the deadline had passed when {self.endpoint!r} was called"))
            return answer

        def send() -> None:
            [sent_data, sent_kwargs], body = packer.finish(parts)
            headers = settings.headers
            if passed_on:
                own = {name for name, _ in headers}
                headers = (*headers, *(pair for pair in passed_on if pair[0] not in own))
            http_method = settings.http_method
            head = encode_head(
                RequestHead(http_method or "GET", "", headers=list(headers), kwargs=sent_kwargs, data=sent_data)
            )
            # Only where somebody has said so: what a function does when it is called is not known to be repeatable.
            idempotent = http_method in _IDEMPOTENT or any(name == b"idempotency-key" for name, _ in settings.headers)
            caller.submit(
                Submission(
                    answer,
                    self.endpoint,
                    head,
                    body,
                    deadline,
                    flags | FLAG_IDEMPOTENT if idempotent else flags,
                    settings.shard_key,
                    settings.method_name,
                )
            )

        if packer.waiting:
            send_when_ready(packer, answer, deadline, caller, send)
        else:
            send()
        return answer

    def options(
        self,
        method_name: str | None = None,
        shard_key: str | None = None,
        relative_slo_ms: float | None = None,
        absolute_slo_ms: float | None = None,
        http_method: str | None = None,
        http_headers: Mapping[str, str] | None = None,
    ) -> ServeHandle:
        """A handle like this one but for what is given.

        method_name: of the backend's class, instead of ``__call__``; only public methods can be called.
        shard_key: calls with the same key go to the same backend.
        relative_slo_ms, absolute_slo_ms: the deadline, in milliseconds from the call or since the epoch; one of them.
        http_method, http_headers: what ``request.method`` and ``request.headers`` are.  A call with the method GET,
            HEAD or OPTIONS or with an ``Idempotency-Key`` is made again when its replica dies; others are not.

        Raises TypeError and ValueError for bad arguments, naming them.

        >>> import zserve as serve
        >>> handle = serve.get_handle("model").options("predict", relative_slo_ms=10_000)
        >>> handle.remote([1, 2, 3]).result()
        6
        """
        changed: dict[str, Any] = {}
        if method_name is not None:
            name = _text("method_name", method_name)
            changed["method_name"] = "" if name == "__call__" else name
        if shard_key is not None:
            changed["shard_key"] = _text("shard_key", shard_key)
        changed.update(_deadline(relative_slo_ms, absolute_slo_ms))
        if http_method is not None:
            if not _TOKEN.match(_text("http_method", http_method)):
                raise ValueError(f"http_method must be an HTTP method, not {http_method!r}")
            changed["http_method"] = http_method.upper()
        if http_headers is not None:
            changed["headers"] = _headers(http_headers)
        return ServeHandle(self.endpoint, self._settings._replace(**changed), self._line)


def get_handle(
    endpoint: str,
    relative_slo_ms: float | None = None,
    absolute_slo_ms: float | None = None,
    missing_ok: bool = False,
) -> ServeHandle:
    """See :func:`zserve.control.api.get_handle`."""
    check_name("endpoint", endpoint)
    if not isinstance(missing_ok, bool):
        raise TypeError(f"missing_ok must be True or False, not {missing_ok!r}")
    settings = Settings()._replace(**_deadline(relative_slo_ms, absolute_slo_ms))
    line = _line_here()
    # The caller dials now, so that the first call finds it linked.
    caller = line.caller()
    if not missing_ok and not _exists(endpoint, line, caller.knows(endpoint)):
        raise KeyError(f"there is no endpoint {endpoint!r}")
    return ServeHandle(endpoint, settings, line)


def _line_here() -> Line:
    """The way to the fabric that this process uses: a replica's own, or that of ``init()``."""
    routers = inside_replica()
    if routers is not None:
        if not routers:
            raise ServeError("this replica was started without the address of a router, so it has no handles")
        return line_to(routers)
    from ..control.fabrics import control

    return line_to([control().client.address])


def _exists(endpoint: str, line: Line, heard_of: bool) -> bool:
    if inside_replica() is None:
        from ..control.fabrics import control

        return endpoint in control().list_endpoints()
    if heard_of:
        return True  # and no event loop has to wait for a question
    error: FabricUnreachable | None = None
    for address in line.addresses:
        with ControlClient(address) as client:
            try:
                return endpoint in client.call("list_endpoints")
            except FabricUnreachable as unreachable:
                error = unreachable
    assert error is not None
    raise error


def _text(argument: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, not {type(value).__name__}: {value!r}")
    if not value or len(value) > _MAX_KEY or not _encodable(value):
        raise ValueError(f"{argument} must be 1 to {_MAX_KEY} characters of valid text, not {value[:_MAX_KEY]!r}")
    return value


def _encodable(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _deadline(relative_slo_ms: Any, absolute_slo_ms: Any) -> dict[str, Any]:
    for name, value in (("relative_slo_ms", relative_slo_ms), ("absolute_slo_ms", absolute_slo_ms)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number of milliseconds, not {value!r}")
        if not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name} must be a positive number of milliseconds, not {value!r}")
        if (value if name == "relative_slo_ms" else value - time.time() * 1000) > MAX_SLO_MS:
            raise ValueError(f"{name}={value!r} is more than a week away")
    if relative_slo_ms is not None and absolute_slo_ms is not None:
        raise ValueError("relative_slo_ms and absolute_slo_ms are two deadlines; give one")
    if relative_slo_ms is None and absolute_slo_ms is None:
        return {}
    return {"relative_slo_ms": relative_slo_ms, "absolute_slo_ms": absolute_slo_ms}


def _headers(given: Any) -> Headers:
    if not isinstance(given, Mapping):
        raise TypeError(f"http_headers must be a dict, not {type(given).__name__}: {given!r}")
    headers = []
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"http_headers must hold strings, not {name!r}: {value!r}")
        try:
            pair = name.lower().encode("ascii"), value.strip().encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"http_headers: {name!r}: {value!r} is not Latin-1 text") from None
        if not _TOKEN.match(name) or any(byte in pair[1] for byte in b"\r\n\0"):
            raise ValueError(f"http_headers: {name!r}: {value!r} is not a header")
        headers.append(pair)
    return tuple(headers)
