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
    "DeadlineExceeded",
    "FabricUnreachable",
    "NoSuchEndpoint",
    "NoSuchMethod",
    "NotInitialized",
    "Overloaded",
    "PortInUse",
    "Refusal",
    "RemoteError",
    "ReplicaDied",
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


class Overloaded(ServeError):
    """A handle call was not taken on: a queue is full, it could not be in time, or no replica or router is ready.

    It has not run, so it may be made again; ``retry_after_s`` says when that makes sense (seconds, None: not said).
    Over HTTP: 429 and 503.
    """

    retry_after_s: float | None = None


class DeadlineExceeded(ServeError):
    """The deadline of a handle call passed before it was answered.  It may have run.  Over HTTP: 504."""


class ReplicaDied(ServeError):
    """The replica (or the router) that had a handle call died; the call may have run.  Over HTTP: 502."""


class NoSuchEndpoint(ServeError, LookupError):
    """A handle was used whose endpoint does not exist, or no longer.  Over HTTP: 404."""


class NoSuchMethod(ServeError, AttributeError):
    """The backend has no public method of that name, or cannot be called without one.  Over HTTP: 404."""


class RemoteError(ServeError):
    """A backend raised an exception whose class cannot be imported here.

    ``type_name`` is that class ("package.module.Name"), and the text is the exception's; ``traceback`` is the remote
    one.
    """

    type_name: str = ""
    traceback: str = ""


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a request gets no result: what the client is told.

    ``status`` is the HTTP status; ``reason`` one line for people; ``retry_after_s`` seconds (None: no header).
    """

    status: int
    reason: str
    retry_after_s: float | None = None
