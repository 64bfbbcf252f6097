"""Plots of the search benchmark, as SVG files; needs matplotlib."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[dict[str, Any]]
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """One file for each part that was measured; returns their paths."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "deal"
    parts = {"sweep": draw_sweep, "ablation": draw_ablation, "modes": draw_modes}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure_of in parts.items():
        if result.get(name):
            figure = figure_of(result[name])
            figure.tight_layout()
            paths.append(folder / f"search-{name}.svg")
            figure.savefig(paths[-1], metadata={"Date": None}, bbox_inches="tight")
    return paths


def _ticks(low: float, high: float) -> list[int]:
    """Those within the range and the next one above it."""
    last = next((i for i, tick in enumerate(TICKS) if tick >= high), len(TICKS) - 1)
    return [tick for tick in TICKS[: last + 1] if tick * 2 > low]


def draw_sweep(rows: Rows) -> Any:
    """Slowdown against each setting that was varied."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(8, 6), sharey=True)
    axes_names = list(dict.fromkeys(row["against"] for row in rows))
    slowdowns = [row["slowdown"] for row in rows]
    ticks = _ticks(min(slowdowns), max(slowdowns))
    for axes, axis in zip(panels.flat, axes_names, strict=False):
        points = [row for row in rows if row["against"] == axis]
        for mode in dict.fromkeys(row["mode"] for row in points):
            line = [row for row in points if row["mode"] == mode]
            x = [row["value"] for row in line]
            axes.plot(x, [row["slowdown"] for row in line], marker="o", label=mode)
        grid = sorted({row["value"] for row in points})
        axes.set(xscale="log", yscale="log", xlabel=axis)
        axes.set_xticks(grid, [f"{value:g}" for value in grid])
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=1)
    for axes in list(panels.flat)[len(axes_names) :]:
        axes.set_visible(False)
    panels[0, 0].legend()
    for axes in panels[:, 0]:
        axes.set_ylabel("times plain decoding")
    return figure


def draw_ablation(rows: Rows) -> Any:
    """Slowdown of every choice of tricks, one panel for each search."""
    from matplotlib import pyplot

    settings = list(dict.fromkeys(row["setting"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure, panels = pyplot.subplots(
        1, len(settings), figsize=(4.5 * len(settings), 4), sharey=True, squeeze=False
    )
    for axes, setting in zip(panels[0], settings, strict=True):
        cells = {row["variant"]: row for row in rows if row["setting"] == setting}
        for y, variant in enumerate(variants):
            value = cells.get(variant, {}).get("slowdown")
            if value is None:
                axes.text(1, y, " not possible", va="center", fontsize=8, color="gray")
                continue
            kinds = ("only", "all but")  # else all, or none
            colour = next(
                (f"C{1 + kinds.index(k)}" for k in kinds if k in variant), "C0"
            )
            axes.barh(y, value, color=colour)
            axes.text(value, y, f" {value:.2f}", va="center", fontsize=8)
        axes.set_yticks(range(len(variants)), variants)
        axes.set(title=setting, xlabel="times plain decoding")
        axes.margins(x=0.15)
        axes.axvline(1, color="gray", linewidth=0.8)
    panels[0, 0].invert_yaxis()
    return figure


def _family(row: dict[str, Any]) -> str:
    """What rows of one kind share: their name up to the first number or comma."""
    return re.split(r"[,=\d]", row["setting"])[0].strip()


def draw_modes(rows: Rows) -> Any:
    """What is bought for the tokens evaluated: words used, and log-prob."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.5), sharex=True)
    families = dict.fromkeys(map(_family, rows))
    markers = dict(zip(families, itertools.cycle("o*sD^vPX<>"), strict=False))
    names = {"coverage_soft": "words used", "logprob_per_token": "log-prob per token"}
    cost = [row["forward_tokens_per_token"] for row in rows]
    for axes, (key, label) in zip(panels, names.items(), strict=True):
        for i, (row, x) in enumerate(zip(rows, cost, strict=True)):
            marker = markers[_family(row)]
            style = {"color": f"C{i % 10}", "markersize": 7, "alpha": 0.8}
            if marker == "*":  # the one that all are beside
                style |= {"color": "black", "markersize": 13, "zorder": 3}
            axes.plot(x, row[key], marker, label=row["setting"], **style)
        ticks = _ticks(min(cost), max(cost))
        axes.set(xscale="log", xlabel="tokens evaluated per token", ylabel=label)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        fontsize=8,
        markerscale=0.7,
    )
    return figure
