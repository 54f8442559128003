"""The rivals: from a list of texts to normalised vectors, each as fast as it can be called.

One class for each library. All but sentence-transformers and TEI, which cut their lists themselves,
get their slices from [`Sliced`]: the whole list as one padded batch, or sorted by length in slices
that are padded to their own longest text.
"""

import http.client
import json
import os
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import tokenizers

Ids = list[list[int]]
HIDDEN_STATE = "last_hidden_state"
TEI_TEXTS_MAX = 32


def tokens_max(model_dir: Path) -> int:
    text = (model_dir / "sentence_bert_config.json").read_text(encoding="utf-8")
    return json.loads(text)["max_seq_length"]


def fast_tokenizer(model_dir: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    # tokenizer.json says 128 and pads to it.
    tokenizer.no_padding()
    tokenizer.enable_truncation(tokens_max(model_dir))
    return tokenizer


def pool(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the tokens of each text. Its length does not matter: it is normalised after."""
    return np.matmul(mask.astype(np.float32)[:, None, :], hidden)[:, 0, :]


def normalised(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Sliced:
    """Tokenises once, cuts the list into slices, pads each, and puts the vectors in order."""

    def __init__(self, model_dir: Path) -> None:
        self.tokenizer = fast_tokenizer(model_dir)

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Pooled vectors of one padded slice, [texts, tokens] to [texts, hidden]."""
        raise NotImplementedError

    def embed(self, texts: list[str], form: str) -> tuple[np.ndarray, int]:
        """Vectors in the order of `texts`, and how many tokens they were."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        if form == "as-called":
            vectors = self.forward(*padded(ids))
        else:
            vectors = self.sorted_slices(ids, int(form.removeprefix("sorted-")))
        return normalised(vectors), sum(map(len, ids))

    def sorted_slices(self, ids: Ids, size: int) -> np.ndarray:
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        parts = []
        for start in range(0, len(ids), size):
            slice_ = [ids[index] for index in order[start : start + size]]
            parts.append(self.forward(*padded(slice_)))
        vectors = np.empty((len(ids), parts[0].shape[1]), np.float32)
        vectors[order] = np.concatenate(parts)
        return vectors


def padded(ids: Ids) -> tuple[np.ndarray, np.ndarray]:
    longest = max(map(len, ids))
    array = np.zeros((len(ids), longest), np.int64)
    mask = np.zeros((len(ids), longest), np.int64)
    for row, text in enumerate(ids):
        array[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return array, mask


class Torch(Sliced):
    def __init__(self, model_dir: Path, threads: int, bf16: bool) -> None:
        import torch
        import transformers

        super().__init__(model_dir)
        torch.set_num_threads(threads)
        self.torch = torch
        dtype = torch.bfloat16 if bf16 else torch.float32
        self.model = transformers.AutoModel.from_pretrained(model_dir, dtype=dtype).eval()
        self.precision = "bf16" if bf16 else "f32"
        self.packages = ["torch", "transformers", "tokenizers"]

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            ids, mask = self.torch.from_numpy(ids), self.torch.from_numpy(mask)
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            return pool(hidden.float().numpy(), mask.numpy())


class SentenceTransformers:
    """`encode` as people call it: it sorts by length itself and pads slices of 32."""

    def __init__(self, model_dir: Path, threads: int) -> None:
        import sentence_transformers
        import torch

        torch.set_num_threads(threads)
        self.model = sentence_transformers.SentenceTransformer(
            str(model_dir), device="cpu", local_files_only=True
        )
        # To count tokens only, outside the time.
        self.tokenizer = fast_tokenizer(model_dir)
        self.precision = "f32"
        self.packages = ["sentence-transformers", "torch", "transformers", "tokenizers"]

    def embed(self, texts: list[str], form: str) -> tuple[np.ndarray, None]:
        if form != "as-called":
            raise ValueError("sentence-transformers sorts by itself; its only form is as-called")
        return self.model.encode(texts, batch_size=32, show_progress_bar=False), None


class OnnxRuntime(Sliced):
    def __init__(self, model_dir: Path, threads: int, graph: Path) -> None:
        import onnxruntime

        super().__init__(model_dir)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        self.precision = "int8" if "int8" in graph.name else "f32"
        self.packages = ["onnxruntime", "tokenizers"]

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self.session.run([HIDDEN_STATE], feed)
        return pool(hidden, mask)


class OpenVino(Sliced):
    def __init__(self, model_dir: Path, threads: int, graph: Path, bf16: bool) -> None:
        import openvino

        super().__init__(model_dir)
        core = openvino.Core()
        wanted = openvino.Type.bf16 if bf16 else openvino.Type.f32
        compiled = core.compile_model(
            core.read_model(graph),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": wanted,
            },
        )
        got = compiled.get_property("INFERENCE_PRECISION_HINT")
        if got != wanted:
            raise SystemExit(f"OpenVINO computes in {got} on this processor: leave this engine out")
        self.request = compiled.create_infer_request()
        self.precision = "bf16" if bf16 else "f32"
        self.packages = ["openvino", "tokenizers"]

    def forward(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        result = self.request.infer(feed, share_inputs=True, share_outputs=True)
        return pool(result[0], mask)


class Tei:
    """A running text-embeddings-inference server, over one kept connection."""

    def __init__(self, model_dir: Path, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise SystemExit(f"--tei {url}: give it as http://HOST:PORT")
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=600)
        self.path = parts.path.rstrip("/")
        # To count tokens only, outside the time.
        self.tokenizer = fast_tokenizer(model_dir)
        self.info = self.call("GET", "/info")
        self.precision = self.info.get("model_dtype", "?")
        self.packages: list[str] = []

    def call(self, method: str, path: str, body: object = None) -> dict | list:
        data = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json"}
        self.connection.request(method, self.path + path, data, headers)
        response = self.connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: status {response.status}: {text[:200]!r}")
        return json.loads(text)

    def embed(self, texts: list[str], form: str) -> tuple[np.ndarray, None]:
        if form != "as-called":
            raise ValueError("a server cannot be told how to cut its batches")
        most = self.info.get("max_client_batch_size", TEI_TEXTS_MAX)
        rows: list[list[float]] = []
        for start in range(0, len(texts), most):
            body = {"inputs": texts[start : start + most], "truncate": True}
            rows += self.call("POST", "/embed", body)
        return np.array(rows, np.float32), None


Engine = Torch | SentenceTransformers | OnnxRuntime | OpenVino | Tei


def load(name: str, model_dir: Path, exports: Path | None, threads: int, url: str | None) -> Engine:
    """The engine of that name; see `NAMES` in names.py."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if name in ("torch-f32", "torch-bf16"):
        return Torch(model_dir, threads, bf16=name.endswith("bf16"))
    if name == "st-f32":
        return SentenceTransformers(model_dir, threads)
    if name == "tei":
        return Tei(model_dir, url or "")
    if exports is None:
        raise SystemExit(f"{name} needs --exports: the folder that export.py wrote")
    if name in ("ov-f32", "ov-bf16"):
        return OpenVino(model_dir, threads, exports / "plain.onnx", bf16=name.endswith("bf16"))
    graphs = {
        "ort-f32": "plain.onnx",
        "ort-f32-fused": "fused.onnx",
        "ort-int8": "int8.onnx",
        "ort-int8-fused": "int8-fused.onnx",
    }
    if name not in graphs:
        raise SystemExit(f"no engine {name}")
    return OnnxRuntime(model_dir, threads, exports / graphs[name])


def versions(engine: Engine) -> dict[str, str]:
    found = {package: metadata.version(package) for package in engine.packages}
    if isinstance(engine, Tei):
        found["text-embeddings-inference"] = str(engine.info.get("version", "?"))
    return found
