"""A gateway that lets in only requests which show a token.  One that asks for none has nothing of this in its way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ..security.tokens import TokenTable, Unauthorized
from .front import HttpFront
from .routes import Match

__all__ = ["TokenFront", "with_tokens"]

OPEN_PAGES = frozenset(("/-/healthz",))
"""What is answered without a token: that the process lives is no secret, and those who ask are mostly machines."""

_Application = Callable[..., Awaitable[None]]


class TokenFront(HttpFront):
    """*tokens* gives the table in force."""

    def __init__(self, *args: Any, tokens: Callable[[], TokenTable], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokens = tokens

    def match(self, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Match:
        if not self._tokens().admits(headers):
            raise Unauthorized
        return super().match(method, path, headers)


def with_tokens(pages: _Application, tokens: Callable[[], TokenTable]) -> _Application:
    """The system *pages* for those who show a token, and for all others that there is none."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PAGES and not tokens().admits(scope["headers"]):
            refusal = Unauthorized.refusal
            body = (refusal.reason + "\n").encode()
            headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
                *Unauthorized.headers,
            ]
            await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
            return
        await pages(scope, receive, send)

    return application
