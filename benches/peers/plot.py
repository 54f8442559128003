"""The speed table as an SVG of bars, written by hand: one panel for each workload."""

from html import escape
from typing import Any

import names
from targets import Speed

WIDTH = 1080
LABEL = 130
BAR = 15
GAP = 5
PANEL_GAP = 62
TOP = 64
COLUMNS = 2
OURS = "#0b7a75"
RIVAL = "#8a93a6"
SORTED = "#c3c9d5"
TEXT = "#20242c"


def text(x: float, y: float, words: str, size: int = 12, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{TEXT}">{escape(words)}</text>'
    )


def bar(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'


def whisker(low: float, high: float, y: float) -> str:
    middle = y + BAR / 2
    return (
        f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 3:.1f}v6'
        f'M{high:.1f} {middle - 3:.1f}v6" stroke="{TEXT}" stroke-width="1" fill="none"/>'
    )


def lines(speed: Speed, workload: str) -> list[tuple[str, dict[str, Any], str]]:
    """A label, a row and a colour for each bar: as called, and the best sorted slices."""
    key, sign = ("milliseconds", 1) if workload in names.LATENCY else ("tokens_per_second", -1)
    found = []
    for engine in dict.fromkeys(engine for engine, _, _ in speed.rows):
        if row := speed.rows.get((engine, workload, "as-called")):
            colour = OURS if engine in names.OURS else RIVAL
            found.append((engine, row[key], colour))
        if best := speed.best([engine], workload, names.SORTED_FORMS):
            size = best.row["form"].removeprefix("sorted-")
            found.append((f"{engine} ÷{size}", best.row[key], SORTED))
    return sorted(found, key=lambda line: sign * line[1]["median"])


def panel(speed: Speed, workload: str, x: float, y: float, width: float) -> tuple[str, float]:
    """The panel, and the height it took."""
    found = lines(speed, workload)
    if not found:
        return "", 0
    latency = workload in names.LATENCY
    unit = "p50 in ms, shorter is better" if latency else "real tokens/s, longer is better"
    parts = [text(x, y, f"{workload}: {unit}", 14)]
    most = max(value["max"] for _, value, _ in found)
    scale = (width - LABEL - 70) / most
    start = x + LABEL
    for index, (label, value, colour) in enumerate(found):
        top = y + 10 + index * (BAR + GAP)
        shown = f"{value['median']:,.2f}" if latency else f"{value['median']:,.0f}"
        parts += [
            text(start - 6, top + BAR - 3, label, 11, "end"),
            bar(start, top, value["median"] * scale, colour),
            whisker(start + value["min"] * scale, start + value["max"] * scale, top),
            text(start + value["max"] * scale + 6, top + BAR - 3, shown, 11),
        ]
    return "\n".join(parts), 10 + len(found) * (BAR + GAP)


def svg(record: dict[str, Any]) -> str:
    """All panels of all tables of the speed stage."""
    column = WIDTH / COLUMNS
    parts, y = [], TOP
    for one in record["tables"]:
        parts.append(text(16, y, f"{one['threads']} thread(s)", 16))
        y += 34
        drawn = [name for name in names.WORKLOADS if name in one["tokens"]]
        for start in range(0, len(drawn), COLUMNS):
            tallest = 0.0
            for place, workload in enumerate(drawn[start : start + COLUMNS]):
                body, height = panel(Speed(one), workload, 16 + place * column, y, column - 32)
                parts.append(body)
                tallest = max(tallest, height)
            y += tallest + PANEL_GAP
    machine = record["machine"]
    legend = (
        f"{machine['cpu']}, {machine['cores']} cores; commit {record['commit'][:12]}; median of "
        f"{record['rounds']} rounds, lines from least to most; ÷N: list sorted, slices of N"
    )
    parts.append(text(16, 24, "all-MiniLM-L6-v2 on the CPU, tokenising included", 17))
    parts.append(text(16, 42, legend, 11))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0f}" '
        f'viewBox="0 0 {WIDTH} {y:.0f}" font-family="sans-serif">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
