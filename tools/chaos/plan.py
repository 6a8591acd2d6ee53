"""What goes wrong and when, drawn from a seed before anything starts: the same seed is the same plan."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BARS_S", "CALM_S", "Fault", "Roster", "draw_plan"]

FIRST_S = 2.0
"""The load runs for this long before anything goes wrong, and for as long after the last of it."""

BARS_S = {"kill": 1.0, "stop": 3.0}
"""The longest gap in the service that one fault of this kind may make, seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """kind: what is done to *targets*; undone after *lasts_s*.  alone: nothing else is wrong at that time, nor has been
    a moment before.

    kill       SIGKILL, and started again            (a node)
    stop       SIGSTOP, and SIGCONT; a worker node with its replicas (a node)
    restart    SIGTERM, and started again            (a node)
    partition  the targets and all others do not hear each other (nodes)
    break      the connections between both end, and none can be made (a node and a router)
    kill replica, stop replica                       (which: of all that run then, the number modulo how many there are)
    """

    number: int
    at_s: float
    lasts_s: float
    kind: str
    targets: tuple[str, ...]
    which: int = 0
    alone: bool = True

    @property
    def end_s(self) -> float:
        return self.at_s + self.lasts_s

    @property
    def title(self) -> str:
        """Kind and role, for people and for sums."""
        if self.kind in ("partition", "break"):
            return self.kind if self.kind == "break" or len(self.targets) > 1 else f"isolate {_role(self.targets[0])}"
        return f"{self.kind} {_role(self.targets[0])}" if self.targets else self.kind


def _role(name: str) -> str:
    return name.rpartition("-")[0]


@dataclass(frozen=True, slots=True)
class Roster:
    """Names of the nodes there are."""

    gateways: Sequence[str]
    routers: Sequence[str]
    workers: Sequence[str]

    @property
    def all(self) -> list[str]:
        return [*self.gateways, *self.routers, *self.workers]


_DECK = (
    "kill gateway", "kill router", "kill worker", "kill replica", "stop gateway", "stop router", "stop worker",
    "stop replica", "restart gateway", "restart router", "restart worker", "partition", "isolate", "break",
)  # fmt: skip
_LASTS_S = {
    "kill": (0.3, 3.0),
    "stop": (1.0, 8.0),
    "restart": (0.1, 1.0),
    "partition": (2.0, 9.0),
    "isolate": (2.0, 9.0),
    "break": (1.0, 5.0),
}
CALM_S = 4.0
"""From the end of one fault to the next, on average, unless they come together."""
_TOGETHER = 0.25
"""How many faults begin while another one is going on."""


def draw_plan(seed: int, seconds: float, roster: Roster, calm_s: float = CALM_S) -> list[Fault]:
    """Faults in the order of their beginning, each over two seconds before *seconds* are.

    The kinds are dealt from a deck that is shuffled again when it is empty, so a run of three minutes has them all.
    """
    rng = random.Random(f"chaos {seed}")
    deck: list[str] = []
    faults: list[Fault] = []
    at_s, busy_until_s = FIRST_S, 0.0
    while True:
        if not deck:
            deck = rng.sample(_DECK, len(_DECK))
        kind, targets = _aim(deck.pop(), rng, roster)
        lasts_s = rng.uniform(*_LASTS_S[kind.split()[0]])
        if targets and kind == "isolate":
            kind = "partition"
        if any(fault.end_s + 1.0 > at_s and set(fault.targets) & set(targets) for fault in faults):
            at_s = busy_until_s + 1.0  # one thing after the other for each node
        if at_s + lasts_s > seconds - FIRST_S:
            return _marked(faults)
        faults.append(Fault(len(faults) + 1, at_s, lasts_s, kind, targets, rng.randrange(1_000_000)))
        busy_until_s = max(busy_until_s, at_s + lasts_s)
        if rng.random() < _TOGETHER:
            at_s += rng.uniform(0.1, max(0.2, busy_until_s - at_s))
        else:
            at_s = busy_until_s + rng.uniform(0.75, 1.25) * calm_s


def _aim(card: str, rng: random.Random, roster: Roster) -> tuple[str, tuple[str, ...]]:
    kind, _, role = card.partition(" ")
    if role == "replica":
        return card, ()
    if kind == "partition":
        names = roster.all
        rng.shuffle(names)
        return kind, tuple(sorted(names[: rng.randint(2, len(names) - 2)]))
    if kind == "isolate":
        return kind, (rng.choice(roster.all),)
    if kind == "break":
        router = rng.choice(list(roster.routers))
        return kind, (rng.choice([name for name in roster.all if name != router]), router)
    names = {"gateway": roster.gateways, "router": roster.routers, "worker": roster.workers}[role]
    return kind, (rng.choice(list(names)),)


def _marked(faults: Sequence[Fault]) -> list[Fault]:
    """With ``alone`` as it is."""
    found = []
    for fault in faults:
        others = [other for other in faults if other is not fault]
        alone = all(other.at_s >= fault.end_s + 1.0 or other.end_s + 2.5 <= fault.at_s for other in others)
        found.append(Fault(fault.number, fault.at_s, fault.lasts_s, fault.kind, fault.targets, fault.which, alone))
    return found
