"""Measures embedring beside PyTorch on one GPU, in one run, on the same texts and weights.

    python3 bench.py --out FOLDER [--quick]

Needs PyTorch with CUDA and transformers; everything else lies beside this file. Both sides begin with
token ids and end with pooled f32 rows in the host's memory; PyTorch gets its batches padded, sorted and
pinned beforehand, for free. Writes gpu.json and gpu.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer

from torch_peer import TorchPeer

HERE = Path(__file__).resolve().parent
MAX_TOKENS = 256
COMMAND = "python3 bench.py " + " ".join("OUT" if "/" in arg else arg for arg in sys.argv[1:])
WORKLOADS = {
    # name: (kind, texts)
    "Q1": ("questions", 1),
    "Q8": ("questions", 8),
    "Q32": ("questions", 32),
    "Q256": ("questions", 256),
    "Q8192": ("questions", 8192),
    "P1": ("paragraphs", 1),
    "P32": ("paragraphs", 32),
    "P1024": ("paragraphs", 1024),
}


class Ours:
    """gpu-bench, asked a line at a time."""

    def __init__(self, *options: str):
        self.process = subprocess.Popen(
            [str(HERE / "gpu-bench"), str(HERE / "model"), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = json.loads(self.process.stdout.readline())

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise SystemExit(f"gpu-bench: {answer['error']}")
        return answer

    def rows(self, name: str, path: Path) -> torch.Tensor:
        count = self.ask(rows=name, path=str(path))["rows"]
        data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.float32)
        return data.view(count, -1)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def cosines(a: torch.Tensor, b: torch.Tensor) -> dict:
    cosine = torch.nn.functional.cosine_similarity(a.double(), b.double())
    return {"mean": cosine.mean().item(), "min": cosine.min().item()}


def tokens_of(texts: dict) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(str(HERE / "model"))
    encode = lambda kind: tokenizer(texts[kind], truncation=True, max_length=MAX_TOKENS)["input_ids"]
    kinds = {kind: encode(kind) for kind in texts}
    work = {}
    for name, (kind, count) in WORKLOADS.items():
        ids = kinds[kind]
        if count == 1:
            # The one nearest to the mean length.
            mean = statistics.mean(map(len, ids))
            work[name] = [min(ids, key=lambda text: abs(len(text) - mean))]
        else:
            work[name] = ids[:count]
    return work


def repeats(count: int, quick: bool) -> int:
    if quick:
        return 5
    return 200 if count <= 32 else 50 if count <= 256 else 12


def torch_plans(args, work: dict) -> list:
    """(label, peer, workload, prepared batches) of every way that PyTorch is run.

    Workloads of up to 256 texts go in one batch, as a batching server would; the large ones in batches
    of several sizes. sentence-transformers' own default is batches of 32.
    """
    folder = str(HERE / "model")
    small = [name for name, ids in work.items() if len(ids) <= 256]
    large = [name for name in work if name not in small]
    eager = TorchPeer(folder)
    plans = [("eager", eager, name, 256, False) for name in small]
    plans += [("eager", eager, name, 32, False) for name in large]
    plans += [("eager, sorted", eager, name, size, True) for name in large for size in (256, 1024, 4096)]
    if not args.quick:
        compiled = TorchPeer(folder).compile(dynamic=True)
        plans += [("compiled", compiled, name, 256, True) for name in small]
        plans += [("compiled, sorted", compiled, name, size, True) for name in large for size in (256, 1024, 4096)]
        # A recorded graph for each shape: only where there are few.
        graphs = TorchPeer(folder).compile(mode="reduce-overhead", dynamic=False)
        plans += [("compiled, CUDA graphs", graphs, name, 256, True) for name in ("Q1", "Q32", "P1", "P32")]
    out, seen = [], set()
    begun = time.perf_counter()
    for label, peer, name, size, sort in plans:
        size = min(size, len(work[name]))
        if (label, name, size) in seen:
            continue
        seen.add((label, name, size))
        if time.perf_counter() - begun > args.warm_seconds:
            print(f"left out, warming took too long: {label} {name} {size}", flush=True)
            continue
        prepared = peer.prepare(work[name], size, sort)
        first = peer.time(prepared, 2)
        print(f"warm {label} {name} {size}: {time.perf_counter() - begun:.0f} s", flush=True)
        out.append((f"{label}, batch {size}", peer, name, prepared, first[-1]))
    return out


def measure(args) -> dict:
    texts = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    work = tokens_of(texts)
    result = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(),
        "workloads": {name: {"texts": len(ids), "tokens": sum(map(len, ids))} for name, ids in work.items()},
        "accuracy": {},
        "seconds": {},
    }

    # What is right: f32 products, no TF32.
    torch.backends.cuda.matmul.allow_tf32 = False
    reference = TorchPeer(str(HERE / "model"), dtype=torch.float32)
    truth = {}
    for name in ("Q1", "Q256", "P32"):
        prepared = reference.prepare(work[name], 1 if name == "Q1" else 32, False)
        truth[name] = reference.run(prepared)
    del reference

    ours = {precision: Ours("--precision", precision) for precision in ("f16", "bf16")}
    result["ready"] = {precision: engine.ready for precision, engine in ours.items()}
    for precision, engine in ours.items():
        for name, ids in work.items():
            engine.ask(load=name, ids=ids)
        for name in truth:
            rows = engine.rows(name, args.out / "rows.bin")
            result["accuracy"].setdefault(f"embedring {precision}", {})[name] = cosines(rows, truth[name])
    # A row must not depend on its batch: all of Q256 alone or together, to the last bit.
    engine = ours["f16"]
    together = engine.rows("Q256", args.out / "rows.bin")
    same = 0
    for index in range(0, 256, 8):
        engine.ask(load="one", ids=[work["Q256"][index]])
        same += int(torch.equal(engine.rows("one", args.out / "rows.bin")[0], together[index]))
    mixed = work["P1024"][:300] + work["Q256"]
    engine.ask(load="mixed", ids=mixed)
    in_mixed = engine.rows("mixed", args.out / "rows.bin")[300:]
    result["bit_equal"] = {"alone": f"{same} of 32", "among paragraphs": bool(torch.equal(in_mixed, together))}
    print(json.dumps(result["accuracy"]), json.dumps(result["bit_equal"]), flush=True)

    plans = torch_plans(args, work)
    for label, peer, name, prepared, _ in plans:
        if label.startswith("eager,") and name in ("Q256", "P32"):
            rows = torch.empty_like(truth[name])
            rows[prepared[1]] = peer.run(prepared)
            result["accuracy"].setdefault("PyTorch f16", {})[name] = cosines(rows, truth[name])

    seconds = result["seconds"]
    rounds = 2 if args.quick else 3
    for turn in range(rounds):
        for name in work:
            count = repeats(len(work[name]), args.quick)
            for precision, engine in ours.items():
                engine.ask(run=name, times=3)
                took = engine.ask(run=name, times=count)["seconds"]
                seconds.setdefault(name, {}).setdefault(f"embedring {precision}", []).append(summary(took))
            for label, peer, of, prepared, once in plans:
                if of == name:
                    peer.time(prepared, 1)
                    took = peer.time(prepared, int(min(count, max(2, args.round_seconds / once))))
                    seconds[name].setdefault(label, []).append(summary(took))
        print(f"round {turn + 1} of {rounds}", flush=True)
    for engine in ours.values():
        engine.close()
    if args.tune:
        result["tuning"] = tune(args, work)
    return result


def tune(args, work) -> list:
    """Other chunk sizes, lanes and tiles than the defaults."""
    rows = []
    tries = [["--lanes", "1"], ["--lanes", "2"]]
    tries += [["--lanes", lanes, "--chunk-tokens", tokens] for lanes in ("1", "2") for tokens in ("2816", "5632", "8448", "16896", "33792")]
    tries += [["--lanes", "1", "--tile", str(tile)] for tile in range(5)]
    for options in tries:
        engine = Ours(*options)
        row = {"options": " ".join(options)}
        for name in work:
            engine.ask(load=name, ids=work[name])
            engine.ask(run=name, times=3)
            row[name] = statistics.median(engine.ask(run=name, times=20 if len(work[name]) <= 256 else 8)["seconds"])
        engine.close()
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def cost_table(args) -> None:
    """What a batch costs by texts and length: a device for the simulator."""
    engine = Ours("--precision", "f16")
    rows, points = [], []
    for length in (8, 16, 32, 64, 128, 256):
        for texts in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
            if texts * length > 65536:
                continue
            ids = [[101] + [2000 + (7 * text + at) % 20000 for at in range(length - 2)] + [102] for text in range(texts)]
            engine.ask(load="table", ids=ids)
            engine.ask(run="table", times=3)
            took = sorted(engine.ask(run="table", times=30)["seconds"])
            nanoseconds = [round(1e9 * second) for second in took]
            median, high = nanoseconds[len(took) // 2], nanoseconds[len(took) * 9 // 10]
            rows.append({"texts": texts, "tokens_each": length, "ns_median": median, "ns_p90": high, "repeats": len(took)})
            points.append((texts * length, texts * length * length, median))
    engine.close()
    # Least squares of the relative error, which small batches have as much say in as large ones.
    design = torch.tensor([[1 / t, tokens / t, squares / t] for tokens, squares, t in points], dtype=torch.float64)
    fit = torch.linalg.lstsq(design, torch.ones(len(points), 1, dtype=torch.float64)).solution.flatten().tolist()
    table = {
        "version": 1,
        "device": torch.cuda.get_device_name(),
        "precision": "f16",
        "threads": 0,
        "machine": torch.cuda.get_device_name(),
        "commit": (HERE / "commit").read_text().strip(),
        "command": COMMAND,
        "rows": rows,
        "fit": {"ns_per_batch": fit[0], "ns_per_token": fit[1], "ns_per_square": max(fit[2], 0.0)},
    }
    (args.out / "cost-table-gpu.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table["fit"]))


def spread(rounds: list) -> tuple[float, float, float]:
    """Of the rounds' medians: the middle, the least and the most."""
    medians = [took["median"] for took in rounds]
    return statistics.median(medians), min(medians), max(medians)


def summary(seconds: list[float]) -> dict:
    """A round."""
    return {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds), "runs": len(seconds)}


def table(result: dict) -> str:
    lines = [
        f"{result['device']}, commit {result['commit']}, PyTorch {result['torch']}, {result['workloads']['Q8192']['texts']} questions of "
        f"{result['workloads']['Q8192']['tokens'] / result['workloads']['Q8192']['texts']:.0f} tokens, "
        f"{result['workloads']['P1024']['texts']} paragraphs of "
        f"{result['workloads']['P1024']['tokens'] / result['workloads']['P1024']['texts']:.0f} tokens.",
        "",
        "| work | who | ms (median of rounds, least to most) | texts/s | tokens/s | best PyTorch time / this |",
        "|---|---|---|---|---|---|",
    ]
    for name, peers in result["seconds"].items():
        texts, tokens = (result["workloads"][name][key] for key in ("texts", "tokens"))
        best = min(spread(rounds)[0] for who, rounds in peers.items() if not who.startswith("embedring"))
        for who, rounds in peers.items():
            middle, low, high = spread(rounds)
            lines.append(
                f"| {name} | {who} | {middle * 1e3:.3f} ({low * 1e3:.3f} to {high * 1e3:.3f}) | "
                f"{texts / middle:,.0f} | {tokens / middle:,.0f} | {best / middle:.2f} |"
            )
    lines += ["", "| cosine to PyTorch f32 | work | mean | least |", "|---|---|---|---|"]
    for who, of in result["accuracy"].items():
        for name, value in of.items():
            lines.append(f"| {who} | {name} | {value['mean']:.6f} | {value['min']:.6f} |")
    lines += ["", f"Bit-equal alone and in other batches: {json.dumps(result['bit_equal'])}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--quick", action="store_true", help="few repeats, no torch.compile")
    parser.add_argument("--warm-seconds", type=float, default=600, help="PyTorch variants that would warm later than this are left out")
    parser.add_argument("--round-seconds", type=float, default=0.3, help="about how long each PyTorch variant runs in a round")
    parser.add_argument("--tune", action="store_true", help="measure other chunk sizes, lanes and tiles too")
    parser.add_argument("--cost-table", action="store_true", help="only record what batches cost, for the simulator")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU")
    if args.cost_table:
        return cost_table(args)
    result = measure(args)
    result["command"] = COMMAND
    result["commit"] = (HERE / "commit").read_text().strip()
    (args.out / "gpu.json").write_text(json.dumps(result), encoding="utf-8")
    text = table(result)
    (args.out / "gpu.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
