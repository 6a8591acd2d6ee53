"""The experiment: a fabric on four hosts loses a host, then its middle, and comes together again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .hosts import APP, Client, Hosts, wait_until
from .network import LabError, Network

__all__ = ["HOSTS", "SIDES", "Experiment"]

SIDES = ("left", "right")
HOSTS = tuple(f"{side}{number}" for side in SIDES for number in (1, 2))
_ALL_READY = {"one": 2, "two": 2}
_NOTICE_S = 25.0
"""How long a fabric may take to notice that nodes are gone, or are back."""


class Experiment:
    """On each side: host 1 with a router and a gateway, host 2 with a worker node; *say* is told the steps."""

    def __init__(self, network: Network, hosts: Hosts, say: Callable[[str], None]) -> None:
        self._network = network
        self._hosts = hosts
        self._say = say
        self._clients: dict[str, Client] = {}
        self.figures: dict[str, Any] = {}

    def router(self, side: str) -> str:
        return f"tcp://{self._network.address(f'{side}1')}:7700"

    def gateway(self, side: str) -> str:
        return f"http://{self._network.address(f'{side}1')}:8000"

    def run(self) -> dict[str, Any]:
        """All of it; figures by name, and under "conflicts" what the fabric says of the write that lost."""
        self._start()
        self._lose_a_host()
        self._partition()
        self._write_on_both_sides()
        self._heal()
        return self.figures

    # --- the steps --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        begin = time.monotonic()
        joins = [text for side in SIDES for text in ("--join", self.router(side))]
        waiting = []
        for side in SIDES:
            host, address = f"{side}1", self._network.address(f"{side}1")
            waiting.append(self._hosts.start_node(host, "router", "--bind", self.router(side), *joins))
            waiting.append(self._hosts.start_node(host, "gateway", "--http", f"{address}:8000", *joins))
            waiting.append(self._hosts.start_node(f"{side}2", "worker", "--app-dir", str(APP), *joins))
        for status_fd in waiting:
            self._hosts.wait_ready(status_fd)
        wait_until(lambda: all(len(self._names(side)) == 6 for side in SIDES), "all six nodes know each other", 20.0)
        self._deploy("left", "both")
        self._say(f"six nodes on four hosts serve after {time.monotonic() - begin:.1f} s")
        for side in SIDES:
            self._clients[side] = self._hosts.client(f"{side}1", self.gateway(side) + "/greet")
        time.sleep(1.0)
        self._only_good("before anything happens", at_least=20)

    def _lose_a_host(self) -> None:
        self._network.cut("left2")
        _, noticed_s = wait_until(
            lambda: all("left2-worker" not in self._names(side) for side in SIDES), "the lost host is missed", _NOTICE_S
        )
        _, replaced_s = wait_until(lambda: self._ready("right") == _ALL_READY, "its replicas run elsewhere", 20.0)
        longest_s = self._only_good("while a host with a worker node is cut off", at_least=20)
        self._network.mend("left2")
        wait_until(
            lambda: all("left2-worker" in self._names(side) for side in SIDES), "the host is back", _NOTICE_S
        )
        self.figures["host_noticed_s"] = round(noticed_s, 1)
        self._say(
            f"host left2 lost: noticed after {noticed_s:.1f} s, its replicas were up elsewhere {replaced_s:.1f} s "
            f"later, the slowest request meanwhile took {longest_s:.1f} s; its cable is back"
        )

    def _partition(self) -> None:
        self._network.partition(host for host in HOSTS if host.startswith("right"))
        _, noticed_s = wait_until(
            lambda: all(all(name.startswith(side) for name in self._names(side)) for side in SIDES),
            "each half knows that it is alone",
            _NOTICE_S,
        )
        for side in SIDES:
            wait_until(lambda side=side: self._ready(side) == _ALL_READY, f"all replicas run {side}", 20.0)
        longest_s = self._only_good("while the halves lose each other", at_least=20)
        self.figures["partition_noticed_s"] = round(noticed_s, 1)
        self.figures["partition_slowest_request_s"] = longest_s
        self._say(
            f"partition: both halves noticed after {noticed_s:.1f} s; requests went on on both sides, the slowest one "
            f"took {longest_s:.1f} s"
        )

    def _write_on_both_sides(self) -> None:
        wanted = {"left": {"one": 0.5, "two": 0.5}, "right": {"one": 0.0, "two": 1.0}}
        for side, traffic in wanted.items():
            self._deploy(side, side)
            weights = [f"{backend}={weight:g}" for backend, weight in traffic.items()]
            self._hosts.zserve(f"{side}1", "traffic", "set", "greet", *weights, "--address", self.router(side))
        for client in self._clients.values():
            client.counts()
        time.sleep(1.0)
        shares = {}
        for side, client in self._clients.items():
            found = client.counts()
            self._check(found, f"in the {side} half", 20)
            shares[side] = found["bodies"]
        if set(shares["right"]) != {"two"} or set(shares["left"]) != {"one", "two"}:
            raise LabError(f"each half should serve as it was told, not {shares}")
        self._say(f"both halves were written to, and serve by it: left {shares['left']}, right {shares['right']}")
        self.figures["written"] = wanted

    def _heal(self) -> None:
        self._network.heal()
        statuses, healed_s = wait_until(self._agreed, "one registry everywhere", _NOTICE_S + 10)
        in_force = statuses["left"]["endpoints"]["greet"]["traffic"]
        wanted = self.figures["written"]
        loser = next(side for side in SIDES if wanted[side] != in_force)
        if in_force not in wanted.values():
            raise LabError(f"neither write is in force, but {in_force}")
        listed, _ = wait_until(lambda: self._lost_writes(wanted[loser]), "the losing write is listed", 20.0)
        longest_s = self._only_good("while the halves come together", at_least=20)
        wait_until(
            lambda: all(len(self._names(side)) == 6 and self._ready(side) == _ALL_READY for side in SIDES),
            "six nodes, two replicas of each backend",
            _NOTICE_S,
        )
        self._only_good("at the end", at_least=1)
        for client in self._clients.values():
            client.stop()
        self.figures["healed_s"] = round(healed_s, 1)
        self.figures["heal_slowest_request_s"] = longest_s
        self.figures["in_force"] = in_force
        self.figures["conflicts"] = listed
        self._say(
            f"healed: one registry everywhere after {healed_s:.1f} s; {in_force} is in force, and the {loser} half's "
            f"write {wanted[loser]} is listed by both routers as lost"
        )

    # --- looking ----------------------------------------------------------------------------------------------------

    def _deploy(self, side: str, name: str) -> None:
        file = str(APP / f"{name}.toml")
        self._hosts.zserve(f"{side}1", "deploy", file, "--yes", "--timeout", "20", "--address", self.gateway(side))

    def _status(self, side: str) -> dict[str, Any]:
        return self._hosts.status(f"{side}1", self.router(side))

    def _names(self, side: str) -> list[str]:
        return [node["name"] for node in self._status(side)["nodes"] if not node["leaving"]]

    def _ready(self, side: str) -> dict[str, int]:
        """Backend to how many replicas of it are up, as the router of *side* sees it."""
        found = {"one": 0, "two": 0}
        for replica in self._status(side)["replicas"]:
            found[replica["backend"]] += replica["state"] == "ready"
        return found

    def _agreed(self) -> dict[str, Any] | None:
        statuses = {side: self._status(side) for side in SIDES}
        left, right = (statuses[side] for side in SIDES)
        same = left["router"]["digest"] == right["router"]["digest"] and left["versions"] == right["versions"]
        both = {"left", "right"} <= left["endpoints"].keys()
        return statuses if same and both else None

    def _lost_writes(self, traffic: Mapping[str, float]) -> list[Any] | None:
        """What both routers list as lost, if *traffic* is among it for both."""
        found = []
        for side in SIDES:
            conflicts = self._status(side)["conflicts"]
            found += [one for one in conflicts if one["key"] == "endpoint/greet" and one["lost"]["traffic"] == traffic]
        return found if len(found) == 2 else None

    def _only_good(self, when: str, *, at_least: int) -> float:
        """All answers since the last time were good, on both sides; seconds that the slowest one took."""
        longest_s = 0.0
        for side, client in self._clients.items():
            found = client.counts()
            self._check(found, f"{when}, {side} half", at_least)
            longest_s = max(longest_s, found["longest_s"])
            total = self.figures.setdefault("requests", dict.fromkeys(SIDES, 0))
            total[side] += found["statuses"]["200"]
        return longest_s

    @staticmethod
    def _check(found: Mapping[str, Any], when: str, at_least: int) -> None:
        if set(found["statuses"]) != {"200"} or found["statuses"]["200"] < at_least:
            raise LabError(f"{when}: answers were {found['statuses']}, {found['errors']}")
