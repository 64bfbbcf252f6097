"""The result of benchmarks/custom_generate.py as Markdown."""

from __future__ import annotations

from typing import Any

from results_machine import machine_line


def custom_generate_section(result: dict[str, Any], source: str) -> list[str]:
    """One row a way: rate, time against greedy decoding, passes, equal texts."""
    settings = result["settings"]
    search, threads = settings["search"], settings["threads"]
    lines = [
        f"**custom_generate**, {settings['n']} word sets of CommonGen, "
        f"{settings['model']} (`{settings['model_file']}`; torch and engine f32: the "
        f"same file dequantised), max_new_tokens={settings['max_new_tokens']}, DeAL "
        f"with top_k={search['top_k']}, lookahead={search['lookahead']}, "
        f"reward_weight={search['reward_weight']:g} and `Keywords`, "
        f"{threads} thread{'s' * (threads > 1)}, medians of "
        f"{settings['rounds']} rounds that take turns.",
        "",
        "| | tokens per s | time per token, times transformers' greedy "
        "| forward passes per token | same texts |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in result["ways"].items():
        same = f"{row['n_same']} of {settings['n']}" if "n_same" in row else ""
        lines.append(
            f"| {name} | {row['tok_s']:.1f} | {row['time_ratio']:.2g} "
            f"| {row['passes_per_token']:.2f} | {same} |"
        )
    notes = (
        "Passes may hold many branches. Same texts: as transformers' greedy decoding, "
        'or as mode "naive" over torch; the two round differently.'
    )
    packages = "; ".join(f"{n} {v}" for n, v in settings["packages"].items())
    machine = machine_line(result["environment"])
    return [*lines, "", notes, "", f"{machine} (`{source}`). {packages}."]
