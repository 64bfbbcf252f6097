"""The tables of benchmarks.heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results_machine import machine_line


def _closing(result: dict[str, Any], source: str) -> list[str]:
    return ["", f"{machine_line(result['environment'])} (`{source}`)."]


def _layers(row: dict[str, Any]) -> str:
    return ", ".join(map(str, row["layers"]))


def quality_section(result: dict[str, Any], source: str) -> list[str]:
    """Heads on dev parts, beside simple ones."""
    settings = result["settings"]
    n_pairs, n_tweets = settings["n_pairs"], settings["n_tweets"]
    pairs = "all pairs" if n_pairs is None else f"{n_pairs:,} pairs of each subset"
    tweets = "all tweets" if n_tweets is None else f"{n_tweets:,} tweets"
    lines = [
        f"**Heads** over the states of {settings['model']} "
        f"(`{settings['model_file']}`, {settings['compute']}), fitted on train parts "
        f"({tweets}, {pairs} of hh_rlhf, of which a share of "
        f"{settings['validation']:g} is held out) and scored once on dev parts; 95 % "
        "intervals, of pairs by Wilson, of others by bootstrap.",
        "",
        "| data | scored by | measure | value | interval | n |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['task']} | {row['model']} | {row['measure']} "
            f"| {row['value']:.3f} | {row['low']:.3f} to {row['high']:.3f} "
            f"| {row['n']:,} |"
        )
    return lines + _closing(result, source)


def sweep_section(result: dict[str, Any], source: str) -> list[str]:
    """Held-out accuracy of every layer and pooling, and what was chosen."""
    tried = result["tried"]
    tasks = list(dict.fromkeys(row["task"] for row in tried))
    linear = [row for row in tried if row["n_hidden"] == 0]
    linear.sort(key=lambda row: -row["loss"])  # the last, and best, penalty stays
    best = {(row["task"], _layers(row), row["pooling"]): row for row in linear}
    lines = [
        "**Layers and poolings** of linear heads: accuracy on the share of the train "
        "part that is held out, last token / mean, each with the penalty of the least "
        "held-out loss.",
        "",
        "| layers | " + " | ".join(tasks) + " |",
        "| --- |" + " ---: |" * len(tasks),
    ]
    for layers in dict.fromkeys(_layers(row) for row in tried):
        cells = [
            " / ".join(
                f"{best[task, layers, pooling]['accuracy']:.3f}"
                for pooling in ("last", "mean")
            )
            for task in tasks
        ]
        lines.append(f"| {layers} | " + " | ".join(cells) + " |")
    chosen = [row for row in tried if row["is_chosen"]]
    parts = [
        f"{row['task']}: layers {_layers(row)}, {row['pooling']}, "
        f"n_hidden={row['n_hidden']}, l2={row['l2']:g}"
        for row in chosen
    ]
    lines += ["", f"Chosen by held-out loss: {'; '.join(parts)}."]
    return lines + _closing(result, source)


HEAD_SECTIONS: dict[tuple[str, str], Callable[[dict[str, Any], str], list[str]]] = {
    ("heads", "quality"): quality_section,
    ("heads", "sweep"): sweep_section,
}
