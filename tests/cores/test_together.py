"""Requests and results that come in one wire message: as if they had come one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zserve.wire.messages import FLAG_AGAIN, NO_BUDGET, Answered, Call, Cancel, Grant, Request, Result, Return

from .test_endpoints import NAME, PolicyBench
from .test_router import GATEWAY, Bench, info

OTHER = b"other-gateway-link"


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def numbers(messages: list[Any]) -> list[int]:
    return [int.from_bytes(message.id, "big") for message in messages]


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.serve("b")
    return bench


def requests(*names: int, **fields: Any) -> list[Request]:
    return [Request(key(number), "e", **fields) for number in names]


def test_all_leave_for_the_replica_at_once(bench: Bench) -> None:
    replica = bench.replica("r1", limit=10)
    bench.tell(GATEWAY, *requests(*range(8)), body=b"body")
    parcels = bench.router.out.take()[replica]
    calls = [(message, body) for message, _, body in parcels if type(message) is Call]
    assert numbers([call for call, _ in calls]) == list(range(8))
    assert len({call.batch for call, _ in calls}) == 8, "and each by itself, not as a batch"
    assert {body for _, body in calls} == {b"body"}


def test_the_most_urgent_leaves_first(bench: Bench) -> None:
    replica = bench.replica("r1", limit=3)
    urgent = Request(key(9), "e", budget_us=5_000_000)
    bench.tell(GATEWAY, *requests(1, 2, 3, budget_us=9_000_000), urgent)
    assert numbers(bench.sent(replica, Call)) == [9, 1, 2]
    bench.tell(replica, Grant(1, 10))
    bench.tell(GATEWAY, *requests(4, 5, budget_us=9_000_000), Request(key(8), "e", budget_us=5_000_000))
    assert numbers(bench.sent(replica, Call)) == [3, 8, 4, 5]


def test_of_one_that_is_there_twice_one_runs(bench: Bench) -> None:
    replica = bench.replica("r1")
    bench.tell(GATEWAY, *requests(1, 2, 1))
    assert numbers(bench.sent(replica, Call)) == [1, 2]
    bench.tell(replica, Result(key(1)), Result(key(2)), Result(key(1)))
    assert numbers(bench.sent(GATEWAY, Result)) == [1, 2]
    assert bench.router.late_results == 1
    assert bench.router.entries == {}


def test_what_is_cancelled_in_the_same_message_is_not_run_on(bench: Bench) -> None:
    replica = bench.replica("r1")
    bench.router.out.take()
    bench.tell(GATEWAY, *requests(1, 2), Cancel([key(1)]), *requests(3))
    told = [message for message in bench.sent(replica) if type(message) in (Call, Cancel)]
    assert [message.ids if type(message) is Cancel else message.id for message in told] == [
        key(1), key(2), [key(1)], key(3),
    ]  # fmt: skip


def test_each_result_goes_to_its_own_gateway(bench: Bench) -> None:
    bench.up(OTHER, info("gateway", b"other"))
    replica = bench.replica("r1")
    bench.tell(GATEWAY, *requests(1, 3))
    bench.tell(OTHER, *requests(2, 4))
    bench.router.out.take()
    bench.now = 0.25
    bench.tell(replica, *[Result(key(number), run_us=1000) for number in (1, 2, 3, 4)], body=b"answer")
    found = bench.router.out.take()
    for gateway, names in ((GATEWAY, [1, 3]), (OTHER, [2, 4])):
        assert numbers([message for message, _, _ in found[gateway] if type(message) is Result]) == names
        assert {body for _, _, body in found[gateway]} == {b"answer"}
    latencies = bench.router.latencies["e"]
    assert (latencies.answered, latencies.errors, list(latencies.latest)) == (4, 0, [0.25] * 4)


def test_what_waited_here_is_said_in_the_result(bench: Bench) -> None:
    bench.tell(GATEWAY, *requests(1, 2))
    bench.now = 0.5
    replica = bench.replica("r1")
    bench.tell(replica, Result(key(1), queue_us=7), Result(key(2), queue_us=8))
    assert [result.queue_us for result in bench.sent(GATEWAY, Result)] == [500_007, 500_008]


def test_one_that_failed_is_counted_and_the_others_are_answered(bench: Bench) -> None:
    replica = bench.replica("r1")
    bench.tell(GATEWAY, *requests(1, 2, 3))
    bench.router.out.take()
    bench.tell(replica, Result(key(1)), Result(key(2), 500), Result(key(3)))
    assert [(result.id, result.status) for result in bench.sent(GATEWAY, Result)] == [
        (key(1), 200), (key(2), 500), (key(3), 200),
    ]  # fmt: skip
    assert bench.router.errors == {"b": 1}
    assert bench.router.latencies["e"].errors == 1


def test_each_of_a_shadowed_endpoint_has_its_copy_and_no_answer_of_it_goes_anywhere(bench: Bench) -> None:
    bench.control("create_backend", name="s", code="m:f", version="1", config={})
    bench.control("shadow_traffic", endpoint="e", backend="s", proportion=1.0)
    replica, shadow = bench.replica("r1"), bench.replica("r2", "s")
    bench.tell(GATEWAY, *requests(1, 2, 3))
    assert numbers(bench.sent(replica, Call)) == [1, 2, 3]
    bench.tell(GATEWAY, *requests(4, 5, 6))
    copies = bench.sent(shadow, Call)
    assert len({call.id for call in copies}) == 3
    bench.tell(shadow, *[Result(call.id) for call in copies])
    assert bench.sent(GATEWAY, Result) == []


def test_a_policy_that_looks_at_the_backlog_sees_those_before() -> None:
    bench = PolicyBench()
    bench.serve("x", "y")
    args = {"policy": NAME, "policy_kwargs": {"limit": 3}}
    assert bench.control("set_traffic", endpoint="e", traffic={"x": 0.5, "y": 0.5}, **args) is None
    bench.tell(GATEWAY, *requests(*range(5)))
    assert [len(bench.router.queues[name]) for name in ("x", "y")] == [3, 2]


def test_a_router_that_leaves_hands_all_of_them_back(bench: Bench) -> None:
    bench.replica("r1")
    bench.router.drain(bench.now)
    bench.router.out.take()
    bench.tell(GATEWAY, *requests(1, 2))
    assert [message.ids for message in bench.sent(GATEWAY, Return)] == [[key(1)], [key(2)]]


def test_who_may_not_ask_is_counted_for_each(bench: Bench) -> None:
    bench.tell(b"replica-link-r1", *requests(1, 2, 3))
    assert bench.router.misplaced == 3
    assert bench.router.entries == {}


def test_results_of_a_stranger_are_late_each(bench: Bench) -> None:
    bench.tell(b"nobody", Result(key(1)), Result(key(2)))
    assert bench.router.late_results == 2


def test_a_time_limit_of_the_backend_counts_for_those_that_pass_the_heap() -> None:
    bench = Bench()
    bench.serve("b", slo_ms=100)
    replica = bench.replica("r1")
    bench.tell(GATEWAY, *requests(1, 2))
    assert [call.budget_us for call in bench.sent(replica, Call)] == pytest.approx([100_000] * 2, abs=1)
    bench.now = 0.2
    bench.router.tick(bench.now)
    assert [(result.id, result.status) for result in bench.sent(GATEWAY, Result)] == [(key(1), 504), (key(2), 504)]


@pytest.mark.parametrize("limit", [10, 10_000])
def test_each_of_thousands_has_its_time_limit(limit: int) -> None:
    bench = Bench()
    bench.serve("b", slo_ms=100, max_queued_requests=10_000)
    bench.replica("r1", limit=limit)
    for group in range(100):
        bench.tell(GATEWAY, *requests(*range(50 * group, 50 * group + 50)))
    bench.now = 0.2
    bench.router.tick(bench.now)
    assert {result.status for result in bench.sent(GATEWAY, Result)} == {504}
    assert bench.router.entries == {}


MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(0, 30), st.sampled_from([NO_BUDGET, 50_000, 20_000_000])),
        st.tuples(st.just("again"), st.integers(0, 30), st.just(NO_BUDGET)),
        st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("result"), st.integers(0, 30), st.sampled_from([200, 200, 200, 500])),
        st.tuples(st.just("grant"), st.integers(1, 60), st.just(0)),
    ),
    min_size=1,
    max_size=12,
)


def _messages(steps: list[tuple[str, int, int]], of_gateway: bool) -> list[Any]:
    made: list[Any] = []
    for kind, number, what in steps:
        if of_gateway and kind in ("request", "again"):
            made.append(Request(key(number), "e", budget_us=what, flags=FLAG_AGAIN if kind == "again" else 0))
        elif of_gateway and kind == "cancel":
            made.append(Cancel([key(number)]))
        elif not of_gateway and kind == "result":
            made.append(Result(key(number), what, run_us=1000))
        elif not of_gateway and kind == "grant":
            made.append(Grant(1, number))
    return made


@given(st.lists(st.tuples(st.booleans(), MESSAGES), max_size=12))
@settings(max_examples=150, deadline=None)
def test_one_by_one_or_together_every_request_has_one_outcome(groups: list[tuple[bool, Any]]) -> None:
    """Who is answered, how often, and what is held at the end; in which order they run may differ."""
    ends = []
    for together in (True, False):
        bench = Bench()
        bench.router.rng = random.Random(1)
        bench.serve("b")
        replica = bench.replica("r1", limit=60)
        bench.router.out.take()
        answered: list[tuple[bytes, int]] = []
        for of_gateway, steps in groups:
            bench.now += 0.001
            peer = GATEWAY if of_gateway else replica
            messages = _messages(steps, of_gateway)
            for group in [messages] if together else [[message] for message in messages]:
                if group:
                    bench.tell(peer, *group)
            answered += [(result.id, result.status) for result in bench.sent(GATEWAY, Result)]
        figures = bench.router.queues["b"].statistics()
        ends.append(
            (
                sorted(answered), sorted(bench.router.entries), bench.router.requests, bench.router.late_results,
                figures["queued"], figures["completed"], figures["cancelled"],
                # What is cancelled with the message that it came in may not have left for the replica.
                any(step[0] == "cancel" for _, steps in groups for step in steps) or figures["in_flight"],
            )
        )  # fmt: skip
    assert ends[0] == ends[1]


# --- answers that have gone past the router ---------------------------------------------------------------------------


def answered(*names: int, ago_us: int = 0, run_us: int = 1000, waited_us: int = 0) -> Answered:
    ids = b"".join(key(number) for number in names)
    return Answered(ids, [run_us] * len(names), [waited_us] * len(names), [ago_us] * len(names))


def test_the_word_of_an_answer_ends_its_request_and_nobody_is_sent_anything(bench: Bench) -> None:
    replica = bench.replica("r1")
    bench.tell(GATEWAY, *requests(1, 2, 3))
    bench.router.out.take()
    bench.now = 0.25
    bench.tell(replica, answered(1, 3, ago_us=50_000))
    assert bench.router.out.take() == {}
    assert list(bench.router.entries) == [key(2)]
    latencies = bench.router.latencies["e"]
    assert (latencies.answered, list(latencies.latest)) == (2, [pytest.approx(0.2)] * 2)
    assert bench.router.direct_answers == 2
    assert bench.router.queues["b"].in_flight == 1


def test_what_waits_takes_the_places(bench: Bench) -> None:
    replica = bench.replica("r1", limit=1)
    bench.tell(GATEWAY, *requests(1, 2))
    assert numbers(bench.sent(replica, Call)) == [1]
    bench.tell(replica, answered(1), Grant(1, 2))
    assert numbers(bench.sent(replica, Call)) == [2]


def test_what_is_not_known_is_counted_and_the_rest_is_good(bench: Bench) -> None:
    replica = bench.replica("r1")
    bench.tell(GATEWAY, *requests(1, 2))
    bench.router.out.take()
    bench.tell(replica, answered(9, 1, 1, 2))
    assert bench.router.entries == {}
    assert bench.router.late_results == 2
    assert bench.router.direct_answers == 2


@pytest.mark.parametrize(
    "message",
    [
        Answered(key(1), [1, 2], [0], [0]),
        Answered(key(1), [1], [], [0]),
        Answered(key(1), [1], [0], []),
        Answered(key(1)[:-1], [], [], []),
        Answered(key(1) + b"more", [1], [0], [0]),
    ],
)
def test_a_word_that_does_not_fit_is_counted_and_changes_nothing(bench: Bench, message: Answered) -> None:
    replica = bench.replica("r1")
    bench.tell(GATEWAY, *requests(1))
    bench.tell(replica, message)
    assert list(bench.router.entries) == [key(1)]
    assert bench.router.misplaced == 1


def test_a_request_is_over_only_where_it_runs(bench: Bench) -> None:
    bench.replica("r1", limit=1)
    second = bench.replica("r2", limit=0)
    bench.tell(GATEWAY, *requests(1))
    bench.tell(second, answered(1))
    assert list(bench.router.entries) == [key(1)]
    assert bench.router.late_results == 1


def test_no_replica_can_say_that_it_took_less_than_nothing(bench: Bench) -> None:
    replica = bench.replica("r1", limit=100)
    for start in range(0, 40, 4):
        bench.now += 0.001
        bench.tell(GATEWAY, *requests(*range(start, start + 4)))
        bench.tell(replica, answered(*range(start, start + 4), ago_us=10**12))
    assert bench.router.entries == {}
    assert bench.router.queues["b"].statistics()["in_flight"] == 0


def test_an_answer_for_who_has_cancelled_frees_the_place(bench: Bench) -> None:
    replica = bench.replica("r1")
    bench.tell(GATEWAY, *requests(1))
    bench.tell(GATEWAY, Cancel([key(1)]))
    bench.router.out.take()
    bench.tell(replica, answered(1))
    assert bench.router.out.take() == {}
    assert bench.router.queues["b"].in_flight == 0


def test_what_is_sent_again_and_has_been_answered_is_asked_for(bench: Bench) -> None:
    """As a gateway does that has lost its link with the replica."""
    replica = bench.replica("r1")
    bench.tell(GATEWAY, *requests(1, 2))
    bench.tell(replica, answered(1))
    bench.router.out.take()
    bench.tell(GATEWAY, *requests(1, 2, flags=FLAG_AGAIN))
    (recall,) = [message for message in bench.sent(replica) if hasattr(message, "ids")]
    assert recall.ids == [key(1)], "the other one is here still"


@pytest.mark.parametrize("size", [1, 3])
def test_the_times_of_batches_are_learnt_as_from_results(size: int) -> None:
    found = []
    for past in (False, True):
        bench = Bench()
        bench.control(
            "create_backend", name="b", code="m:f", version="1", batchable=True, config={"max_batch_size": 4}
        )
        bench.control("create_endpoint", name="e", route="/e", methods=["GET"], backend="b")
        replica = bench.replica("r1", limit=8)
        number = 0
        for _ in range(12):
            names = range(number, number + size)
            number += size
            bench.tell(GATEWAY, *requests(*names))
            bench.router.tick(bench.now)
            bench.now += 0.02
            if past:
                bench.tell(replica, answered(*names, run_us=9000, waited_us=4000))
            else:
                bench.tell(replica, *[Result(key(n), run_us=9000, queue_us=3000, batch_us=1000) for n in names])
            bench.tell(replica, Grant(1, 8 + number))
            bench.now += 0.001
        statistics = bench.router.queues["b"].statistics()
        found.append({name: value for name, value in statistics.items() if name != "room"})
    assert found[0] == found[1]
