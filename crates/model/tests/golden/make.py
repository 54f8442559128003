"""Writes small checkpoints of every family and what PyTorch makes of them.

The other tests hold the engine against a twin that the project wrote itself, with tensor names that it
wrote itself. Here both come from elsewhere: the classes of the transformers library, saved by that
library. Run in the environment of the peers bench, when a family is added:

    python crates/model/tests/golden/make.py
"""

import json
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).parent
POSITIONS = 20
# As many as the calibration texts of the tests need.
SHARED = dict(vocab_size=100, pad_token_id=1)
USUAL = dict(
    SHARED,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
)
FAMILIES = {
    "bert": transformers.BertConfig(**USUAL, max_position_embeddings=POSITIONS),
    "xlm-roberta": transformers.XLMRobertaConfig(
        **USUAL, max_position_embeddings=POSITIONS + 2, type_vocab_size=1, layer_norm_eps=1e-5
    ),
    "mpnet": transformers.MPNetConfig(
        **USUAL, max_position_embeddings=POSITIONS + 2, layer_norm_eps=1e-5
    ),
    "distilbert": transformers.DistilBertConfig(
        **SHARED, dim=24, n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=POSITIONS
    ),
}


def spread(model: torch.nn.Module) -> None:
    """Weights of a size that shows: a fresh model's are near nothing, its biases are nothing."""
    for name, tensor in model.named_parameters():
        centre = 1.0 if name.lower().endswith("norm.weight") else 0.0
        tensor.data = centre + 0.3 * torch.randn_like(tensor)


def main() -> None:
    expected = {}
    for seed, (family, config) in enumerate(FAMILIES.items()):
        torch.manual_seed(seed)
        model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
        spread(model)
        # Files of half the size; the rows are those of the rounded weights.
        model.half().save_pretrained(HERE / family)
        model.float()
        # No id is that of padding, at which two families begin to count positions anew.
        sequences = [
            [2 + (length * 13 + at * 7) % 98 for at in range(length)]
            for length in (1, 2, 7, POSITIONS)
        ]
        with torch.no_grad():
            hidden = [model(torch.tensor([ids])).last_hidden_state[0] for ids in sequences]
        expected[family] = {
            "ids": sequences,
            "mean": [rows.mean(0).tolist() for rows in hidden],
            "first": [rows[0].tolist() for rows in hidden],
        }
    (HERE / "rows.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
