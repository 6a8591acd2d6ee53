"""How long a backend takes, learnt from what it did last.

For each backend one :class:`ServiceTimes`.  A sample is (n, seconds): n is the size of the batch, or, for a backend
that is not batched, the number of requests in flight at the replica when the request left.  Both grow the time about
linearly, so one cost model serves: ``a + b * n``, fitted by least squares.  The p95 at n is the model times the 95th
percentile of the ratio (seen / model), taken among samples of about that n (same power of two) where there are eight of
them, else among all.

Memory is a window of the last 64 samples, none older than 5 s (or than 8 mean service times).  A step up shows after
two samples, because two in a row beyond the p95 are believed at once; a step down within the window.  Backends that
answer thousands a second are sampled, about one answer every few milliseconds.

Starts out permissive: as long as nothing is known, every estimate is 0; while only one n has been seen, time is taken
not to depend on n.
"""

from __future__ import annotations

from collections import deque

__all__ = ["WINDOW", "ServiceTimes"]

WINDOW = 64
"""Samples kept."""
MAX_AGE_S = 5.0
_MAX_AGE_MEANS = 8.0
_RECENT = 8
_CLASS_MIN = 8


class ServiceTimes:
    """Streaming cost model and p95 of one backend."""

    __slots__ = (
        "_a",
        "_b",
        "_dirty",
        "_largest",
        "_low",
        "_median",
        "_most",
        "_recent",
        "_samples",
        "_tail",
        "_tails",
        "last_at",
        "seen",
    )

    def __init__(self) -> None:
        self._samples: deque[tuple[int, float, float]] = deque(maxlen=WINDOW)
        self._dirty = False
        self._a = 0.0  # seconds
        self._b = 0.0  # seconds per request
        self._tail = 1.0  # p95 of seen / model
        self._tails: dict[int, float] = {}  # the same by power of two of n
        self._most = 1.0  # the largest of these
        self._median = 1.0
        self._low = 1.0  # p10 of seen / model
        self._recent = 1.0  # mean of the last few, for backlogs
        self.seen = 0  # samples ever
        self._largest = 0  # largest n in the window
        self.last_at = float("-inf")  # when the last sample came

    @property
    def known(self) -> bool:
        """Whether there is anything to estimate from."""
        return self.seen > 0

    @property
    def largest(self) -> int:
        """Largest n in the window, 0 when nothing is known."""
        if self._dirty:
            self._fit()
        return self._largest

    def observe(self, n: int, seconds: float, now: float) -> None:
        """*n* requests took *seconds* together, known at *now*."""
        self._samples.append((n, seconds if seconds > 1e-9 else 1e-9, now))
        self._dirty = True
        self.seen += 1
        self.last_at = now

    # --- estimates, in seconds ----------------------------------------------------------------------------------------

    def mean(self, n: int) -> float:
        """Expected time for *n*, leaning to the most recent samples when these are slower: for draining a backlog."""
        if self._dirty:
            self._fit()
        return (self._a + self._b * n) * self._recent

    def p95(self, n: int) -> float:
        if self._dirty:
            self._fit()
        return (self._a + self._b * n) * self._tails.get(n.bit_length(), self._tail)

    def bound(self, n: int) -> float:
        """No p95 up to *n* is longer than this."""
        if self._dirty:
            self._fit()
        return (self._a + self._b * n) * self._most

    def median(self, n: int) -> float:
        if self._dirty:
            self._fit()
        return (self._a + self._b * n) * self._median

    def low(self, n: int) -> float:
        """p10: when the earliest end is to be expected."""
        if self._dirty:
            self._fit()
        return (self._a + self._b * n) * self._low

    def largest_within(self, seconds: float, most: int) -> int:
        """The largest n up to *most* whose p95 fits in *seconds*; 0 when not even one does."""
        if not self.seen or self.p95(most) <= seconds:
            return most
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            if self.p95(middle) <= seconds:
                low = middle
            else:
                high = middle
        return low

    def model(self) -> tuple[float, float]:
        """(a, b) of the fitted ``a + b * n``, seconds."""
        if self._dirty:
            self._fit()
        return self._a, self._b

    # --- fitting ------------------------------------------------------------------------------------------------------

    def _fit(self) -> None:
        self._dirty = False
        samples = self._samples
        newest = samples[-1][2]
        age = max(MAX_AGE_S, _MAX_AGE_MEANS * samples[-1][1])
        while newest - samples[0][2] > age:
            samples.popleft()
        count = len(samples)
        sum_n = sum_s = sum_nn = sum_ns = 0.0
        largest = 0
        for n, seconds, _ in samples:
            sum_n += n
            sum_s += seconds
            sum_nn += n * n
            sum_ns += n * seconds
            if n > largest:
                largest = n
        self._largest = largest
        mean_n, mean_s = sum_n / count, sum_s / count
        spread = sum_nn - sum_n * mean_n
        if spread > 0.01 * sum_nn:
            b = (sum_ns - sum_n * mean_s) / spread
            a = mean_s - b * mean_n
            if b < 0.0:
                a, b = mean_s, 0.0
            elif a < 0.0:
                a, b = 0.0, mean_s / mean_n
        else:  # one n only: keep the shape that is known, move the scale
            shape = self._a + self._b * mean_n
            scale = mean_s / shape if shape > 0.0 else 0.0
            a, b = (self._a * scale, self._b * scale) if scale else (mean_s, 0.0)
        self._a, self._b = a, b
        ratios = [seconds / (a + b * n) for n, seconds, _ in samples]
        self._measure_ratios(ratios)

    def _measure_ratios(self, ratios: list[float]) -> None:
        count = len(ratios)
        recent = ratios[-_RECENT:]
        self._recent = max(1.0, sum(recent) / len(recent))
        classes: dict[int, list[float]] = {}
        for (n, _, _), ratio in zip(self._samples, ratios, strict=True):
            classes.setdefault(n.bit_length(), []).append(ratio)
        # Two in a row beyond the p95 are a step up, not two accidents.
        step = min(ratios[-2:])
        self._tails = {
            size: max(sorted(held)[int(0.95 * len(held))], min(held[-2:]), step)
            for size, held in classes.items()
            if len(held) >= _CLASS_MIN
        }
        ratios.sort()
        self._tail = max(ratios[int(0.95 * count)], step)
        self._most = max(self._tail, *self._tails.values()) if self._tails else self._tail
        self._median = ratios[count // 2]
        self._low = ratios[count // 10]
