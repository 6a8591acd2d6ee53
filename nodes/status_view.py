"""A fabric's status as text."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from .table import Table

__all__ = ["render_status"]


def render_status(status: Mapping[str, Any], width: int | None = None) -> str:
    """*status* (what ``serve.status()`` or :func:`status_sum.ask_all` gives) as aligned tables, not wider than *width*
    columns (None: the terminal).

    Counters are those of all routers that answered, or of the one that was asked.
    """
    sections = [
        _section("NODES", _nodes(status), width, "none"),
        _section("ENDPOINTS", _endpoints(status), width, "none yet; @serve.route or serve.create_endpoint makes one"),
        _section("BACKENDS", _backends(status), width, "none yet"),
        _section("REPLICAS", _replicas(status), width, "none"),
    ]
    if status.get("conflicts"):
        sections.append(_section("CONFLICTS (writes that lost)", _conflicts(status), width, ""))
    sections += [text for text in (_reasons(status), _remarks(status)) if text]
    return f"fabric at {status.get('address', '?')}\n\n" + "\n\n".join(sections)


def _section(title: str, table: Table, width: int | None, empty: str) -> str:
    return f"{title}\n" + (table.render(indent="  ", width=width) if table else f"  {empty}")


def _nodes(status: Mapping[str, Any]) -> Table:
    table = Table("ROLE", "NAME", "PID", "HOST", "STATE", "SLOTS", "WHERE")
    order = {"gateway": 0, "router": 1, "worker": 2}
    silent = {router.get("id") for router in status.get("routers", ()) if not router.get("answers", True)}
    nodes = [node for node in status.get("nodes", ()) if node.get("role") in order]
    for node in sorted(nodes, key=lambda node: (order[node["role"]], node.get("name", ""), node.get("id", ""))):
        slots = ""
        if node["role"] == "worker":
            used = sum(
                replica.get("node") == node.get("id") and replica.get("state") not in ("dead", "failed")
                for replica in status.get("replicas", ())
            )
            slots = f"{used}/{node.get('slots', 0)}"
        state = "no answer" if node.get("id") in silent else "up"
        state = "leaving" if node.get("leaving") else "suspect" if node.get("suspect") else state
        table.add(
            node["role"],
            node.get("name") or node.get("id", "")[:8],
            node.get("pid", ""),
            node.get("host", ""),
            state,
            slots,
            node.get("http") or node.get("address") or "",
        )
    return table


def _endpoints(status: Mapping[str, Any]) -> Table:
    table = Table("ENDPOINT", "ROUTE", "METHODS", "REVISION", "TRAFFIC")
    for name, endpoint in sorted(status.get("endpoints", {}).items()):
        traffic = " ".join(f"{backend}={_share(weight)}" for backend, weight in endpoint.get("traffic", {}).items())
        shadows = " ".join(f"{backend}={_share(weight)}" for backend, weight in endpoint.get("shadows", {}).items())
        policy = endpoint.get("policy", "random")
        table.add(
            name,
            endpoint.get("route") or "(handle only)",
            ",".join(endpoint.get("methods", ())),
            status.get("versions", {}).get(f"endpoint/{name}", ""),
            (traffic or "none: answers 503")
            + (f"  shadows {shadows}" if shadows else "")
            + (f"  policy {policy}" if policy != "random" else "")
            + (f" (failed {_count(failed)} times)" if (failed := endpoint.get("policy_fallbacks")) else ""),
        )
    return table


def _backends(status: Mapping[str, Any]) -> Table:
    table = Table(
        "BACKEND", "READY", "REQUESTS", "DONE", "ERRORS", "REFUSED", "EXPIRED", "LOST", "QUEUED", "RUNNING", "CREDITS",
        "BATCH MEAN", "MAX", "REVISION", "VERSION",
    )  # fmt: skip
    for name, backend in sorted(status.get("backends", {}).items()):
        counters = backend.get("counters", {})
        refused = counters.get("refused", {})
        sizes = counters.get("batch_size", {})
        table.add(
            name,
            f"{backend.get('ready', 0)}/{backend.get('config', {}).get('num_replicas', 1)}",
            _count(counters.get("admitted", 0)),
            _count(counters.get("completed", 0)),
            _count(counters.get("errors", 0)),
            _count(sum(refused.values()) if isinstance(refused, Mapping) else refused),
            _count(counters.get("expired", 0)),
            _count(counters.get("lost", 0)),
            _count(counters.get("queued", 0)),
            _count(counters.get("in_flight", 0)),
            _count(counters.get("credits", 0)),
            f"{sizes.get('mean', 0.0):.1f}",
            _count(sizes.get("max", 0)),
            status.get("versions", {}).get(f"backend/{name}", ""),
            str(backend.get("version", ""))[:12],
        )
    return table


def _replicas(status: Mapping[str, Any]) -> Table:
    table = Table("BACKEND", "#", "STATE", "PID", "RESTARTS", "NODE", "VERSION", "REASON")
    names = {node.get("id"): node.get("name") for node in status.get("nodes", ())}
    for replica in status.get("replicas", ()):
        state = str(replica.get("state", ""))
        if state == "ready" and not replica.get("linked", True):
            state = "ready (no link)"
        elif replica.get("suspect"):
            state = "suspect"
        worker = str(replica.get("node", ""))
        table.add(
            replica.get("backend", ""),
            replica.get("index", 0),
            state,
            replica.get("pid") or "-",
            replica.get("restarts", 0),
            names.get(worker) or worker[:8],
            str(replica.get("version", ""))[:12],
            str(replica.get("suspect") or "") or _last_line(str(replica.get("reason", ""))),
        )
    return table


def _reasons(status: Mapping[str, Any]) -> str:
    """The full text behind reasons that have more than one line: tracebacks of constructors, once each."""
    texts: dict[str, str] = {}
    for replica in status.get("replicas", ()):
        reason = str(replica.get("reason", "")).strip()
        if "\n" in reason:
            texts.setdefault(reason, f"{replica.get('backend', '')} #{replica.get('index', 0)}")
    return "\n\n".join(
        f"WHY {who} FAILED\n" + "\n".join(f"  {_printable(line)}" for line in text.splitlines())
        for text, who in texts.items()
    )


def _conflicts(status: Mapping[str, Any]) -> Table:
    table = Table("KEY", "WRITTEN", "BY", "WHAT WAS LOST")
    names = {node.get("id"): node.get("name") for node in status.get("nodes", ())}
    for conflict in status["conflicts"]:
        writer = str(conflict.get("writer", ""))
        written_ms = conflict.get("written_ms", 0)
        table.add(
            conflict.get("key", ""),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(written_ms / 1000)) if written_ms else "",
            names.get(writer) or writer[:8],
            _what_was_lost(conflict),
        )
    return table


def _what_was_lost(conflict: Mapping[str, Any]) -> str:
    """The fields in which the losing write differs from the one in force."""
    if conflict.get("lost") is None:
        return "a delete" if "lost" in conflict else ""
    if conflict.get("kept") is None:
        return f"{_compact(conflict['lost'])} (kept: deleted)"
    differs = conflict.get("differs", {}).items()
    told = "; ".join(f"{field} {_compact(lost)} (kept {_compact(kept)})" for field, (lost, kept) in differs)
    return told or "nothing: both wrote the same"


def _remarks(status: Mapping[str, Any]) -> str:
    """Lines about what is not as it should be, or could be better."""
    lines = [
        f"{node.get('role')} {node.get('name') or node.get('id', '')[:8]} is suspected: {_printable(node['suspect'])}"
        for node in status.get("nodes", ())
        if node.get("suspect") and node.get("role") != "client"
    ]
    lines += [
        f"router {router.get('name') or router.get('address')} does not answer, its counts are missing: "
        f"{_printable(' '.join(str(router.get('error', '')).split()))}"
        for router in status.get("routers", ())
        if not router.get("answers", True)
    ]
    lines += [
        f"endpoint {name} shares by weight at random on router {fault.get('router', '')}: {_printable(fault['fault'])}"
        for name, endpoint in sorted(status.get("endpoints", {}).items())
        for fault in endpoint.get("policy_faults", ())
    ]
    if disagree := status.get("disagree"):
        more = f" and {len(disagree) - 5} more" if len(disagree) > 5 else ""
        lines.append(f"not all routers hold the same yet: {', '.join(disagree[:5])}{more}")
    lines += [f"hint: {hint}" for hint in status.get("hints", ())]
    return "\n".join(lines)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", "="), sort_keys=True).replace('"', "")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in text)


def _share(weight: float) -> str:
    return f"{weight * 100:.4g}%"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
