"""Several routers and replicas under random schedules of everything that can happen to them."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zserve.config import BackendConfig
from zserve.scheduling.backend_queue import BackendQueue
from zserve.scheduling.credits import CreditPool
from zserve.scheduling.entry import IN_FLIGHT, NO_DEADLINE, Dispatch, Entry


class Router:
    def __init__(self, name: bytes, config: BackendConfig) -> None:
        self.name = name
        self.queue = BackendQueue("b", config, random.Random(1))
        self.queue._heap.fairness_s = 1e9
        self.open: dict[bytes, Entry] = {}  # without an outcome


class Replica:
    def __init__(self, name: bytes, capacity: int) -> None:
        self.name = name
        self.pool = CreditPool(capacity, random.Random(1))
        self.capacity = capacity
        self.batches: list[tuple[bytes, list[bytes]]] = []  # (router, ids), running


class FabricMachine(RuleBasedStateMachine):
    @initialize(
        batch=st.sampled_from([None, None, 2, 4]),
        policy=st.sampled_from(["edf", "edf", "fifo"]),
        wait=st.sampled_from([0.0, 0.0, 0.05]),
        routers=st.integers(1, 3),
        replicas=st.integers(0, 3),
        most=st.sampled_from([3, 50]),
    )
    def start(self, batch: int | None, policy: str, wait: float, routers: int, replicas: int, most: int) -> None:
        self.now = 0.0
        self.policy = policy
        self.config = BackendConfig(
            max_batch_size=batch, batch_wait_timeout=wait, max_queued_requests=most, queue_order=policy
        )
        self.routers: dict[bytes, Router] = {}
        self.replicas: dict[bytes, Replica] = {}
        # FIFO links, one each way: (router, replica, to_replica) -> messages
        self.links: dict[tuple[bytes, bytes, bool], deque[tuple[Any, ...]]] = {}
        self.outcomes: dict[bytes, str] = {}
        self.count = 0
        for _ in range(routers):
            self.router_joins()
        for _ in range(replicas):
            self.replica_joins(3)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def name(self) -> bytes:
        self.count += 1
        return self.count.to_bytes(4, "big")

    def connect(self, router: Router, replica: Replica) -> None:
        for way in (True, False):
            self.links[router.name, replica.name, way] = deque()
        router.queue.replica_joined(replica.name, self.now)
        replica.pool.router_joined(router.name, self.now)

    @precondition(lambda self: len(self.routers) < 3)
    @rule()
    def router_joins(self) -> None:
        router = Router(self.name(), self.config)
        self.routers[router.name] = router
        for replica in self.replicas.values():
            self.connect(router, replica)
            self.settle(replica)

    @precondition(lambda self: len(self.replicas) < 3)
    @rule(capacity=st.integers(1, 6))
    def replica_joins(self, capacity: int) -> None:
        replica = Replica(self.name(), capacity)
        self.replicas[replica.name] = replica
        for router in self.routers.values():
            self.connect(router, replica)
        self.settle(replica)

    @precondition(lambda self: len(self.routers) > 1)
    @rule(data=st.data())
    def router_dies(self, data: st.DataObject) -> None:
        router = self.routers.pop(data.draw(st.sampled_from(sorted(self.routers))))
        for id_ in router.open:
            self.ends(id_, "router died")
        for replica in self.replicas.values():
            replica.pool.router_left(router.name, self.now)
            for way in (True, False):
                del self.links[router.name, replica.name, way]
            self.settle(replica)

    @precondition(lambda self: self.replicas)
    @rule(data=st.data(), retry=st.booleans())
    def replica_dies(self, data: st.DataObject, retry: bool) -> None:
        replica = self.replicas.pop(data.draw(st.sampled_from(sorted(self.replicas))))
        for router in self.routers.values():
            for way in (True, False):
                del self.links[router.name, replica.name, way]
            for entry in router.queue.replica_left(replica.name, self.now):
                assert entry.id in router.open
                if retry:
                    router.queue.requeue(entry, self.now)
                else:
                    self.over(router, entry.id, "replica died")
            self.turn(router)

    @precondition(lambda self: self.routers and self.replicas)
    @rule(data=st.data(), doubted=st.booleans())
    def link_goes_silent_or_is_heard_again(self, data: st.DataObject, doubted: bool) -> None:
        router = self.routers[data.draw(st.sampled_from(sorted(self.routers)))]
        router.queue.replica_doubted(data.draw(st.sampled_from(sorted(self.replicas))), doubted, self.now)
        self.turn(router)

    # --- requests -----------------------------------------------------------------------------------------------------

    def ends(self, id_: bytes, how: str) -> None:
        assert id_ not in self.outcomes, f"{how} after {self.outcomes[id_]}"
        self.outcomes[id_] = how

    def over(self, router: Router, id_: bytes, how: str) -> None:
        self.ends(id_, how)
        del router.open[id_]

    @rule(
        data=st.data(),
        count=st.integers(1, 4),
        budget=st.sampled_from([NO_DEADLINE, -1.0, 0.02, 0.1, 0.1, 1.0, 10.0]),
        priority=st.sampled_from([0, 0, 0, 1]),
        method=st.sampled_from(["", "", "", "other"]),
    )
    def offer(self, data: st.DataObject, count: int, budget: float, priority: int, method: str) -> None:
        router = self.routers[data.draw(st.sampled_from(sorted(self.routers)))]
        for _ in range(count):
            id_ = self.name()
            entry = Entry(
                id=id_, deadline=self.now + budget, arrived=self.now, priority=priority, method=method, size=1
            )
            refusal = router.queue.offer(entry, self.now)
            if refusal is None:
                router.open[id_] = entry
            else:
                assert refusal.status in (429, 503, 504)
                self.ends(id_, f"refused {refusal.status}")
        self.turn(router)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        router = self.routers[data.draw(st.sampled_from(sorted(self.routers)))]
        if not router.open:
            assert router.queue.cancel(b"unknown", self.now) is None
            return
        id_ = data.draw(st.sampled_from(sorted(router.open)))
        entry = router.queue.cancel(id_, self.now)
        assert entry is not None
        assert router.queue.cancel(id_, self.now) is None
        self.over(router, id_, "cancelled")
        self.turn(router)

    # --- what the router does after each event ------------------------------------------------------------------------

    def turn(self, router: Router) -> None:
        queue = router.queue
        for dispatch in queue.dispatch(self.now):
            self.sent(router, dispatch)
        for entry, refusal in queue.expire(self.now):
            assert refusal.status in (503, 504)
            assert refusal.status == 503 or entry.deadline <= self.now
            self.over(router, entry.id, f"expired {refusal.status}")
        for name in queue.demand_due(self.now):
            self.links[router.name, name, True].append(("demand", *queue.demand(name, self.now)))
        wakeup = queue.next_wakeup()
        assert wakeup is None or wakeup > self.now, "something was left undone"

    def sent(self, router: Router, dispatch: Dispatch) -> None:
        entries = dispatch.entries
        assert entries
        assert len(entries) <= (self.config.max_batch_size or 1)
        assert len({entry.method for entry in entries}) == 1
        for entry in entries:
            assert entry.id in router.open
            assert entry.state == IN_FLIGHT
            assert entry.deadline > self.now
        last = entries[-1]
        for queued in router.queue._heap:
            # Never out of order: nobody who waits should have gone before those who went.
            if queued.method == last.method and queued.state == 1:
                assert self.key(queued) > self.key(last)
        ids = [entry.id for entry in entries]
        self.links[router.name, dispatch.replica, True].append(("calls", ids))

    def key(self, entry: Entry) -> tuple[int, float, int]:
        return (entry.priority, entry.deadline if self.policy == "edf" else 0.0, entry.seq)

    def settle(self, replica: Replica) -> None:
        for name, epoch, limit in replica.pool.settle(self.now):
            self.links[name, replica.name, False].append(("grant", epoch, limit))

    # --- messages -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: any(self.links.values()))
    @rule(data=st.data(), count=st.integers(1, 3))
    def delivers(self, data: st.DataObject, count: int) -> None:
        link = data.draw(st.sampled_from(sorted(link for link, messages in self.links.items() if messages)))
        self.deliver(link, count)

    def deliver(self, link: tuple[bytes, bytes, bool], count: int) -> None:
        router, replica = self.routers[link[0]], self.replicas[link[1]]
        messages = self.links[link]
        for _ in range(min(count, len(messages))):
            kind, *content = messages.popleft()
            if kind == "calls":
                (ids,) = content
                assert replica.pool.received(router.name, len(ids), self.now) == len(ids)
                assert replica.pool.over_limit == 0
                replica.batches.append((router.name, ids))
            elif kind == "demand":
                epoch, sent, queued, urgent_us = content
                urgent = None if urgent_us < 0 else urgent_us * 1e-6
                replica.pool.demand(router.name, epoch, sent, queued, urgent, self.now)
            elif kind == "grant":
                router.queue.grant(replica.name, *content, self.now)
            elif kind == "results":
                for id_, ok in content:
                    entry = router.queue.completed(replica.name, id_, self.now, ok=ok, run_s=0.01)
                    if entry is not None:
                        self.over(router, id_, "answered")
                    else:
                        assert id_ in self.outcomes
            elif kind == "returns":
                for id_ in content:
                    entry = router.queue.returned(replica.name, id_, self.now)
                    if entry is not None:
                        router.queue.requeue(entry, self.now)
        if link[2]:
            self.settle(replica)
        else:
            self.turn(router)

    @precondition(lambda self: any(replica.batches for replica in self.replicas.values()))
    @rule(data=st.data(), how=st.sampled_from(["results", "results", "results", "returns"]), ok=st.booleans())
    def replica_ends(self, data: st.DataObject, how: str, ok: bool) -> None:
        busy = sorted(replica.name for replica in self.replicas.values() if replica.batches)
        replica = self.replicas[data.draw(st.sampled_from(busy))]
        self.end_batch(replica, data.draw(st.integers(0, len(replica.batches) - 1)), how, ok)

    def end_batch(self, replica: Replica, index: int, how: str, ok: bool) -> None:
        router, ids = replica.batches.pop(index)
        replica.pool.finished(router, len(ids))
        if router in self.routers:
            content = [(id_, ok) for id_ in ids] if how == "results" else ids
            self.links[router, replica.name, False].append((how, *content))
        self.settle(replica)

    @rule(step=st.sampled_from([0.001, 0.01, 0.03, 0.2, 2.0]))
    def time_passes(self, step: float) -> None:
        self.now += step
        for replica in self.replicas.values():
            for router in self.routers:
                replica.pool.heard(router, self.now)  # heartbeats
        for router in self.routers.values():
            due = router.queue.next_wakeup()
            if due is not None and due <= self.now:
                self.turn(router)

    # --- always -------------------------------------------------------------------------------------------------------

    @invariant()
    def never_over_credit(self) -> None:
        for replica in getattr(self, "replicas", {}).values():
            assert replica.pool.outstanding <= replica.capacity
            assert sum(len(ids) for _, ids in replica.batches) <= replica.capacity
        for router in getattr(self, "routers", {}).values():
            fleet = router.queue._fleet
            members = list(fleet.members.values())
            heard = [each for each in members if not each.doubted] or members
            assert fleet.credit == sum(max(0, each.credit) for each in heard) >= 0
            assert fleet.in_flight == sum(len(each.held) for each in members)
            with_credit = {each.peer for each in heard if each.credit > 0}
            assert {each.peer for each in fleet.ready} == with_credit

    @invariant()
    def everyone_is_somewhere(self) -> None:
        for router in getattr(self, "routers", {}).values():
            queued = {entry.id for entry in router.queue._heap}
            assert set(router.queue._queued) == queued
            in_flight = {
                id_
                for each in router.queue._fleet.members.values()
                for id_, entry in each.held.items()
                if entry.state == IN_FLIGHT
            }
            assert queued | in_flight == set(router.open)
            assert not queued & in_flight

    def teardown(self) -> None:
        """Everything is delivered and ends: each request has one outcome, each credit is back."""
        if not hasattr(self, "routers"):
            return
        if not self.replicas:
            self.replica_joins(2)
        for router in self.routers.values():
            for name in self.replicas:
                router.queue.replica_doubted(name, False, self.now)
            self.turn(router)
        for _ in range(200):
            self.time_passes(0.01)
            for link in sorted(link for link, messages in self.links.items() if messages):
                self.deliver(link, 1000)
            for replica in self.replicas.values():
                while replica.batches:
                    self.end_batch(replica, 0, "results", True)
        for router in self.routers.values():
            assert not router.open, "a request was left without an outcome"
            figures = router.queue.statistics()
            assert figures["queued"] == figures["in_flight"] == figures["queued_bytes"] == 0
        for replica in self.replicas.values():
            assert replica.pool.outstanding == replica.capacity
            credit = sum(router.queue._fleet.members[replica.name].credit for router in self.routers.values())
            assert credit == replica.capacity


TestFabricMachine = FabricMachine.TestCase
TestFabricMachine.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
