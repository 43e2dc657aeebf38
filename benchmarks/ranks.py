"""The verdict of thousands of ranks, simulated: time, messages and connections of a ring and of a tree of groups.

    python benchmarks/ranks.py [--hop-us 20] [--size 64]

Each rank is an object that sends when it has received; a message takes one hop. A rank sends one message at a time, so
that a root of many children takes its time. Ring: reduce-scatter and all-gather, 2 (N - 1) steps one after the other.
Tree: ranks in groups of `--size`, a leader each, leaders in groups again; the flag goes up and comes down.
"""

import argparse
import heapq
from collections.abc import Iterator
from dataclasses import dataclass

FLAG_BYTES = 8


@dataclass
class Verdict:
    seconds: float
    messages: int
    most_at_one: int
    connections: int


def ring(n: int, hop: float) -> Verdict:
    """Simulate a ring all-reduce of one flag: each step waits for the neighbour's message of the step before."""
    ready = [0.0] * n
    for _ in range(2 * (n - 1)):
        ready = [max(ready[rank], ready[rank - 1]) + hop for rank in range(n)]
    return Verdict(max(ready), 2 * (n - 1) * n, 2 * (n - 1), 2)


def tree(n: int, size: int, hop: float) -> Verdict:
    """Simulate flags that go up to a root through leaders and come down again, message by message."""
    parent = dict(_parents(n, size))
    children: dict[int, list[int]] = {}
    for rank, up in parent.items():
        children.setdefault(up, []).append(rank)
    waiting = {rank: len(children.get(rank, ())) for rank in range(n)}
    free = [0.0] * n  # when a rank's link is free to take the next message
    handled = [0] * n
    events = [(0.0, rank, "up") for rank in range(n) if not waiting[rank]]
    heapq.heapify(events)
    messages, last = 0, 0.0
    while events:
        now, rank, way = heapq.heappop(events)
        last = max(last, now)
        if way == "up" and rank in parent:
            up = parent[rank]
            arrival = free[up] = max(now, free[up]) + hop
            messages += 1
            handled[up] += 1
            waiting[up] -= 1
            if not waiting[up]:
                heapq.heappush(events, (arrival, up, "up"))
        else:  # the root has all flags, or a leader has the answer
            for child in children.get(rank, ()):
                free[rank] = max(now, free[rank]) + hop
                messages += 1
                handled[rank] += 1
                heapq.heappush(events, (free[rank], child, "down"))
    return Verdict(last, messages, max(handled), max(map(len, children.values())) + 1)


def _parents(n: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield each rank but 0 with the leader above it: the first rank of its group, on the highest level it is in."""
    for rank in range(1, n):
        step = size
        while rank % step == 0:
            step *= size
        yield rank, rank // step * step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hop-us", type=float, default=20.0)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    hop = options.hop_us * 1e-6
    print(f"{'ranks':>6} {'':5} {'ms':>8} {'messages':>12} {'bytes':>12} {'most at one rank':>17} {'connections':>12}")
    for n in (4, 64, 512, 4096, 10_000):
        rows = {"ring": ring(n, hop) if n <= 512 else None, "tree": tree(n, options.size, hop)}
        for name, found in rows.items():
            if found is None:  # the simulation gives 2 (N - 1) hops up to 512; beyond, that formula
                found = Verdict(2 * (n - 1) * hop, 2 * (n - 1) * n, 2 * (n - 1), 2)
            text = f"{n:6} {name:5} {found.seconds * 1e3:8.2f} {found.messages:12} {found.messages * FLAG_BYTES:12}"
            print(f"{text} {found.most_at_one:17} {found.connections:12}")


if __name__ == "__main__":
    main()
