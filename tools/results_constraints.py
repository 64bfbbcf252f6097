"""The table of benchmarks.constraints."""

from __future__ import annotations

from typing import Any

from results_machine import machine_line


def constraints_section(result: dict[str, Any], source: str) -> list[str]:
    """What a hard constraint costs a token."""
    settings = result["settings"]
    search = settings["search"]
    lines = [
        f"**Hard constraints**, {settings['n']} word sets, {settings['model']} "
        f"(`{settings['model_file']}`, {settings['compute']}), "
        f"max_new_tokens={settings['max_new_tokens']}, threads={settings['threads']}; "
        f"searches with Keywords, top_k={search['top_k']}, "
        f"lookahead={search['lookahead']}, "
        f"reward_weight={search['reward_weight']:g}: processor time per token after "
        "the first, against that without a constraint; medians of "
        f"{settings['rounds']} rounds in turns. *Any text* changes no text, so that "
        "its ratio is the cost of masks; the others may change it.",
        "",
        "| decoding | constraint | ms per token | of none | passes per token "
        "| same text | complete | matched |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        is_none = row["constraint"] == "none"
        lines.append(
            f"| {row['mode']} | {row['constraint']} "
            f"| {1e3 * row['seconds_token']:.1f} | {row['of_none']:.2f} "
            f"| {row['passes_token']:.2f} | {row['n_same_text']} of {row['n']} "
            f"| {row['n_stopped']} of {row['n']} "
            f"| {'' if is_none else str(row['n_sound']) + ' of ' + str(row['n'])} |"
        )
    version = result["environment"]["versions"].get("llguidance")
    return [
        *lines,
        "",
        "Matched: complete texts of the form, and those that max_new_tokens cut.",
        "",
        f"{machine_line(result['environment'])}; llguidance {version} (`{source}`).",
    ]


CONSTRAINT_SECTIONS = {("constraints", ""): constraints_section}
