"""The faults that a seed stands for."""

from __future__ import annotations

from tools.chaos.plan import FIRST_S, Roster, draw_plan

ROSTER = Roster(["gateway-0", "gateway-1"], ["router-0", "router-1"], ["worker-0", "worker-1", "worker-2"])


def test_a_seed_is_a_plan_and_another_one_another() -> None:
    assert draw_plan(7, 180.0, ROSTER) == draw_plan(7, 180.0, ROSTER)
    assert draw_plan(7, 180.0, ROSTER) != draw_plan(8, 180.0, ROSTER)


def test_three_minutes_have_every_kind_of_fault() -> None:
    for seed in range(50):
        kinds = {fault.title for fault in draw_plan(seed, 180.0, ROSTER)}
        for action in ("kill", "stop", "restart"):
            assert kinds >= {f"{action} {role}" for role in ("gateway", "router", "worker")}, seed
        assert kinds >= {"kill replica", "stop replica", "partition", "break"}, seed


def test_no_node_is_hit_twice_at_once_and_all_is_over_before_the_end() -> None:
    total = alone = 0
    for seed in range(50):
        plan = draw_plan(seed, 60.0, ROSTER)
        assert plan
        assert plan[0].at_s == FIRST_S
        assert max(fault.end_s for fault in plan) <= 60.0 - FIRST_S
        for number, fault in enumerate(plan):
            for other in plan[:number]:
                together = fault.at_s < other.end_s
                assert not (together and set(fault.targets) & set(other.targets)), seed
                assert not (together and (fault.alone or other.alone)), seed
        total += len(plan)
        alone += sum(fault.alone for fault in plan)
    assert total / 3 < alone < total, "some come together, and enough can be judged by themselves"
