from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from zserve.config import BackendConfig
from zserve.scheduling.credits import LEASE_S, RECALL_BITS, CreditAccount, CreditPool, derive_capacity

EPOCH = 1 << RECALL_BITS


@pytest.mark.parametrize(
    ("config", "parallelism", "mean_s", "expected"),
    [
        ({}, 1, None, 2),
        ({}, 1, 0.010, 2),
        ({}, 1, 0.002, 2),
        ({}, 1, 0.001, 3),
        ({}, 4, 0.0005, 8),
        ({}, 1, 1e-9, 257),
        ({"max_concurrent_queries": 7}, 4, 0.0001, 7),
        ({"max_batch_size": 32}, 1, None, 65),
        ({"max_batch_size": 32}, 1, 0.00025, 72),
        ({"max_batch_size": 1}, 1, 0.010, 2),
        ({"max_batch_size": 32, "max_concurrent_queries": 10}, 1, 0.001, 10),
    ],
)
def test_derived_capacity(config: dict[str, int], parallelism: int, mean_s: float | None, expected: int) -> None:
    assert derive_capacity(BackendConfig(**config), parallelism, mean_s) == expected


@pytest.mark.parametrize(
    ("grants", "sent", "credit"),
    [
        ([(EPOCH, 5)], 2, 3),
        ([(EPOCH, 5), (EPOCH, 5)], 2, 3),
        ([(EPOCH, 5), (EPOCH, 9), (EPOCH, 7)], 2, 7),  # an older grant comes late
        ([(EPOCH, 5), (EPOCH + 1, 3)], 2, 1),  # a recall
        ([(EPOCH, 5), (EPOCH + 1, 1)], 2, -1),  # a recall below what is sent
        ([(EPOCH, 5), (EPOCH + 1, 3), (EPOCH, 5)], 2, 1),  # the grant before the recall comes late
        ([(EPOCH, 5), (2 * EPOCH, 4)], 2, 4),  # the replica met us anew: nothing is sent yet
        ([(2 * EPOCH, 4), (EPOCH, 50)], 2, 2),
    ],
)
def test_grants_are_absolute(grants: list[tuple[int, int]], sent: int, credit: int) -> None:
    account = CreditAccount()
    for index, (epoch, limit) in enumerate(grants):
        account.grant(epoch, limit)
        if index == 0:
            account.sent = sent
    assert account.credit == credit


def pool(capacity: int, routers: int = 1, **options: int) -> CreditPool:
    made = CreditPool(capacity, random.Random(1), **options)
    for index in range(routers):
        made.router_joined(bytes([index]), 0.0)
    made.settle(0.0)
    return made


def limits(made: CreditPool, routers: int) -> list[int]:
    grants = [made.grant_for(bytes([index])) for index in range(routers)]
    return [grant[1] for grant in grants if grant is not None]


def test_one_router_gets_everything() -> None:
    made = pool(5)
    assert limits(made, 1) == [5]
    assert made.received(b"\0", 5, 0.0) == 5
    made.finished(b"\0", 2)
    assert made.settle(0.0) == [(b"\0", EPOCH, 7)]
    assert made.settle(0.0) == []


def test_without_demand_credits_are_spread_evenly() -> None:
    assert sorted(limits(pool(10, 4), 4)) == [2, 2, 3, 3]
    assert sorted(limits(pool(2, 4), 4)) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("capacity", "overcommit"), [(0, 0), (-1, 0), (1, -1)], ids=["no capacity", "negative", "negative overcommit"]
)
def test_bad_capacity_is_refused(capacity: int, overcommit: int) -> None:
    with pytest.raises(ValueError, match=r"-?\d"):
        CreditPool(capacity, random.Random(1), overcommit=overcommit)


def test_unused_credits_go_to_where_the_demand_is_once_the_recall_is_answered() -> None:
    made = pool(8, 2)
    assert limits(made, 2) == [4, 4]
    made.demand(b"\0", EPOCH, 0, 100, 0.05, 0.0)
    changed = made.settle(0.0)
    # Router 1 is asked back all but its reserve; until it answers, its four count as used.
    assert changed == [(b"\1", 2 * EPOCH + 1, 1)]
    assert made.outstanding == 8
    made.demand(b"\1", 2 * EPOCH + 1, 0, 0, None, 0.0)
    assert made.settle(0.0) == [(b"\0", EPOCH, 7)]


def test_a_recall_cannot_take_what_was_sent_in_the_meantime() -> None:
    made = pool(8, 2)
    made.demand(b"\0", EPOCH, 0, 100, None, 0.0)
    made.settle(0.0)
    made.demand(b"\1", 2 * EPOCH + 1, 3, 0, None, 0.0)  # it had used three when it heard
    assert {router: limit for router, _, limit in made.settle(0.0)} == {b"\0": 5, b"\1": 3}
    assert made.received(b"\1", 3, 0.0) == 3
    assert made.over_limit == 0


def test_freed_slots_follow_the_queue_lengths() -> None:
    made = pool(10, 2)
    for router, queued in ((b"\0", 90), (b"\1", 10)):
        grant = made.grant_for(router)
        assert grant is not None
        made.received(router, grant[1], 0.0)
        made.demand(router, grant[0], grant[1], queued, 0.1, 0.0)
    for _ in range(50):
        for router in (b"\0", b"\1"):
            grant = made.grant_for(router)
            share = made._shares[router]
            if grant is not None and share.running:
                made.finished(router)
        made.settle(0.0)
        for router in (b"\0", b"\1"):
            share = made._shares[router]
            made.received(router, share.limit - share.received, 0.0)
    held = [made._shares[router].held for router in (b"\0", b"\1")]
    assert sum(held) == 10
    assert held[0] >= 7
    assert held[1] >= 1


def test_more_urgent_demand_wins_a_tie() -> None:
    made = CreditPool(1, random.Random(1))
    for router, urgent in ((b"\0", 0.5), (b"\1", 0.01), (b"\2", None)):
        made.router_joined(router, 0.0)
        made.demand(router, 0, 0, 5, urgent, 0.0)
    assert [router for router, _, limit in made.settle(0.0) if limit] == [b"\1"]


def test_a_lease_that_runs_out_returns_what_is_unused() -> None:
    made = pool(6, 2)
    made.received(b"\0", 2, 0.0)
    assert made.next_wakeup() == LEASE_S
    made.heard(b"\1", LEASE_S - 0.1)
    changed = {router: limit for router, _, limit in made.settle(LEASE_S)}
    assert changed[b"\0"] == 2  # its two run on
    assert changed[b"\1"] == 4
    # It was only silent: it is back with its next message, and what it sends against the old grant is counted.
    assert made.received(b"\0", 1, LEASE_S + 0.1) == 1
    assert made.over_limit == 1


def test_far_beyond_the_grant_is_handed_back() -> None:
    made = pool(2)
    assert made.received(b"\0", 10, 0.0) == 3
    assert made.over_limit == 8
    made.finished(b"\0", 3)
    made.settle(0.0)
    assert made.outstanding == 2


def test_running_requests_of_a_router_that_left_keep_their_slots_until_they_end() -> None:
    made = pool(4, 2)
    made.received(b"\0", 2, 0.0)
    made.router_left(b"\0", 1.0)
    made.settle(1.0)
    assert limits(made, 2) == [2]
    made.finished(b"\0", 2)
    made.settle(1.0)
    assert limits(made, 2) == [4]
    assert made.statistics()["routers"] == 1


def test_a_link_that_comes_back_starts_a_new_epoch_and_carries_what_runs() -> None:
    made = pool(4)
    made.received(b"\0", 3, 0.0)
    made.router_joined(b"\0", 1.0)
    assert made.settle(1.0) == [(b"\0", 2 * EPOCH, 1)]
    made.finished(b"\0", 3)
    assert made.settle(1.0) == [(b"\0", 2 * EPOCH, 4)]


def test_a_patient_pool_tells_its_only_router_of_more_when_half_is_used() -> None:
    made = pool(8, 1)
    told = []
    for number in range(1, 17):
        assert made.received(b"\0", 1, 0.0) == 1
        made.finished(b"\0")
        told += [(number, limit) for _, _, limit in made.settle(0.0, patient=True)]
    assert told == [(4, 12), (8, 16), (12, 20), (16, 24)]


def test_a_patient_pool_does_not_wait_with_anything_else() -> None:
    made = pool(8, 1)
    made.capacity = 4
    assert made.settle(0.0, patient=True) == [(b"\0", EPOCH + 1, 4)], "less is said at once"
    made.demand(b"\0", EPOCH + 1, 0, 0, None, 0.0)
    made.capacity = 16
    assert made.settle(0.0, patient=True) == [(b"\0", EPOCH + 1, 16)], "and so is much more"
    made.router_joined(b"\1", 0.0)
    assert made.settle(0.0, patient=True), "others are not kept waiting"


def test_draining_grants_nothing_more() -> None:
    made = pool(4)
    made.received(b"\0", 1, 0.0)
    made.draining = True
    assert made.settle(0.0) == [(b"\0", EPOCH + 1, 1)]


def test_strangers_are_handed_back_everything() -> None:
    made = pool(4)
    assert made.received(b"stranger", 2, 0.0) == 0
    made.demand(b"stranger", 1, 1, 1, None, 0.0)
    made.finished(b"stranger")
    assert made.grant_for(b"stranger") is None


class CreditMachine(RuleBasedStateMachine):
    """Several routers and one replica over links that lose, repeat and reorder grants and demands.

    Requests themselves arrive, in order (a link that loses one is dead).
    """

    @initialize(capacity=st.integers(1, 12), routers=st.integers(1, 4), overcommit=st.integers(0, 2))
    def start(self, capacity: int, routers: int, overcommit: int) -> None:
        self.now = 0.0
        self.capacity = capacity
        self.pool = CreditPool(capacity, random.Random(1), overcommit=overcommit)
        self.overcommit = overcommit
        self.accounts: dict[bytes, CreditAccount] = {}
        self.grants: list[tuple[bytes, int, int]] = []  # in flight to the routers
        self.demands: list[tuple[bytes, int, int, int]] = []
        self.calls: dict[bytes, int] = {}
        self.running: dict[bytes, int] = {}
        self.lapsed = False
        self.names = 0
        for _ in range(routers):
            self.join()

    @precondition(lambda self: len(self.accounts) < 4)
    @rule()
    def join(self) -> None:
        self.names += 1
        name = bytes([self.names % 256, self.names // 256])
        self.accounts[name] = CreditAccount()
        self.calls[name] = 0
        self.running[name] = 0
        self.pool.router_joined(name, self.now)
        self.settle()

    @precondition(lambda self: len(self.accounts) > 1)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.accounts)))
        del self.accounts[name]
        self.calls.pop(name)
        self.pool.router_left(name, self.now)
        self.settle()

    def settle(self) -> None:
        self.grants += self.pool.settle(self.now)

    @precondition(lambda self: self.grants)
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "arrives", "lost", "twice"]))
    def grant_arrives(self, data: st.DataObject, fate: str) -> None:
        index = data.draw(st.integers(0, len(self.grants) - 1))
        name, epoch, limit = self.grants[index] if fate == "twice" else self.grants.pop(index)
        if fate != "lost" and name in self.accounts:
            self.accounts[name].grant(epoch, limit)

    @rule(data=st.data(), count=st.integers(1, 5))
    def send(self, data: st.DataObject, count: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.accounts)))
        account = self.accounts[name]
        count = min(count, max(0, account.credit))
        account.sent += count
        self.calls[name] += count

    @rule(data=st.data())
    def calls_arrive(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.calls)))
        count, self.calls[name] = self.calls[name], 0
        taken = self.pool.received(name, count, self.now)
        if not self.lapsed:
            assert taken == count
            assert self.pool.over_limit == 0
        self.running[name] += taken
        self.settle()

    @rule(data=st.data(), queued=st.integers(0, 30))
    def demand(self, data: st.DataObject, queued: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.accounts)))
        account = self.accounts[name]
        self.demands.append((name, account.epoch, account.sent, queued))

    @precondition(lambda self: self.demands)
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "arrives", "lost", "twice"]))
    def demand_arrives(self, data: st.DataObject, fate: str) -> None:
        index = data.draw(st.integers(0, len(self.demands) - 1))
        name, epoch, sent, queued = self.demands[index] if fate == "twice" else self.demands.pop(index)
        if fate != "lost":
            self.pool.demand(name, epoch, sent, queued, 0.1, self.now)
            self.settle()

    @rule(data=st.data(), count=st.integers(1, 4))
    def finish(self, data: st.DataObject, count: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        count = min(count, self.running[name])
        if count:
            self.running[name] -= count
            self.pool.finished(name, count)
            self.settle()

    @rule(step=st.sampled_from([0.1, 1.0, LEASE_S]))
    def time_passes(self, step: float) -> None:
        self.now += step
        if step == LEASE_S:
            self.lapsed = True  # a silent router may now overshoot: it is counted, not trusted
        else:
            for name in self.accounts:
                self.pool.heard(name, self.now)  # heartbeats
        self.settle()

    @invariant()
    def never_beyond_capacity(self) -> None:
        if not self.lapsed:
            assert self.pool.outstanding <= self.capacity + self.overcommit
            assert sum(self.running.values()) <= self.capacity + self.overcommit

    def teardown(self) -> None:
        """At rest every credit is back: the links deliver, everything ends, and the whole capacity is on offer."""
        if not hasattr(self, "pool"):
            return
        for name in self.accounts:
            self.pool.heard(name, self.now)
        for _ in range(20):
            for name in list(self.running):
                count = self.running[name] + self.pool.received(name, self.calls.pop(name, 0), self.now)
                self.running[name] = 0
                self.pool.finished(name, count)
            self.pool.settle(self.now)
            for name, account in self.accounts.items():
                grant = self.pool.grant_for(name)
                assert grant is not None
                account.grant(*grant)
                self.pool.demand(name, account.epoch, account.sent, 0, None, self.now)
        self.pool.settle(self.now)
        most = self.capacity + (self.overcommit if len(self.accounts) > 1 else 0)
        assert self.pool.outstanding == most
        assert self.pool.statistics()["running"] == 0
        credit = sum(account.credit for account in self.accounts.values())
        assert credit <= most
        # Whoever wants them now gets all of them, but for one in reserve for each of the others.
        name, account = next(iter(self.accounts.items()))
        for _ in range(4):
            self.pool.demand(name, account.epoch, account.sent, 1000, 0.1, self.now)
            self.pool.settle(self.now)
            for other, theirs in self.accounts.items():
                grant = self.pool.grant_for(other)
                assert grant is not None
                theirs.grant(*grant)
                if other != name:
                    self.pool.demand(other, theirs.epoch, theirs.sent, 0, None, self.now)
        reserve = len(self.accounts) - 1 if most >= len(self.accounts) else 0
        assert account.credit >= most - reserve


TestCreditMachine = CreditMachine.TestCase
TestCreditMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
