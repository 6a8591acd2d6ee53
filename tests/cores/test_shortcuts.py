"""Answers that go straight from a replica to the gateway that waits for them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.config import BackendConfig
from zserve.cores.replica import ReplicaCore
from zserve.cores.shortcuts import UNTOLD, UNTOLD_S
from zserve.http.answers import KIND_TEXT, ORIGIN_CODE, ORIGIN_REPLICA
from zserve.registry.sync import ConfigSync
from zserve.wire.messages import (
    FLAG_IDEMPOTENT,
    NO_BUDGET,
    VERSION,
    Answered,
    Call,
    Cancel,
    Hello,
    NodeInfo,
    Result,
    View,
)

ROUTER, OTHER_ROUTER, GATEWAY, OTHER_GATEWAY = b"router", b"other-router", b"gateway", b"other-gateway"
BOOT, OTHER_BOOT = b"gateway1", b"gateway2"
OK = (200, KIND_TEXT, b"", b"ok", ORIGIN_CODE)


def hello(role: str, boot: bytes = b"b" * 8, version: int = VERSION) -> Hello:
    return Hello(version, 1, NodeInfo(boot * 2, boot, role))


class Bench:
    """A replica's core with links to a router and two gateways; *sent* is what left since the last look, by peer."""

    def __init__(self, version: int = VERSION, config: BackendConfig | None = None, **options: Any) -> None:
        self.core = ReplicaCore("b", config, **options)
        self.now = 100.0
        self.core.link_up(ROUTER, hello("router", version=version), self.now)
        self.core.link_up(GATEWAY, hello("gateway", BOOT), self.now)
        self.core.link_up(OTHER_GATEWAY, hello("gateway", OTHER_BOOT), self.now)
        self.core.out.take()

    def call(self, *ids: bytes, peer: bytes = ROUTER, flags: int = 0, waited_us: int = 0, size: int = 1) -> None:
        calls = [Call(key, n, size, "e", NO_BUDGET, flags, "", 0, 0, waited_us) for n, key in enumerate(ids)]
        self.core.receive(peer, [(one, b"", b"body") for one in calls], self.now)

    def run(self, *answers: Any, took_s: float = 0.001, patient: bool = False) -> None:
        """Everything that was given to the executor is done now."""
        given = list(answers)
        while self.core.runs:
            runs, self.core.runs = self.core.runs, []
            done = []
            for run in runs:
                run.claim()
                run.started = self.now
                run.ended = self.now = self.now + took_s
                done.append((run, [given.pop(0) if given else OK for _ in run.calls]))
            self.core.answer(done, self.now)
            self.core.account(self.now, patient=patient)

    @property
    def sent(self) -> dict[bytes, list[Any]]:
        kinds = (Result, Answered)
        taken = self.core.out.take().items()
        found = {peer: [message for message, _, _ in parcels if type(message) in kinds] for peer, parcels in taken}
        return {peer: messages for peer, messages in found.items() if messages}


def quick() -> Bench:
    """Calls have been quick, and the router has plenty of credit: it need not be told anything else for a while."""
    bench = Bench()
    for number in range(40):
        bench.call(key(1000 + number))
        bench.run(took_s=1e-6)
    assert bench.core.quick
    assert bench.sent
    return bench


def key(number: int, boot: bytes = BOOT) -> bytes:
    return boot + number.to_bytes(8, "big")


def test_an_answer_goes_to_its_gateway_and_the_router_is_told() -> None:
    bench = Bench()
    bench.call(key(1), key(2), waited_us=70)
    bench.run()
    sent = bench.sent
    assert [(result.id, result.status) for result in sent[GATEWAY]] == [(key(1), 200), (key(2), 200)]
    assert [result.queue_us for result in sent[GATEWAY]] == [70, 70], "what it waited at the router is said, too"
    (told,) = sent[ROUTER]
    assert (told.ids, told.ago_us) == (key(1) + key(2), [0, 0])
    assert told.run_us == [result.run_us for result in sent[GATEWAY]]
    assert told.waited_us == [result.batch_us for result in sent[GATEWAY]], "at the replica alone"
    assert bench.core.held == 0
    assert bench.core.statistics()["direct_answers"] == 2


def test_each_gateway_gets_its_own() -> None:
    bench = Bench()
    bench.call(key(1), key(1, OTHER_BOOT), key(2), key(1, b"nobody's"))
    bench.run()
    sent = bench.sent
    assert [result.id for result in sent[GATEWAY]] == [key(1), key(2)]
    assert [result.id for result in sent[OTHER_GATEWAY]] == [key(1, OTHER_BOOT)]
    results = [message.id for message in sent[ROUTER] if type(message) is Result]
    assert results == [key(1, b"nobody's")], "whom nobody knows the router may know"
    told = b"".join(message.ids for message in sent[ROUTER] if type(message) is Answered)
    assert told == key(1) + key(1, OTHER_BOOT) + key(2)


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_failure_goes_through_the_router(status: int) -> None:
    bench = Bench()
    bench.call(key(1), key(2))
    bench.run((status, KIND_TEXT, b"", b"no", ORIGIN_REPLICA), OK)
    sent = bench.sent
    assert [result.id for result in sent[GATEWAY]] == [key(2)]
    assert [message.id for message in sent[ROUTER] if type(message) is Result] == [key(1)]


def test_what_came_from_two_routers_goes_through_both() -> None:
    bench = Bench()
    bench.core.link_up(OTHER_ROUTER, hello("router", b"r" * 8), bench.now)
    bench.core.out.take()
    bench.call(key(1))
    bench.call(key(1), peer=OTHER_ROUTER)
    bench.run()
    assert {peer: [message.id for message in messages] for peer, messages in bench.sent.items()} == {
        ROUTER: [key(1)],
        OTHER_ROUTER: [key(1)],
    }


def test_a_call_that_comes_again_is_answered_through_the_router_that_sent_it() -> None:
    bench = Bench()
    bench.call(key(1))
    bench.run()
    assert GATEWAY in bench.sent
    bench.call(key(1))
    assert [message.id for message in bench.sent[ROUTER]] == [key(1)]


def test_a_router_of_the_version_before_gets_the_answers() -> None:
    bench = Bench(version=VERSION - 1)
    bench.call(key(1))
    bench.run()
    sent = bench.sent
    assert list(sent) == [ROUTER]
    assert [type(message) for message in sent[ROUTER]] == [Result]


def test_a_silent_gateway_gets_nothing_until_it_is_heard_again() -> None:
    bench = Bench()
    for cause, way in (("silent", ROUTER), ("", GATEWAY)):
        bench.core.link_doubted(GATEWAY, cause, bench.now)
        bench.call(key(1 if cause else 2))
        bench.run()
        assert [peer for peer, messages in bench.sent.items() if type(messages[0]) is Result] == [way]


def test_a_link_that_ended_is_not_used_and_a_new_one_is() -> None:
    bench = Bench()
    bench.core.link_up(b"new-link", hello("gateway", BOOT), bench.now)
    bench.core.link_down(GATEWAY, "connection lost", bench.now)
    bench.call(key(1))
    bench.run()
    assert b"new-link" in bench.sent
    bench.core.link_down(b"new-link", "connection lost", bench.now)
    bench.call(key(2))
    bench.run()
    assert list(bench.sent) == [ROUTER]


def test_a_patient_shell_tells_the_router_of_many_at_once() -> None:
    bench = quick()
    for number in range(UNTOLD - 1):
        bench.call(key(number))
        bench.run(took_s=1e-6, patient=True)
    sent = bench.sent
    assert len(sent[GATEWAY]) == UNTOLD - 1
    assert ROUTER not in sent
    assert bench.core.untold
    bench.call(key(UNTOLD))
    bench.run(took_s=1e-6, patient=True)
    (told,) = bench.sent[ROUTER]
    assert len(told.ids) == 16 * UNTOLD
    assert told.ago_us == sorted(told.ago_us, reverse=True)
    assert told.ago_us[0] == pytest.approx(UNTOLD - 1, abs=1)
    assert not bench.core.untold


def test_no_router_waits_for_longer_than_two_milliseconds() -> None:
    bench = quick()
    bench.call(key(1))
    bench.run(took_s=1e-5, patient=True)
    assert bench.core.untold
    bench.now += UNTOLD_S + 1e-6
    bench.call(key(2))
    bench.run(took_s=0.0, patient=True)
    (told,) = bench.sent[ROUTER]
    assert told.ago_us == [pytest.approx(1e6 * UNTOLD_S, abs=3), 0]


def test_who_is_told_anything_is_told_this_too() -> None:
    """A grant, for instance: it is one wire message in any case."""
    bench = quick()
    bench.call(key(1), key(2))
    bench.run(OK, (500, KIND_TEXT, b"", b"no", ORIGIN_REPLICA), patient=True)
    assert [type(message) for message in bench.sent[ROUTER]] == [Result, Answered]


def test_whoever_asks_for_it_has_the_router_told() -> None:
    bench = quick()
    bench.call(key(1))
    bench.run(took_s=1e-5, patient=True)
    assert ROUTER not in bench.sent
    bench.now += 0.001
    bench.core.tell_routers(bench.now)
    (told,) = bench.sent[ROUTER]
    assert (told.ids, told.ago_us) == (key(1), [pytest.approx(1000, abs=1)])
    assert not bench.core.untold


def test_a_replica_leaves_when_the_routers_have_been_told() -> None:
    bench = quick()
    bench.call(key(1), key(2))
    bench.run(took_s=1e-5, patient=True)
    assert bench.core.untold
    bench.core.drain(bench.now)
    assert not bench.core.untold
    assert [type(message) for message in bench.sent[ROUTER]] == [Answered]


def test_nothing_is_told_to_a_router_that_is_gone() -> None:
    bench = quick()
    bench.call(key(1))
    bench.run(took_s=1e-5, patient=True)
    bench.core.link_down(ROUTER, "connection lost", bench.now)
    assert not bench.core.untold
    bench.core.tell_routers(bench.now)
    assert ROUTER not in bench.sent


def test_what_was_cancelled_is_answered_all_the_same() -> None:
    bench = Bench()
    bench.call(key(1))
    bench.core.receive(ROUTER, [(Cancel([key(1)]), b"", b"")], bench.now)
    bench.run()
    assert {type(message) for messages in bench.sent.values() for message in messages} <= {Result, Answered}
    assert bench.core.held == 0


def test_a_batch_goes_the_same_way() -> None:
    bench = Bench(config=BackendConfig(max_batch_size=4), accepts_batch=True)
    ids = [key(1), key(2), key(3)]
    calls = [Call(one, 7, 3, "e") for one in ids]
    bench.core.receive(ROUTER, [(one, b"", b"") for one in calls], bench.now)
    bench.run(took_s=0.004)
    sent = bench.sent
    assert [result.id for result in sent[GATEWAY]] == ids
    assert sent[ROUTER][-1].run_us == [pytest.approx(4000, abs=1)] * 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([BOOT, OTHER_BOOT, b"nobody's"]),
            st.sampled_from([200, 404, 500]),
            st.booleans(),
            st.sampled_from([0, FLAG_IDEMPOTENT]),
        ),
        max_size=40,
    ),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_every_call_has_one_answer_and_the_router_hears_of_each(
    calls: list[tuple[bytes, int, bool, int]], groups: list[int]
) -> None:
    bench = Bench()
    answered: list[bytes] = []
    told: list[bytes] = []
    number = 0
    while calls:
        size = groups[number % len(groups)]
        group, calls = calls[:size], calls[size:]
        for offset, (boot, _, _, flags) in enumerate(group):
            bench.call(key(100 * number + offset, boot), flags=flags)
        answers = [(status, KIND_TEXT, b"", b"x", ORIGIN_CODE) for _, status, _, _ in group]
        bench.run(*answers, took_s=0.0003, patient=group[0][2])
        number += 1
        for messages in bench.sent.values():
            for message in messages:
                if type(message) is Result:
                    answered.append(message.id)
                else:
                    told += [message.ids[at : at + 16] for at in range(0, len(message.ids), 16)]
    bench.core.tell_routers(bench.now)
    for message in bench.sent.get(ROUTER, []):
        told += [message.ids[at : at + 16] for at in range(0, len(message.ids), 16)]
    assert len(answered) == len(set(answered))
    assert len(told) == len(set(told))
    assert set(told) <= set(answered)
    assert bench.core.statistics()["direct_answers"] == len(told)
    assert bench.core.held == 0


def test_gateways_on_this_machine_are_known_by_the_membership() -> None:
    own = NodeInfo(b"s" * 16, b"s" * 8, "replica", host="h", pid_space=5)
    core = ReplicaCore("b", sync=ConfigSync(own, lambda: 1))
    core.link_up(ROUTER, hello("router", b"r" * 8), 1.0)
    assert not core.gateways_known()

    def see(*members: NodeInfo, serial: int) -> None:
        router = NodeInfo(b"r" * 16, b"r" * 8, "router")
        core.receive(ROUTER, [(View(b"r" * 16, b"r" * 8, serial, [router, *members]), b"", b"")], 2.0)

    def gateway(letter: bytes, host: str = "h", pid_space: int = 5, **more: Any) -> NodeInfo:
        address = f"ipc:///run/{letter.decode()}"
        return NodeInfo(letter * 16, letter * 8, "gateway", address=address, host=host, pid_space=pid_space, **more)

    silent = NodeInfo(b"e" * 16, b"e" * 8, "gateway", host="h", pid_space=5)
    elsewhere = [gateway(b"b", host="i"), gateway(b"c", pid_space=6)]
    see(gateway(b"a"), *elsewhere, gateway(b"d", leaving=True), silent, serial=2)
    known = core.gateways_known()
    assert known == ["ipc:///run/a"]
    assert core.gateways_known() is known, "as long as nothing changes"
    see(gateway(b"a"), gateway(b"f"), serial=3)
    assert core.gateways_known() == ["ipc:///run/a", "ipc:///run/f"]
