"""The tables of benchmarks.alignment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results_machine import machine_line

ARMS = ("neither", "prompt", "search", "both")


def _closing(result: dict[str, Any], source: str) -> list[str]:
    return ["", f"{machine_line(result['environment'])} (`{source}`)."]


def _span(found: dict[str, float]) -> str:
    """A difference with its interval, in bold where that leaves out 0."""
    text = f"{found['mean']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
    return f"**{text}**" if found["low"] > 0 or found["high"] < 0 else text


def arms_section(result: dict[str, Any], source: str) -> list[str]:
    """Means of all measures in each arm."""
    settings = result["settings"]
    search = settings["search"]
    lines = [
        "**Prompt and search**, means over the questions, "
        f"{settings['model']} (`{settings['model_file']}`, {settings['compute']}), "
        f"top_k={search['top_k']}, lookahead={search['lookahead']}, "
        f"reward_weight={search['reward_weight']:g}, mode={search['mode']}, "
        f"max_new_tokens={settings['max_new_tokens']}, threads={settings['threads']}:",
        "",
        "| task | n | measure | " + " | ".join(ARMS) + " |",
        "| --- | ---: | --- |" + " ---: |" * len(ARMS),
    ]
    for row in result["tasks"]:
        for name, label in {**row["measures"], "reward": "the reward itself"}.items():
            cells = " | ".join(f"{row['arms'][arm][name]:.2f}" for arm in ARMS)
            lines.append(f"| {row['task']} | {row['n']} | {label} | {cells} |")
    return lines + _closing(result, source)


def differences_section(result: dict[str, Any], source: str) -> list[str]:
    """The goal of each task: paired differences between arms."""
    columns = list(result["tasks"][0]["differences"])
    lines = [
        "**Differences**, paired by question, with 95 % intervals by bootstrap; in "
        "bold where the interval leaves out 0. *More than the sum*: both, less what "
        "prompt and search bring each alone.",
        "",
        "| task | measure | " + " | ".join(columns) + " |",
        "| --- | --- |" + " ---: |" * len(columns),
    ]
    for row in result["tasks"]:
        for name, label in row["measures"].items():
            cells = " | ".join(_span(row["differences"][c][name]) for c in columns)
            lines.append(f"| {row['task']} | {label} | {cells} |")
    return lines + _closing(result, source)


def guards_section(result: dict[str, Any], source: str) -> list[str]:
    """What it costs: time, and whether the text is still one."""
    lines = [
        "**Cost and guard**: wall time per token over plain decoding of the question, "
        "median; tokens evaluated per token generated, prompt included; length; share "
        "of repeated word trigrams; log-prob per token under the question alone, "
        "whatever the arm.",
        "",
        "| task | arm | slowdown | evaluated | tokens | repeated | log-prob a token |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["tasks"]:
        for arm in ARMS:
            one = row["arms"][arm]
            lines.append(
                f"| {row['task']} | {arm} | {one['slowdown']:.1f} "
                f"| {one['forward_tokens_per_token']:.1f} | {one['n_tokens']:.0f} "
                f"| {one['repetition']:.2f} | {one['logprob_per_token']:.2f} |"
            )
    return lines + _closing(result, source)


def judges_section(result: dict[str, Any], source: str) -> list[str]:
    """How often reward and judges are right."""
    if not result["judges"]:
        return ["Harmlessness was not measured."]
    lines = [
        "**Worth of the scorers** on dev parts that they were not fitted on: pair "
        "accuracy (chance is 0.5) and AUROC, 95 % intervals by bootstrap.",
        "",
        "| scorer | data | measure | value | interval | n |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in result["judges"]:
        lines.append(
            f"| {row['model']} | {row['task']} | {row['measure']} | {row['value']:.3f} "
            f"| {row['low']:.3f} to {row['high']:.3f} | {row['n']:,} |"
        )
    return lines + _closing(result, source)


ALIGNMENT_SECTIONS: dict[
    tuple[str, str], Callable[[dict[str, Any], str], list[str]]
] = {
    ("alignment", ""): arms_section,
    ("alignment", "differences"): differences_section,
    ("alignment", "guards"): guards_section,
    ("alignment", "judges"): judges_section,
}
