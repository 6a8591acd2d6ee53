"""What the fabric under test serves: the functions of ``app/chaos_app.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .nodes import Fabric

__all__ = ["serve_all"]

UP_S = 120.0


async def serve_all(fabric: Fabric, backends: Mapping[str, str], replicas: int) -> None:
    """Backends by name with their functions, and an endpoint for each function; returns when all is up."""
    for name, function in backends.items():
        config: dict[str, Any] = {"num_replicas": replicas}
        batchable = function == "batch"
        if batchable:
            config["max_batch_size"] = 8
        code = f"chaos_app:{function}"
        await fabric.call(
            "create_backend", {"name": name, "code": code, "version": "1", "batchable": batchable, "config": config}
        )
    for function in dict.fromkeys(backends.values()):
        methods = ["GET", "POST"]
        args = {"name": function, "route": f"/{function}", "methods": methods, "backend": function}
        await fabric.call("create_endpoint", args)
    for name in backends:
        await fabric.call("wait_backend", {"name": name, "timeout_s": UP_S}, timeout_s=UP_S + 10.0)
