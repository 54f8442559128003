"""The texts that are embedded: real ones, a fixed choice, the same for every peer.

Q are BANKING77 questions (about 16 tokens), P are XQuAD paragraphs (about 156 tokens, some cut at
256). MIX128 mixes both in a fixed order, as lists of a real application do.
"""

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path

QUESTIONS_IN_MIX = 96
PARAGRAPHS_IN_MIX = 32
# Picked once so that they have the mean length of their kind: 16 and 156 tokens.
Q1_AMONG_Q32 = 14
P1_AMONG_P32 = 19
LONG_TEXTS = 1000
# Words enough for 256 tokens, whatever the tokenizer makes of them.
LONG_WORDS = 300


@dataclass(frozen=True)
class Data:
    """What the data folder holds, in the order of its files."""

    questions: list[str]
    paragraphs: list[str]
    # Question of XQuAD, and the index of the paragraph that answers it.
    retrieval: list[tuple[str, int]]
    # Two sentences and how alike people found them, 0 to 5.
    pairs: list[tuple[str, str, float]]


def one_line(text: str) -> str:
    """`embedring embed` takes one text a line; every peer gets the very same string."""
    return " ".join(text.split())


def spread(rows: list, count: int) -> list:
    """`count` of `rows`, evenly spread, the same ones every time."""
    if len(rows) < count:
        raise SystemExit(f"the data holds {len(rows)} texts where {count} are needed")
    return [rows[index * len(rows) // count] for index in range(count)]


def load(folder: Path) -> Data:
    for name in ("banking77-train.csv", "xquad.en.json", "stsb-en-dev.csv"):
        if not (folder / name).is_file():
            raise SystemExit(
                f"no {name} in {folder}: name the folder with --data or EMBEDRING_DATA"
            )
    with open(folder / "banking77-train.csv", encoding="utf-8", newline="") as file:
        questions = [one_line(row["text"]) for row in csv.DictReader(file)]
    paragraphs, retrieval = [], []
    with open(folder / "xquad.en.json", encoding="utf-8") as file:
        for article in json.load(file)["data"]:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    retrieval.append((one_line(qa["question"]), len(paragraphs)))
                paragraphs.append(one_line(paragraph["context"]))
    with open(folder / "stsb-en-dev.csv", encoding="utf-8", newline="") as file:
        pairs = [(one_line(a), one_line(b), float(score)) for a, b, score in csv.reader(file)]
    return Data(questions, paragraphs, retrieval, pairs)


def speed(data: Data) -> dict[str, list[str]]:
    """The workloads by name; each is one call."""
    questions = spread(data.questions, QUESTIONS_IN_MIX)
    paragraphs = spread(data.paragraphs, PARAGRAPHS_IN_MIX)
    q32 = spread(questions, 32)
    mixed = questions + paragraphs
    random.Random(128).shuffle(mixed)
    return {
        "Q1": [q32[Q1_AMONG_Q32]],
        "P1": [paragraphs[P1_AMONG_P32]],
        "Q32": q32,
        "P32": paragraphs,
        "MIX128": mixed,
    }


def long_texts(data: Data) -> list[str]:
    """1,000 different texts that are all cut at 256 tokens: the largest call people make."""
    words = " ".join(data.paragraphs).split()
    step = (len(words) - LONG_WORDS) // LONG_TEXTS
    return [" ".join(words[i * step : i * step + LONG_WORDS]) for i in range(LONG_TEXTS)]


def accuracy(data: Data) -> tuple[list[str], list[str]]:
    """1,000 questions (every 10th) and 200 paragraphs, for the cosines."""
    return spread(data.questions, 1000), spread(data.paragraphs, 200)
