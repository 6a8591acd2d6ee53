from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.channel.outbox import Outbox
from zserve.config import BackendConfig, user_config_digest
from zserve.cores.roster import GONE_S, YOUNG_ROUTER_S
from zserve.cores.seats import MAX_START_FAILURES, backoff_s
from zserve.cores.worker import Configure, Start, Stop, WorkerCore
from zserve.registry.sync import ConfigSync
from zserve.registry.values import BackendValue, encode_value
from zserve.wire.messages import MIN_VERSION, VERSION, Hello, NodeInfo, Ping, ReplicaStatus, Report

START_MS = 1_700_000_000_000


class Lab:
    """One router's sync and some workers, joined by function calls; processes are what the test says they are."""

    def __init__(self, *names: str, slots: int = 8) -> None:
        self.now = 0.0
        self.out = Outbox()
        info = NodeInfo(b"router".ljust(16, b"."), bytes(8), "router", "router", "sim://router")
        self.router = ConfigSync(info, self.wall_ms)
        self.workers: dict[str, WorkerCore] = {}
        self.replicas: dict[bytes, tuple[str, Start]] = {}
        self.ready: set[bytes] = set()
        self.reports: dict[str, list[ReplicaStatus]] = {}
        self.pings: list[Ping] = []
        self.slots = slots
        for name in names:
            self.join(name)
        self.run(YOUNG_ROUTER_S + 1)

    def wall_ms(self) -> int:
        return START_MS + int(self.now * 1000)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def join(self, name: str, **fields: Any) -> WorkerCore:
        info = NodeInfo(name.encode().ljust(16, b"."), bytes(8), "worker", name, slots=self.slots, **fields)
        core = self.workers[name] = WorkerCore(ConfigSync(info, self.wall_ms), random.Random(name))
        self.link(name)
        return core

    def link(self, name: str) -> None:
        core = self.workers[name]
        hello = Hello(VERSION, MIN_VERSION, msgspec.structs.replace(core.info))
        self.router.link_up(name.encode(), hello, self.out, self.now)
        core.link_up(b"r", Hello(VERSION, MIN_VERSION, self.router.info), self.now)
        self.settle()

    def unlink(self, name: str) -> None:
        self.router.link_down(name.encode(), self.now)
        self.workers[name].link_down(b"r", "silent", self.now)
        self.settle()

    def kill(self, name: str) -> None:
        """The worker node and its replicas are no more."""
        self.router.link_down(name.encode(), self.now)
        del self.workers[name]
        for node in [node for node, (worker, _) in self.replicas.items() if worker == name]:
            self.end(node)
        self.settle()

    # --- processes ----------------------------------------------------------------------------------------------------

    def end(self, node: bytes) -> None:
        del self.replicas[node]
        if node in self.ready:
            self.ready.discard(node)
            self.router.link_down(node, self.now)

    def act(self) -> dict[str, list[Any]]:
        """Carry out what the cores want of processes: stops end at once, starts stay in construction."""
        found: dict[str, list[Any]] = {}
        for name, core in list(self.workers.items()):
            for action in core.take_actions():
                found.setdefault(name, []).append(action)
                if isinstance(action, Start):
                    self.replicas[action.node] = (name, action)
                    core.replica_started(action.node, 1000 + len(self.replicas), self.now)
                elif isinstance(action, Stop) and action.node in self.replicas:
                    self.end(action.node)
                    core.replica_exited(action.node, "exit code 0", self.now)
        return found

    def make_ready(self, *nodes: bytes) -> None:
        for node in nodes or [node for node in self.replicas if node not in self.ready]:
            name, start = self.replicas[node]
            core = self.workers[name]
            info = NodeInfo(node, bytes(8), "replica", worker=core.info.node)
            self.ready.add(node)
            hello = Hello(VERSION, MIN_VERSION, info, start.backend, start.value.version)
            self.router.link_up(node, hello, self.out, self.now)
            core.replica_ready(node, self.now)
        self.settle()

    def crash(self, node: bytes, how: str = "killed by SIGKILL") -> None:
        name = self.replicas[node][0]
        self.end(node)
        self.workers[name].replica_exited(node, how, self.now)
        self.settle()

    def fail(self, node: bytes, reason: str = "Traceback: no such model") -> None:
        name = self.replicas[node][0]
        self.end(node)
        self.workers[name].replica_failed(node, reason, self.now)
        self.settle()

    # --- time and messages --------------------------------------------------------------------------------------------

    def settle(self) -> None:
        for _ in range(100):
            self.router.tick(self.out, self.now)
            pending, publications = self.out.take(), self.out.take_publications()
            moved = bool(pending or publications)
            for name, core in list(self.workers.items()):
                parcels = pending.get(name.encode(), [])
                parcels += [(message, b"", b"") for message in publications if self.router.role_of(name.encode())]
                if parcels:
                    core.receive(b"r", parcels, self.now)
                for message, _, _ in core.out.take().get(b"r", []):
                    moved = True
                    if isinstance(message, Report):
                        self.reports[name] = message.replicas
                    elif isinstance(message, Ping):
                        self.pings.append(message)
                    self.router.receive(name.encode(), message, self.out, self.now)
            if not moved:
                return
        raise AssertionError("the fabric does not come to rest")

    def run(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass; every core is called when it asked to be, processes do as they are told and become ready."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + step)
            self.settle()
            for core in self.workers.values():
                wake = core.next_wakeup()
                assert wake is None or wake > self.now - step - 1e-6, "the core asks for the past"
                if wake is not None and wake <= self.now:
                    core.tick(self.now)

    def serve(self, seconds: float = 1.0) -> None:
        """Like :meth:`run`, with processes that do as they are told and are ready at once."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.run(0.1)
            self.act()
            fresh = [node for node in self.replicas if node not in self.ready]
            if fresh:
                self.make_ready(*fresh)

    # --- config -------------------------------------------------------------------------------------------------------

    def backend(self, name: str, replicas: int | None = 1, version: str = "1", **config: Any) -> None:
        """Write a backend; replicas None deletes it."""
        key = "backend/" + name
        current = self.router.registry.get(key)
        text = None
        if replicas is not None:
            settings = BackendConfig(num_replicas=replicas, **config)
            text = encode_value(BackendValue(code="m:f", version=version, config=settings))
        record = self.router.registry.write(key, text, current.stamp if current else None, self.wall_ms())
        self.router.publish([record], self.out)
        self.settle()

    def running(self) -> dict[str, int]:
        """Worker to the number of its processes."""
        return dict(Counter(name for name, _ in self.replicas.values()))

    def versions(self) -> Counter[str]:
        return Counter(self.replicas[node][1].value.version for node in self.ready)


# --- following the config ---------------------------------------------------------------------------------------------


def test_replicas_are_started_where_placement_says_and_each_once() -> None:
    lab = Lab("a", "b", "c")
    lab.backend("x", 3)
    lab.backend("y", 4)
    lab.serve()
    assert sorted(lab.running().values()) in ([2, 2, 3], [2, 3, 2])
    started = Counter((start.backend, start.index) for _, start in lab.replicas.values())
    assert started == Counter([("x", 0), ("x", 1), ("x", 2), ("y", 0), ("y", 1), ("y", 2), ("y", 3)])


def test_ids_come_from_the_generator_given() -> None:
    first, second = Lab("a"), Lab("a")
    for lab in (first, second):
        lab.backend("x", 2)
        lab.act()
    assert list(first.replicas) == list(second.replicas)
    assert all(len(node) == 16 for node in first.replicas)


def test_replicas_are_constructed_in_parallel() -> None:
    lab = Lab("a")
    lab.backend("x", 4)
    assert [type(action) for action in lab.act()["a"]] == [Start] * 4


def test_scaling_down_stops_those_that_serve_nothing_first() -> None:
    lab = Lab("a")
    lab.backend("x", 3)
    lab.act()
    one, two, three = lab.replicas
    lab.make_ready(one, three)
    lab.backend("x", 2)
    assert lab.act()["a"] == [Stop(two, 0.0)]
    lab.backend("x", 1)
    assert lab.act()["a"] == [Stop(three, 20.0)]
    assert list(lab.replicas) == [one]


def test_a_deleted_backend_is_stopped_with_its_grace() -> None:
    lab = Lab("a")
    lab.backend("x", 2, graceful_shutdown_timeout=7.0)
    lab.serve(0.5)
    nodes = sorted(lab.replicas)
    lab.backend("x", None)
    assert sorted(lab.act()["a"], key=lambda stop: stop.node) == [Stop(node, 7.0) for node in nodes]
    assert lab.reports["a"] == [] or not lab.workers["a"].report()


def test_config_reaches_running_replicas_without_a_restart() -> None:
    lab = Lab("a")
    lab.backend("x", 1)
    lab.serve(0.5)
    (node,) = lab.replicas
    lab.backend("x", 1, slo_ms=5.0)
    (action,) = lab.act()["a"]
    assert isinstance(action, Configure)
    assert (action.node, action.value.config.slo_ms) == (node, 5.0)
    assert list(lab.replicas) == [node]


# --- new code ---------------------------------------------------------------------------------------------------------


def test_the_report_says_which_user_config_a_replica_has_and_which_it_refused() -> None:
    lab = Lab("w1")
    old, new = (user_config_digest(BackendConfig(user_config=text)) for text in ("old", "new"))
    lab.backend("b", 1, user_config="old")
    lab.serve(0.5)
    core, (node,) = lab.workers["w1"], lab.ready
    (status,) = core.report()
    assert (status.configured, status.refused, status.reason) == (old, b"", "")
    core.replica_configured(node, new, "ValueError: no", lab.now)
    (status,) = core.report()
    assert (status.state, status.configured, status.refused, status.reason) == ("ready", old, new, "ValueError: no")
    core.replica_configured(node, new, "", lab.now)
    (status,) = core.report()
    assert (status.configured, status.refused, status.reason) == (new, b"", "")
    core.replica_configured(b"?" * 16, new, "", lab.now)  # of one that is gone: no harm


def test_new_code_replaces_replicas_one_by_one_and_never_serves_less() -> None:
    lab = Lab("a")
    lab.backend("x", 3)
    lab.serve(0.5)
    lab.backend("x", 3, version="2")
    for done in range(3):
        (start,) = lab.act()["a"]
        assert isinstance(start, Start)
        assert lab.versions() == Counter({"1": 3 - done, "2": done})
        lab.make_ready(start.node)
        assert len(lab.ready) == 4, "the successor is ready before the other goes"
        # act() carries out the stop, and is given the next start.
        stops = [action for action in lab.workers["a"].actions if isinstance(action, Stop)]
        assert len(stops) == 1
        lab.workers["a"].actions = [action for action in lab.workers["a"].actions if isinstance(action, Start)]
        lab.end(stops[0].node)
        lab.workers["a"].replica_exited(stops[0].node, "exit code 0", lab.now)
    assert lab.versions() == Counter({"2": 3})
    assert lab.act() == {}


def test_new_code_that_does_not_start_leaves_the_old_serving() -> None:
    lab = Lab("a")
    lab.backend("x", 3)
    lab.serve(0.5)
    lab.backend("x", 3, version="bad")
    attempts = 0
    for _ in range(100):
        lab.run(0.1)
        lab.act()
        for node in [node for node in lab.replicas if node not in lab.ready]:
            attempts += 1
            lab.fail(node)
    assert attempts == MAX_START_FAILURES
    assert lab.versions() == Counter({"1": 3})
    (failed,) = [status for status in lab.reports["a"] if status.state == "failed"]
    assert (failed.code, failed.reason) == ("bad", "Traceback: no such model")
    lab.backend("x", 3, version="good")
    lab.serve(2.0)
    assert lab.versions() == Counter({"good": 3})
    assert all(status.state == "ready" for status in lab.reports["a"])


def test_old_code_that_is_not_ready_is_not_waited_for() -> None:
    lab = Lab("a")
    lab.backend("x", 1)
    lab.act()
    (old,) = lab.replicas
    lab.backend("x", 1, version="2")
    stop, start = lab.act()["a"]
    assert stop == Stop(old, 0.0)
    assert start.value.version == "2"


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tries", "seconds"), [(0, 0), (1, 0), (2, 0.5), (3, 1), (4, 2), (7, 16), (8, 30), (5000, 30)])
def test_the_back_off(tries: int, seconds: float) -> None:
    assert backoff_s(tries) == seconds


def test_a_crashed_replica_is_restarted_at_once_and_then_ever_later() -> None:
    lab = Lab("a")
    lab.backend("x", 1)
    lab.serve(0.2)
    pauses = []
    for _ in range(6):
        (node,) = lab.replicas
        lab.crash(node)
        crashed_at = lab.now
        while not lab.replicas:
            lab.act()
            if not lab.replicas:
                assert [status.state for status in lab.reports["a"]] == ["dead"]
                wake = lab.workers["a"].next_wakeup()
                assert wake is not None
                lab.now = wake
                lab.workers["a"].tick(wake)
                lab.settle()
        pauses.append(round(lab.now - crashed_at, 3))
        lab.make_ready()
    assert pauses == [0, 0.5, 1, 2, 4, 8]
    lab.crash(*lab.replicas)
    (status,) = lab.reports["a"]
    assert (status.state, status.restarts) == ("dead", 7)
    assert status.reason == "killed by SIGKILL (crash loop: 7 times in a row)"


def test_a_replica_that_ran_for_long_is_restarted_at_once() -> None:
    lab = Lab("a")
    lab.backend("x", 1)
    lab.serve(0.2)
    for _ in range(3):
        lab.serve(40.0)
        (node,) = lab.replicas
        lab.crash(node)
        lab.act()
        assert len(lab.replicas) == 1


def test_a_replica_that_no_router_hears_any_more_is_killed_and_replaced() -> None:
    lab = Lab("a")
    lab.backend("m", replicas=2)
    lab.serve()
    one, other = lab.ready
    lab.run(100.0)
    assert lab.act() == {}
    lab.router.link_down(one, lab.now)  # its process is stopped
    lab.run(59.0)
    assert lab.act() == {}
    lab.run(2.0)
    stop, start = lab.act()["a"]
    assert stop == Stop(one, 0.0)
    assert isinstance(start, Start)
    lab.make_ready(start.node)
    (found,) = [status for status in lab.reports["a"] if status.node == start.node]
    assert found.restarts == 1
    assert "runs, but no router has heard it for 60 s; it was killed" in found.reason
    lab.run(100.0)
    assert lab.act() == {}, "the other one was heard all the time"
    assert lab.replicas.keys() == {other, start.node}


def test_a_replica_that_is_heard_again_in_time_is_kept() -> None:
    lab = Lab("a")
    lab.backend("m")
    lab.serve()
    (node,) = lab.ready
    for _ in range(3):
        lab.router.link_down(node, lab.now)
        lab.run(50.0)
        lab.make_ready(node)  # a link again
        lab.run(20.0)
    assert lab.act() == {}


def test_a_node_without_a_router_misses_nobody() -> None:
    lab = Lab("a")
    lab.backend("m")
    lab.serve()
    (node,) = lab.ready
    lab.unlink("a")
    lab.router.link_down(node, lab.now)
    lab.run(200.0)
    assert lab.act() == {}
    lab.link("a")
    lab.run(50.0)
    assert lab.act() == {}, "it counts from when it could tell"
    lab.run(20.0)
    assert [type(action) for action in lab.act()["a"]] == [Stop, Start]


def test_a_constructor_that_fails_is_tried_three_times_and_reported() -> None:
    lab = Lab("a")
    lab.backend("x", 1)
    attempts = 0
    for _ in range(600):
        lab.run(0.1)
        lab.act()
        for node in list(lab.replicas):
            attempts += 1
            lab.fail(node, f"attempt {attempts}")
            assert [status.reason for status in lab.reports["a"] if status.state == "failed"] == [f"attempt {attempts}"]
    assert attempts == MAX_START_FAILURES
    assert lab.workers["a"].next_wakeup() is None, "nothing left to try"
    lab.backend("x", 1, slo_ms=1.0)
    lab.serve(0.3)
    assert len(lab.ready) == 1
    assert [status.state for status in lab.reports["a"]] == ["ready"]


def test_a_process_that_ends_before_it_is_ready_has_failed_to_start() -> None:
    lab = Lab("a")
    lab.backend("x", 1)
    lab.act()
    lab.crash(*lab.replicas, how="exit code 1")
    (status,) = lab.reports["a"]
    assert (status.state, status.reason) == (
        "failed",
        "the process ended before the code was constructed: exit code 1",
    )


def test_a_long_reason_is_cut_in_the_middle() -> None:
    lab = Lab("a")
    lab.backend("x", 1)
    lab.act()
    lab.fail(*lab.replicas, reason="first" + "x" * 100_000 + "last")
    (status,) = lab.reports["a"]
    assert len(status.reason) < 8192
    assert status.reason.startswith("first")
    assert status.reason.endswith("last")


def test_news_of_unknown_replicas_is_ignored() -> None:
    core = Lab("a").workers["a"]
    core.replica_started(b"x" * 16, 1, 0.0)
    core.replica_ready(b"x" * 16, 0.0)
    core.replica_failed(b"x" * 16, "", 0.0)
    core.replica_exited(b"x" * 16, "", 0.0)
    assert (core.take_actions(), core.report()) == ([], [])


# --- reports ----------------------------------------------------------------------------------------------------------


def test_each_change_is_reported_and_only_changes() -> None:
    lab = Lab("a")
    lab.backend("x", 1)
    states = [[status.state for status in lab.reports["a"]]]
    lab.act()
    lab.settle()
    (status,) = lab.reports["a"]
    assert (status.backend, status.index, status.code, status.pid > 0) == ("x", 0, "1", True)
    lab.make_ready()
    states.append([status.state for status in lab.reports["a"]])
    assert states == [["starting"], ["ready"]]
    lab.reports.clear()
    lab.run(5.0)
    assert lab.reports == {}
    assert lab.workers["a"].statistics() == {"ready": 1}


def test_a_new_router_gets_the_whole_report() -> None:
    lab = Lab("a")
    lab.backend("x", 2)
    lab.serve(0.3)
    core = lab.workers["a"]
    other = NodeInfo(b"s" * 16, bytes(8), "router", "other")
    core.link_up(b"s", Hello(VERSION, MIN_VERSION, other), lab.now)
    (report,) = [message for message, _, _ in core.out.take()[b"s"] if isinstance(message, Report)]
    assert [status.state for status in report.replicas] == ["ready", "ready"]


# --- nodes come and go ------------------------------------------------------------------------------------------------


def test_a_join_moves_replicas_without_a_gap() -> None:
    lab = Lab("a")
    lab.backend("x", 4)
    lab.serve(0.5)
    lab.join("b")
    lab.run(0.3)
    lab.act()
    assert lab.running() == {"a": 4, "b": 2}, "those of a stay until those of b are ready"
    lab.run(20.0)
    lab.act()
    assert lab.running() == {"a": 4, "b": 2}
    lab.make_ready()
    lab.serve(0.5)
    assert lab.running() == {"a": 2, "b": 2}


def test_a_replica_that_was_about_to_move_is_kept_when_the_other_node_is_gone_again() -> None:
    lab = Lab("a")
    lab.backend("x", 4)
    lab.serve(0.5)
    before = set(lab.replicas)
    lab.join("b")
    lab.run(0.3)
    lab.act()
    lab.kill("b")
    lab.serve(GONE_S + 1.0)
    assert set(lab.replicas) == before


def test_the_replicas_of_a_dead_node_are_placed_on_others_after_a_moment() -> None:
    lab = Lab("a", "b")
    lab.backend("x", 4)
    lab.serve(0.5)
    lab.kill("b")
    lab.serve(GONE_S - 0.3)
    assert lab.running() == {"a": 2}
    lab.serve(0.6)
    assert lab.running() == {"a": 4}


def test_a_node_that_is_back_in_a_moment_costs_nothing() -> None:
    lab = Lab("a", "b")
    lab.backend("x", 4)
    lab.serve(0.5)
    before = set(lab.replicas)
    lab.unlink("b")
    lab.serve(GONE_S / 2)
    lab.link("b")
    lab.serve(10.0)
    assert set(lab.replicas) == before


def test_a_node_that_is_cut_off_keeps_what_it_has_and_takes_nothing_over() -> None:
    lab = Lab("a", "b")
    lab.backend("x", 4)
    lab.serve(0.5)
    lab.unlink("a")
    lab.workers["b"].link_down(b"r", "silent", lab.now)
    lab.router.link_down(b"b", lab.now)
    for _ in range(300):
        lab.run(0.1)
        assert lab.act() == {}
    assert lab.running() == {"a": 2, "b": 2}
    # It still restarts what crashes.
    node = next(node for node, (name, _) in lab.replicas.items() if name == "a")
    lab.crash(node)
    assert [type(action) for action in lab.act()["a"]] == [Start]


def test_after_the_router_was_gone_the_first_to_come_back_does_not_take_over_all() -> None:
    lab = Lab("a", "b")
    lab.backend("x", 4)
    lab.serve(0.5)
    before = set(lab.replicas)
    lab.unlink("a")
    lab.unlink("b")
    lab.run(8.0)
    lab.link("a")
    lab.serve(6.0)
    lab.link("b")
    lab.serve(10.0)
    assert set(lab.replicas) == before


def test_a_node_that_was_never_seen_by_a_router_runs_nothing() -> None:
    lab = Lab("a")
    core = lab.workers["a"]
    lab.backend("x", 1)
    alone = WorkerCore(ConfigSync(core.info, lab.wall_ms), random.Random(1))
    alone.sync.registry.restore(lab.router.registry.records(), lab.wall_ms())
    alone.tick(1.0)
    assert alone.take_actions() == []


def test_a_moving_replica_may_wait_for_long_but_not_when_slots_are_exceeded() -> None:
    lab = Lab("a", slots=2)
    lab.backend("x", 2)
    lab.serve(0.5)
    lab.join("b")
    lab.run(1.0)
    lab.act()
    lab.backend("y", 2)
    lab.run(25.0)
    lab.act()
    assert lab.running()["a"] == 3, "two of x, one of them about to move, and one of y"
    lab.run(10.0)
    lab.act()
    assert lab.running()["a"] == 2


# --- draining ---------------------------------------------------------------------------------------------------------


def test_draining_waits_until_others_have_taken_over() -> None:
    lab = Lab("a", "b")
    lab.backend("x", 4)
    lab.serve(0.5)
    lab.workers["a"].drain(lab.now)
    lab.settle()
    assert lab.pings[-1].leaving
    lab.run(0.3)
    lab.act()
    assert lab.running() == {"a": 2, "b": 4}
    assert not lab.workers["a"].drained
    fresh = [node for node in lab.replicas if node not in lab.ready]
    lab.make_ready(fresh[0])
    lab.run(0.1)
    lab.act()
    assert lab.running() == {"a": 1, "b": 4}, "one has been taken over"
    lab.make_ready(fresh[1])
    lab.run(0.1)
    lab.act()
    assert lab.running() == {"b": 4}
    assert lab.workers["a"].drained


def test_the_last_node_does_not_wait_for_anyone() -> None:
    lab = Lab("a")
    lab.backend("x", 2, graceful_shutdown_timeout=4.0)
    lab.serve(0.5)
    core = lab.workers["a"]
    core.drain(lab.now)
    actions = core.take_actions()
    assert [action.grace_s for action in actions if isinstance(action, Stop)] == [4.0, 4.0]
    assert not core.drained
    for action in actions:
        assert not core.drained
        core.replica_exited(action.node, "exit code 0", lab.now)
    assert core.drained


def test_draining_ends_when_the_time_is_up_or_when_it_is_told_to() -> None:
    for told in (False, True):
        lab = Lab("a", "b")
        lab.backend("x", 4)
        lab.serve(0.5)
        core = lab.workers["a"]
        core.drain(lab.now, handover_s=10.0)
        core.drain(lab.now, handover_s=99.0)
        lab.run(9.9)
        lab.act()
        assert lab.running()["a"] == 2
        if told:
            core.handover_done(lab.now)
        lab.run(0.2)
        lab.act()
        assert core.drained
        assert lab.running() == {"b": 4}


def test_two_that_leave_together_do_not_rely_on_each_other() -> None:
    lab = Lab("a", "b", "c")
    lab.backend("x", 3)
    lab.serve(0.5)
    for name in ("a", "b"):
        lab.workers[name].drain(lab.now)
    lab.run(0.5)
    lab.act()
    assert lab.running() == {"a": 1, "b": 1, "c": 3}
    lab.make_ready(next(node for node in lab.replicas if node not in lab.ready))
    lab.run(0.2)
    lab.act()
    assert lab.running() == {"a": 1, "b": 1, "c": 3}, "each would do without the other's, but not both"
    lab.make_ready()
    lab.serve(0.5)
    assert lab.running() == {"c": 3}


# --- properties -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_after_any_events_each_replica_runs_exactly_once(seed: int) -> None:
    """Joins, deaths, drains, crashes, failures, scaling and new code; then a minute of peace."""
    rng = random.Random(seed)
    lab = Lab("a", "b", slots=20)
    names = iter(f"n{number}" for number in range(100))
    wanted: dict[str, tuple[int, str]] = {}
    for _ in range(30):
        action = rng.random()
        if action < 0.35:
            name = f"x{rng.randrange(3)}"
            if name in wanted and rng.random() < 0.2:
                del wanted[name]
                lab.backend(name, None)
            else:
                wanted[name] = (rng.randrange(4), rng.choice("123"))
                lab.backend(name, *wanted[name])
        elif action < 0.45:
            lab.join(next(names))
        elif action < 0.52 and len(lab.workers) > 1:
            lab.kill(rng.choice(list(lab.workers)))
        elif action < 0.6 and len(lab.workers) > 1:
            lab.workers[rng.choice(list(lab.workers))].drain(lab.now, 5.0)
        elif action < 0.8 and lab.replicas:
            node = rng.choice(list(lab.replicas))
            if node in lab.ready:
                lab.crash(node)
            else:
                lab.fail(node)
        elif action < 0.9:
            lab.act()
        else:
            lab.serve(rng.random())
        lab.run(rng.choice([0.1, 0.3]))
        for name in [name for name, core in lab.workers.items() if core.drained]:
            lab.kill(name)
    lab.join(next(names))
    for name, (replicas, version) in wanted.items():
        lab.backend(name, replicas, version, slo_ms=1.0)  # what was given up is tried again
    lab.serve(60.0)
    found: Counter[tuple[str, str]] = Counter()
    for node, (_, start) in lab.replicas.items():
        assert node in lab.ready
        found[start.backend, start.value.version] += 1
    assert found == Counter({(name, version): count for name, (count, version) in wanted.items() if count})
    for name, core in lab.workers.items():
        if core.leaving:
            assert core.drained
        assert {status.state for status in core.report()} <= {"ready"}, name
