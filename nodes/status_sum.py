"""The status of a whole fabric: every router asked, counters added up, disagreements kept visible.

A router knows all nodes, replicas and records, but counts only the requests that went through it.  So ``zserve status``
asks one router, then all others that it names, and adds the numbers; a router that does not answer is marked, for its
share is missing then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zserve.control.client import ControlClient
from zserve.control.totals import add_counters
from zserve.errors import ServeError

__all__ = ["HINT_AFTER", "add_up", "ask_all", "hints_of"]

OTHERS_TIMEOUT_S = 2.0
"""How long a router may take to answer before it is marked as not answering."""
HINT_AFTER = 50
"""Requests after which a backend that could batch, and never did, is worth a word."""


def ask_all(client: ControlClient, ask: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """The status of *client*'s router, with what all other routers say added: see :func:`add_up`.

    *ask* is how one of the others is asked, by address; for tests.
    """
    status: dict[str, Any] = client.call("status")
    status.setdefault("address", client.address)
    own = status.get("router", {}).get("node")
    others = {
        node["id"]: node["address"]
        for node in status.get("nodes", ())
        if node.get("role") == "router" and node.get("address") and node.get("id") != own
    }
    said: dict[str, Any] = {}
    if others:
        with ThreadPoolExecutor(min(16, len(others))) as pool:
            asked = {node: pool.submit(ask or _ask, address) for node, address in others.items()}
        for node, answer in asked.items():
            try:
                said[node] = answer.result()
            except (ServeError, ValueError) as error:
                said[node] = error
    return add_up(status, said)


def _ask(address: str) -> Any:
    with ControlClient(address, connect_timeout_s=OTHERS_TIMEOUT_S) as client:
        return client.call("status", timeout_s=2 * OTHERS_TIMEOUT_S)


def add_up(status: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """*status* of one router, and that of *others* by node id (or the error that kept them from answering).

    As ``serve.status()``, but with counters of all routers together; ``routers`` says for each whether it answered, its
    requests and its digest, ``disagree`` lists the records that not all of them hold in the same revision.
    """
    total = dict(status)
    own = status.get("router", {})
    answered = [status, *(other for other in others.values() if isinstance(other, Mapping))]
    total["nodes"] = _union((node for each in answered for node in each.get("nodes", ())), "id", prefer="suspect")
    total["replicas"] = sorted(
        _replicas(answered),
        key=lambda replica: (replica.get("backend", ""), replica.get("index", 0)),
    )
    total["conflicts"] = _union((each for status in answered for each in status.get("conflicts", ())), "loser")
    total["backends"] = {
        name: {
            **backend,
            "ready": max(each.get("backends", {}).get(name, {}).get("ready", 0) for each in answered),
            "counters": add_counters(
                [each.get("backends", {}).get(name, {}).get("counters", {}) for each in answered]
            ),
        }
        for name, backend in status.get("backends", {}).items()
    }
    total["endpoints"] = {name: _endpoint(name, answered) for name in status.get("endpoints", {})}
    total["routers"] = [_router(node, status, others, own) for node in total["nodes"] if node.get("role") == "router"]
    total["disagree"] = sorted(
        {
            key
            for each in answered
            for key in {*status.get("versions", {}), *each.get("versions", {})}
            if status.get("versions", {}).get(key) != each.get("versions", {}).get(key)
        }
    )
    total["hints"] = hints_of(total)
    return total


def _endpoint(name: str, answered: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As the first router has it, with what became of a policy of the user's on all of them."""
    told = [each.get("endpoints", {}).get(name, {}) for each in answered]
    return {
        **told[0],
        "policy_fallbacks": sum(each.get("policy_fallbacks", 0) for each in told),
        "policy_faults": [fault for each in told for fault in each.get("policy_faults", ())],
    }


def _router(
    node: Mapping[str, Any], status: Mapping[str, Any], others: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    facts = {"id": node.get("id", ""), "name": node.get("name", ""), "address": node.get("address", "")}
    said = status if node.get("id") == own.get("node") else others.get(str(node.get("id")))
    if isinstance(said, Mapping):
        return {**facts, "answers": True, **said.get("router", {})}
    return {**facts, "answers": False, "error": str(said) if said is not None else "not named by the router asked"}


def _replicas(answered: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Linked with any router is linked, suspected by any is suspected."""
    found = [replica for each in answered for replica in each.get("replicas", ())]
    suspects = {replica.get("id"): replica["suspect"] for replica in found if replica.get("suspect")}
    replicas = _union(found, "id", prefer="linked")
    for replica in replicas:
        if replica.get("id") in suspects:
            replica["suspect"] = suspects[replica["id"]]
    return replicas


def _union(items: Iterable[Mapping[str, Any]], key: str, prefer: str = "") -> list[dict[str, Any]]:
    """Each item once, by *key*: the first one, or the first that has *prefer*."""
    found: dict[Any, dict[str, Any]] = {}
    for item in items:
        name = item.get(key)
        if name not in found or (prefer and item.get(prefer) and not found[name].get(prefer)):
            found[name] = dict(item)
    return list(found.values())


def hints_of(status: Mapping[str, Any]) -> list[str]:
    """What is worth a second look: backends that could be given batches, and never are."""
    hints = []
    for name, backend in sorted(status.get("backends", {}).items()):
        counters, config = backend.get("counters", {}), backend.get("config", {})
        done = counters.get("completed", 0)
        if not backend.get("batchable") or done < HINT_AFTER or counters.get("batch_size", {}).get("max", 0) > 1:
            continue
        if (config.get("max_batch_size") or 1) == 1:
            advice = "its max_batch_size is not set; update_backend_config or `zserve deploy` can raise it"
        elif not config.get("batch_wait_timeout"):
            advice = "requests come one at a time; a batch_wait_timeout above 0 lets a batch wait for more of them"
        else:
            advice = "requests come further apart than its batch_wait_timeout"
        hints.append(f"{name} takes batches, but none of {done:,} requests shared one: {advice}")
    return hints
