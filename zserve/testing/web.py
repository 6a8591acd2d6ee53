"""HTTP requests to a simulated gateway, without HTTP."""

from __future__ import annotations

import math
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from ..errors import Refusal
from ..http.answers import CONTENT_TYPES, KIND_HEADERS, decode_headers
from ..http.deadline import BadDeadline, read_budget_s
from ..http.head import RequestHead, encode_head
from ..http.routes import NoMatch
from ..wire.messages import FLAG_DEFAULT_DEADLINE, FLAG_WEB
from .clock import START_MS
from .gateways import SimGateway, Ticket

__all__ = ["Pending", "Response"]

_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS"))


class Response:
    """What a client gets.  status_code; headers by lower-case name (the last of several); content in bytes."""

    def __init__(self, status_code: int, headers: Iterable[tuple[str, str]], content: bytes) -> None:
        self.status_code = status_code
        self.headers = dict(headers)
        self.content = content

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """The body as JSON.  Raises ValueError if it is not."""
        return orjson.loads(self.content)

    def __repr__(self) -> str:
        return f"<Response {self.status_code} {self.content[:60]!r}>"


class Pending:
    """A request that is on its way; ``response`` is None until it has an answer."""

    def __init__(self, gateway: SimGateway, method: str) -> None:
        self.gateway = gateway
        self.response: Response | None = None
        self._boot = gateway.boots
        self._method = method

    @property
    def broken(self) -> bool:
        """The gateway is gone, and with it the connection."""
        return self.response is None and not (self.gateway.alive and self.gateway.boots == self._boot)

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(
        self, url: str, body: bytes, headers: list[tuple[bytes, bytes]], default_timeout_s: float, client: str
    ) -> None:
        """Do what the gateway does with a whole request."""
        gateway, method = self.gateway, self._method
        raw_path, _, query = url.partition("?")
        path = urllib.parse.unquote(raw_path)
        special = dict(headers)
        try:
            endpoint, params = gateway.core.routes.match(method, path)
        except NoMatch as error:
            if error.allowed is None:
                self._refuse(gateway.core.no_endpoint(path))
            else:
                allow = ", ".join(error.allowed)
                self._refuse(
                    Refusal(405, f"{method} is not allowed at {path[:200]}, only {allow}"), [("allow", allow)]
                )
            return
        wall_s = START_MS / 1000.0 + gateway.fabric.clock.now
        try:
            budget_s = read_budget_s(query.encode(), special.get(b"x-request-timeout-seconds"), wall_s)
        except BadDeadline as error:
            self._refuse(Refusal(400, str(error)))
            return
        if budget_s is not None and budget_s <= 0.0:
            self._refuse(Refusal(504, "the deadline had passed when the request arrived"))
            return
        flags = FLAG_WEB | (FLAG_DEFAULT_DEADLINE if budget_s is None else 0)
        sent = gateway.request(
            endpoint,
            body,
            (default_timeout_s or math.inf) if budget_s is None else budget_s,
            idempotent=method in _IDEMPOTENT or b"idempotency-key" in special,
            head=encode_head(RequestHead(method, path, query.encode(), headers, params, client)),
            flags=flags,
            shard=special.get(b"x-serve-shard-key", b"").decode("latin-1"),
            method=special.get(b"x-serve-call-method", b"").decode("latin-1"),
            on_answer=self._answered,
        )
        if isinstance(sent, Refusal):
            self._refuse(sent)

    def _refuse(self, refusal: Refusal, headers: Iterable[tuple[str, str]] = ()) -> None:
        found = [("content-type", "text/plain; charset=utf-8"), *headers]
        if refusal.retry_after_s is not None:
            found.append(("retry-after", str(max(1, round(refusal.retry_after_s + 0.499)))))
        self._respond(refusal.status, found, (refusal.reason + "\n").encode())

    def _answered(self, ticket: Ticket) -> None:
        assert ticket.result is not None
        result, head = ticket.result
        headers = [("x-request-id", ticket.id.hex())]
        content_type = CONTENT_TYPES[result.kind]
        if content_type is not None:
            headers.append(("content-type", content_type.decode()))
        if result.kind == KIND_HEADERS and head:
            pairs = decode_headers(head)
            headers += [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in pairs]
        if result.retry_after_us >= 0:
            headers.append(("retry-after", str(max(1, -(-result.retry_after_us // 1_000_000)))))
        self._respond(result.status, headers, ticket.reply)

    def _respond(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        if self._method == "HEAD" or status in (204, 304):
            content = b""
        self.response = Response(status, headers, content)


def body_and_headers(
    data: bytes | str | None, json: Any, headers: Mapping[str, str] | None
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """What a client sends: the body, and the headers with lower-case names.  Raises TypeError for both *data* and
    *json*, and for what JSON cannot say."""
    if data is not None and json is not None:
        raise TypeError("give data or json, not both")
    found = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in (headers or {}).items()}
    body = data.encode() if isinstance(data, str) else data or b""
    if json is not None:
        body = orjson.dumps(json)
        found.setdefault(b"content-type", b"application/json")
    found.setdefault(b"host", b"testing")
    if body:
        found.setdefault(b"content-length", b"%d" % len(body))
    return body, list(found.items())
