"""The promises, each against what was measured; a promise that is missed stays in the table."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import names

MIB = 2**20
MEMORY_BEYOND_WEIGHTS_MIB = 150


@dataclass(frozen=True)
class Cell:
    row: str
    engine: str
    wanted: str
    measured: str
    met: bool
    against: str


@dataclass(frozen=True)
class Best:
    """The form of a rival that is fastest on a workload."""

    row: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.row['engine']} {self.row['form']}"


class Speed:
    """One table of the speed stage, with the questions that are asked of it."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.table = table
        self.rows = {(r["engine"], r["workload"], r["form"]): r for r in table["rows"]}

    def best(self, engines: list[str], workload: str, forms: list[str]) -> Best | None:
        found = [
            row
            for (engine, of, form), row in self.rows.items()
            if engine in engines and of == workload and form in forms
        ]
        if not found:
            return None
        return Best(max(found, key=lambda row: row["tokens_per_second"]["median"]))

    def ours(self, engine: str, workload: str) -> dict[str, Any] | None:
        return self.rows.get((engine, workload, "as-called"))

    def times_faster(self, engine: str, workload: str, rival: Best) -> list[float]:
        """How many times as fast as the rival, in each round that has both."""
        ours = self.ours(engine, workload)
        if ours is None:
            return []
        mine, theirs = ours["seconds_per_call"], rival.row["seconds_per_call"]
        return [theirs[index] / mine[index] for index in mine if index in theirs]

    def limit_share(self, engine: str, workload: str) -> list[float]:
        """Share of the arithmetic limit, the limit being measured in the same round."""
        ours = self.ours(engine, workload)
        ready = self.table["ready"].get(engine, {})
        if ours is None or "flops_per_token" not in ready:
            return []
        flops = ready["flops_per_token"] * self.table["tokens"][workload]
        limits = self.table["gflops_limit"][engine]
        times = ours["seconds_per_call"]
        return [flops / times[index] / (limits[index] * 1e9) for index in times if index in limits]


def as_text(values: list[float], unit: str = "×") -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.2f}{unit} ({low:.2f}–{high:.2f})"


def at_least(row: str, engine: str, bound: float, values: list[float], against: str) -> list[Cell]:
    if not values:
        return []
    met = statistics.median(values) >= bound
    return [Cell(row, engine, f"≥ {bound:g}×", as_text(values), met, against)]


def speed_cells(speed: Speed) -> list[Cell]:
    cells: list[Cell] = []
    tuned = {
        "MIX128": [("f32", 1.33, "ov-f32"), ("bf16", 1.44, "ov-bf16"), ("int8", 2.0, None)],
        "Q32": [("f32", 1.4, "ov-f32"), ("bf16", 1.6, "ov-bf16"), ("int8", 2.0, None)],
        "P32": [("f32", 1.3, "ov-f32"), ("bf16", 1.45, "ov-bf16"), ("int8", 1.8, None)],
    }
    for workload, promises in tuned.items():
        for precision, bound, rival in promises:
            best = speed.best([rival or "ort-int8-fused"], workload, names.TARGET_FORMS)
            if best:
                engine = f"embedring-{precision}"
                values = speed.times_faster(engine, workload, best)
                row = f"{workload}, the rival's list sorted"
                cells += at_least(row, engine, bound, values, best.name)
    called = [
        ("f32", 6.3, "ort-f32-fused"),
        ("f32", 2.3, "st-f32"),
        ("bf16", 7.0, "torch-bf16"),
        ("int8", 9.0, "ort-int8-fused"),
    ]
    for precision, bound, rival in called:
        if best := speed.best([rival], "MIX128", ["as-called"]):
            engine = f"embedring-{precision}"
            values = speed.times_faster(engine, "MIX128", best)
            cells += at_least("MIX128, as people call it", engine, bound, values, best.name)
    return cells + limit_cells(speed) + latency_cells(speed)


def limit_cells(speed: Speed) -> list[Cell]:
    cells = []
    for precision, bound in (("f32", 0.8), ("bf16", 0.75), ("int8", 0.6)):
        engine = f"embedring-{precision}"
        if values := speed.limit_share(engine, "MIX128"):
            met = statistics.median(values) >= bound
            row = "share of the arithmetic limit, MIX128"
            limits = statistics.median(speed.table["gflops_limit"][engine].values())
            against = f"{limits:.0f} GFLOP/s measured in registers"
            percent = as_text([100 * value for value in values], " %")
            cells.append(Cell(row, engine, f"≥ {100 * bound:.0f} %", percent, met, against))
    return cells


def latency_cells(speed: Speed) -> list[Cell]:
    cells = []
    promises = [
        ("f32", 0.6, "ort-f32-fused"),
        ("bf16", 0.33, "ort-f32-fused"),
        ("int8", 0.33, "ort-int8-fused"),
    ]
    for precision, bound, rival in promises:
        engine = f"embedring-{precision}"
        best = speed.best([rival], "Q1", ["as-called"])
        ratios = [1 / faster for faster in speed.times_faster(engine, "Q1", best)] if best else []
        if best and ratios:
            met = statistics.median(ratios) <= bound
            row = "one short question (Q1), p50"
            cells.append(Cell(row, engine, f"≤ {bound:g}×", as_text(ratios), met, best.name))
    return cells


def accuracy_cells(accuracy: dict[str, Any]) -> list[Cell]:
    cells = []
    against = f"{accuracy['reference']}, the same texts"

    def add(row: str, precision: str, key: str, sign: str, bound: float) -> None:
        engine = f"embedring-{precision}"
        if found := accuracy["rows"].get(engine):
            value = found[key]
            # Half a unit of the last digit that is shown: a loss of 1e-15 is no loss.
            met = value >= bound if sign == "≥" else value <= bound + 5e-4
            digits = 6 if "cosine" in key else 3
            cells.append(
                Cell(row, engine, f"{sign} {bound:g}", f"{value:.{digits}f}", met, against)
            )

    add("cosine, min", "f32", "cosine_min", "≥", 0.99999)
    add("cosine, min", "bf16", "cosine_min", "≥", 0.9999)
    add("cosine, mean", "int8", "cosine_mean", "≥", 0.9995)
    add("cosine, min", "int8", "cosine_min", "≥", 0.998)
    for precision, sts, recall in (("f32", 0, 0), ("bf16", 0.05, 0.1), ("int8", 0.15, 0.2)):
        add("STS-B Spearman × 100 lost", precision, "sts_spearman_x100_lost", "≤", sts)
        add("XQuAD recall@10 points lost", precision, "xquad_recall_at_10_x100_lost", "≤", recall)
    return cells


def memory_cells(memory: dict[str, Any]) -> list[Cell]:
    cells = []
    for engine in names.OURS:
        if row := memory["rows"].get(engine):
            beyond = (row["peak_rss_bytes"] - row["weights_bytes"]) / MIB
            cells.append(
                Cell(
                    "peak RSS beyond the weights, 1,000 texts of 256 tokens",
                    engine,
                    f"≤ {MEMORY_BEYOND_WEIGHTS_MIB} MiB",
                    f"{beyond:.0f} MiB",
                    beyond <= MEMORY_BEYOND_WEIGHTS_MIB,
                    f"weights of {row['weights_bytes'] / MIB:.0f} MiB",
                )
            )
    return cells


def clients_cells(clients: dict[str, Any]) -> list[Cell]:
    cells = []
    tei = clients["tei_texts_per_s"]
    when = "in this run" if clients["tei_measured_in_this_run"] else "measured before, not in this run"
    against = f"TEI, {tei:.0f} texts/s, {when}"
    for engine, times in (("embedring-f32", 2), ("embedring-bf16", None), ("embedring-int8", 5)):
        row = clients["rows"].get(engine)
        if row is None:
            continue
        share = row["q32_share_of_engine"]
        text = f"{100 * share['median']:.1f} % ({100 * share['min']:.1f}–{100 * share['max']:.1f})"
        name = f"Q32 of {clients['list_clients']} clients through the service"
        cells.append(Cell(name, engine, "≥ 97 %", text, share["median"] >= 0.97, "the engine alone"))
        if times:
            found = {key: value / tei for key, value in row["singles_texts_per_s"].items()}
            name = f"single questions of {clients['single_clients']} clients"
            text = f"{found['median']:.2f}× ({found['min']:.2f}–{found['max']:.2f})"
            met = found["median"] >= times
            cells.append(Cell(name, engine, f"≥ {times}×", text, met, against))
    return cells


def strongest(speed: Speed) -> list[tuple[str, str, str, str]]:
    """Ours against the fastest rival of all whose vectors are as good, whatever it is called."""
    present = {engine for engine, _, _ in speed.rows if engine not in names.OURS}
    kinds: list[tuple[str, Callable[[str], bool]]] = [
        ("f32", lambda precision: precision == "f32"),
        ("bf16", lambda precision: precision != "int8"),
        ("int8", lambda precision: True),
    ]
    lines = []
    for kind, fits in kinds:
        rivals = [engine for engine in present if fits(names.precision(engine))]
        for workload in names.WORKLOADS:
            for forms in ([*names.SORTED_FORMS, "as-called"], ["as-called"]):
                best = speed.best(rivals, workload, forms)
                values = speed.times_faster(f"embedring-{kind}", workload, best) if best else []
                line = (workload, kind, best.name if best else "", as_text(values or [0.0]))
                if values and line not in lines:
                    lines.append(line)
    return lines
