"""Bearer tokens for HTTP: a file of hashes, and whether a request shows a token that is in it.

One token a line, for people to read and to write; the token itself is nowhere in it::

    # SHA-256 of the token                                              name
    4f1c...                                                             ci

A token is 32 random bytes, so that a plain hash is as good as a slow one.  Names are for whoever keeps the file.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable

from ..errors import Refusal, ServeError

__all__ = ["TokenTable", "Unauthorized", "new_token", "parse_tokens", "token_line"]

MAX_TOKENS = 10_000
_PREFIX = "zst_"  # so that scanners for leaked secrets can find one
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_.:@/+-]{1,100}")
_BUCKET_BYTES = 4


class Unauthorized(Exception):
    """A request without a token that is let in; ``refusal`` and ``headers`` are the answer."""

    refusal = Refusal(401, "a token is needed here: Authorization: Bearer ...")
    headers = [(b"www-authenticate", b'Bearer realm="zserve"')]


class TokenTable:
    """The hashes of all tokens that are let in."""

    __slots__ = ("_buckets",)

    def __init__(self, hashes: Iterable[bytes]) -> None:
        # Not one by one through all of them: a few in a bucket, by the beginning of the hash, which nobody can choose.
        self._buckets: dict[bytes, list[bytes]] = {}
        for digest in hashes:
            self._buckets.setdefault(digest[:_BUCKET_BYTES], []).append(digest)

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these headers (names in lower case) shows a token: exactly one
        ``Authorization: Bearer``."""
        shown = [value for name, value in headers if name == b"authorization"]
        if len(shown) != 1:
            return False
        scheme, _, token = shown[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        digest = hashlib.sha256(token.strip()).digest()
        found = False
        for known in self._buckets.get(digest[:_BUCKET_BYTES], ()):
            found |= hmac.compare_digest(known, digest)
        return found


def new_token() -> str:
    """A fresh token, in characters that need no quoting anywhere."""
    return _PREFIX + secrets.token_urlsafe(32)


def token_line(token: str, name: str) -> str:
    """The line for the file.  Raises ValueError for a name that could not be read back."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of letters, digits and _.:@/+- (100 at most)")
    return f"{hashlib.sha256(token.encode()).hexdigest()}  {name}"


def parse_tokens(text: str) -> TokenTable:
    """The content of a token file.  Raises :class:`ServeError` that names the first line at fault."""
    hashes: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if not _HASH.fullmatch(words[0]):
            # Not quoted: somebody may have written a token where its hash belongs.
            raise ServeError(f"line {number}: it does not begin with a SHA-256 in 64 hexadecimal digits")
        if len(words) != 2 or not _NAME.fullmatch(words[1]):
            raise ServeError(f"line {number}: behind the hash there has to be a name, and nothing else")
        digest = bytes.fromhex(words[0])
        if digest in hashes:
            raise ServeError(f"line {number}: the token of line {hashes[digest]} again")
        hashes[digest] = number
        if len(hashes) > MAX_TOKENS:
            raise ServeError(f"line {number}: more than {MAX_TOKENS} tokens")
    if not hashes:
        raise ServeError("there is no token in it")
    return TokenTable(hashes)
