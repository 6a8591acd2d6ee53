"""HTTPS: one TLS context for the listening socket, with a certificate that can be renewed under it."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from zserve.errors import ServeError
from zserve.security.watched import Watched, Watcher

__all__ = ["Certificate"]

log = logging.getLogger("zserve.gateway")


class Certificate:
    """The certificate chain in *chain* and its key in *key* ("": in the same file), both PEM.

    ``context`` always has the last pair that fits.  Raises :class:`ServeError` if the first one does not.
    """

    def __init__(self, chain: str, key: str) -> None:
        self._chain = chain
        self._key = key or chain
        self.context = _context()
        self._load()

    def watch(self, loop: asyncio.AbstractEventLoop) -> Watcher:
        """Take another certificate when one of the files changes: connections that there are keep the one they have."""
        what = "the certificate"
        files = [Watched(Path(path), str, what) for path in dict.fromkeys((self._chain, self._key))]

        def changed() -> None:
            try:
                loop.call_soon_threadsafe(self._renew)
            except RuntimeError:
                watcher.stop()  # the loop has ended

        watcher = Watcher(files, changed)
        return watcher

    def _renew(self) -> None:
        try:
            self._load()
        except ServeError as error:
            log.error("%s; the one before stays in use", error)

    def _load(self) -> None:
        try:
            # Into one of its own first: a failure in the middle would leave a context that no handshake survives.
            _context().load_cert_chain(self._chain, self._key)
            self.context.load_cert_chain(self._chain, self._key)
        except ssl.SSLError as error:
            why = (error.reason or str(error)).lower().replace("_", " ")
            raise ServeError(
                f"--tls-cert {self._chain} and its key in {self._key} can not be used: {why}; both have to be PEM, not "
                "protected by a password, and belong together"
            ) from None
        except OSError as error:
            files = f"--tls-cert {self._chain} or --tls-key {self._key}"
            raise ServeError(f"cannot read {files}: {error.strerror}") from None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
