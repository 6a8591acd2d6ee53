"""Backends that keep something, in all the ways in which they are made, changed, checked and ended."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path


class Configured:
    def __init__(self, *names, greeting="hello"):
        self.names = names
        self.greeting = greeting
        self.thread = threading.get_ident()

    def reconfigure(self, config):
        if config.get("bad"):
            raise ValueError("this config is bad")
        self.config = config

    def __call__(self):
        same = self.thread == threading.get_ident()
        return {"names": self.names, "greeting": self.greeting, "config": self.config, "same": same, "pid": os.getpid()}


class AsyncConfigured:
    async def __init__(self, start):
        await asyncio.sleep(0)
        self.count = start

    async def reconfigure(self, config):
        await asyncio.sleep(0)
        self.step = config["step"]

    async def __call__(self):
        self.count += self.step
        return {"count": self.count}


class NotConfigurable:
    def __call__(self):
        return "x"


class Patient:
    """Well for as long as the file does not say otherwise."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def check_health(self):
        file = self.folder / "checks"
        with file.open("a") as checks:
            checks.write(f"{os.getpid()}\n")
        word = self.folder / f"word-{os.getpid()}"
        if word.exists():
            text = word.read_text()
            if text == "false":
                return False
            raise RuntimeError(text)
        return None

    def __call__(self):
        return {"pid": os.getpid()}


class AsyncPatient(Patient):
    async def check_health(self):
        await asyncio.sleep(0)
        return super().check_health()

    async def __call__(self):
        return {"pid": os.getpid()}


class Sleeper:
    """Its check does not come back."""

    def check_health(self):
        time.sleep(60)

    def __call__(self):
        return {"pid": os.getpid()}


class Closing:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.myself = self  # a reference cycle: counting alone would not end it
        self.thread = threading.get_ident()

    def __call__(self):
        return "x"

    def close(self):
        same = self.thread == threading.get_ident()
        (self.folder / "closed").write_text(f"in the same thread: {same}")

    def __del__(self):
        (self.folder / "deleted").write_text("deleted")


class AsyncClosing:
    def __init__(self, folder):
        self.folder = Path(folder)

    async def __call__(self):
        return "x"

    async def close(self):
        await asyncio.sleep(0)
        (self.folder / "closed").write_text("closed")


class Hangs:
    def __init__(self):
        time.sleep(600)

    def __call__(self):
        return "never"


class Mixed:
    """An async main method and a sync one beside it: as many at once as each kind allows."""

    def __init__(self):
        self.waiting = 0
        self.all_here = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def __call__(self):
        self.waiting += 1
        if self.waiting == 10:
            self.all_here.set()
        await self.all_here.wait()
        return "met"

    def one_by_one(self):
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.01)
        self.inside -= 1
        return {"most": self.most}


class MixedOther(Mixed):
    """The other way round: the main method is sync."""

    meet = Mixed.__call__

    def __call__(self):
        return self.one_by_one()
