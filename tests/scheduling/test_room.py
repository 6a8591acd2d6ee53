from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zserve.scheduling.deadline_heap import DeadlineHeap
from zserve.scheduling.room import Room


class _Held(DeadlineHeap):
    """A queue of which only the size is of interest."""

    def __init__(self, room: Room) -> None:
        super().__init__()
        self.room = room
        room.add(self)

    def takes(self, size: int) -> bool:
        """As the admission decides it."""
        if self.size + size > self.room.share and not self.room.lends(self, size):
            return False
        self.size += size
        return True


def test_a_single_queue_has_all_of_it() -> None:
    queue = _Held(Room(100))
    assert queue.takes(100)
    assert not queue.takes(1)


def test_what_one_backend_piles_up_leaves_the_others_their_share() -> None:
    room = Room(1000)
    greedy, modest, third, fourth = (_Held(room) for _ in range(4))
    assert room.share == 125
    assert greedy.takes(625)
    assert not greedy.takes(1)
    for queue in (modest, third, fourth):
        assert queue.takes(125)
        assert not queue.takes(1), "nothing is left of the half that is lent"
    assert room.held == 1000
    greedy.size = 0
    assert modest.takes(500)


def test_what_a_backend_held_is_for_the_others_once_it_is_gone() -> None:
    room = Room(1000)
    gone, stays = _Held(room), _Held(room)
    assert gone.takes(750)
    assert not stays.takes(251)
    room.remove(gone)
    assert stays.takes(1000)


@given(
    limit=st.integers(1, 5000),
    queues=st.integers(1, 6),
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(-800, 800)), max_size=60),
)
def test_the_whole_is_never_exceeded_and_a_share_never_refused(
    limit: int, queues: int, steps: list[tuple[int, int]]
) -> None:
    room = Room(limit)
    held = [_Held(room) for _ in range(queues)]
    for number, size in steps:
        queue = held[number % queues]
        if size < 0:
            queue.size = max(0, queue.size + size)
        else:
            before = queue.size
            assert queue.takes(size) or before + size > room.share
        assert room.held <= limit
