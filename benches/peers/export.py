"""The model folder as ONNX graphs, made once: plain, BERT-fused, and both in dynamic int8.

PyTorch's older exporter is used on purpose: the graph of the newer one is not recognised by ONNX
Runtime's fuser (no fused attention), and for this model it computed other vectors. Every export is
run against PyTorch before it is kept.
"""

import argparse
import os
import shutil
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
OUTPUT = "last_hidden_state"
FILES = ["plain.onnx", "fused.onnx", "int8.onnx", "int8-fused.onnx"]
# Rounding of another order of additions, not of another computation.
F32_DIFFERENCE_MAX = 1e-4


class Hidden(torch.nn.Module):
    """The model with plain tensors in and out, as the exporter wants it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def sample() -> dict[str, np.ndarray]:
    """Two texts of different length, padded: an export that forgot the mask shows."""
    ids = np.random.default_rng(1).integers(1000, 20000, (2, 24))
    mask = np.ones((2, 24), np.int64)
    mask[1, 9:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def export_plain(module: Hidden, path: Path) -> None:
    inputs = tuple(torch.from_numpy(sample()[name]) for name in INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            inputs,
            str(path),
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in [*INPUTS, OUTPUT]},
            opset_version=17,
            dynamo=False,
        )


def export_fused(config, plain: Path, path: Path) -> None:
    model = optimizer.optimize_model(
        str(plain),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        optimization_options=FusionOptions("bert"),
        opt_level=0,
    )
    fused = model.get_fused_operator_statistics()["Attention"]
    if fused != config.num_hidden_layers:
        raise SystemExit(f"{fused} of {config.num_hidden_layers} attention layers were fused")
    model.save_model_to_file(str(path))


def reference(module: Hidden) -> np.ndarray:
    with torch.inference_mode():
        return module(**{name: torch.from_numpy(a) for name, a in sample().items()}).numpy()


def check(expected: np.ndarray, path: Path) -> None:
    """The exported graph against PyTorch, on the positions that hold tokens."""
    texts = sample()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run([OUTPUT], texts)
    held = texts["attention_mask"] == 1
    difference = float(np.abs(got - expected)[held].max())
    # Int8 is only held to be finite: how far off its vectors are is a result, not a mistake.
    allowed = np.finfo(np.float32).max if "int8" in path.name else F32_DIFFERENCE_MAX
    if not difference <= allowed:
        raise SystemExit(f"{path.name} differs from PyTorch by {difference}")
    print(f"{path.name}: largest difference to PyTorch {difference:.1e}")


def export(model_dir: Path, out: Path) -> None:
    model = transformers.AutoModel.from_pretrained(model_dir, attn_implementation="eager").eval()
    module = Hidden(model)
    # Before the export, after which this module was seen to compute something else.
    expected = reference(module)
    plain, fused, int8, int8_fused = (out / name for name in FILES)
    export_plain(module, plain)
    export_fused(model.config, plain, fused)
    for source, target in ((plain, int8), (fused, int8_fused)):
        quantize_dynamic(
            str(source),
            str(target),
            weight_type=QuantType.QInt8,
            # Types behind fused operators, which shape inference does not know.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    for name in FILES:
        check(expected, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder that will hold the graphs")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: an interrupted export must not be taken for a finished one.
    unfinished = Path(tempfile.mkdtemp(dir=args.out.parent))
    try:
        export(args.model_dir, unfinished)
        shutil.rmtree(args.out, ignore_errors=True)
        unfinished.rename(args.out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


if __name__ == "__main__":
    main()
