"""An answer as the argument of another call: the call is sent once all such answers are there.

Nobody waits in a thread for that, and what an answer carries goes from the one call into the next as it came, without
being decoded on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..errors import DeadlineExceeded
from .answer import ServeAnswer
from .caller import Caller
from .values import Packer

__all__ = ["send_when_ready"]


def send_when_ready(
    packer: Packer, answer: ServeAnswer, deadline: float, caller: Caller, send: Callable[[], None]
) -> None:
    """Call *send* once what *packer* waits for is there.

    *answer* is that of the call to be made.  It fails as soon as an argument has, and when *deadline* (seconds of
    ``time.monotonic``) passes before.
    """
    waiting = list(packer.waiting)
    left = [len(waiting)]
    lock = threading.Lock()

    def expire() -> None:
        answer.fail(DeadlineExceeded("the deadline passed before the answer that is an argument of the call was there"))

    def arrived(argument: ServeAnswer) -> None:
        with lock:
            left[0] -= 1
            ready = left[0] == 0
        if argument.failed():
            answer.fail_like(argument)
        if ready:
            disarm()
            if not answer.done():
                try:
                    send()
                except Exception as error:  # an argument whose value was changed into something that cannot be sent
                    answer.fail(error)

    disarm = caller.at(deadline, expire)
    for argument in waiting:
        argument.when_done(arrived)
