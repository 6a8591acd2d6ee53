"""The replica process: one backend's code, and its links with the routers.

``python -m zserve.nodes.replica`` is started by a worker node, with a :class:`ReplicaSpec` as one line of JSON on its
standard input.  It reports to its parent by lines of JSON on the file descriptor that the spec names:

    {"state": "ready", "pid": 1234}                 constructed, dialling the routers
    {"state": "failed", "reason": "..."}            the code could not be loaded or constructed; exit status 3
    {"state": "configured", "user_config": "..."}   another user_config was taken in; with a "reason", refused
    {"state": "draining"}                           SIGTERM, or the parent is gone
    {"state": "exiting", "reason": "..."}           user code called sys.exit(), or is stuck; exit status 1

It ends when its standard input does (the parent died), and on SIGTERM when what it runs is finished or the backend's
``graceful_shutdown_timeout`` has passed.  SIGINT is the parent's to handle: Ctrl-C reaches the whole process group.

Start-up is kept short: what is not needed to construct the user's code is imported while that is being constructed, in
another thread; werkzeug is imported after the process is ready, before the first request comes.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import sys
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from zserve.config import BackendConfig, parse_backend_config, user_config_digest
from zserve.errors import ApplicationError, ServeError

from .logs import LEVELS, configure

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from zserve.handler.executor import Done
    from zserve.handler.invoke import Handler

__all__ = ["ReplicaSpec", "main"]

log = logging.getLogger("zserve.replica")

ORPHAN_DRAIN_S = 2.0
"""How long a replica whose parent died finishes what it runs."""
EXIT_DRAIN_S = 2.0
CLOSE_LIMIT_S = 1.0
"""``close()`` of the user's instance may take this long beyond the time for finishing what runs."""
EXIT_LIMIT_S = 0.8
"""Python's own way out (threads of the user's, atexit, destructors) may take this long, then the process just ends.
Both together are less than the margin that a worker node leaves before it kills."""
SWITCH_INTERVAL_S = 0.001
"""How long a thread that computes keeps the interpreter lock while the event loop wants it.  With Python's 5 ms, every
wake-up of the loop during a handler's pure-Python work waits that long, and there are several in a request's way; at
1 ms the cost of switching (some 10 us each) stays at about one per cent of the handler's time."""


class ReplicaSpec(msgspec.Struct, kw_only=True):
    """What a worker node tells a replica process.

    node: the replica's own node id, 32 hexadecimal digits; worker: its worker node's.  index: its number among the
    backend's replicas.  version: of the code, shown to the routers.  config: of :class:`zserve.config.BackendConfig`.
    routers: addresses to dial; more are learned from them.  status_fd: where to report (-1: nowhere).
    log_level: one of :data:`zserve.nodes.logs.LEVELS`; log_json: one JSON object a line, on a terminal too.
    debug: tracebacks go to clients.  busy_poll: it may poll for calls (see :mod:`zserve.channel.busy_poll`).
    """

    node: str
    backend: str
    code: str
    worker: str = ""
    index: int = 0
    version: str = ""
    init_args: list[Any] = []
    init_kwargs: dict[str, Any] = {}
    config: dict[str, Any] = {}
    app_dir: str | None = None
    code_dir: str | None = None
    routers: list[str] = []
    status_fd: int = -1
    log_level: str = "info"
    log_json: bool = False
    debug: bool = False
    busy_poll: bool = True
    stuck_after_s: float = 30.0


def main() -> NoReturn:
    """Run the replica that standard input describes; does not return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["ZSERVE_REPLICA"] = "1"  # so that an init() in user code is told where it is
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if not select.select([0], [], [], 0)[0]:
        _get_ahead()
    try:
        parent, spec = _read_spec()
    except (ServeError, TypeError, ValueError) as error:
        print(f"zserve replica: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    os.environ["ZSERVE_REPLICA_ROUTERS"] = "\n".join(spec.routers)  # where the handles of user code find the fabric
    configure(spec.log_level, name=f"{spec.backend}#{spec.index}", terminal=False if spec.log_json else None)
    reporter = _Reporter(spec.status_fd)

    import uvloop

    status: int = uvloop.run(_Replica(spec, reporter, parent).run())
    _exit(status)


def _get_ahead() -> None:
    """What every replica needs, imported while nobody has said yet what this one is to run."""
    import uvloop  # noqa: F401

    from zserve.channel import hub  # noqa: F401
    from zserve.cores import replica  # noqa: F401
    from zserve.handler import executor, invoke, load  # noqa: F401
    from zserve.registry import sync  # noqa: F401

    from . import health  # noqa: F401


def _read_spec() -> tuple[int, ReplicaSpec]:
    """The spec, and the descriptor that tells the parent's end; user code that reads standard input finds it empty."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)  # not a buffer full: what follows the line is the parent's business
        if not byte:
            if not line and len(sys.argv) > 1:  # the worker node has ended without a need for it
                raise SystemExit(0)
            raise ServeError("standard input ended before a replica spec; worker nodes start this program")
        line += byte
        if len(line) > 64 << 20:
            raise ServeError("the replica spec has more than 64 MiB")
    try:
        spec = msgspec.json.decode(line, type=ReplicaSpec)
        if len(bytes.fromhex(spec.node)) != 16 or len(bytes.fromhex(spec.worker)) not in (0, 16):
            raise ValueError("a node id must be 32 hexadecimal digits")
    except ValueError as error:
        raise ServeError(f"malformed replica spec: {error}") from None
    parse_backend_config(spec.config)
    if spec.log_level not in LEVELS:
        raise ServeError(f"malformed replica spec: log_level {spec.log_level!r}")
    parent = os.dup(0)
    os.set_inheritable(parent, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return parent, spec


class _Reporter:
    """Lines of JSON to the parent; a parent that is gone is none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        if descriptor >= 0:
            os.set_inheritable(descriptor, False)

    def tell(self, state: str, **more: Any) -> None:
        if self._descriptor < 0:
            return
        line = msgspec.json.encode({"state": state, **more}) + b"\n"
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:
            self._descriptor = -1


class _Replica:
    """One replica process from start to end."""

    def __init__(self, spec: ReplicaSpec, reporter: _Reporter, parent: int) -> None:
        self._spec = spec
        self._reporter = reporter
        self._parent = parent
        self._config = parse_backend_config(spec.config)
        self._status = 0
        self._drain_s: float | None = None
        self._ending = False

    async def run(self) -> int:
        """Construct, serve, drain; returns the exit status."""
        import asyncio

        self._loop = loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._constructed: asyncio.Future[Handler] = loop.create_future()
        self._adopted: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        loop.add_signal_handler(signal.SIGTERM, self._on_terminate)
        threading.Thread(target=self._construct, name="zserve-handler-1", daemon=True).start()
        threading.Thread(target=self._watch_parent, name="zserve-parent", daemon=True).start()
        # Imported while the user's code is: these are what a replica needs besides.
        from zserve.channel import hub  # noqa: F401
        from zserve.registry import sync  # noqa: F401

        from .allocator import tend_memory

        tend_memory(user_code=True)
        stopped = loop.create_task(self._stop.wait())
        await asyncio.wait((self._constructed, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not self._constructed.done():
            return 0  # told to stop before it could start: nothing to finish
        stopped.cancel()
        try:
            handler = self._constructed.result()
        except ApplicationError as error:
            self._reporter.tell("failed", reason=str(error))
            return ApplicationError.exit_status
        await self._serve(handler)
        return self._status

    # --- construction -----------------------------------------------------------------------------------------------

    def _construct(self) -> None:
        """In a thread of its own, which later runs the handler too."""
        from zserve.handler.invoke import Handler
        from zserve.handler.load import load

        spec = self._spec
        try:
            loaded = load(spec.code, spec.app_dir, spec.code_dir)
            init_args = spec.init_args if loaded.init_args is None else loaded.init_args
            init_kwargs = spec.init_kwargs if loaded.init_kwargs is None else loaded.init_kwargs
            handler = Handler(loaded.target, spec.backend, init_args, init_kwargs, debug=spec.debug, loop=self._loop)
            if self._config.user_config is not None:
                handler.reconfigure(self._config.user_config)
        except ApplicationError as error:
            self._tell_loop(self._constructed.set_exception, error)
            return
        except BaseException as error:  # KeyboardInterrupt raised by hand, and whatever else there is
            text = f"constructing backend {spec.backend!r} failed: {type(error).__name__}: {error}"
            self._tell_loop(self._constructed.set_exception, ApplicationError(text))
            return
        # What is there now stays (modules, a model): the collector need not look at it again and again.
        gc.freeze()
        self._tell_loop(self._constructed.set_result, handler)
        work = self._adopted.get()
        if work is not None:
            handler.warm()
            work()

    def _tell_loop(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            pass  # the loop is closed: the process is about to end

    # --- serving ----------------------------------------------------------------------------------------------------

    async def _serve(self, handler: Handler) -> None:
        from zserve.channel.lending import LendingHub
        from zserve.channel.loop import SharedLoop
        from zserve.cores.replica import ReplicaCore
        from zserve.handler.executor import Executor
        from zserve.registry.sync import ConfigSync
        from zserve.registry.time_of_day import TimeOfDay
        from zserve.security.identity import from_environment
        from zserve.wire.messages import NodeInfo

        from .health import HealthChecks
        from .lead import Lead
        from .processors import may_poll

        spec = self._spec
        info = NodeInfo(
            bytes.fromhex(spec.node),
            os.urandom(8),
            "replica",
            name=f"{spec.backend}#{spec.index}",
            pid=os.getpid(),
            host=os.uname().nodename,
            backend=spec.backend,
            code=spec.version,
            worker=bytes.fromhex(spec.worker),
        )
        time_of_day = TimeOfDay()
        self._handler = handler
        self._core = core = ReplicaCore(
            spec.backend,
            self._config,
            accepts_batch=handler.accepts_batch,
            asynchronous=handler.asynchronous,
            is_other=handler.is_other if handler.mixed else None,
            stuck_after_s=spec.stuck_after_s,
            sync=ConfigSync(info, time_of_day.earliest_ms, latest_ms=time_of_day.latest_ms),
        )
        self._lock = lock = threading.RLock()
        shared = SharedLoop(self._loop, lock)
        self._executor = executor = Executor(
            handler, self._loop, self._on_done, self._on_exit, threads=core.threads, lock=lock
        )
        self._threads = core.threads
        if handler.asynchronous and not handler.mixed:
            self._adopted.put(handler.warm)
        else:
            self._adopted.put(executor.adopt())
        self._hub = hub = LendingHub(
            core,
            info,
            shared,
            join=spec.routers,
            backend=spec.backend,
            code=spec.version,
            on_turn=self._on_turn,
            also=core.gateways_known,
            security=from_environment(spec.routers),
        )
        self._lead = Lead(hub, core, executor, shared, lock, busy_poll=spec.busy_poll and may_poll())
        hub.start()
        self._reporter.tell("ready", pid=os.getpid(), cpu_s=round(time.process_time(), 4))
        if handler.checks_health:
            self._health = HealthChecks(handler, executor, shared, core, self._on_exit)
            self._health.start()
        await self._stop.wait()
        self._lead.close()
        await self._finish()
        await self._close_instance()
        await hub.stop("replica stopped")
        executor.close()

    def _on_turn(self) -> None:
        """The core's effects, besides what it sends."""
        core = self._core
        if core.runs:
            runs, core.runs = core.runs, []
            self._executor.submit(runs)
        if core.streams.consumed:
            consumed, core.streams.consumed = core.streams.consumed, []
            for run, total in consumed:
                self._executor.consumed(run, total)
        if core.aborts:
            aborts, core.aborts = core.aborts, []
            for run in aborts:
                self._executor.abort(run)
        if core.exits and not self._ending:
            self._end(core.exits[0])
        if core.config is not self._config:
            self._reconfigure(core.config)
        if core.draining:
            self._wake_if_drained()  # also by the word of a router that it has sent nothing more

    def _reconfigure(self, config: BackendConfig) -> None:
        before, self._config = self._config, config
        if self._core.threads != self._threads:
            self._threads = self._core.threads
            self._executor.resize(self._threads)
        if config.user_config != before.user_config:
            self._executor.call(lambda: self._apply_user_config(config))

    def _apply_user_config(self, config: BackendConfig) -> None:
        """In the handler's thread."""
        reason = ""
        try:
            self._handler.reconfigure(config.user_config)
        except BaseException as error:
            reason = str(error) or type(error).__name__
            log.error("%s", reason)
        digest = user_config_digest(config).hex()
        self._tell_loop(lambda: self._reporter.tell("configured", user_config=digest, reason=reason))

    async def _close_instance(self) -> None:
        """``close()`` and ``__del__`` of the user's instance, in its thread, behind what that is still busy with."""
        import asyncio

        if not self._handler.is_class:
            return
        closed = asyncio.Event()

        def close() -> None:
            try:
                self._handler.close()
            finally:
                self._tell_loop(closed.set)

        self._executor.call(close)
        limit_s = max(0.0, self._finish_by - time.monotonic()) + CLOSE_LIMIT_S
        try:
            await asyncio.wait_for(closed.wait(), limit_s)
        except TimeoutError:
            log.warning("close() of backend %r has not come to its end in %.1f s", self._spec.backend, limit_s)

    def _on_done(self, ended: list[Done]) -> None:
        with self._lock:
            self._core.finished(ended, time.monotonic())
            self._hub.poke()
            if self._core.draining:
                self._wake_if_drained()
            elif self._core.quick:
                self._lead.offer()

    # --- the end ----------------------------------------------------------------------------------------------------

    def _on_exit(self, reason: str) -> None:
        with self._lock:
            self._core.fail(reason, time.monotonic())
            self._hub.poke()

    def _end(self, reason: str) -> None:
        self._ending = True
        self._status = 1
        self._drain_s = EXIT_DRAIN_S
        self._reporter.tell("exiting", reason=reason)
        self._stop.set()

    def _on_terminate(self) -> None:
        if self._stop.is_set():
            self._drain_s = 0.0  # told twice: now
            self._wake()
        self._stop.set()

    def _on_orphaned(self) -> None:
        self._drain_s = ORPHAN_DRAIN_S
        self._stop.set()

    def _watch_parent(self) -> None:
        """In a thread, so that it works when user code blocks the loop."""
        while True:
            try:
                if not os.read(self._parent, 4096):
                    break
            except OSError:
                break
        self._tell_loop(self._on_orphaned)
        time.sleep(ORPHAN_DRAIN_S + CLOSE_LIMIT_S + EXIT_LIMIT_S)
        os._exit(1)

    async def _finish(self) -> None:
        """Send back what has not started, and wait for the rest within the limit."""
        import asyncio

        self._drained: asyncio.Event = asyncio.Event()
        core = self._core
        core.drain(time.monotonic())
        if not self._ending:
            self._reporter.tell("draining")
        self._hub.poke()
        limit = core.config.graceful_shutdown_timeout if self._drain_s is None else self._drain_s
        self._finish_by = time.monotonic() + limit
        self._wake_if_drained()
        try:
            await asyncio.wait_for(self._drained.wait(), limit)
        except TimeoutError:
            import logging

            logging.getLogger("zserve.replica").warning(
                "stopping with %d calls unfinished after %g s", core.held, limit
            )

    def _wake_if_drained(self) -> None:
        if self._core.drained:
            self._wake()

    def _wake(self) -> None:
        drained = getattr(self, "_drained", None)
        if drained is not None:
            drained.set()


def _exit(status: int) -> NoReturn:
    """Leave as Python does, so that destructors and atexit run, but not for longer than a few seconds."""

    def cut() -> None:
        time.sleep(EXIT_LIMIT_S)
        os._exit(status)

    threading.Thread(target=cut, name="zserve-exit", daemon=True).start()
    sys.exit(status)


if __name__ == "__main__":
    main()
