"""Result files of the search benchmark as Markdown, in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results_machine import machine_line

NAIVE, LLAMA = "naive", "llama.cpp naive"


def _pivot(rows: list[dict[str, Any]], key: str) -> dict[Any, dict[str, Any]]:
    """Rows by the value of `key`, then by mode; both in the order of the rows."""
    table: dict[Any, dict[str, Any]] = {}
    for row in rows:
        table.setdefault(row[key], {})[row["mode"]] = row
    return table


def _search_caption(result: dict[str, Any]) -> str:
    settings = result["settings"]
    return (
        f"{settings['model']} (`{settings['model_file']}`, {settings['compute']}), "
        f"CommonGen, max_new_tokens={settings['max_new_tokens']}, "
        f"{settings['threads']} threads"
    )


def _search_source(result: dict[str, Any], source: str) -> str:
    facts = result["llama.cpp"]
    peer = facts.get("missing")
    if not peer:
        peer = f"llama-cpp-python {facts['version']}, {facts['settings']}"
    where = machine_line(result["environment"])
    return f"{where} (`{source}`). Over llama.cpp: {peer}."


def _end(result: dict[str, Any], source: str) -> list[str]:
    return ["", f"{machine_line(result['environment'])} (`{source}`)."]


def _not_measured(part: str, source: str) -> list[str]:
    """In place of a table that the result file has no figures for."""
    option = f" with `--{part}`" if part else ""
    return [f"Not measured in `{source}`: run `python -m benchmarks.search`{option}."]


def _image(part: str, alt: str) -> list[str]:
    """The plot that ``--plot docs/img`` draws of a part; for documents in docs."""
    return ["", f"![{alt}](img/search-{part}.svg)"]


def _cell(row: dict[str, Any] | None, name: str, form: str) -> str:
    value = None if row is None else row.get(name)
    return "" if value is None else format(value, form)


def _between(row: dict[str, Any] | None, name: str) -> str:
    ends = None if row is None else row.get(name)
    return "" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def _check_line(result: dict[str, Any]) -> str:
    check, mode = result["check"], result["settings"]["mode"]
    if not check["n_compared"]:
        return "No text was compared with the naive search's."
    n_same = check["n_compared"] - len(check["differences"])
    return (
        f"Tokens, log-probs and scores of {mode} and naive mode are equal in {n_same} "
        f"of {check['n_compared']} texts that both wrote."
    )


def search_headline(result: dict[str, Any], source: str) -> list[str]:
    """What README says: slowdown beside the naive searches, and what it buys."""
    mode, rows = result["settings"]["mode"], result["rows"]
    plain, table = rows[0], _pivot(rows[1:], "setting")
    modes = [mode] if mode == NAIVE else [mode, NAIVE]
    shown = [*modes, LLAMA]
    names = [f"{m} mode" for m in modes] + ["naive over llama.cpp", "times faster"]
    names.append(f"{mode} mode, over as many plain tokens")
    lines = [
        f"**DeAL**, {_search_caption(result)}: wall time per token, as a multiple of "
        f"this engine's plain greedy decoding, median over {plain['n']} word sets.",
        "",
        "| search | " + " | ".join(names) + " | all words used |",
        "| --- |" + " ---: |" * (len(names) + 1),
        "| plain greedy | 1 |"
        + " |" * (len(names) - 1)
        + f" {plain['coverage_hard']:.2f} |",
    ]
    for setting, cells in table.items():
        slow = " | ".join(_cell(cells.get(m), "slowdown", ".1f") for m in shown)
        faster = _cell(cells.get(LLAMA), "times", ".1f")
        faster += f" | {_cell(cells.get(mode), 'slowdown_as_long', '.1f')}"
        hard = _cell(cells.get(mode), "coverage_hard", ".2f")
        lines.append(f"| {setting} | {slow} | {faster} | {hard} |")
    counts = {m: {c[m]["n"] for c in table.values() if m in c} for m in shown[1:]}
    sizes = ", ".join(f"{m}: {max(n)}" for m, n in counts.items() if n)
    notes = f"Word sets decoded, where fewer: {sizes}. " if sizes else ""
    lines += ["", notes + _check_line(result)]
    return [*lines, "", _search_source(result, source)]


def search_section(result: dict[str, Any], source: str) -> list[str]:
    """Slowdown beside the goals, and where the work went."""
    lines = search_headline(result, source)
    mode, rows = result["settings"]["mode"], result["rows"]
    parts = (_search_goals(rows, mode), _search_work(rows), _search_saved(rows, mode))
    more = [line for part in parts for line in ("", *part)]
    lines[-2:-2] = more + _search_llama(rows)
    return lines


def _search_goals(rows: list[dict[str, Any]], mode: str) -> list[str]:
    lines = [
        f"| search | {mode} mode | quartiles | goal | as many plain tokens | quartiles "
        "| without the prompt | times faster than naive over llama.cpp | goal |",
        "| --- |" + " ---: |" * 8,
    ]
    for setting, cells in _pivot(rows[1:], "setting").items():
        ours = cells.get(mode)
        lines.append(
            f"| {setting} | {_cell(ours, 'slowdown', '.2f')} "
            f"| {_between(ours, 'slowdown_quartiles')} | {_cell(ours, 'goal', 'g')} "
            f"| {_cell(ours, 'slowdown_as_long', '.2f')} "
            f"| {_between(ours, 'slowdown_as_long_quartiles')} "
            f"| {_cell(ours, 'slowdown_decode', '.2f')} "
            f"| {_cell(cells.get(LLAMA), 'times', '.1f')} "
            f"| {_cell(ours, 'goal_times', 'g')} |"
        )
    return lines


def _search_work(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| search | mode | sets | ms per token | tokens evaluated per token | passes "
        "per token | won by the likeliest | candidates rolled out | pruned | words "
        "used (soft) | all words used (hard) | log-prob per token |",
        "| --- | --- |" + " ---: |" * 10,
    ]
    for row in rows:
        lines.append(
            f"| {row['setting']} | {row['mode']} | {row['n']} "
            f"| {1e3 * row['seconds_per_token']:.1f} "
            f"| {row['forward_tokens_per_token']:.1f} "
            f"| {row['forward_passes_per_token']:.2f} "
            f"| {_cell(row, 'top_wins', '.2f')} | {_cell(row, 'rolled_out', '.2f')} "
            f"| {_cell(row.get('shares_of_candidates'), 'n_pruned', '.2f')} "
            f"| {row['coverage_soft']:.2f} | {row['coverage_hard']:.2f} "
            f"| {row['logprob_per_token']:.2f} |"
        )
    return lines


# Column -> counter in the engine's statistics, per token of the text.
SAVED = {
    "of rollouts, known before": "n_reused_tokens",
    "candidates pruned": "n_pruned",
    "settled early": "n_settled",
    "guesses evaluated": "n_draft_tokens",
    "of them right": "n_draft_accepted",
    "evaluated ahead": "n_ahead_tokens",
    "of them in vain": "n_in_vain",
}
PARTS = {"passes": "forward", "prompt": "prefill", "rewards": "reward"}


def _seconds_parts(stats: dict[str, float]) -> dict[str, float]:
    """Seconds per token by what they went into; ``rest``: the search, and draws."""
    parts = {name: stats[f"seconds_{key}"] for name, key in PARTS.items()}
    return parts | {"rest": stats["seconds_total"] - sum(parts.values())}


def _search_saved(rows: list[dict[str, Any]], mode: str) -> list[str]:
    names = [*SAVED, *(f"{name}, ms" for name in (*PARTS, "rest"))]
    lines = [
        f"What each trick saved in {mode} mode, tokens and candidates per token of the "
        "text, and where the time of a token went:",
        "",
        "| search | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for row in rows:
        if row["mode"] != mode:
            continue
        stats = row["stats_per_token"]
        counts = [f"{stats[name]:.2f}" for name in SAVED.values()]
        times = [f"{1e3 * s:.2f}" for s in _seconds_parts(stats).values()]
        lines.append(f"| {row['setting']} | " + " | ".join(counts + times) + " |")
    return lines


def _search_llama(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    told: list[Any] = []
    for row in rows:
        if row.get("same_text") is None or row["search"] in told:
            continue  # settings that differ in the reward alone share a run there
        told.append(row["search"])
        text = (
            f"{row['setting']}, over llama.cpp: the same text as naive mode's in "
            f"{row['same_text']:.0%} of the sets; {row['same_start']:.0%} of the "
            "tokens come before the first that differs."
        )
        if row.get("same_decisions") is not None:
            text += (
                f" After the same beginnings, {row['same_decisions']:.0%} of the "
                "decisions are the same."
            )
        lines += ["", text]
    return lines


def search_sweep(result: dict[str, Any], source: str) -> list[str]:
    """Slowdown against one setting at a time."""
    if not result.get("sweep"):
        return _not_measured("sweep", source)
    rows = result["sweep"]
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    lines = [
        f"**Sweep**, {_search_caption(result)}: slowdown over plain greedy decoding; "
        "what a row does not name is that of the first search above.",
        "",
        "| | sets | " + " | ".join(f"{m} mode" for m in modes) + " | tokens evaluated "
        "per token | all words used |",
        "| --- |" + " ---: |" * (len(modes) + 3),
    ]
    for axis in dict.fromkeys(row["against"] for row in rows):
        points = _pivot([row for row in rows if row["against"] == axis], "value")
        for value, cells in points.items():
            slow = " | ".join(_cell(cells.get(m), "slowdown", ".2f") for m in modes)
            ours = cells[modes[0]]
            lines.append(
                f"| {axis}={value:g} | {ours['n']} | {slow} "
                f"| {ours['forward_tokens_per_token']:.1f} "
                f"| {ours['coverage_hard']:.2f} |"
            )
    return [
        *lines,
        *_image("sweep", "Slowdown against each setting"),
        *_end(result, source),
    ]


def search_ablation(result: dict[str, Any], source: str) -> list[str]:
    """The exact mode without some of its tricks."""
    if not result.get("ablation"):
        return _not_measured("ablation", source)
    rows = result["ablation"]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    by_variant: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], {})[row["setting"]] = row
    lines = [
        f"**Ablation**, {_search_caption(result)}: slowdown over plain greedy "
        "decoding, and tokens evaluated per token.",
        "",
        "| tricks | " + " | ".join(settings) + " |",
        "| --- |" + " ---: |" * len(settings),
    ]
    for variant, cells in by_variant.items():
        texts = [_ablation_cell(cells.get(setting)) for setting in settings]
        lines.append(f"| {variant} | " + " | ".join(texts) + " |")
    alt = "Slowdown with each choice of tricks"
    return [*lines, *_image("ablation", alt), *_end(result, source)]


def _ablation_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['slowdown']:.2f} ({row['forward_tokens_per_token']:.1f})"


def search_modes(result: dict[str, Any], source: str) -> list[str]:
    """Other ways to decode, beside exact: what they cost and what they buy."""
    if not result.get("modes"):
        return _not_measured("modes", source)
    rows = result["modes"]
    lines = [
        f"**Modes**, {_search_caption(result)}, {rows[0]['n']} word sets.",
        "",
        "| decoding | tokens evaluated per token | slowdown | ms per token | passes "
        "per token | words used (soft) | all words used (hard) | log-prob per token "
        "| tokens of a text | score |",
        "| --- |" + " ---: |" * 9,
    ]
    for row in rows:
        lines.append(
            f"| {row['setting']} | {row['forward_tokens_per_token']:.1f} "
            f"| {row['slowdown']:.2f} | {1e3 * row['seconds_per_token']:.1f} "
            f"| {row['forward_passes_per_token']:.2f} "
            f"| {row['coverage_soft']:.2f} | {row['coverage_hard']:.2f} "
            f"| {row['logprob_per_token']:.2f} | {row['n_tokens'] / row['n']:.1f} "
            f"| {row['score']:.2f} |"
        )
    alt = "Words used and log-prob against tokens evaluated per token"
    return [*lines, *_image("modes", alt), *_end(result, source)]


def search_cost(result: dict[str, Any], source: str) -> list[str]:
    """The cost model's slowdown beside the measured one."""
    if not result.get("cost"):
        return _not_measured("", source)
    cost = result["cost"]
    sizes = " | ".join(map(str, cost["rows"]))
    seconds = " | ".join(f"{1e3 * s:.2f}" for s in cost["seconds"])
    start, slope = 1e3 * cost["pass_seconds"], 1e3 * cost["row_seconds"]
    line = " | ".join(f"{start + slope * n:.2f}" for n in cost["rows"])
    lines = [
        f"**Cost model**, {_search_caption(result)}. A pass of greedy branches after a "
        f"prefix of {cost['prefix']}, fastest of {cost['rounds']} rounds; the prompt "
        f"at {cost['prefill_tok_s']:,.0f} tokens per second:",
        "",
        f"| rows of a pass | {sizes} |",
        "| --- |" + " ---: |" * len(cost["rows"]),
        f"| ms, measured | {seconds} |",
        f"| {start:.2f} + {slope:.3f} rows | {line} |",
        "",
        "| search | mode | passes per token | rows of a pass | slowdown, predicted "
        "| measured | predicted / measured | of the time, rewards | neither |",
        "| --- | --- |" + " ---: |" * 7,
    ]
    for row in _costed(result):
        stats = row["stats_per_token"]
        n_pass, n_row = _passes_after_prompt(row)
        parts = _seconds_parts(stats)
        lines.append(
            f"| {row['setting']} | {row['mode']} | {n_pass:.2f} | {n_row:.1f} "
            f"| {row['slowdown_predicted']:.2f} | {row['slowdown']:.2f} "
            f"| {row['slowdown_predicted'] / row['slowdown']:.2f} "
            f"| {parts['rewards'] / stats['seconds_total']:.0%} "
            f"| {parts['rest'] / stats['seconds_total']:.0%} |"
        )
    points = [*result.get("sweep", ()), *result.get("ablation", ())]
    ratios = sorted(
        row["slowdown_predicted"] / row["slowdown"]
        for row in points
        if "slowdown_predicted" in row
    )
    if ratios:
        lines += [
            "",
            f"Over the {len(ratios)} points of sweep and ablation, predicted over "
            f"measured is {ratios[len(ratios) // 2]:.2f} in the median, "
            f"{ratios[len(ratios) // 10]:.2f} to {ratios[-1 - len(ratios) // 10]:.2f} "
            "for four fifths of them.",
        ]
    return [*lines, *_end(result, source)]


def _costed(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of our engine but plain decoding's; a search of both tables once."""
    mode, found = result["settings"]["mode"], []
    for row in [*result["rows"], *result.get("modes", ())]:
        is_repeated = row["setting"] == mode
        if row["mode"] != "plain" and not is_repeated and "slowdown_predicted" in row:
            found.append(row)
    return found


def _passes_after_prompt(row: dict[str, Any]) -> tuple[float, float]:
    """Passes per token, and the mean of their rows; the prompt's left out."""
    stats = row["stats_per_token"]
    n_pass = stats["n_forward_passes"] - row["n"] / row["n_tokens"]
    n_row = stats["n_forward_tokens"] - stats["n_prompt_tokens"]
    return n_pass, n_row / n_pass if n_pass > 0 else 0.0


def floor_section(result: dict[str, Any], source: str) -> list[str]:
    """What an oracle would still evaluate, beside what the exact mode does."""
    settings = result["settings"]
    lines = [
        f"**Floor**, {settings['model']} (`{settings['model_file']}`, "
        f"{settings['compute']}), CommonGen, {settings['n']} word sets, "
        f"max_new_tokens={settings['max_new_tokens']}, {settings['threads']} threads; "
        "counts per generated token, times over a plain one's, by the cost model:",
        "",
        "| search | decisions | rows, oracle | rows, exact mode | passes, exact mode | "
        "time of the oracle's rows | with a pass a decision | time of exact's rows "
        "| of its passes | goal |",
        "| --- |" + " ---: |" * 9,
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['setting']} | {row['decisions']:.2f} | {row['needed']:.1f} "
            f"| {row['rows']:.1f} | {row['passes']:.2f} | {row['needed_rows']:.1f} "
            f"| {row['floor']:.1f} | {row['exact_rows']:.1f} "
            f"| {row['exact_passes']:.1f} | {row['goal']:g} |"
        )
    return [*lines, *_end(result, source)]


SEARCH_SECTIONS: dict[tuple[str, str], Callable[[dict[str, Any], str], list[str]]] = {
    ("floor", ""): floor_section,
    ("search", ""): search_section,
    ("search", "headline"): search_headline,
    ("search", "sweep"): search_sweep,
    ("search", "ablation"): search_ablation,
    ("search", "modes"): search_modes,
    ("search", "cost"): search_cost,
}
