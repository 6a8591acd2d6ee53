from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .connection import Gateway


@pytest.fixture
def make_gateway() -> Iterator[Callable[..., Gateway]]:
    """Makes gateways with the limits given."""
    loop = asyncio.new_event_loop()

    def make(**limits: Any) -> Gateway:
        return Gateway(loop, **limits)

    yield make
    loop.close()
