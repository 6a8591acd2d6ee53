"""What the scheduling core alone costs: one process, no sockets.

    python -m benchmarks.core [--requests N] [--quick]

Prints requests a second through admit + queue + select + batch + complete, the cost of a request as the queue grows
from 1,000 to 1,000,000, and the memory that a queued request takes.  The clock is real, so what is measured includes
sampling and fitting of service times at the rate at which they would happen.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tracemalloc
from collections.abc import Callable
from time import perf_counter, process_time

from zserve.config import BackendConfig
from zserve.scheduling.backend_queue import BackendQueue, Entry
from zserve.scheduling.room import Room

ENDPOINT = "model"
Make = Callable[[int, float], Entry]


def backend(config: BackendConfig, replicas: int, credit: int) -> BackendQueue:
    queue = BackendQueue("model", config, random.Random(1), room=Room(1 << 40))
    now = perf_counter()
    for index in range(replicas):
        replica = index.to_bytes(4, "big")
        queue.replica_joined(replica, now)
        queue.grant(replica, 1 << 32, credit, now)
    return queue


def plain(index: int, now: float) -> Entry:
    return Entry(id=index.to_bytes(16, "big"), endpoint=ENDPOINT, arrived=now, size=100)


def dated(index: int, now: float) -> Entry:
    return Entry(id=index.to_bytes(16, "big"), endpoint=ENDPOINT, arrived=now, size=100, deadline=now + 1000.0)


def mixed(index: int, now: float) -> Entry:
    deadline = now + 1000.0 + (index * 7919 % 1000) * 0.001
    return Entry(id=index.to_bytes(16, "big"), endpoint=ENDPOINT, arrived=now, size=100, deadline=deadline)


def throughput(requests: int, batch: int | None, replicas: int, make: Make, turn: int = 32) -> float:
    """Requests a second, arriving and answered in groups of *turn*, as an event loop sees them under load."""
    queue = backend(BackendConfig(max_batch_size=batch, max_queued_requests=10**8), replicas, 1 << 60)
    entries = [make(index, perf_counter()) for index in range(requests)]
    clock = perf_counter  # what the core is told; what it costs is measured in processor time
    began = process_time()
    offer, completed, dispatch = queue.offer, queue.completed, queue.dispatch
    for start in range(0, requests, turn):
        now = clock()
        for entry in entries[start : start + turn]:
            offer(entry, now)
        sent = dispatch(now)
        while sent:
            queue.expire(now)
            now = clock()
            for each in sent:
                replica = each.replica
                for entry in each.entries:
                    completed(replica, entry.id, now, ok=True, run_s=0.0001)
            sent = dispatch(now) if len(queue) else []
        queue.next_wakeup()
    took = process_time() - began
    done = queue.statistics()["completed"]
    assert done == requests, done
    return requests / took


def growth(depth: int, make: Make, batch: int, rounds: int) -> float:
    """Microseconds for one request in and one out, with *depth* queued."""
    queue = backend(BackendConfig(max_batch_size=batch, max_queued_requests=10**8), 1, 1 << 60)
    now = perf_counter()
    queue_entries = [make(index, now) for index in range(depth + rounds * batch)]
    for entry in queue_entries[:depth]:
        queue.offer(entry, now)
    gc.collect()
    gc.freeze()
    later = queue_entries[depth:]
    began = process_time()
    for index in range(rounds):
        now = perf_counter()
        for entry in later[index * batch : (index + 1) * batch]:
            queue.offer(entry, now)
        for each in queue.dispatch(now):
            for entry in each.entries:
                queue.completed(each.replica, entry.id, now, ok=True, run_s=0.0001)
    took = process_time() - began
    gc.unfreeze()
    return took / (rounds * batch) * 1e6


def memory(count: int, make: Make) -> float:
    """Bytes that the process holds for each of *count* queued requests, entry, id and times included."""
    queue = backend(BackendConfig(max_queued_requests=10**8), 0, 0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for index in range(count):
        now = 1000.0 + index * 1e-6  # a float of its own, as a clock gives
        queue.offer(make(index, now), now)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(queue) == count
    return held / count


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.core", description="What the scheduling core alone costs.")
    parser.add_argument("--requests", type=int, default=300_000, help="requests for each throughput row")
    parser.add_argument("--quick", action="store_true", help="a twenty-fifth of everything")
    options = parser.parse_args(arguments)
    scale = 25 if options.quick else 1
    requests = options.requests // scale

    print(f"{'admit + queue + select + batch + complete':<52} {'requests/s':>12} {'us each':>9}")
    rows: list[tuple[str, int | None, int, Make]] = [
        ("batches of 32, 1 replica, no deadline", 32, 1, plain),
        ("batches of 32, 1 replica, deadline", 32, 1, dated),
        ("batches of 32, 8 replicas, mixed deadlines", 32, 8, mixed),
        ("no batching, 1 replica, no deadline", None, 1, plain),
        ("no batching, 1 replica, deadline", None, 1, dated),
        ("no batching, 8 replicas, no deadline", None, 8, plain),
        ("no batching, 8 replicas, mixed deadlines", None, 8, mixed),
    ]
    for label, batch, replicas, make in rows:
        rate = max(throughput(requests, batch, replicas, make) for _ in range(3))
        print(f"{label:<52} {rate:>12,.0f} {1e6 / rate:>9.2f}")

    print(f"\n{'one in, one out, with so many queued':<52} {'no deadline':>12} {'mixed':>9}   (us a request)")
    for depth in (1_000 // scale, 10_000 // scale, 100_000 // scale, 1_000_000 // scale):
        costs = [growth(depth, make, 32, 2_000 // scale) for make in (plain, mixed)]
        print(f"{depth:<52,} {costs[0]:>12.2f} {costs[1]:>9.2f}")

    count = 1_000_000 // scale
    held = [memory(count, make) for make in (plain, mixed)]
    print(f"\nbytes a queued request, of {count:,}: no deadline {held[0]:.0f}, mixed {held[1]:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
