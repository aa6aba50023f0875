"""A curve that stays small however long a run is: neighbouring points become their mean. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Final

import attrs

POINTS_MAX: Final = 2048


@attrs.define
class _Bucket:
    first: int
    total: float
    count: int

    @property
    def mean(self) -> float:
        return self.total / self.count


class Curve:
    """Values by step, with a bound on how many points are kept. Steps come in order, or from an earlier one again."""

    def __init__(self, points_max: int = POINTS_MAX) -> None:
        self._points_max = points_max
        self._buckets: list[_Bucket] = []
        self.stride = 1
        """Steps in one point."""
        self.first: float | None = None
        self.last: float | None = None

    def add(self, step: int, value: float | None) -> None:
        """Keep a value; one that is no number is left out."""
        if value is None or not math.isfinite(value):
            return
        self.first = value if self.first is None else self.first
        self.last = value
        bucket = self._buckets[-1] if self._buckets else None
        if bucket is not None and step // self.stride == bucket.first // self.stride:
            bucket.total, bucket.count = bucket.total + value, bucket.count + 1
        else:
            self._buckets.append(_Bucket(step, value, 1))
            if len(self._buckets) > self._points_max:
                self._halve()

    def rewind(self, step: int) -> None:
        """Forget what came after a step: it will come again. A point that holds steps of both sides stays."""
        while self._buckets and self._buckets[-1].first > step:
            self._buckets.pop()
        if not self._buckets:
            self.first = None
        self.last = self._buckets[-1].mean if self._buckets else None

    def _halve(self) -> None:
        self.stride *= 2
        merged: list[_Bucket] = []
        for bucket in self._buckets:
            if merged and merged[-1].first // self.stride == bucket.first // self.stride:
                merged[-1].total += bucket.total
                merged[-1].count += bucket.count
            else:
                merged.append(bucket)
        self._buckets = merged

    def __len__(self) -> int:
        return len(self._buckets)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        """Yield (first step, mean) of each point."""
        return ((bucket.first, bucket.mean) for bucket in self._buckets)

    def resampled(self, width: int) -> list[float]:
        """Return the curve in at most so many values, each the mean of its part."""
        values = [value for _, value in self]
        if len(values) <= width:
            return values
        edges = [len(values) * i // width for i in range(width + 1)]
        return [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
