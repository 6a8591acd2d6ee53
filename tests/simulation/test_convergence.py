"""How fast a change spreads, and that it is drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zserve.testing.convergence import MAX_ROUTERS, draw, measure


def test_a_change_reaches_all_although_half_of_the_publications_get_lost() -> None:
    curve = measure(100, changes=3, publish_loss=0.5)
    assert len(curve.delays_s) == 300
    assert curve.within_s(0.99) < 2.0
    assert 0 < curve.bytes_a_node < 1000
    assert curve.bytes_a_change < 1000, "a node that joins costs the difference, not the whole list of nodes"


def test_gateways_of_a_large_fabric_have_few_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zserve.testing.convergence.routers_for", lambda nodes: 8)
    curve = measure(60, changes=1)
    # Heartbeats both ways: with all 8 routers a gateway would get 8 a second, and the routers as many from each.
    assert curve.messages_a_node < 2 * (MAX_ROUTERS + 1) + 6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_nodes_faster_than_real_time() -> None:
    curve = measure(1000, changes=2)
    assert curve.within_s(0.99) < 2.0
    assert curve.speed > 1.0


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "curve.png"
    draw([measure(10, changes=1)], str(file))
    assert file.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'zserve\[plots\]'"):
        draw([], "nowhere.png")
