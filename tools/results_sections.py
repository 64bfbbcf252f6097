"""Result files as Markdown: one function for each kind of benchmark.

Those with several tables are in results_alignment.py, results_rewards.py and
results_search.py, that of lm-evaluation-harness in results_lm_eval.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results_alignment import ALIGNMENT_SECTIONS
from results_batches import BATCH_SECTIONS
from results_constraints import CONSTRAINT_SECTIONS
from results_custom_generate import custom_generate_section
from results_heads import HEAD_SECTIONS
from results_lm_eval import lm_eval_section
from results_machine import machine_line
from results_rewards import REWARD_SECTIONS
from results_search import SEARCH_SECTIONS


def commongen_section(result: dict[str, Any], source: str) -> list[str]:
    """Table and caption of one CommonGen result."""
    settings, summary = result["settings"], result["summary"]
    search = settings["search"]
    names = (("plain", "plain greedy"), ("deal", "DeAL"))
    lines = [
        f"**CommonGen**, {settings['n']} word sets, {settings['model']} "
        f"(`{settings['model_file']}`, {settings['compute']}), "
        f"top_k={search['top_k']}, lookahead={search['lookahead']}, "
        f"reward_weight={search['reward_weight']:g}, "
        f"num_beams={search['num_beams']}, mode={search['mode']}, "
        f"max_new_tokens={settings['max_new_tokens']}, {settings['threads']} threads:",
        "",
        "| decoding | words used (soft) | all words used (hard) | log-prob per token "
        "| tokens/s | slowdown |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, name in names:
        row = summary[key]
        slow = "1" if key == "plain" else f"{summary['slowdown_median']:.1f}"
        lines.append(
            f"| {name} | {row['coverage_soft']:.2f} | {row['coverage_hard']:.2f} "
            f"| {row['logprob_per_token']:.2f} | {row['tokens_per_second']:.1f} "
            f"| {slow} |"
        )
    forward = [
        summary[key]["n_forward_tokens"] / summary[key]["n_tokens"] for key, _ in names
    ]
    notes = (
        f"Slowdown: wall time per generated token over plain greedy's on the same "
        f"item, median over items ({summary['slowdown_min']:.1f} to "
        f"{summary['slowdown_max']:.1f}); ratio of totals "
        f"{summary['slowdown_total']:.1f}, without the prompt "
        f"{summary['slowdown_decode']:.1f}. Tokens evaluated per token "
        f"generated, prompt included: {forward[0]:.1f} and {forward[1]:.1f}."
    )
    if result["memory"]["peak"]:
        notes += (
            f" Peak memory of the process: {result['memory']['peak'] / 1e6:.0f} MB."
        )
    lines += ["", notes, "", f"{machine_line(result['environment'])} (`{source}`)."]
    return lines


def fidelity_section(result: dict[str, Any], source: str) -> list[str]:
    """Divergence from f32, and memory."""
    settings, memory = result["settings"], result["memory"]
    lines = [
        f"**Fidelity and memory**, {settings['model']} (`{settings['model_file']}`): "
        "KL divergence from f32 compute on the same file, nats a token.",
        "",
        "| engine | mean KL | same first choice | tokens |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        if "missing" in row:
            lines.append(f"| {row['engine']} | {row['missing']} | | |")
            continue
        name = " ".join(filter(None, (row["engine"], row.get("version"))))
        lines.append(
            f"| {name} | {row['kl']:.4f} | {row['same_top_1']:.3f} "
            f"| {row['n_tokens']:,} |"
        )
    megabytes = {
        name: memory[name][peak] / 1e6
        for name, peak in (("int8", "peak"), ("f32", "peak"))
    }
    notes = (
        f"Peak memory of a process that loads the model and evaluates 512 tokens: "
        f"{megabytes['int8']:.0f} MB in int8, {megabytes['f32']:.0f} MB in f32, of "
        f"which {memory['int8']['peak_import'] / 1e6:.0f} MB are Python and the "
        f"imports. The file has {memory['file'] / 1e6:.0f} MB, its weights in f32 "
        f"{memory['weights_f32'] / 1e6:.0f} MB: int8 compute holds no f32 copy."
    )
    lines += ["", notes, "", f"{machine_line(result['environment'])} (`{source}`)."]
    return lines


def engine_section(result: dict[str, Any], source: str) -> list[str]:
    """Speed of the engine and its peers, with fidelity and the machine's limits."""
    settings, limits = result["settings"], result["limits"]
    table: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        table.setdefault(row["engine"], {})[row.get("what")] = row
    whats = [w for w in limits["tok_s"]]
    lines = [
        f"**Engine**, {settings['model']} (`{settings['model_file']}`), "
        f"{settings['threads']} threads: tokens per second, median of "
        f"{settings['rounds']} rounds. `prefill512`: one prompt of 512. `decodeB`: B "
        "branches that share a prefix of 64, 32 greedy steps.",
        "",
        "| engine | mean KL | " + " | ".join(whats) + " | peak memory |",
        "| --- | ---: |" + " ---: |" * (len(whats) + 1),
    ]
    for engine, cells in table.items():
        if None in cells:
            lines.append(f"| {engine} | {cells[None]['missing']} |")
            continue
        any_row = cells[whats[0]]
        mark = "" if any_row["is_equal"] else " \\*"
        rates = " | ".join(f"{cells[w]['tok_s']:,.0f}" for w in whats)
        peak = any_row.get("peak_memory")
        memory = f"{peak / 1e6:,.0f} MB" if peak else ""
        lines.append(f"| {engine} | {any_row['kl']:.4f}{mark} | {rates} | {memory} |")
    ours = table["deal int8"]
    share = " | ".join(f"{ours[w]['tok_s'] / limits['tok_s'][w]:.0%}" for w in whats)
    lines.append(f"| deal int8, of the limit | | {share} | |")
    peers = [c for e, c in table.items() if not e.startswith("deal") and None not in c]
    equal = [c for c in peers if c[whats[0]]["is_equal"]]
    if equal:
        ratio = " | ".join(
            f"{ours[w]['tok_s'] / max(c[w]['tok_s'] for c in equal):.1f}" for w in whats
        )
        lines.append(
            f"| deal int8, times the best peer of equal fidelity | | {ratio} | |"
        )
    notes = (
        f"\\* above {settings['kl_equal']} nats a token from f32: another model. The "
        f"limit is what the machine was measured to do in the same run: "
        f"{limits['read_bytes_s'] / 1e9:.0f} GB/s read and "
        f"{limits['multiply_adds_s'] / 1e9:,.0f} G int8 multiply-adds per second."
    )
    lines += ["", notes, "", f"{machine_line(result['environment'])} (`{source}`)."]
    versions = sorted(
        {(c[whats[0]]["version"], e) for e, c in table.items() if None not in c}
    )
    lines[-1] += " " + "; ".join(f"{e}: {v}" for v, e in versions) + "."
    return lines


def scaling_section(result: dict[str, Any], source: str) -> list[str]:
    """What a pass costs against batch, threads and context."""
    settings, rows = result["settings"], result["rows"]
    batch = [row for row in rows if row["against"] == "batch"]
    context = [row for row in rows if row["against"] == "context"]
    threads = sorted({row["threads"] for row in batch})
    sizes = sorted({row["branches"] for row in batch})
    rate = {(r["threads"], r["branches"]): r["decode_tok_s"] for r in batch}
    lines = [
        f"**Batches**, {settings['model']} (`{settings['model_file']}`): tokens per "
        f"second of greedy branches after a prefix of {batch[0]['prefix']}, median of "
        f"{settings['rounds']} rounds.",
        "",
        "| branches | " + " | ".join(map(str, sizes)) + " |",
        "| --- |" + " ---: |" * len(sizes),
    ]
    for n in threads:
        name = "1 thread" if n == 1 else f"{n} threads"
        cells = " | ".join(f"{rate[n, size]:,.0f}" for size in sizes)
        lines.append(f"| {name} | {cells} |")
    if len(threads) > 1:
        few, many = threads[0], threads[-1]
        gains = " | ".join(f"{rate[many, s] / rate[few, s]:.2f}" for s in sizes)
        lines.append(f"| gain of {many} threads | {gains} |")
    if context:
        head = " | ".join(f"{row['prefix']:,}" for row in context)
        steps = " | ".join(f"{row['decode_tok_s']:,.0f}" for row in context)
        prompt = " | ".join(f"{row['prefill_tok_s']:,.0f}" for row in context)
        lines += [
            "",
            f"**Context**: tokens per second of {context[0]['branches']} branches, and "
            f"of the prefix itself, {context[0]['threads']} threads.",
            "",
            f"| shared prefix | {head} |",
            "| --- |" + " ---: |" * len(context),
            f"| branches | {steps} |",
            f"| the prefix | {prompt} |",
        ]
    return [*lines, "", f"{machine_line(result['environment'])} (`{source}`)."]


# Benchmark and variant, as a marker names it, to what writes it.
def sweep_section(result: dict[str, Any], source: str) -> list[str]:
    """What the points of a sweep share."""
    settings, summary = result["settings"], result["summary"]
    grid = settings["grid"]
    points = " x ".join(
        f"{name} {', '.join(f'{v:g}' for v in values)}" for name, values in grid.items()
    )
    lines = [
        f"**Sweep**, {settings['n']} word sets of CommonGen, {settings['model']} "
        f"(`{settings['model_file']}`, {settings['compute']}), {points}, "
        f"top_k={settings['top_k']}, max_new_tokens={settings['max_new_tokens']}, "
        f"{settings['threads']} threads: separate runs of the points over the sweep, "
        "median and range over the word sets.",
        "",
        "| | separate / sweep | least | most |",
        "| --- | ---: | ---: | ---: |",
    ]
    for what, name in (("tokens", "tokens evaluated"), ("seconds", "processor time")):
        ratios = (summary[f"{what}_ratio_{each}"] for each in ("median", "min", "max"))
        lines.append(f"| {name} | " + " | ".join(f"{r:.1f}" for r in ratios) + " |")
    lines += ["", f"{machine_line(result['environment'])} (`{source}`)."]
    return lines


SECTIONS: dict[tuple[str, str], Callable[[dict[str, Any], str], list[str]]] = {
    ("commongen", ""): commongen_section,
    ("custom_generate", ""): custom_generate_section,
    ("engine", ""): engine_section,
    ("fidelity", ""): fidelity_section,
    ("lm_eval", ""): lm_eval_section,
    ("scaling", ""): scaling_section,
    ("sweep", ""): sweep_section,
    **ALIGNMENT_SECTIONS,
    **HEAD_SECTIONS,
    **BATCH_SECTIONS,
    **CONSTRAINT_SECTIONS,
    **REWARD_SECTIONS,
    **SEARCH_SECTIONS,
}
