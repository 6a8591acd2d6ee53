"""Handlers that behave, and handlers that do not."""

from __future__ import annotations

import os
import signal
import time

import zserve as serve


def echo(request):
    return {"method": request.method, "body": request.get_data(as_text=True)}


def hello():
    return "hello"


def pid():
    return str(os.getpid())


def slow(request):
    time.sleep(float(request.args.get("s", "0.1")))
    return "slow"


def waits(request):
    """Until there is a file of this name."""
    end = time.monotonic() + 60
    while not os.path.exists(request.args["for"]) and time.monotonic() < end:
        time.sleep(0.01)
    return str(len(request.get_data()))


def json_in(request):
    return {"got": request.get_json()}


def raises():
    raise RuntimeError("this handler fails")


def not_encodable():
    return {"x": object()}


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def exits():
    os._exit(7)


def never():
    while True:
        time.sleep(1)


@serve.accept_batch
def batched(requests):
    time.sleep(0.005 + 0.0001 * len(requests))
    return [{"n": len(requests), "pid": os.getpid()} for _ in requests]


class Counter:
    def __init__(self, start=0):
        self.count = start

    def __call__(self, request):
        self.count += 1
        return {"count": self.count}


class BadConstructor:
    def __init__(self):
        raise ValueError("no such model file")

    def __call__(self):
        return "never"
