"""Carrying out a plan: checked as a whole, written in an order in which traffic never points at something missing.

1. Everything is checked against the fabric, in one call that writes nothing.
2. New and changed backends are written, together.  If one of them does not come up, or it takes too long, or Ctrl-C
   comes, they are taken back, and the fabric serves what it served before.
3. Endpoints are written, together: new ones, changed ones, and those that are removed.
4. Backends that nobody uses any more are removed, together.

Each write names the record that it replaces; if somebody has written it meanwhile, it is refused, and nothing more is
written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from zserve.errors import ApplicationError, ConflictError, FabricUnreachable, ServeError

from .deploy_plan import Plan, Step

__all__ = ["Deployment", "apply_plan", "check_plan"]

TAKE_BACK_TIMEOUT_S = 30.0


class Caller(Protocol):
    """What is needed of a :class:`~zserve.control.client.ControlClient`."""

    def call(self, op: str, args: dict[str, Any] | None = None, *, timeout_s: float = 30.0) -> Any: ...


def check_plan(client: Caller, plan: Plan) -> None:
    """Ask the fabric whether all of *plan* could be written now.  Raises ServeError for the first thing that cannot."""
    if plan.steps:
        _call(client, "apply_changes", {"changes": [step.change() for step in plan.steps], "check": True})


def apply_plan(client: Caller, plan: Plan, *, timeout_s: float, say: Callable[[str], None]) -> None:
    """Carry out *plan*, and wait for at most *timeout_s* seconds until the file's endpoints are served.

    *say* is told in one line each what has happened.  Raises ConflictError, ApplicationError with a replica's
    traceback, and ServeError; see above for what is written then.
    """
    Deployment(client, plan, timeout_s, say).run()


class Deployment:
    """One run of :func:`apply_plan`."""

    def __init__(self, client: Caller, plan: Plan, timeout_s: float, say: Callable[[str], None]) -> None:
        self._client = client
        self._plan = plan
        self._end = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._say = say
        self._written: list[Step] = []

    def run(self) -> None:
        plan = self._plan
        check_plan(self._client, plan)
        backends = plan.of("backend", "add", "change")
        if backends:
            stamps = self._write(backends)
            try:
                for step in backends:
                    self._wait(step.name)
            except FabricUnreachable:
                raise
            except BaseException as error:
                self._take_back(backends, stamps, error)
                raise
        self._write(plan.of("endpoint", "add", "change", "remove"))
        self._write(plan.of("backend", "remove"))
        for name in plan.serving:
            if name not in {step.name for step in backends}:
                self._wait(name)

    def _write(self, steps: Sequence[Step]) -> dict[str, str]:
        if not steps:
            return {}
        try:
            stamps: dict[str, str] = _call(
                self._client, "apply_changes", {"changes": [step.change() for step in steps]}
            )
        except ConflictError as error:
            raise ConflictError(f"{error}\n{self._account()}") from None
        self._written += steps
        past = {"add": "added", "change": "changed", "remove": "removed"}
        for step in steps:
            self._say(f"{past[step.action]} {step.kind} {step.name}")
        return stamps

    def _account(self) -> str:
        """What has been written and what has not, for whoever has to look after it."""
        missing = [step for step in self._plan.steps if step not in self._written]
        return f"written: {_names(self._written)}; not written: {_names(missing)}"

    def _wait(self, backend: str) -> None:
        begin = time.monotonic()
        left = max(0.0, self._end - begin)
        try:
            _call(self._client, "wait_backend", {"name": backend, "timeout_s": left}, timeout_s=left + 5.0)
            left = max(0.0, self._end - time.monotonic())
            _call(self._client, "wait_configured", {"name": backend, "timeout_s": left}, timeout_s=left + 5.0)
        except ApplicationError:
            raise
        except FabricUnreachable:
            raise
        except ServeError as error:
            raise ServeError(f"{error} ({self._timeout_s:g} s, see --timeout)") from None
        took_s = time.monotonic() - begin
        self._say(f"backend {backend} is up" + (f" after {took_s:.1f} s" if took_s >= 0.1 else ""))

    def _take_back(self, steps: Sequence[Step], stamps: dict[str, str], why: BaseException) -> None:
        """Make the backends what they were before; what somebody has changed meanwhile stays as it is."""
        changes = [{"key": step.key, "value": step.before, "parent": stamps[step.key]} for step in steps]
        try:
            _call(self._client, "apply_changes", {"changes": changes}, timeout_s=TAKE_BACK_TIMEOUT_S)
        except ServeError as error:
            why.add_note(f"could not be taken back: {error}")
            self._say(f"not taken back: {_names(steps)} ({error})")
        else:
            self._say(f"taken back: {_names(steps)}")


def _call(client: Caller, op: str, args: dict[str, Any], timeout_s: float = 30.0) -> Any:
    """A control call whose complaints about arguments are the file's fault, not the program's."""
    try:
        return client.call(op, args, timeout_s=timeout_s)
    except (TypeError, ValueError, KeyError) as error:
        raise ServeError(str(error.args[0]) if error.args else str(error)) from None


def _names(steps: Sequence[Step]) -> str:
    return ", ".join(f"{step.kind} {step.name}" for step in steps) or "nothing"
