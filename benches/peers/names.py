"""The engines that take part, in the order of the tables, and what each can be asked for."""

WORKLOADS = ["Q1", "P1", "Q32", "P32", "MIX128"]
# One call after another: what counts is how long one takes, not how many tokens a second.
LATENCY = ["Q1", "P1"]
OURS = {"embedring-f32": "f32", "embedring-bf16": "bf16", "embedring-int8": "int8"}
SLICED = [
    "ov-f32",
    "ov-bf16",
    "ort-f32",
    "ort-f32-fused",
    "ort-int8",
    "ort-int8-fused",
    "torch-f32",
    "torch-bf16",
]
# They cut their lists into batches themselves.
SELF_CUTTING = ["st-f32", "tei"]
NAMES = [*OURS, *SLICED, *SELF_CUTTING]
SLICES = [4, 8, 16, 32]
SORTED_FORMS = [f"sorted-{size}" for size in SLICES]
# The targets were set against slices of 8 and more; those of 4, at times faster still, are shown in
# the table of the strongest rivals.
TARGET_FORMS = SORTED_FORMS[1:]
# The vectors that all others are compared with.
REFERENCE = "st-f32"


def forms(engine: str, workload: str) -> list[str]:
    """The forms in which an engine is called for a workload."""
    if workload in LATENCY or engine not in SLICED:
        return ["as-called"]
    if engine.startswith("torch"):
        # Nowhere the strongest: one sorted form shows it.
        return ["as-called", "sorted-8"]
    # A slice of the whole list is that list in one batch: sorting changes nothing.
    sizes = [size for size in SLICES if workload == "MIX128" or size < 32]
    return ["as-called", *(f"sorted-{size}" for size in sizes)]


def best_form_for_bulk(engine: str) -> str:
    return "sorted-8" if engine in SLICED else "as-called"


def precision(engine: str) -> str:
    """The precision that a name states."""
    return next((part for part in ("bf16", "int8") if part in engine), "f32")
