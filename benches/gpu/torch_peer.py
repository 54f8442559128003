"""PyTorch's side: the same model and token ids, in the ways people run it."""

import time

import torch
from transformers import AutoModel


class TorchPeer:
    """A BERT in f16 on the GPU. Batches are padded beforehand, which is not timed."""

    def __init__(self, folder: str, attention: str = "sdpa", dtype=torch.float16):
        self.model = AutoModel.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, add_pooling_layer=False
        )
        self.model = self.model.eval().cuda()
        self.call = self.model

    def compile(self, **options) -> "TorchPeer":
        self.call = torch.compile(self.model, **options)
        return self

    def prepare(self, ids: list[list[int]], batch: int, sort: bool) -> list:
        """Padded batches in pinned memory. `sort`: texts of like length together, as
        sentence-transformers does."""
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i])) if sort else range(len(ids))
        order = list(order)
        out = []
        for begin in range(0, len(order), batch):
            part = [ids[i] for i in order[begin : begin + batch]]
            longest = max(map(len, part))
            tokens = torch.zeros(len(part), longest, dtype=torch.long)
            mask = torch.zeros(len(part), longest, dtype=torch.long)
            for row, text in enumerate(part):
                tokens[row, : len(text)] = torch.tensor(text)
                mask[row, : len(text)] = 1
            out.append((tokens.pin_memory(), mask.pin_memory()))
        return [out, order]

    @torch.inference_mode()
    def run(self, prepared) -> torch.Tensor:
        """The mean rows in f32 on the host, in the order of the prepared batches."""
        rows = []
        for tokens, mask in prepared[0]:
            tokens = tokens.cuda(non_blocking=True)
            mask = mask.cuda(non_blocking=True)
            hidden = self.call(input_ids=tokens, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weight).sum(1) / weight.sum(1)
            rows.append(pooled.float())
        return torch.cat(rows).cpu()

    def time(self, prepared, times: int) -> list[float]:
        seconds = []
        for _ in range(times):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            self.run(prepared)
            seconds.append(time.perf_counter() - begun)
        return seconds
