"""Every error that zserve raises or answers with, in one place.

Wrong arguments are the builtin ``TypeError`` and ``ValueError``, an unknown name is ``KeyError``; everything else that
goes wrong in the fabric is a :class:`ServeError`.  :class:`Refusal` is an answer rather than an exception: the status,
the reason and, where it helps, when to come back.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "ApplicationError",
    "ConflictError",
    "FabricUnreachable",
    "NotInitialized",
    "PortInUse",
    "Refusal",
    "ServeError",
    "ServeWarning",
]


class ServeError(Exception):
    """Base of all errors that are not a wrong argument."""

    #: Exit status of the command line when this error ends it.
    exit_status = 1


class NotInitialized(ServeError):
    """A control call was made before ``serve.init()``."""


class FabricUnreachable(ServeError):
    """No router answered at the address given."""


class ConflictError(ServeError):
    """A write named a revision that is no longer the current one (compare-and-set)."""


class PortInUse(ServeError):
    """The address to listen on is taken."""


class ServeWarning(UserWarning):
    """Something was done, but not quite as asked: a swapped argument, a gateway that could not be reached."""


class ApplicationError(ServeError):
    """The user's code could not be imported or constructed; carries its traceback in the text."""

    exit_status = 3


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a request gets no result: what the client is told.

    ``status`` is the HTTP status; ``reason`` one line for people; ``retry_after_s`` seconds (None: no header).
    """

    status: int
    reason: str
    retry_after_s: float | None = None
