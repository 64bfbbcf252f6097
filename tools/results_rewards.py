"""The tables of benchmarks.rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results_machine import machine_line


def _closing(result: dict[str, Any], part: str, source: str) -> list[str]:
    return ["", f"{machine_line(result['environments'][part])} (`{source}`)."]


def throughput_section(result: dict[str, Any], source: str) -> list[str]:
    """Bytes per second of each scorer."""
    settings, rows = result["settings"], result.get("throughput")
    if not rows:
        return ["Throughput was not measured."]
    sizes = [str(size) for size in settings["token_sizes"]]
    lines = [
        "**Throughput**: million bytes per second of processor time on one core, "
        f"{rows[0]['n_texts']:,} texts of {rows[0]['n_bytes'] / 1e6:.1f} MB, each "
        "advanced in tokens of so many bytes and scored at its end; median of "
        f"{settings['rounds']} rounds.",
        "",
        "| scorer | " + " | ".join(f"{size} bytes" for size in sizes) + " |",
        "| --- |" + " ---: |" * len(sizes),
    ]
    for row in rows:
        rates = " | ".join(f"{row['bytes_s'][size] / 1e6:.0f}" for size in sizes)
        lines.append(f"| {row['scorer']} | {rates} |")
    goal = settings["goal_bytes_s"]
    below = [
        f"{row['scorer']}, tokens of {size} bytes"
        for row in rows
        for size in sizes
        if row["bytes_s"][size] < goal
    ]
    lines += ["", f"Goal: {goal / 1e6:.0f}. Below it: {'; '.join(below) or 'none'}."]
    return lines + _closing(result, "throughput", source)


def search_section(result: dict[str, Any], source: str) -> list[str]:
    """What a reward costs a search."""
    settings, rows = result["settings"], result.get("search")
    if not rows:
        return ["Search was not measured."]
    search = settings["search"]
    lines = [
        f"**Search** with different rewards, {settings['n']} word sets, "
        f"{settings['model']} (`{settings['model_file']}`, {settings['compute']}), "
        f"top_k={search['top_k']}, lookahead={search['lookahead']}, "
        f"max_new_tokens={settings['max_new_tokens']}, {settings['threads']} threads: "
        "time per token without the prompt, against that with Keywords, tokens "
        "evaluated per token, and the share of time in the reward; medians of "
        f"{settings['rounds']} rounds. In mode "
        f"naive, reward_weight={settings['reward_weight']['naive']:g}, all rewards "
        "make the same text by the same work. In mode exact, reward_weight="
        f"{settings['reward_weight']['exact']:g}, texts differ, and so does what can "
        "be ruled out: most once a reward is as high as it can get, which Keywords is "
        "with every word used and a score per text never is, unless it is clipped.",
        "",
        "| mode | reward | ms per token | of Keywords | tokens evaluated "
        "| share of time |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['mode']} | {row['reward']} | {1e3 * row['seconds_token']:.1f} "
            f"| {row['of_keywords']:.2f} | {row['rows_token']:.1f} "
            f"| {row['reward_share']:.2%} |"
        )
    for row in rows:
        if "call_overhead" in row:
            lines += [
                "",
                f"A call of the Python reward in mode {row['mode']} takes "
                f"{1e6 * row['call_overhead']:.0f} microseconds beside the function "
                f"itself, with {row['n_texts_call']:.1f} texts a call.",
            ]
    return lines + _closing(result, "search", source)


def quality_section(result: dict[str, Any], source: str) -> list[str]:
    """Accuracy and AUROC on data of others."""
    rows = result.get("quality")
    if not rows:
        return ["Quality was not measured."]
    lines = [
        "**Quality** on texts that nothing was fitted on, though the defaults of `fit` "
        "were chosen with them in view; 95 % intervals by bootstrap.",
        "",
        "| data | model | measure | value | interval | texts |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['task']} | {row['model']} | {row['measure']} | {row['value']:.3f} "
            f"| {row['low']:.3f} to {row['high']:.3f} | {row['n']:,} |"
        )
    return lines + _closing(result, "quality", source)


REWARD_SECTIONS: dict[tuple[str, str], Callable[[dict[str, Any], str], list[str]]] = {
    ("rewards", "throughput"): throughput_section,
    ("rewards", "search"): search_section,
    ("rewards", "quality"): quality_section,
}
