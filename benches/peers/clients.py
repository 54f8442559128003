"""Several clients at once, through the whole service (client, ring, worker, ring, client).

Beside it in the same rounds: the engine alone, called in its own process, and a server of
text-embeddings-inference where one is named, over as many connections. Each client is a process.
"""

import contextlib
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import names
import workloads
from instance import Instance
from process import Peer, PeerError, Setting
from speed import of_visit, spread

# What was measured on two cores of the same kind before this project began: text-embeddings-inference
# 1.9.3, fused f32 graph, 16 connections with single questions. Used where no server is named.
TEI_TEXTS_PER_S = 258
LIST_CLIENTS = 4
SINGLE_CLIENTS = 16


def texts_of(data: workloads.Data) -> dict[str, list[str]]:
    """Q1 and Q32 as in the stage `speed`, and for each of many clients a question of its own."""
    speed = workloads.speed(data)
    singles = workloads.spread(data.questions, SINGLE_CLIENTS)
    own = {f"single-{index}": [text] for index, text in enumerate(singles)}
    return {"Q1": speed["Q1"], "Q32": speed["Q32"], **own}


class Side:
    """One thing that is measured: how many clients it has, and how each of them is started."""

    def __init__(self, name: str, peers: list[Peer]) -> None:
        self.name = name
        self.peers = peers

    def run(self, loads: list[str], seconds: float) -> list[dict[str, Any]]:
        """One client for each of `loads`, all at once; the engine alone is one, however many."""
        pairs = list(zip(self.peers, loads, strict=False))
        for peer, workload in pairs:
            peer.send(run=workload, form="as-called", seconds=seconds)
        return [peer.answer() for peer, _ in pairs]


def config_of(setting: Setting, precision: str, threads: int) -> str:
    """A worker like the engine beside it; the survey of precisions would only take time."""
    return (
        f"[model]\nname = {json.dumps(str(setting.model_dir))}\nprecision = \"{precision}\"\n"
        f"survey = false\n[workers.cpu]\nthreads = {threads}\n"
    )


@contextlib.contextmanager
def sides(
    setting: Setting, engines: list[str], threads: int
) -> Iterator[dict[str, tuple[Side, Side | None]]]:
    """By engine: the service (or the rival's server), and the engine alone."""
    if setting.client_bin is None or setting.binary is None:
        raise PeerError("the stage `clients` needs --client-bin and --bin")
    with contextlib.ExitStack() as stack:
        found: dict[str, tuple[Side, Side | None]] = {}
        for engine in engines:
            if engine not in names.OURS and engine != "tei":
                continue
            print(f"  starting {engine}", file=sys.stderr, flush=True)
            command = None
            if engine in names.OURS:
                config = config_of(setting, names.OURS[engine], threads)
                instance = Instance(setting.binary, config, f"-{names.OURS[engine]}")
                stack.enter_context(instance)
                command = [str(setting.client_bin), "--instance", instance.name]
                command += ["--workloads", str(setting.workloads)]
            peers = [
                stack.enter_context(Peer(setting, engine, threads, command))
                for _ in range(SINGLE_CLIENTS)
            ]
            alone = None
            if engine in names.OURS:
                alone = Side("engine", [stack.enter_context(Peer(setting, engine, threads))])
            found[engine] = (Side("service", peers), alone)
        yield found


def rate(answers: list[dict[str, Any]], what: str) -> float:
    """Tokens or texts a second of all clients together."""
    per_call = [answer["tokens"] if what == "tokens" else 1 for answer in answers]
    return sum(
        count * len(answer["seconds_per_call"]) / sum(answer["seconds_per_call"])
        for count, answer in zip(per_call, answers, strict=True)
    )


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def visit(service: Side, alone: Side | None, seconds: float) -> dict[str, float]:
    """All numbers of one engine in one round."""
    found: dict[str, float] = {}
    for side in (service, alone):
        if side is None:
            continue
        (answer,) = side.run(["Q1"], seconds)
        found[f"{side.name}_q1_p50_ms"] = 1e3 * of_visit(answer)
        lists = side.run(["Q32"] * LIST_CLIENTS, seconds)
        found[f"{side.name}_q32_tokens_per_s"] = rate(lists, "tokens")
    if alone:
        found["q32_share_of_engine"] = (
            found["service_q32_tokens_per_s"] / found["engine_q32_tokens_per_s"]
        )
        found["q1_added_us"] = 1e3 * (found["service_q1_p50_ms"] - found["engine_q1_p50_ms"])
    singles = service.run([f"single-{index}" for index in range(SINGLE_CLIENTS)], seconds)
    times = [1e3 * t for answer in singles for t in answer["seconds_per_call"]]
    found["singles_texts_per_s"] = rate(singles, "texts")
    found["singles_p50_ms"] = statistics.median(times)
    found["singles_p99_ms"] = percentile(times, 0.99)
    return found


def measure(
    setting: Setting,
    engines: list[str],
    threads: int,
    data: workloads.Data,
    rounds: int,
    seconds: float,
    folder: Path,
) -> dict[str, Any]:
    """`folder` takes a file of the texts."""
    texts = folder / "clients.json"
    texts.write_text(json.dumps(texts_of(data)), encoding="utf-8")
    setting = replace(setting, workloads=texts)
    print(f"clients, {threads} thread(s): {rounds} rounds", file=sys.stderr, flush=True)
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with sides(setting, engines, threads) as found:
        for service, alone in found.values():
            visit(service, alone, 0)
        for index in range(rounds):
            for engine, (service, alone) in found.items():
                for key, value in visit(service, alone, seconds).items():
                    taken[engine][key].append(value)
            print(f"  round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    rows = {
        engine: {key: spread(values) for key, values in row.items()}
        for engine, row in taken.items()
    }
    tei = taken["tei"]["singles_texts_per_s"] if "tei" in taken else []
    return {
        "rounds": rounds,
        "seconds_per_visit": seconds,
        "threads": threads,
        "list_clients": LIST_CLIENTS,
        "single_clients": SINGLE_CLIENTS,
        "tei_texts_per_s": statistics.median(tei) if tei else TEI_TEXTS_PER_S,
        "tei_measured_in_this_run": bool(tei),
        "rows": rows,
    }
