"""Vectors of embedring beside those of sentence-transformers, on the same model files and texts.

200 questions of BANKING77 and 60 paragraphs of XQuAD go through both: the peer in this process on
PyTorch, embedring through `embedring up` and `embedring embed` as a user would run them. What is
compared is the final, normalised vector of each text, and how many tokens each side saw of it.

Normally the stage `service` of `cargo xtask bench peers`, which makes the Python environment.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

# Before the imports below read it: nothing may be fetched, the files given are what is compared.
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import sentence_transformers
import torch

import record
import workloads
from instance import Instance

QUESTIONS = 200
PARAGRAPHS = 60
# The limit in sentence_bert_config.json; tokenizer.json of the same folder says 128 and pads to it.
TOKENS_MAX = 256
TOKENS_IN_TOKENIZER_JSON = 128


def load_texts(data):
    found = workloads.load(data)
    return {
        "BANKING77 questions": workloads.spread(found.questions, QUESTIONS),
        "XQuAD paragraphs": workloads.spread(found.paragraphs, PARAGRAPHS),
    }


class Peer:
    """sentence-transformers on the CPU, in f32, checked to cut at 256 tokens and not at 128."""

    def __init__(self, model_dir):
        self.model = sentence_transformers.SentenceTransformer(
            str(model_dir), device="cpu", local_files_only=True
        )
        if self.model.max_seq_length != TOKENS_MAX:
            sys.exit(f"the peer cuts at {self.model.max_seq_length} tokens, not {TOKENS_MAX}")
        dtypes = {parameter.dtype for parameter in self.model.parameters()}
        if dtypes != {torch.float32}:
            sys.exit(f"the peer computes in {dtypes}, not f32")
        # What the settings say is not proof: ask for the tokens of a text that is surely too long.
        (cut,) = self.token_counts(["word " * 2 * TOKENS_MAX])
        if cut != TOKENS_MAX:
            sys.exit(f"the peer cut a long text to {cut} tokens, not {TOKENS_MAX}")

    def token_counts(self, texts):
        """Tokens that the model sees of each text, special ones included."""
        counts = []
        for text in texts:
            mask = self.model.preprocess([text])["attention_mask"]
            counts.append(int(mask.sum()))
        return counts

    def full_token_counts(self, texts):
        """Tokens of each text before it is cut, special ones included."""
        encoded = self.model.tokenizer(texts, truncation=False, padding=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def embed(self, texts):
        vectors = self.model.encode(texts, batch_size=32, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def compare(ours, theirs):
    """Cosines in f64, so that the measure does not add an error of the size it measures."""
    ours = ours.astype(np.float64)
    theirs = theirs.astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / norms
    return {
        "texts": len(cosines),
        "cosine_min": float(cosines.min()),
        "cosine_mean": float(cosines.mean()),
        "difference_max": float(np.abs(ours - theirs).max()),
    }


def measure(texts, peer, instance):
    result = {}
    for name, group in texts.items():
        theirs = peer.embed(group)
        rows = instance.embed(group)
        ours = np.array([row["embedding"] for row in rows], dtype=np.float32)
        if ours.shape != theirs.shape:
            sys.exit(f"{name}: shapes differ, ours {ours.shape}, theirs {theirs.shape}")
        row = compare(ours, theirs)
        counts = peer.token_counts(group)
        full = peer.full_token_counts(group)
        row["tokens"] = sum(counts)
        row["tokens_equal"] = sum(a["tokens"] == b for a, b in zip(rows, counts, strict=True))
        row["truncated"] = sum(count > TOKENS_MAX for count in full)
        row["truncated_equal"] = sum(
            a["truncated"] == (b > TOKENS_MAX) for a, b in zip(rows, full, strict=True)
        )
        row["over_128_tokens"] = sum(count > TOKENS_IN_TOKENIZER_JSON for count in full)
        row["models"] = sorted({row["model"] for row in rows})
        row["devices"] = sorted({f"{row['device']} {row['precision']}" for row in rows})
        result[name] = row
    return result


def provenance(args):
    return {
        **record.provenance(args.command or " ".join(sys.argv), args.model_dir),
        "versions": {
            **record.versions("sentence-transformers", "transformers", "torch"),
            "torch_threads": torch.get_num_threads(),
        },
    }


def show(result):
    head = f"{'':22}{'texts':>6}{'tokens':>8}{'cut':>5}"
    print(f"{head}{'cosine min':>13}{'mean':>12}{'max |diff|':>12}")
    for name, row in result.items():
        print(
            f"{name:22}{row['texts']:6}{row['tokens']:8}{row['truncated']:5}"
            f"{row['cosine_min']:13.8f}{row['cosine_mean']:12.8f}{row['difference_max']:12.2e}"
        )


def verdict(result, cosine_min):
    """What is wrong with the result, in words; nothing when all is well."""
    wrong = []
    for name, row in result.items():
        # Written so that a NaN fails too.
        if not row["cosine_min"] >= cosine_min:
            wrong.append(f"{name}: cosine {row['cosine_min']:.8f} is below {cosine_min}")
        if row["tokens_equal"] != row["texts"]:
            wrong.append(f"{name}: token counts equal for {row['tokens_equal']} of {row['texts']}")
        if row["truncated_equal"] != row["texts"]:
            wrong.append(f"{name}: cut flags equal for {row['truncated_equal']} of {row['texts']}")
    return wrong


def reference_only(texts, peer, out):
    arrays = {}
    for name, group in texts.items():
        start = time.monotonic()
        vectors = peer.embed(group)
        took = time.monotonic() - start
        counts = peer.token_counts(group)
        full = peer.full_token_counts(group)
        key = name.split()[0].lower()
        arrays[f"{key}_vectors"] = vectors
        arrays[f"{key}_texts"] = np.array(group)
        arrays[f"{key}_tokens"] = np.array(counts)
        over = sum(count > TOKENS_IN_TOKENIZER_JSON for count in full)
        cut = sum(count > TOKENS_MAX for count in full)
        print(
            f"{name}: {vectors.shape} in {took:.2f} s; {sum(counts)} tokens, "
            f"{over} texts over {TOKENS_IN_TOKENIZER_JSON}, {cut} cut at {TOKENS_MAX}"
        )
    np.savez(out, **arrays)
    print(f"wrote {out}")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("EMBEDRING_DATA") or record.ROOT.parent / "shared/data"),
        help="folder with the data sets (EMBEDRING_DATA)",
    )
    parser.add_argument("--model-dir", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--bin", type=Path, help="the embedring binary")
    parser.add_argument("--command", help="the command to record, if this one was called by it")
    parser.add_argument("--cosine-min", type=float, default=0.99999, help="fail below this")
    parser.add_argument(
        "--reference-only",
        type=Path,
        metavar="OUT.npz",
        help="only compute and save the peer's vectors; starts no embedring",
    )
    parser.add_argument(
        "--results", type=Path, default=record.ROOT / "benches/results/peers-service.json"
    )
    args = parser.parse_args()
    if args.bin is None and args.reference_only is None:
        parser.error("--bin is needed, except with --reference-only")
    if not (args.model_dir / "model.safetensors").is_file():
        parser.error(f"no model.safetensors in {args.model_dir}: run `cargo xtask setup`")
    return args


def main():
    args = parse_args()
    texts = load_texts(args.data)
    peer = Peer(args.model_dir)
    if args.reference_only:
        reference_only(texts, peer, args.reference_only)
        return
    with Instance(args.bin.resolve()) as instance:
        result = measure(texts, peer, instance)
    show(result)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    content = {**provenance(args), "result": result}
    args.results.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {args.results}")
    wrong = verdict(result, args.cosine_min)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
