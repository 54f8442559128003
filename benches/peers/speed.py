"""All engines in interleaved rounds: every round visits each engine, form and workload once.

The order within a round is shuffled, so that what the machine does beside (another guest, a lower
clock) falls on all alike; ratios are taken within a round. Only one engine computes at a time.
"""

import contextlib
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import names
from process import Peer, PeerError, Setting

# A padded call of mixed lengths takes seconds: such a visit is made in every second round only.
LONG_CALL_S = 2.0
# With so many calls in a visit its first, which finds the caches cold, is left out.
CALLS_TO_DROP_FIRST = 3


@dataclass(frozen=True)
class Visit:
    engine: str
    workload: str
    form: str


@dataclass(frozen=True)
class Options:
    rounds: int
    seconds: float
    workloads: list[str]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def start(
    stack: contextlib.ExitStack, setting: Setting, engines: list[str], threads: int
) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that run, and why the others do not (a processor without bf16, for example)."""
    peers, left_out = {}, {}
    for engine in engines:
        say(f"  starting {engine}")
        try:
            peers[engine] = stack.enter_context(Peer(setting, engine, threads))
        except PeerError as error:
            if engine in names.OURS:
                raise
            say(f"  LEFT OUT {error}")
            left_out[engine] = str(error).strip().splitlines()[-1]
    return peers, left_out


def of_visit(answer: dict[str, Any]) -> float:
    """Seconds of the median call."""
    times = answer["seconds_per_call"]
    if len(times) >= CALLS_TO_DROP_FIRST:
        times = times[1:]
    return statistics.median(times)


class Round:
    """Takes the visits and keeps what they gave."""

    def __init__(self, peers: dict[str, Peer], options: Options) -> None:
        self.peers = peers
        self.options = options
        self.visits = [
            Visit(engine, workload, form)
            for engine in peers
            for workload in options.workloads
            for form in names.forms(engine, workload)
        ]
        self.tokens: dict[str, int] = {}
        self.long: set[Visit] = set()
        # Seconds of the median call by visit, then by round.
        self.seconds: dict[Visit, dict[int, float]] = defaultdict(dict)
        self.gflops: dict[str, dict[int, float]] = defaultdict(dict)

    def warm(self) -> None:
        for visit in self.visits:
            answer = self.peers[visit.engine].run(visit.workload, visit.form, 0)
            if min(answer["seconds_per_call"]) > LONG_CALL_S:
                self.long.add(visit)
            known = self.tokens.setdefault(visit.workload, answer["tokens"])
            if answer["tokens"] != known:
                raise PeerError(f"{visit}: {answer['tokens']} tokens where others saw {known}")

    def take(self, index: int) -> None:
        # The same order for the same round of every run.
        order = self.visits + [engine for engine in self.peers if engine in names.OURS]
        random.Random(index).shuffle(order)
        for visit in order:
            if isinstance(visit, str):
                peak = self.peers[visit].ask(peak=names.precision(visit))
                self.gflops[visit][index] = peak["gflops"]
            elif visit not in self.long or index % 2 == 0:
                answer = self.peers[visit.engine].run(
                    visit.workload, visit.form, self.options.seconds
                )
                self.seconds[visit][index] = of_visit(answer)

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for visit in self.visits:
            tokens = self.tokens[visit.workload]
            seconds = self.seconds[visit]
            rows.append(
                {
                    "engine": visit.engine,
                    "workload": visit.workload,
                    "form": visit.form,
                    "seconds_per_call": {str(index): value for index, value in seconds.items()},
                    "tokens_per_second": spread([tokens / value for value in seconds.values()]),
                    "milliseconds": spread([1e3 * value for value in seconds.values()]),
                }
            )
        return rows


def spread(values: list[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "max": round(max(values), 4),
    }


def measure(setting: Setting, engines: list[str], threads: int, options: Options) -> dict[str, Any]:
    """One table: all engines with so many threads each."""
    say(f"speed, {threads} thread(s): {options.rounds} rounds")
    with contextlib.ExitStack() as stack:
        load_before = os.getloadavg()[0]
        peers, left_out = start(stack, setting, engines, threads)
        taken = Round(peers, options)
        say(f"  warming {len(taken.visits)} visits")
        taken.warm()
        for index in range(options.rounds):
            begun = time.monotonic()
            taken.take(index)
            say(f"  round {index + 1} of {options.rounds}: {time.monotonic() - begun:.0f} s")
        return {
            "threads": threads,
            "load_average_before": round(load_before, 2),
            "tokens": taken.tokens,
            "ready": {engine: without_flag(peer.ready) for engine, peer in peers.items()},
            "left_out": left_out,
            "gflops_limit": {
                engine: {str(index): round(x, 2) for index, x in by_round.items()}
                for engine, by_round in taken.gflops.items()
            },
            "peak_rss_bytes": {engine: peer.peak_rss_bytes() for engine, peer in peers.items()},
            "rows": taken.rows(),
        }


def without_flag(ready: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in ready.items() if key != "ready"}
