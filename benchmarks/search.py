"""What steering costs: the exact search beside plain decoding and naive searches.

    python -m benchmarks.search --data DEV.jsonl --json OUT [--sweep] [--ablation]

*Slowdown* is wall time per generated token over that of plain greedy decoding of the
same prompt, prompt included, median over the items; plain decoding runs before every
other run and each side counts with its median. CommonGen's prompts, words and forms, as
in benchmarks.commongen; some items are also decoded with the paper's loop as
written, here and over llama.cpp (benchmarks.llama_deal), a process that sleeps
meanwhile. Where both modes of ours ran, tokens and scores must be equal: the result
lists what is not, and the exit code is 1.

``--sweep`` varies one setting at a time, ``--ablation`` switches off each of the exact
mode's tricks, and all but it. ``--plot FOLDER`` draws the sweep and needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deal
from benchmarks import common, search_runs
from benchmarks.commongen import read_items
from benchmarks.search_runs import PLAIN, Job, keywords, ranged, unbounded
from benchmarks.worker import Worker
from deal.demo import PROMPT, prompt_for, warm_up

NAIVE, LLAMA = "naive", "llama.cpp naive"


@dataclass(frozen=True)
class Setting:
    """One row of the table: a search, its reward, and the goal for its slowdown.

    Attributes
    ----------
    name : str
    reward : callable
        Concepts of an item to a reward.
    search : dict
        Keywords of `deal.Search`.
    goal : float
        Slowdown of the exact mode to reach.
    goal_times : float or None
        How often faster than the naive search over llama.cpp.
    """

    name: str
    reward: Callable[[Mapping[str, Sequence[str]]], Any] = field(repr=False)
    search: dict[str, Any]
    goal: float
    goal_times: float | None = None


SMALL = {"top_k": 5, "lookahead": 16, "reward_weight": 4.0, "num_beams": 1}
LARGE = {"top_k": 10, "lookahead": 32, "reward_weight": 10.0, "num_beams": 1}
SETTINGS = (
    Setting("keywords, k=5, l=16", keywords, SMALL, 1.7, 30),
    Setting("keywords, k=10, l=32", keywords, LARGE, 2.6, 50),
    Setting("keywords, 4 beams, k=5, l=16", keywords, SMALL | {"num_beams": 4}, 6),
    Setting("Python reward in (0, 1), k=5, l=16", ranged, SMALL, 2.5),
    Setting("Python callable, no bound, k=5, l=16", unbounded, SMALL, 8),
)
GRIDS: dict[str, tuple[float, ...]] = {
    "top_k": (2, 5, 10, 20),
    "lookahead": (4, 8, 16, 32),
    "reward_weight": (1.0, 2.0, 4.0, 10.0),
    "num_beams": (1, 2, 4, 8),
}


# --- the parts ------------------------------------------------------------------------


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """The table's runs: every setting in the measured mode, and naively."""
    jobs = []
    for setting in SETTINGS:
        counts = {arguments.mode: (arguments.n, arguments.rounds)}
        counts.setdefault(NAIVE, (arguments.n_naive, 1))
        for mode, (n, rounds) in counts.items():
            search = deal.Search(**setting.search, mode=mode)
            jobs.append(Job((setting.name, mode), setting.reward, search, n, rounds))
    return jobs


def llama_runs(
    worker: Worker,
    lm: deal.Model,
    item: Mapping[str, Any],
    ours: Mapping[search_runs.Key, dict[str, Any]],
    max_new_tokens: int,
) -> dict[search_runs.Key, dict[str, Any]]:
    """Records of one item over llama.cpp, beside `ours`. The search there does not
    care where a reward is written: settings that differ in that alone share a run."""
    messages = [{"role": "user", "content": prompt_for(item["concepts"])}]
    text = lm.tokenizer.apply_chat_template(messages)
    request = {
        "prompt": list(map(int, lm.tokenizer.encode(text, add_special_tokens=False))),
        "ends": list(map(int, lm.tokenizer.eos_token_ids)),
        "concepts": item["concepts"],
        "max_new_tokens": max_new_tokens,
    }
    found: dict[str, dict[str, Any]] = {}
    records = {}
    for setting in SETTINGS:
        key = json.dumps(setting.search)
        if key not in found:
            asked = request | {"search": setting.search}
            found[key] = search_runs.llama_record(worker.ask(asked), item)
            naive = ours.get((setting.name, NAIVE))
            if naive is not None and setting.search["num_beams"] == 1:
                ids = naive["token_ids"]
                tokens = worker.ask(asked | {"token_ids": ids})["decisions"]
                same = [a == b for a, b in zip(tokens, ids, strict=True)]
                found[key] |= {"n_compared": len(same), "n_same": sum(same)}
        records[setting.name, LLAMA] = found[key]
    return records


def measure_table(
    lm: deal.Model,
    items: Sequence[dict[str, Any]],
    arguments: argparse.Namespace,
    worker: Worker | None,
) -> list[dict[str, Any]]:
    """Records of all items, settings and modes."""

    def after(i_item: int, item: Mapping[str, Any], ours: dict) -> dict:
        if worker is None or worker.facts is None or i_item >= arguments.n_llama:
            return {}
        return llama_runs(worker, lm, item, ours, arguments.max_new_tokens)

    jobs = jobs_of(arguments)
    limit = arguments.max_new_tokens
    return search_runs.measure(lm, items, jobs, limit, "table", after)


def rows_of(records: Sequence[dict[str, Any]], mode: str) -> list[dict[str, Any]]:
    """One row for plain decoding, and one for each setting and mode."""
    rows = [search_runs.summary(records, PLAIN)]
    for setting in SETTINGS:
        goals = {"goal": setting.goal, "goal_times": setting.goal_times}
        for each in dict.fromkeys((mode, NAIVE, LLAMA)):
            key = (setting.name, each)
            if not search_runs.pick(records, key):
                continue
            row = search_runs.summary(records, key) | {"search": setting.search}
            if each == mode:
                row |= goals
            if each == LLAMA:
                row["times"] = search_runs.times(records, key, (setting.name, mode))
                row |= search_runs.agreement(records, key, (setting.name, NAIVE))
            rows.append(row)
    return rows


def differences(records: Sequence[dict[str, Any]], mode: str) -> dict[str, Any]:
    """Where the measured mode and the naive one took other tokens or scores."""
    n, found = 0, []
    for setting in SETTINGS if mode != NAIVE else ():
        theirs = search_runs.pick(records, (setting.name, NAIVE))
        ours = search_runs.pick(records, (setting.name, mode))
        for item_id in theirs.keys() & ours.keys():
            n += 1
            a, b = ours[item_id], theirs[item_id]
            differs = [k for k in ("token_ids", "logprob", "score") if a[k] != b[k]]
            if differs:
                row = {"id": item_id, "setting": setting.name, "differs": differs}
                found.append(row)
    return {"n_compared": n, "differences": sorted(found, key=lambda row: row["id"])}


def run_sweep(
    lm: deal.Model, items: Sequence[dict[str, Any]], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Slowdown against one setting at a time, from the first row of the table."""
    points = {
        json.dumps(SMALL | {axis: value}): SMALL | {axis: value}
        for axis, grid in GRIDS.items()
        for value in grid
    }
    counts = {arguments.mode: arguments.n_sweep}
    counts.setdefault(NAIVE, min(2, arguments.n_sweep))
    jobs = [
        Job((point, mode), keywords, deal.Search(**search, mode=mode), n, 1)
        for point, search in points.items()
        for mode, n in counts.items()
    ]
    chosen = items[: arguments.n_sweep]
    records = search_runs.measure(lm, chosen, jobs, arguments.max_new_tokens, "sweep")
    rows = []
    for axis, grid in GRIDS.items():
        for value in grid:
            point = json.dumps(SMALL | {axis: value})
            for mode in counts:
                row = search_runs.summary(records, (point, mode))
                rows.append({"against": axis, "value": value} | row)
    return rows


def run_ablation(
    lm: deal.Model, items: Sequence[dict[str, Any]], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Each trick alone, all but each, all and none, at the first two settings."""
    name, switches, names = search_runs.switches_of(deal.Search)
    rows: list[dict[str, Any]] = []
    jobs = []
    for setting in SETTINGS[:2]:
        for variant, values in search_runs.variants(names):
            row = {"setting": setting.name, "variant": variant}
            try:
                tricks = {name: switches(**values)}
                search = deal.Search(**setting.search, mode=arguments.mode, **tricks)
            except ValueError as error:  # tricks that need another one
                rows.append(row | {"refused": str(error)})
                continue
            key = (setting.name, variant)
            n = arguments.n_ablation
            jobs.append(Job(key, setting.reward, search, n, arguments.rounds))
    chosen = items[: arguments.n_ablation]
    limit = arguments.max_new_tokens
    records = search_runs.measure(lm, chosen, jobs, limit, "ablation")
    for job in jobs:
        row = search_runs.summary(records, job.key)
        rows.append(row | {"setting": job.key[0], "variant": job.key[1]})
    return rows


# --- the run --------------------------------------------------------------------------


@contextmanager
def open_llama(lm: deal.Model, arguments: argparse.Namespace) -> Iterator[Any]:
    """The process of the search over llama.cpp, or None where none is wanted."""
    if arguments.peers == "none" or arguments.n_llama == 0:
        yield None
        return
    command = ["benchmarks.llama_deal", "--serve", "--model", str(lm.path)]
    command += ["--threads", str(lm.threads)]
    worker = Worker(LLAMA, command, lm.threads)
    try:
        yield worker
    finally:
        worker.close()


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, measure, and return the result document."""
    items = read_items(arguments.data, arguments.n, None)
    lm = deal.load(arguments.model, compute="int8", threads=arguments.threads)
    warm_up(lm)
    with open_llama(lm, arguments) as worker:
        records = measure_table(lm, items, arguments, worker)
        facts = {"missing": "not measured"}
        if worker is not None:
            facts = worker.facts or {"missing": "not installed"}
    result = {
        "benchmark": "search",
        "environment": common.environment(),
        "settings": {
            "model": arguments.model,
            **common.what_was_run(lm, arguments.data),
            "n": arguments.n,
            "rounds": arguments.rounds,
            "max_new_tokens": arguments.max_new_tokens,
            "prompt": PROMPT,
            "mode": arguments.mode,
        },
        "llama.cpp": facts,
        "rows": rows_of(records, arguments.mode),
        "check": differences(records, arguments.mode),
        "items": records,
    }
    if arguments.sweep:
        result["sweep"] = run_sweep(lm, items, arguments)
    if arguments.ablation:
        result["ablation"] = run_ablation(lm, items, arguments)
    return result


def report(result: dict[str, Any]) -> str:
    """The tables as text."""
    head = f"{'setting':38}{'mode':17}{'n':>4}{'slower':>8}{'ms/tok':>8}{'fwd/tok':>9}"
    lines = [head + f"{'top wins':>10}{'soft':>6}{'hard':>6}"]

    def line(row: dict[str, Any], name: str) -> str:
        wins = f"{row['top_wins']:.2f}" if row.get("top_wins") is not None else ""
        text = f"{name:38}{row['mode']:17}{row['n']:4}{row['slowdown']:8.2f}"
        text += f"{1e3 * row['seconds_per_token']:8.1f}"
        text += f"{row['forward_tokens_per_token']:9.1f}{wins:>10}"
        return text + f"{row['coverage_soft']:6.2f}{row['coverage_hard']:6.2f}"

    for row in result["rows"]:
        lines.append(line(row, row["setting"]))
        if row.get("goal"):
            lines[-1] += f"  goal {row['goal']:g}"
        if row.get("times"):
            lines[-1] += f"  {row['times']:.1f} times ours"
            if row.get("same_text") is not None:
                lines[-1] += f", same text {row['same_text']:.2f}"
            if row.get("same_decisions") is not None:
                lines[-1] += f", same decisions {row['same_decisions']:.2f}"
    for row in result.get("sweep", ()):
        lines.append(line(row, f"{row['against']}={row['value']:g}"))
    for row in result.get("ablation", ()):
        name = f"{row['setting']}: {row['variant']}"
        refused = row.get("refused")
        lines.append(f"{name}: {refused}" if refused else line(row, name))
    check = result["check"]
    lines.append(f"equal to naive: {check['n_compared']} texts compared")
    lines += [f"DIFFERS: {row}" for row in check["differences"]]
    return "\n".join(lines)


def plot(result: dict[str, Any], folder: Path) -> None:
    """``search-sweep.svg``: slowdown against each setting that was varied."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "deal"
    folder.mkdir(parents=True, exist_ok=True)
    figure, panels = pyplot.subplots(2, 2, figsize=(8, 6), sharey=True)
    for axes, (axis, grid) in zip(panels.flat, GRIDS.items(), strict=True):
        rows = [row for row in result["sweep"] if row["against"] == axis]
        for mode in dict.fromkeys(row["mode"] for row in rows):
            points = [row for row in rows if row["mode"] == mode]
            x = [row["value"] for row in points]
            axes.plot(x, [row["slowdown"] for row in points], marker="o", label=mode)
        axes.set(xscale="log", yscale="log", xlabel=axis)
        axes.set_xticks(grid, [f"{value:g}" for value in grid])
        axes.minorticks_off()
        ticks = (1, 2, 5, 10, 20, 50, 100)
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=1)
    panels[0, 0].legend()
    for axes in panels[:, 0]:
        axes.set_ylabel("times plain decoding")
    path = folder / "search-sweep.svg"
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, help="JSON lines with forms")
    parser.add_argument("-n", "--n", type=int, default=40, help="items")
    parser.add_argument("--n-naive", type=int, default=8, help="items, naive mode")
    parser.add_argument("--n-llama", type=int, default=4, help="items, llama.cpp")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each item")
    parser.add_argument("--mode", default="exact", help="of deal.Search, measured")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="auto", choices=("auto", "none"))
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--n-sweep", type=int, default=6, help="items of the sweep")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--n-ablation", type=int, default=8, help="items of it")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--plot", type=Path, help="folder for the plot of the sweep")
    parser.add_argument(
        "--from-json", type=Path, help="draw an earlier result and measure nothing"
    )
    arguments = parser.parse_args(argv)
    if arguments.from_json is None:
        _check(parser, arguments)
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.data is None:
        parser.error("--data: expected a file of CommonGen records")
    least = {"n": 1, "n_naive": 0, "n_llama": 0, "rounds": 1}
    least |= {"n_sweep": 1, "n_ablation": 1}
    for name, low in least.items():
        if getattr(arguments, name) < low:
            parser.error(f"--{name.replace('_', '-')}: expected at least {low}")
    if arguments.plot is not None and not arguments.sweep:
        parser.error("--plot: draws what --sweep measures")
    try:
        deal.Search(mode=arguments.mode)
        if arguments.ablation:
            search_runs.switches_of(deal.Search)
    except ValueError as error:
        parser.error(str(error))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if arguments.from_json is not None:
        result = json.loads(arguments.from_json.read_text(encoding="utf-8"))
    else:
        result = run(arguments)
    print(report(result))
    if arguments.json is not None:
        common.write_json(arguments.json, result)
    if arguments.plot is not None:
        plot(result, arguments.plot)
    return int(bool(result["check"]["differences"]))


if __name__ == "__main__":
    sys.exit(main())
