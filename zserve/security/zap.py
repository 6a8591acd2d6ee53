"""Who may connect at all: the ZAP handler (ZeroMQ RFC 27) of one context.

libzmq asks it about each new connection, after the key exchange and before the first message, over a socket inside of
the process.  Without a handler, CURVE lets every key in.  It runs in a thread of its own, for handshakes must not wait
for a loop that is busy; it looks into a dict and nothing else; and whatever goes wrong with one question, it answers
"try again later" (300) and takes the next: a handler that dies locks everyone out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

__all__ = ["ZAP_DOMAIN", "ZapHandler"]

log = logging.getLogger("zserve.security")

ZAP_DOMAIN = b"zserve"
_ENDPOINT = "inproc://zeromq.zap.01"
_SAY_EVERY_S = 5.0
_PAUSE_S = 0.05


class ZapHandler:
    """Answers for *context* as long as that lives; its end is the end of the thread.

    *admits* is given a public key (32 bytes) and tells whether it may come in.  It is called in the handler's thread.
    The ``User-Id`` of what comes in over an admitted connection is the key in hexadecimal digits.
    """

    def __init__(self, context: zmq.Context[Any], admits: Callable[[bytes], bool]) -> None:
        self.admitted = 0
        self.refused = 0
        self.failed = 0
        self._admits = admits
        self._said_at = -_SAY_EVERY_S
        self._unsaid = 0
        self._socket = context.socket(zmq.ROUTER)  # not REP, which a single lost answer would leave stuck
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="zserve-zap", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                try:
                    self._answer(self._socket.recv_multipart())
                except zmq.ContextTerminated:
                    return
                except Exception:
                    self.failed += 1
                    log.exception("a question about a new connection could not be answered")
                    time.sleep(_PAUSE_S)
        finally:
            self._socket.close(0)

    def _answer(self, frames: list[bytes]) -> None:
        """[routing ids, b"", version, request id, domain, address, identity, mechanism, key]"""
        start = frames.index(b"") + 1
        envelope, question = frames[:start], frames[start:]
        code, text, user = b"300", b"try again later", b""
        try:
            code, text, user = self._decide(question)
        except Exception:
            self.failed += 1
            log.exception("deciding about a new connection failed")
        version, request = (*question, b"", b"")[:2]
        self._socket.send_multipart([*envelope, version, request, code, text, user, b""], zmq.NOBLOCK)

    def _decide(self, question: list[bytes]) -> tuple[bytes, bytes, bytes]:
        version, _, domain, address, _, mechanism, *credentials = question
        if version != b"1.0" or domain != ZAP_DOMAIN or mechanism != b"CURVE" or len(credentials) != 1:
            self.refused += 1
            return b"400", b"a key is needed here", b""
        key = credentials[0]
        if not self._admits(key):
            self.refused += 1
            self._say(address, key)
            return b"400", b"this key is not known here", b""
        self.admitted += 1
        return b"200", b"", key.hex().encode()

    def _say(self, address: bytes, key: bytes) -> None:
        """At most one line every few seconds: whoever knocks must not fill the disk."""
        self._unsaid += 1
        now = time.monotonic()
        if now - self._said_at < _SAY_EVERY_S:
            return
        where = address.decode("ascii", "replace") or "this machine"
        log.warning("refused %d connections; the last one came from %s, its key %s", self._unsaid, where, key.hex())
        self._said_at = now
        self._unsaid = 0
