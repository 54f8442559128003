"""Peak memory of one large call: 1,000 texts of 256 tokens, in a fresh process for each engine.

A rival that pads gets the list sorted, in slices of 8: handed over as one batch it would take more
than the machine has (the attention of 1,000 × 256 tokens alone is 3 GB a layer).
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import names
import workloads
from process import Peer, PeerError, Setting

# The strongest form of each library and people's own choice; others would add minutes, not news.
RIVALS = ["ort-f32-fused", "ov-f32", "st-f32"]


def measure(
    setting: Setting, engines: list[str], threads: int, data: workloads.Data
) -> dict[str, Any]:
    texts = workloads.long_texts(data)
    rows = {}
    for engine in engines:
        if engine not in names.OURS and engine not in RIVALS:
            continue
        print(f"memory: {engine}", file=sys.stderr, flush=True)
        with Peer(setting, engine, threads) as peer, tempfile.TemporaryDirectory() as folder:
            loaded = peer.peak_rss_bytes()
            form = names.best_form_for_bulk(engine)
            answer = peer.ask(embed=texts, form=form, path=str(Path(folder) / "vectors.npy"))
            if answer["texts"] != len(texts):
                raise PeerError(f"{engine}: {answer['texts']} vectors for {len(texts)} texts")
            weights = (setting.model_dir / "model.safetensors").stat().st_size
            rows[engine] = {
                "form": form,
                "loaded_peak_rss_bytes": loaded,
                "peak_rss_bytes": peer.peak_rss_bytes(),
                # Ours says how much of the weights it holds; of others the file's size is known.
                "weights_bytes": peer.ready.get("weights_bytes", weights),
            }
    return {"texts": len(texts), "rows": rows}
