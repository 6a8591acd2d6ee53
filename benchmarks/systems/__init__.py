"""The systems that can be measured, by name."""

from __future__ import annotations

from . import bentoml, chain, fastapi, litserve, mosec, ray, uvicorn, zserve
from .system import System

__all__ = ["SYSTEMS", "System"]

SYSTEMS: dict[str, System] = {
    system.name: system
    for module in (zserve, mosec, fastapi, uvicorn, chain, litserve, bentoml, ray)
    for system in module.SYSTEMS
}
