from __future__ import annotations

from typing import Any

from zserve.nodes.status_view import render_status
from zserve.nodes.table import Table

STATUS: dict[str, Any] = {
    "address": "tcp://127.0.0.1:7700",
    "nodes": [
        {"id": "aa" * 16, "role": "worker", "name": "w1", "pid": 3, "host": "h", "slots": 4},
        {"id": "bb" * 16, "role": "gateway", "name": "g1", "pid": 1, "host": "h", "http": "http://127.0.0.1:8000"},
        {"id": "cc" * 16, "role": "client", "name": "cli", "pid": 9, "host": "h"},
        {"id": "dd" * 16, "role": "router", "name": "", "pid": 2, "host": "h", "leaving": True, "address": "tcp://x:1"},
    ],
    "endpoints": {
        "digits": {
            "route": "/digits",
            "methods": ["POST"],
            "traffic": {"SVM:v1": 0.9, "RF:v2": 0.1},
            "shadows": {"new": 0.05},
        },
        "inner": {"route": None, "methods": ["GET"], "traffic": {}, "shadows": {}},
    },
    "backends": {
        "SVM:v1": {
            "ready": 2,
            "version": "0123456789abcdef",
            "config": {"num_replicas": 3},
            "counters": {
                "admitted": 12345,
                "completed": 12340,
                "refused": {"full": 1, "late_on_arrival": 2},
                "errors": 6,
                "expired": 4,
                "lost": 0,
                "queued": 2,
                "in_flight": 3,
                "credits": 5,
                "batch_size": {"mean": 7.25, "max": 32},
            },
        }
    },
    "replicas": [
        {"backend": "SVM:v1", "index": 0, "state": "ready", "linked": True, "pid": 77, "node": "aa" * 16, "reason": ""},
        {
            "backend": "SVM:v1",
            "index": 1,
            "state": "failed",
            "pid": 0,
            "node": "aa" * 16,
            "restarts": 2,
            "reason": "Traceback (most recent call last):\n  File 'm.py'\nValueError: no \x1b[2Jmodel",
        },
    ],
    "versions": {"endpoint/digits": 4, "backend/SVM:v1": 2},
    "conflicts": [
        {
            "key": "endpoint/digits",
            "loser": "ab" * 32,
            "winner": "cd" * 32,
            "writer": "dd" * 16,
            "written_ms": 1_700_000_000_000,
            "lost": {"route": "/digits", "traffic": {"SVM:v1": 1.0}},
            "kept": {"route": "/digits", "traffic": {"RF:v2": 1.0}},
            "differs": {"traffic": [{"SVM:v1": 1.0}, {"RF:v2": 1.0}]},
        }
    ],
}


def rows(text: str, title: str) -> list[list[str]]:
    section = text.split(f"{title}\n", 1)[1].split("\n\n")[0]
    return [line.split() for line in section.splitlines()[1:]]


def test_nodes_in_order_of_a_request_with_their_slots() -> None:
    nodes = rows(render_status(STATUS), "NODES")
    assert [row[:2] for row in nodes] == [["gateway", "g1"], ["router", "dddddddd"], ["worker", "w1"]]
    assert nodes[0][-1] == "http://127.0.0.1:8000"
    assert nodes[1][4] == "leaving"
    assert nodes[2][-1] == "1/4"


def test_endpoints_show_how_traffic_is_shared() -> None:
    digits, inner = rows(render_status(STATUS), "ENDPOINTS")
    assert digits == ["digits", "/digits", "POST", "4", "SVM:v1=90%", "RF:v2=10%", "shadows", "new=5%"]
    assert inner[1:3] == ["(handle", "only)"]


def test_backends_show_their_counters() -> None:
    assert rows(render_status(STATUS), "BACKENDS") == [
        ["SVM:v1", "2/3", "12,345", "12,340", "6", "3", "4", "0", "2", "3", "5", "7.2", "32", "2", "0123456789ab"]
    ]


def test_replicas_show_why_they_failed_and_nothing_controls_the_terminal() -> None:
    text = render_status(STATUS)
    assert rows(text, "REPLICAS")[1][-3:] == ["ValueError:", "no", "[2Jmodel"]
    assert "WHY SVM:v1 #1 FAILED" in text
    assert "File 'm.py'" in text
    assert "\x1b" not in text


def test_conflicts_are_listed() -> None:
    (row,) = rows(render_status(STATUS), "CONFLICTS (writes that lost)")
    assert row[0] == "endpoint/digits"
    assert row[3] == "dddddddd"
    assert " ".join(row[4:]) == "traffic {SVM:v1=1.0} (kept {RF:v2=1.0})"


def test_a_delete_that_lost_and_one_that_won() -> None:
    conflict = {**STATUS["conflicts"][0], "lost": None}
    assert "a delete" in render_status({**STATUS, "conflicts": [conflict]})
    conflict = {**STATUS["conflicts"][0], "kept": None}
    assert "(kept: deleted)" in render_status({**STATUS, "conflicts": [conflict]})


def test_what_is_not_as_it_should_be_is_said_at_the_end() -> None:
    text = render_status({**STATUS, "disagree": ["endpoint/digits"], "hints": ["b takes batches"]})
    assert text.endswith("not all routers hold the same yet: endpoint/digits\nhint: b takes batches")


def test_no_line_is_wider_than_the_terminal() -> None:
    table_lines = render_status(STATUS, 60).split("WHY")[0].splitlines()
    assert max(map(len, table_lines)) <= 60
    assert any(line.endswith("…") for line in table_lines)


def test_an_empty_fabric_and_missing_keys() -> None:
    text = render_status({})
    assert "none yet; @serve.route" in text
    assert "CONFLICTS" not in text


def test_numbers_are_aligned_to_the_right() -> None:
    table = Table("NAME", "COUNT")
    assert not table
    table.add("a", "1")
    table.add("bb", "1,000")
    assert table.render(indent=" ") == " NAME  COUNT\n a         1\n bb    1,000"


def test_a_suspect_is_marked_and_the_cause_named() -> None:
    nodes = [{**node, "suspect": "its process 3 is stopped (SIGSTOP)"} if node["name"] == "w1" else node
             for node in STATUS["nodes"]]  # fmt: skip
    replica = {**STATUS["replicas"][0], "suspect": "its process 77 runs, but its event loop is stalled"}
    text = render_status({**STATUS, "nodes": nodes, "replicas": [replica]}, width=200)
    assert [row[4] for row in rows(text, "NODES") if row[1] == "w1"] == ["suspect"]
    assert "worker w1 is suspected: its process 3 is stopped (SIGSTOP)" in text
    found = rows(text, "REPLICAS")[-1]
    assert found[2] == "suspect"
    assert " ".join(found).endswith("its process 77 runs, but its event loop is stalled")
