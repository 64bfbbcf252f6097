"""The table of benchmarks.batches."""

from __future__ import annotations

from typing import Any

from results_machine import machine_line


def batches_section(result: dict[str, Any], source: str) -> list[str]:
    """Tokens a second of several prompts at a time."""
    settings = result["settings"]
    search = settings["search"]
    sizes = sorted({row["batch_size"] for row in result["rows"]})
    lines = [
        f"**Several prompts at a time**, {settings['n']} prompts, {settings['model']} "
        f"(`{settings['model_file']}`, {settings['compute']}), "
        f"max_new_tokens={settings['max_new_tokens']}, "
        f"threads={settings['threads']}; DeAL with Keywords, top_k={search['top_k']}, "
        f"lookahead={search['lookahead']}, "
        f"reward_weight={search['reward_weight']:g}: new tokens a second of all "
        "prompts together, prompts included, and how many times those of one after "
        f"the other; medians of {settings['rounds']} rounds in turns. All texts and "
        "log-probs were equal to the bit.",
        "",
        f"| decoding | {' | '.join(f'batch_size={size}' for size in sizes)} |",
        f"| --- |{' ---: |' * len(sizes)}",
    ]
    for mode in dict.fromkeys(row["mode"] for row in result["rows"]):
        by_size = {r["batch_size"]: r for r in result["rows"] if r["mode"] == mode}
        cells = [
            f"{by_size[size]['tokens_s']:,.0f} ({by_size[size]['gain']:.2f})"
            for size in sizes
        ]
        lines.append(f"| {mode} | {' | '.join(cells)} |")
    return [*lines, "", f"{machine_line(result['environment'])} (`{source}`)."]


BATCH_SECTIONS = {("batches", ""): batches_section}
