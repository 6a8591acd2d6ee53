"""What the backends of these tests do.  Only zserve, werkzeug and the standard library: replicas import this file."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import os
import time
import uuid
from decimal import Decimal

from werkzeug.wrappers import Response

import zserve as serve


def one():
    return "one"


def two():
    return "two"


def pid():
    return {"pid": os.getpid()}


def echo(request, **kwargs):
    return {"data": request.data if isinstance(request.data, str) else None, "kwargs": kwargs}


def increment(request):
    return request.data + 1


def add(request, left=0, right=0):
    return left + right


def fails(request):
    raise LookupError("nothing under", request.data)


def slow(request):
    time.sleep(float(request.args.get("s", 0.2)))
    return "slept"


def note(request):
    """Writes a line: what a shadow does can be seen nowhere else."""
    with open(request.args["file"], "a") as file:
        file.write("x\n")
    raise RuntimeError("no client ever sees this")


def touch(request):
    return "real"


@serve.accept_batch
def batch(requests):
    time.sleep(0.01)
    answers = []
    for request in requests:
        if request.args.get("bad"):
            answers.append(ValueError("this one is bad"))
        else:
            answers.append({"size": len(requests), "context": serve.context.batch_size})
    if any(request.args.get("short") for request in requests):
        return answers[1:]
    if any(request.args.get("all_bad") for request in requests):
        raise RuntimeError("all of it fails")
    return answers


class Greeter:
    def __init__(self, greeting, punctuation="."):
        if greeting == "fail":
            raise FileNotFoundError("no such model file")
        self.greeting = greeting
        self.punctuation = punctuation

    def __call__(self, request):
        return f"{self.greeting}{self.punctuation}"


class SlowStart:
    def __init__(self, folder):
        """Comes back only when another one is being constructed too."""
        mark = os.path.join(folder, str(os.getpid()))
        with open(mark, "w"):
            pass
        until = time.monotonic() + 60
        while len(os.listdir(folder)) < 2:
            if time.monotonic() > until:
                raise RuntimeError("nobody else was constructed meanwhile")
            time.sleep(0.01)

    def __call__(self):
        return "met"


class Configured:
    def reconfigure(self, config):
        if config.get("bad"):
            raise ValueError("this config is bad")
        self.threshold = config["threshold"]

    def __call__(self):
        return {"threshold": self.threshold, "pid": os.getpid()}


class Checked:
    well = True

    def check_health(self):
        return self.well

    def __call__(self):
        return {"pid": os.getpid()}

    def fall_ill(self):
        self.well = False
        return "ill"


class Numbered:
    """Says which call of its life this is."""

    def __init__(self):
        self.number = 0

    def __call__(self, request, s=0.0):
        self.number += 1
        number = self.number
        time.sleep(s)
        return number


class Lasting:
    """An async one: counts how many of it run at a time."""

    def __init__(self):
        self.now = 0
        self.most = 0

    async def __call__(self):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.05)
        self.now -= 1
        return {"most": self.most}


@dataclasses.dataclass
class Point:
    x: int
    when: datetime.datetime


class Returns:
    """Each method gives another kind of answer.  There is no ``__call__``."""

    def none(self):
        return None

    def text(self):
        return "Grüße"

    def raw(self):
        return b"\x00\xff"

    def response(self):
        answer = Response("made", status=201, headers={"x-made": "yes"})
        answer.set_cookie("a", "1")
        answer.set_cookie("b", "2")
        return answer

    def pair(self):
        return {"error": "teapot"}, 418

    def triple(self):
        return "moved", 302, {"location": "/elsewhere"}

    def generator(self):
        yield "a"
        yield "b"

    async def async_generator(self):
        yield "c"
        await asyncio.sleep(0)
        yield "d"

    def json(self):
        when = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
        return {"id": uuid.UUID(int=7), "when": when, "point": Point(1, when), "list": [1, 2.5, None, True]}

    def unencodable(self):
        return {"socket": object()}

    def values(self, request):
        """What a handle call gave comes back as what it was."""
        return request.data

    def _private(self):
        return "never"


class Sees:
    """What a handler sees of a request."""

    def __call__(self, request, name=None, n=None, rest=None):
        return {
            "method": request.method,
            "path": request.path,
            "args": request.args.to_dict(),
            "header": request.headers.get("x-mine"),
            "cookie": request.cookies.get("c"),
            "form": request.form.to_dict(),
            "files": {key: file.read().decode() for key, file in request.files.items()},
            "json": request.get_json(silent=True),
            "name": name,
            "n": n,
            "rest": rest,
            "web": serve.context.web,
            "batch_size": serve.context.batch_size,
        }

    def nothing(self):
        return {"web": serve.context.web}

    def optional(self, size="none"):
        return {"size": size}


class Types:
    def __call__(self, request):
        value = request.data
        return {"type": type(value).__name__, "decimal": value == Decimal("1.5")}


def dies(request):
    os._exit(3)


async def waits(request):
    try:
        await asyncio.sleep(60)
    finally:
        with open(request.args["file"], "w") as file:
            file.write("cancelled")


def calls(request):
    """A backend that calls another one."""
    return serve.get_handle("increment").remote(request.data).result() * 10


async def calls_async(request):
    handle = serve.get_handle("increment", missing_ok=True)
    return sum(await asyncio.gather(*[handle.remote(n) for n in request.data]))


def trail(request):
    return {"id": request.headers.get("x-request-id"), "trace": request.headers.get("traceparent")}
