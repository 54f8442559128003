"""Packs a folder that a machine with a GPU and PyTorch can measure with: no Rust, no network.

`cargo xtask bench gpu-folder` calls it. The weights travel as f16, which halves them; everything is
measured against PyTorch on those same weights.
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers"))

import workloads  # noqa: E402

SCRIPTS = ("bench.py", "torch_peer.py", "README.md")
FOLDER_BYTES_MAX = 64 << 20
QUESTIONS = 8192
PARAGRAPHS = 1024


def halve(source: Path, target: Path) -> None:
    """Copies a safetensors file, its f32 tensors as f16."""
    with open(source, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        base = 8 + size
        out_header, parts, at = {}, [], 0
        for name, tensor in sorted(header.items()):
            if name == "__metadata__":
                continue
            begin, end = tensor["data_offsets"]
            file.seek(base + begin)
            data = file.read(end - begin)
            if tensor["dtype"] == "F32":
                count = len(data) // 4
                data = struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", data))
                tensor = {**tensor, "dtype": "F16"}
            elif tensor["dtype"] == "I64":
                # Position numbers that nobody reads.
                continue
            out_header[name] = {**tensor, "data_offsets": [at, at + len(data)]}
            parts.append(data)
            at += len(data)
    text = json.dumps(out_header).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for part in parts:
            file.write(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model")
    parser.add_argument("--binary", type=Path, required=True, help="gpu-bench, built with the feature cuda")
    parser.add_argument("--data", type=Path, required=True, help="folder of the texts")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()

    shutil.rmtree(args.out, ignore_errors=True)
    model = args.out / "model"
    for path in args.model.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".txt") and path.name != "embedring.json":
            target = model / path.relative_to(args.model)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    halve(args.model / "model.safetensors", model / "model.safetensors")
    shutil.copy(args.binary, args.out / "gpu-bench")
    for name in SCRIPTS:
        shutil.copy(HERE / name, args.out / name)
    data = workloads.load(args.data)
    questions = workloads.spread(data.questions, QUESTIONS)
    # There are fewer paragraphs than are wanted: some twice.
    paragraphs = [data.paragraphs[i % len(data.paragraphs)] for i in range(PARAGRAPHS)]
    texts = {"questions": questions, "paragraphs": paragraphs}
    (args.out / "texts.json").write_text(json.dumps(texts), encoding="utf-8")

    git = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, cwd=HERE, capture_output=True, text=True, check=True).stdout
    (args.out / "commit").write_text(commit)

    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 2**20:.1f} MiB")
    if size > FOLDER_BYTES_MAX:
        raise SystemExit(f"more than {FOLDER_BYTES_MAX >> 20} MiB: it must travel")


if __name__ == "__main__":
    main()
