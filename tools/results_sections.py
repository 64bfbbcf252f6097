"""Result files as Markdown: one function for each kind of benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class MissingPart(ValueError):
    """The result was measured without what a marker asks for."""


def machine_line(environment: dict[str, Any]) -> str:
    """Machine, commit and versions of one measurement."""
    machine, commit = environment["machine"], environment["commit"]
    versions = environment["versions"]
    cpu = machine["cpu"]
    if machine.get("cpu_family") and machine.get("cpu_model"):
        cpu += f" (family {machine['cpu_family']}, model {machine['cpu_model']})"
    revision = (commit["id"] or "unknown")[:12]
    if commit["is_dirty"]:
        revision += " with local changes"
    core = versions.get("core", {})
    return (
        f"{cpu}, {machine['cores']} cores, {machine['system']}; commit {revision}; "
        f"deal-lm {versions.get('deal-lm')}, Python {versions['python']}, NumPy "
        f"{versions['numpy']}; kernels {core.get('kernels')}, {core.get('blas')}; "
        f"{environment['date'][:10]}"
    )


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


def _pivot(rows: list[dict[str, Any]], key: str) -> dict[Any, dict[str, Any]]:
    """Rows by the value of `key`, then by mode; both in the order of the rows."""
    table: dict[Any, dict[str, Any]] = {}
    for row in rows:
        table.setdefault(row[key], {})[row["mode"]] = row
    return table


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


# --- the search -----------------------------------------------------------------------

NAIVE, LLAMA = "naive", "llama.cpp naive"


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


def _cell(row: dict[str, Any] | None, name: str, form: str) -> str:
    value = None if row is None else row.get(name)
    return "" if value is None else format(value, form)


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
    lines[-2:-2] = ["", *_search_goals(rows, mode), "", *_search_work(rows)]
    return lines


def _search_goals(rows: list[dict[str, Any]], mode: str) -> list[str]:
    lines = [
        f"| search | {mode} mode | goal | without the prompt | times faster than naive "
        "over llama.cpp | goal |",
        "| --- |" + " ---: |" * 5,
    ]
    for setting, cells in _pivot(rows[1:], "setting").items():
        ours = cells.get(mode)
        lines.append(
            f"| {setting} | {_cell(ours, 'slowdown', '.2f')} "
            f"| {_cell(ours, 'goal', 'g')} | {_cell(ours, 'slowdown_decode', '.2f')} "
            f"| {_cell(cells.get(LLAMA), 'times', '.1f')} "
            f"| {_cell(ours, 'goal_times', 'g')} |"
        )
    return lines


def _search_work(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| search | mode | sets | ms per token | tokens evaluated per token | passes "
        "per token | won by the likeliest | candidates rolled out | words used (soft) "
        "| all words used (hard) | log-prob per token |",
        "| --- | --- |" + " ---: |" * 9,
    ]
    for row in rows:
        lines.append(
            f"| {row['setting']} | {row['mode']} | {row['n']} "
            f"| {1e3 * row['seconds_per_token']:.1f} "
            f"| {row['forward_tokens_per_token']:.1f} "
            f"| {row['forward_passes_per_token']:.2f} "
            f"| {_cell(row, 'top_wins', '.2f')} | {_cell(row, 'rolled_out', '.2f')} "
            f"| {row['coverage_soft']:.2f} | {row['coverage_hard']:.2f} "
            f"| {row['logprob_per_token']:.2f} |"
        )
    for row in rows:
        shares = row.get("shares_of_candidates")
        if shares:
            parts = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
            lines += [
                "",
                f"{row['setting']}, {row['mode']}, of all candidates: {parts}.",
            ]
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
        raise MissingPart("was measured without --sweep")
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
    return [*lines, "", _search_source(result, source)]


def search_ablation(result: dict[str, Any], source: str) -> list[str]:
    """The exact mode without some of its tricks."""
    if not result.get("ablation"):
        raise MissingPart("was measured without --ablation")
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
    return [*lines, "", _search_source(result, source)]


def _ablation_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if "refused" in row:
        return "not possible"
    return f"{row['slowdown']:.2f} ({row['forward_tokens_per_token']:.1f})"


# Benchmark and variant, as a marker names it, to what writes it.
SECTIONS: dict[tuple[str, str], Callable[[dict[str, Any], str], list[str]]] = {
    ("commongen", ""): commongen_section,
    ("engine", ""): engine_section,
    ("fidelity", ""): fidelity_section,
    ("scaling", ""): scaling_section,
    ("search", ""): search_section,
    ("search", "headline"): search_headline,
    ("search", "sweep"): search_sweep,
    ("search", "ablation"): search_ablation,
}
