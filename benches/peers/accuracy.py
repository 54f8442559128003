"""What an engine's vectors are worth: cosine to f32 PyTorch, STS-B, and retrieval on XQuAD."""

import contextlib
import sys
from typing import Any

import numpy as np

import names
import workloads
from process import Peer, PeerError, Setting

RECALL_AT = 10


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """In f64, so that the measure does not add an error of the size it measures."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return (ours * theirs).sum(axis=1) / norms


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[which]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def recall(questions: np.ndarray, paragraphs: np.ndarray, answers: np.ndarray) -> float:
    """Share of the questions whose paragraph is among the nearest."""
    similar = questions.astype(np.float64) @ paragraphs.astype(np.float64).T
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :RECALL_AT]
    return float((nearest == answers[:, None]).any(axis=1).mean())


class Texts:
    """The texts of all measures, embedded in four calls."""

    def __init__(self, data: workloads.Data) -> None:
        questions, paragraphs = workloads.accuracy(data)
        self.calls = {
            "questions": questions,
            "paragraphs": paragraphs,
            "pairs": [text for a, b, _ in data.pairs for text in (a, b)],
            "retrieval": [question for question, _ in data.retrieval] + data.paragraphs,
        }
        self.scores = np.array([score for _, _, score in data.pairs])
        self.answers = np.array([paragraph for _, paragraph in data.retrieval])

    def embed(self, peer: Peer) -> dict[str, np.ndarray]:
        form = names.best_form_for_bulk(peer.engine)
        vectors = {name: peer.embed(texts, form) for name, texts in self.calls.items()}
        for name, array in vectors.items():
            if len(array) != len(self.calls[name]) or not np.isfinite(array).all():
                raise PeerError(f"{peer.engine}: {name}: {array.shape}, or not all finite")
        return vectors

    def measure(self, vectors: dict[str, np.ndarray], reference: dict) -> dict[str, float]:
        both = np.concatenate(
            [cosines(vectors[name], reference[name]) for name in ("questions", "paragraphs")]
        )
        pairs = cosines(vectors["pairs"][0::2], vectors["pairs"][1::2])
        questions = vectors["retrieval"][: len(self.answers)]
        paragraphs = vectors["retrieval"][len(self.answers) :]
        return {
            "cosine_min": float(both.min()),
            "cosine_mean": float(both.mean()),
            "sts_spearman_x100": 100 * spearman(pairs, self.scores),
            "xquad_recall_at_10_x100": 100 * recall(questions, paragraphs, self.answers),
        }


def measure(
    setting: Setting, engines: list[str], threads: int, data: workloads.Data
) -> dict[str, Any]:
    """One row for each engine; the reference is measured too, against itself."""
    texts = Texts(data)
    rows: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    reference = None
    order = [names.REFERENCE, *(engine for engine in engines if engine != names.REFERENCE)]
    for engine in order:
        print(f"accuracy: {engine}", file=sys.stderr, flush=True)
        with contextlib.ExitStack() as stack:
            try:
                peer = stack.enter_context(Peer(setting, engine, threads))
            except PeerError as error:
                if engine in names.OURS or engine == names.REFERENCE:
                    raise
                left_out[engine] = str(error).strip().splitlines()[-1]
                continue
            vectors = texts.embed(peer)
        reference = reference or vectors
        rows[engine] = texts.measure(vectors, reference)
    for row in rows.values():
        for measure_ in ("sts_spearman_x100", "xquad_recall_at_10_x100"):
            row[f"{measure_}_lost"] = rows[names.REFERENCE][measure_] - row[measure_]
    return {
        "reference": names.REFERENCE,
        "texts": {name: len(call) for name, call in texts.calls.items()},
        "left_out": left_out,
        "rows": rows,
    }
