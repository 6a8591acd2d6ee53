"""Asks one URL without a pause, from a number of threads, and says what came whenever a line comes in.

    python client.py http://10.77.0.1:8000/greet 2

Runs on a host of the lab by itself, with nothing but the standard library.
"""

from __future__ import annotations

import collections
import http.client
import json
import sys
import threading
import time
import urllib.parse


class Counts:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.statuses: collections.Counter[str] = collections.Counter()
        self.bodies: collections.Counter[str] = collections.Counter()
        self.longest_s = 0.0
        self.errors: list[str] = []

    def add(self, status: str, body: str, took_s: float) -> None:
        with self.lock:
            self.statuses[status] += 1
            self.longest_s = max(self.longest_s, took_s)
            if status == "200":
                self.bodies[body] += 1
            elif len(self.errors) < 5:
                self.errors.append(f"{status}: {body}")

    def take(self) -> dict[str, object]:
        with self.lock:
            found = {
                "statuses": dict(self.statuses),
                "bodies": dict(self.bodies),
                "longest_s": round(self.longest_s, 3),
                "errors": self.errors,
            }
            self.reset()
            return found


def ask(url: urllib.parse.SplitResult, counts: Counts) -> None:
    connection = None
    while True:
        begin = time.monotonic()
        try:
            if connection is None:
                connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=35.0)
            connection.request("GET", url.path)
            answer = connection.getresponse()
            counts.add(str(answer.status), answer.read().decode(errors="replace")[:200], time.monotonic() - begin)
        except (OSError, http.client.HTTPException) as error:
            counts.add(type(error).__name__, str(error), time.monotonic() - begin)
            if connection is not None:
                connection.close()
            connection = None
        time.sleep(0.005)  # a few hundred a second are plenty: the machine has other things to do


def main() -> None:
    counts = Counts()
    url = urllib.parse.urlsplit(sys.argv[1])
    for _ in range(int(sys.argv[2])):
        threading.Thread(target=ask, args=(url, counts), daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps(counts.take()), flush=True)


if __name__ == "__main__":
    main()
