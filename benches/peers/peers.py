"""Runs the stages: speed, accuracy, memory, clients, and vectors through the whole service.

Each stage writes a JSON file of its own into the results folder; the tables (`peers-speed.md`) and
the plot (`peers-speed.svg`) are made from what lies there, so that one stage can be run again.

Normally started by `cargo xtask bench peers`, which makes the Python environment and builds ours.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import accuracy
import clients
import memory
import names
import plot
import record
import report
import speed
import workloads
from process import PeerError, Setting

HERE = Path(__file__).resolve().parent
STAGES = ["speed", "accuracy", "memory", "clients", "service"]
PACKAGES = [
    "onnxruntime",
    "openvino",
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
]
QUICK_ROUNDS = 3
QUICK_SECONDS = 0.2
CLIENTS_SECONDS_MIN = 1.0


def listed(known: list[str]):
    """A parser of `a,b,c` that takes only what is known."""

    def parse(value: str) -> list[str]:
        found = value.split(",")
        if wrong := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"no {wrong[0]}; there are {', '.join(known)}")
        return found

    return parse


def threads_list(value: str) -> list[int]:
    try:
        found = [int(part) for part in value.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a list such as 1,2")
    return found


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        default=Path(os.environ.get("EMBEDRING_DATA") or record.ROOT.parent / "shared/data"),
        help="folder with the data sets (EMBEDRING_DATA)",
    )
    add("--model-dir", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    add("--engine-bin", type=Path, help="the built engine of embedring-benches")
    add("--bin", type=Path, help="the embedring binary, for the stages `clients` and `service`")
    add("--client-bin", type=Path, help="the built client of embedring-benches")
    add("--only", type=listed(STAGES), default=STAGES, help="stages: " + ",".join(STAGES))
    add("--engines", type=listed(names.NAMES), help="some of: " + ",".join(names.NAMES))
    add("--workloads", type=listed(names.WORKLOADS), default=names.WORKLOADS)
    add("--threads", type=threads_list, default=[2], help="2, or 1,2 for two tables")
    add("--rounds", type=int, default=7)
    add("--seconds", type=float, default=0.4, help="of a visit; a call is never cut short")
    add("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds of short visits")
    add("--tei", metavar="URL", help="a running text-embeddings-inference server, as a rival")
    add("--results", type=Path, default=record.ROOT / "benches/results")
    add("--exports", type=Path, default=record.ROOT / ".venv/peers-exports")
    add("--command", help="the command to record, if this one was called by it")
    args = parser.parse_args()
    if not (args.model_dir / "model.safetensors").is_file():
        parser.error(f"no model.safetensors in {args.model_dir}: run `cargo xtask setup`")
    if args.quick:
        args.rounds, args.seconds = QUICK_ROUNDS, QUICK_SECONDS
    args.engines = engines(args, parser)
    if {"clients", "service"} & set(args.only) and args.bin is None:
        parser.error("the stages `clients` and `service` need --bin; or name others with --only")
    if "clients" in args.only and args.client_bin is None:
        parser.error("the stage `clients` needs --client-bin; or name others with --only")
    return args


def engines(args: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    chosen = args.engines or [name for name in names.NAMES if name != "tei" or args.tei]
    if "tei" in chosen and not args.tei:
        parser.error("the engine `tei` needs --tei URL")
    if args.engine_bin is None and any(name in names.OURS for name in chosen):
        parser.error("--engine-bin is needed; or name only rivals with --engines")
    return chosen


def exported(args: argparse.Namespace) -> Path:
    """The folder of the ONNX graphs of these weights, made by these versions."""
    made_by = record.versions("torch", "transformers", "onnx", "onnxruntime")
    key = [record.weights_sha256(args.model_dir)[:12], *made_by.values()]
    folder = args.exports / "-".join(key)
    if not folder.is_dir():
        print(f"exporting the model to ONNX, once, into {folder}", file=sys.stderr, flush=True)
        # A process of its own, so that the driver never holds PyTorch.
        script = [sys.executable, str(HERE / "export.py"), "--model-dir", str(args.model_dir)]
        done = subprocess.run([*script, "--out", str(folder)], stdout=sys.stderr, check=False)
        if done.returncode != 0:
            sys.exit("the export failed; its messages are above")
    return folder


def run_stage(stage: str, setting: Setting, args: argparse.Namespace, data: workloads.Data) -> dict:
    if stage == "clients":
        threads, folder = max(args.threads), setting.workloads.parent
        # Several clients need a while to meet in a batch.
        seconds = max(args.seconds, CLIENTS_SECONDS_MIN)
        return clients.measure(
            setting, args.engines, threads, data, args.rounds, seconds, folder
        )
    if stage == "speed":
        options = speed.Options(args.rounds, args.seconds, args.workloads)
        tables = [speed.measure(setting, args.engines, n, options) for n in args.threads]
        return {"rounds": args.rounds, "seconds_per_visit": args.seconds, "tables": tables}
    module = accuracy if stage == "accuracy" else memory
    return module.measure(setting, args.engines, max(args.threads), data)


def service(args: argparse.Namespace) -> int:
    """Vectors through client, ring and worker: a script of its own, which may be run alone."""
    script = [sys.executable, str(HERE / "compare.py"), "--bin", str(args.bin)]
    script += ["--model-dir", str(args.model_dir), "--data", str(args.data)]
    script += ["--results", str(args.results / "peers-service.json")]
    script += ["--command", args.command] if args.command else []
    sys.stdout.flush()
    return subprocess.run(script, check=False).returncode


def stages(args: argparse.Namespace) -> None:
    data = workloads.load(args.data)
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "workloads.json"
        texts.write_text(json.dumps(workloads.speed(data)), encoding="utf-8")
        binaries = (args.client_bin, args.bin and args.bin.resolve())
        setting = Setting(
            args.model_dir, exported(args), texts, args.engine_bin, args.tei, *binaries
        )
        for stage in args.only:
            if stage == "service":
                continue
            head = record.provenance(args.command or " ".join(sys.argv), args.model_dir)
            head["versions"] = record.versions(*PACKAGES)
            result = run_stage(stage, setting, args, data)
            path = args.results / f"peers-{stage}.json"
            path.write_text(json.dumps({**head, **result}, indent=1) + "\n", encoding="utf-8")
            print(f"wrote {path}", file=sys.stderr)


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    records = {}
    for stage in ("speed", "accuracy", "memory", "clients"):
        path = folder / f"peers-{stage}.json"
        if path.is_file():
            records[stage] = json.loads(path.read_text(encoding="utf-8"))
    return records


def main() -> None:
    args = parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    if any(stage != "service" for stage in args.only):
        try:
            stages(args)
        except PeerError as error:
            sys.exit(str(error))
        records = read_records(args.results)
        tables = report.markdown(records)
        (args.results / "peers-speed.md").write_text(tables, encoding="utf-8")
        if "speed" in records:
            (args.results / "peers-speed.svg").write_text(plot.svg(records["speed"]), "utf-8")
        print(tables)
    if "service" in args.only:
        sys.exit(service(args))


if __name__ == "__main__":
    main()
