"""One rival in a process of its own, which answers lines of JSON. The driver starts it.

After `{"ready": true, ..}` each line of standard input is one of
`{"run": WORKLOAD, "form": "as-called" | "sorted-N", "seconds": S}` (the texts of that workload
again and again for S seconds, tokenising included), `{"embed": [TEXTS], "form": .., "path": FILE}`
(vectors as an `.npy` file) and `{"memory": true}` (peak resident bytes). `benches/src/bin/engine`
is the same for embedring.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import engines


def run(engine: engines.Engine, texts: list[str], form: str, seconds: float) -> dict:
    times: list[float] = []
    begun = time.perf_counter()
    while not times or time.perf_counter() - begun < seconds:
        call = time.perf_counter()
        _, tokens = engine.embed(texts, form)
        times.append(time.perf_counter() - call)
    if tokens is None:
        tokens = sum(len(e.ids) for e in engine.tokenizer.encode_batch_fast(texts))
    return {"calls": len(times), "seconds_per_call": times, "tokens": tokens}


def peak_rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def answer(engine: engines.Engine, workloads: dict[str, list[str]], request: dict) -> dict:
    form = request.get("form", "as-called")
    if "run" in request:
        return run(engine, workloads[request["run"]], form, request.get("seconds", 1.0))
    if "embed" in request:
        vectors, _ = engine.embed(request["embed"], form)
        np.save(request["path"], vectors.astype(np.float32))
        return {"texts": len(vectors)}
    if "memory" in request:
        return {"peak_rss_bytes": peak_rss_bytes()}
    return {"error": '"run", "embed" or "memory" is missing'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--engine", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--exports", type=Path, help="folder that export.py wrote")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workloads", type=Path, required=True, help="JSON: texts by workload")
    parser.add_argument("--url", help="of the server, for the engine `tei`")
    args = parser.parse_args()
    # Libraries print: what they say goes to the log, and this keeps the answers' stream for itself.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine = engines.load(args.engine, args.model_dir, args.exports, args.threads, args.url)
    workloads = json.loads(args.workloads.read_text(encoding="utf-8"))
    ready = {"ready": True, "versions": engines.versions(engine), "precision": engine.precision}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        try:
            result = answer(engine, workloads, json.loads(line))
        except Exception as error:  # Whatever it is, the driver shall hear of it and decide.
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
