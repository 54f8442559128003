"""The tables, in Markdown: targets first, then everything they were taken from."""

from typing import Any

import names
from targets import (
    MIB,
    Cell,
    Speed,
    accuracy_cells,
    clients_cells,
    memory_cells,
    speed_cells,
    strongest,
)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def target_table(cells: list[Cell]) -> str:
    head = ["target", "ours", "wanted", "measured", "", "against"]
    return table(
        head,
        [
            [c.row, c.engine, c.wanted, c.measured, "met" if c.met else "**missed**", c.against]
            for c in cells
        ],
    )


def shown(row: dict[str, Any] | None, key: str, digits: int) -> str:
    if row is None:
        return ""
    value = row[key]
    low, middle, high = (f"{value[name]:,.{digits}f}" for name in ("min", "median", "max"))
    return f"{middle} ({low}–{high})"


def speed_table(speed: Speed) -> str:
    """Latency where one text is asked for, real tokens per second where many are."""
    tokens = speed.table["tokens"]
    measured = [workload for workload in names.WORKLOADS if workload in tokens]
    head = ["engine", "form"]
    for workload in measured:
        unit = "p50 ms" if workload in names.LATENCY else "tokens/s"
        head.append(f"{workload} {unit}")
    rows = []
    for engine in dict.fromkeys(engine for engine, _, _ in speed.rows):
        for form in ["as-called", *names.SORTED_FORMS]:
            found = [speed.rows.get((engine, workload, form)) for workload in measured]
            if any(found):
                cells = [
                    shown(row, "milliseconds", 2)
                    if workload in names.LATENCY
                    else shown(row, "tokens_per_second", 0)
                    for workload, row in zip(measured, found, strict=True)
                ]
                rows.append([engine, form, *cells])
    return table(head, rows)


def accuracy_table(accuracy: dict[str, Any]) -> str:
    head = ["engine", "cosine min", "cosine mean", "STS-B ×100", "lost", "recall@10 ×100", "lost"]
    rows = []
    for engine, row in accuracy["rows"].items():
        pair = []
        for key in ("sts_spearman_x100", "xquad_recall_at_10_x100"):
            # A loss of 1e-15 is none: rounded first, and never "-0.000".
            pair += [f"{row[key]:.3f}", f"{round(row[f'{key}_lost'], 3) + 0.0:.3f}"]
        rows.append([engine, f"{row['cosine_min']:.6f}", f"{row['cosine_mean']:.6f}", *pair])
    return table(head, rows)


def memory_table(memory: dict[str, Any]) -> str:
    head = ["engine", "form", "peak RSS MiB", "of it when loaded", "weights"]
    rows = [
        [
            engine,
            row["form"],
            f"{row['peak_rss_bytes'] / MIB:.0f}",
            f"{row['loaded_peak_rss_bytes'] / MIB:.0f}",
            f"{row['weights_bytes'] / MIB:.0f}",
        ]
        for engine, row in memory["rows"].items()
    ]
    return table(head, rows)


def clients_table(clients: dict[str, Any]) -> str:
    lists, singles = clients["list_clients"], clients["single_clients"]
    head = [
        "engine",
        "Q1 p50 ms, engine alone",
        "through the service",
        "added µs",
        "Q32 tokens/s, engine alone",
        f"{lists} clients",
        f"{singles} clients, one question each: texts/s",
        "p50 ms",
        "p99 ms",
    ]
    keys = [
        ("engine_q1_p50_ms", 2),
        ("service_q1_p50_ms", 2),
        ("q1_added_us", 0),
        ("engine_q32_tokens_per_s", 0),
        ("service_q32_tokens_per_s", 0),
        ("singles_texts_per_s", 0),
        ("singles_p50_ms", 1),
        ("singles_p99_ms", 1),
    ]
    rows = [
        [engine, *(shown(row, key, digits) if key in row else "" for key, digits in keys)]
        for engine, row in clients["rows"].items()
    ]
    return table(head, rows)


def source(record: dict[str, Any]) -> str:
    machine = record["machine"]
    changed = " with uncommitted changes" if record["uncommitted_changes"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"{machine['cpu']} ({', '.join(machine['cpu_features'])}), {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}; "
        f"commit {record['commit'][:12]}{changed}; `{record['command']}`; {versions}."
    )


def speed_sections(record: dict[str, Any]) -> list[str]:
    parts = []
    for one in record["tables"]:
        speed = Speed(one)
        threads = one["threads"]
        parts += [
            f"## Speed, {threads} thread(s)",
            f"Median over {record['rounds']} rounds (least–most). Tokens without padding, "
            f"tokenising included. {source(record)}",
            speed_table(speed),
        ]
        for engine, reason in one["left_out"].items():
            parts.append(f"Left out: {engine}: {reason}")
        if lines := strongest(speed):
            parts += [
                f"### Beside the strongest rival of all, {threads} thread(s)",
                "Times as fast as the fastest rival with vectors of that precision or a better one "
                "(int8: of any); where a rival may sort the list and where it may not.",
                table(["workload", "ours", "rival", "ours is"], [list(line) for line in lines]),
            ]
    return parts


def markdown(records: dict[str, dict[str, Any]]) -> str:
    """All that is known; `records` holds what each stage wrote last."""
    stages = ("speed", "accuracy", "memory", "clients")
    speed, accuracy, memory, clients = (records.get(name) for name in stages)
    parts = ["# Peers", "Written by `cargo xtask bench peers`."]
    for one in speed["tables"] if speed else []:
        if cells := speed_cells(Speed(one)):
            parts += [f"## Targets, speed, {one['threads']} thread(s)", target_table(cells)]
    if cells := clients_cells(clients) if clients else []:
        parts += ["## Targets, several clients", target_table(cells)]
    cells = accuracy_cells(accuracy) if accuracy else []
    cells += memory_cells(memory) if memory else []
    if cells:
        parts += ["## Targets, accuracy and memory", target_table(cells)]
    if speed:
        parts += speed_sections(speed)
    if accuracy:
        parts += ["## Accuracy", f"To {accuracy['reference']}. {source(accuracy)}"]
        parts.append(accuracy_table(accuracy))
    if memory:
        parts += [
            "## Memory",
            f"{memory['texts']} texts of 256 tokens in one call. {source(memory)}",
        ]
        parts.append(memory_table(memory))
    if clients:
        parts += [
            "## Several clients",
            f"Through client, ring and worker, each client a process; median over "
            f"{clients['rounds']} rounds (least–most). {source(clients)}",
            clients_table(clients),
        ]
    return "\n\n".join(parts) + "\n"
