"""What steering costs: the exact search beside plain decoding and naive searches.

    python -m benchmarks.search --data DEV.jsonl --json OUT \\
        --head-data TRAIN.jsonl --sweep --ablation --modes --plot FOLDER

*Slowdown* is wall time per generated token over that of plain greedy decoding of the
same prompt, prompt included, median over the items; plain decoding runs before every
other run and each side counts with its median. CommonGen's prompts, words and forms, as
in benchmarks.commongen; some items are also decoded with the paper's loop as
written, here and over llama.cpp (benchmarks.llama_deal), a process that sleeps
meanwhile. Where both modes of ours ran, tokens and scores must be equal: the result
lists what is not, and the exit code is 1.

``--head-data`` adds a row whose reward is a linear head over the model's hidden states,
fitted on labelled texts as in benchmarks.heads.
``--sweep`` varies one setting at a time, ``--ablation`` switches off each of the exact
mode's tricks, and all but it, ``--modes`` decodes in other ways that spend about as
much. ``--plot FOLDER`` draws what was measured and needs matplotlib. What each row
should cost, by benchmarks.cost_model, stands beside what it did.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import deal
from benchmarks import common, heads, search_plots, search_runs, thinned
from benchmarks.commongen import read_items
from benchmarks.cost_model import Curve, measure_curve
from benchmarks.search_report import report
from benchmarks.search_runs import PLAIN, Job, keywords
from benchmarks.search_settings import (
    LLAMA,
    MODES,
    NAIVE,
    SETTINGS,
    SMALL,
    Setting,
    head_setting,
    sweep_settings,
)
from benchmarks.worker import Worker
from deal.demo import PROMPT, WORD_SETS, prompt_for, warm_up

# --- the parts ------------------------------------------------------------------------


def jobs_of(
    lm: deal.Model,
    arguments: argparse.Namespace,
    settings: Sequence[Setting] = SETTINGS,
) -> list[Job]:
    """The table's runs: every setting in the measured mode, and naively."""
    counts = {arguments.mode: (arguments.n, arguments.rounds)}
    counts.setdefault(NAIVE, (arguments.n_naive, 1))
    return [
        setting.job(lm, mode, n, rounds)
        for setting in settings
        for mode, (n, rounds) in counts.items()
    ]


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
    settings: Sequence[Setting] = SETTINGS,
) -> list[dict[str, Any]]:
    """Records of all items, settings and modes."""

    def after(i_item: int, item: Mapping[str, Any], ours: dict) -> dict:
        if worker is None or worker.facts is None or i_item >= arguments.n_llama:
            return {}
        return llama_runs(worker, lm, item, ours, arguments.max_new_tokens)

    jobs = jobs_of(lm, arguments, settings)
    limit = arguments.max_new_tokens
    return search_runs.measure(lm, items, jobs, limit, "table", after)


def rows_of(
    records: Sequence[dict[str, Any]],
    mode: str,
    curve: Curve | None = None,
    settings: Sequence[Setting] = SETTINGS,
) -> list[dict[str, Any]]:
    """One row for plain decoding, and one for each setting and mode."""
    rows = [search_runs.summary(records, PLAIN, curve)]
    for setting in settings:
        goals = {"goal": setting.goal, "goal_times": setting.goal_times}
        for each in dict.fromkeys((mode, NAIVE, LLAMA)):
            key = (setting.name, each)
            if not search_runs.pick(records, key):
                continue
            row = search_runs.summary(records, key, curve)
            row["search"] = setting.search
            if each == mode:
                row |= goals
            if each == LLAMA:
                row["times"] = search_runs.times(records, key, (setting.name, mode))
                row |= search_runs.agreement(records, key, (setting.name, NAIVE))
            rows.append(row)
    return rows


def differences(
    records: Sequence[dict[str, Any]],
    mode: str,
    settings: Sequence[Setting] = SETTINGS,
) -> dict[str, Any]:
    """Where the measured mode and the naive one took other tokens or scores."""
    n, found = 0, []
    for setting in settings if mode != NAIVE else ():
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
    lm: deal.Model,
    items: Sequence[dict[str, Any]],
    arguments: argparse.Namespace,
    curve: Curve | None = None,
) -> list[dict[str, Any]]:
    """Slowdown against one setting at a time, from the first row of the table."""
    n = arguments.n_sweep
    counts = {arguments.mode: n}
    counts.setdefault(NAIVE, min(2, n))
    jobs = {
        job.key: job
        for _, setting in sweep_settings()
        for mode, n_item in counts.items()
        for job in [setting.job(lm, mode, n_item, 1)]
    }
    limit = arguments.max_new_tokens
    records = search_runs.measure(lm, items[:n], list(jobs.values()), limit, "sweep")
    return [
        {"against": axis, "value": value}
        | search_runs.summary(records, (setting.name, mode), curve)
        for (axis, value), setting in sweep_settings()
        for mode in counts
    ]


def run_ablation(
    lm: deal.Model,
    items: Sequence[dict[str, Any]],
    arguments: argparse.Namespace,
    curve: Curve | None = None,
) -> list[dict[str, Any]]:
    """All tricks, and all but each; at the first two settings also each alone and
    none."""
    names = [switch.name for switch in fields(deal.Exact)]
    n, rounds = arguments.n_ablation, arguments.rounds
    jobs = []
    for i, setting in enumerate(SETTINGS):
        for variant, values in search_runs.variants(names):
            is_cheap = variant == "all" or variant.startswith("all but")
            if i >= 2 and not is_cheap:
                continue
            exact = {"exact": deal.Exact(**values)}
            job = setting.job(lm, arguments.mode, n, rounds, exact)
            jobs.append(replace(job, key=(setting.name, variant)))
    limit = arguments.max_new_tokens
    records = search_runs.measure(lm, items[:n], jobs, limit, "ablation")
    return [
        search_runs.summary(records, job.key, curve)
        | {"setting": job.key[0], "variant": job.key[1]}
        for job in jobs
    ]


@contextmanager
def thinned_settings(lm: deal.Model) -> Iterator[list[Setting]]:
    """Rows in which copies of the model without some of its layers roll out."""
    n_layer = lm.hparams.n_layer
    pairs = thinned.completions(lm, WORD_SETS, 32)
    texts = [[*prompt, *tokens] for prompt, tokens in pairs]
    settings = []
    with tempfile.TemporaryDirectory() as folder:
        for n in (n_layer - 2, n_layer - n_layer // 3):
            path = Path(folder) / f"{n}.gguf"
            thinned.thin(lm.path, path, thinned.most_turning(lm, texts, n))
            other = deal.load(path, compute=lm.compute, threads=lm.threads)
            name = f"rollouts by {n} of {n_layer} layers"
            settings.append(Setting(name, keywords, SMALL | {"rollout_model": other}))
        yield settings


def run_modes(
    lm: deal.Model,
    items: Sequence[dict[str, Any]],
    arguments: argparse.Namespace,
    curve: Curve | None = None,
) -> list[dict[str, Any]]:
    """Quality and speed of other ways to decode, beside the measured mode's.

    ``score`` is that of the first row's search for all of them, whatever they rank by
    themselves: log-prob and weighted share of words, mean over the items.
    """
    n = arguments.n_modes
    limit = arguments.max_new_tokens
    with thinned_settings(lm) as more:
        jobs = [s.job(lm, arguments.mode, n, 1) for s in (*MODES, *more)]
        records = search_runs.measure(lm, items[:n], jobs, limit, "modes")
    rows = []
    for key in (PLAIN, *(job.key for job in jobs)):
        runs = search_runs.pick(records, key).values()
        scores = [
            r["logprob"] + SMALL["reward_weight"] * r["coverage_soft"] for r in runs
        ]
        row = search_runs.summary(records, key, curve)
        rows.append(row | {"score": statistics.fmean(scores)})
    return rows


# --- the run --------------------------------------------------------------------------


@contextmanager
def open_llama(lm: deal.Model, arguments: argparse.Namespace) -> Iterator[Any]:
    """The process of the search over llama.cpp, or None where none is wanted."""
    if arguments.peers == "none" or arguments.n_llama == 0:
        yield None
        return
    path = arguments.llama_model or lm.path
    command = ["benchmarks.llama_deal", "--serve", "--model", str(path)]
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
    settings = SETTINGS
    if arguments.head_data is not None:
        settings += (head_setting(heads.sentiment_head(lm, arguments.head_data)),)
    curve = measure_curve(lm)
    with open_llama(lm, arguments) as worker:
        records = measure_table(lm, items, arguments, worker, settings)
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
            "llama_model": getattr(arguments.llama_model, "name", lm.path.name),
        },
        "llama.cpp": facts,
        "cost": curve.as_dict(),
        "rows": rows_of(records, arguments.mode, curve, settings),
        "check": differences(records, arguments.mode, settings),
        "items": records,
    }
    parts = {"sweep": run_sweep, "ablation": run_ablation, "modes": run_modes}
    for name, measure in parts.items():
        if getattr(arguments, name):
            result[name] = measure(lm, items, arguments, curve)
    return result


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, help="JSON lines with forms")
    parser.add_argument(
        "--head-data", type=Path, help="labelled texts for a row with a head"
    )
    parser.add_argument("-n", "--n", type=int, default=40, help="items")
    parser.add_argument("--n-naive", type=int, default=8, help="items, naive mode")
    parser.add_argument("--n-llama", type=int, default=4, help="items, llama.cpp")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each item")
    parser.add_argument("--mode", default="exact", help="of deal.Search, measured")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="auto", choices=("auto", "none"))
    parser.add_argument(
        "--llama-model", type=Path, help="GGUF of the same weights that is faster there"
    )
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--n-sweep", type=int, default=6, help="items of the sweep")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--n-ablation", type=int, default=8, help="items of it")
    parser.add_argument("--modes", action="store_true")
    parser.add_argument("--n-modes", type=int, default=40, help="items of the modes")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--plot", type=Path, help="folder for the plots")
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
    least |= {"n_sweep": 1, "n_ablation": 1, "n_modes": 1}
    for name, low in least.items():
        if getattr(arguments, name) < low:
            parser.error(f"--{name.replace('_', '-')}: expected at least {low}")
    parts = (arguments.sweep, arguments.ablation, arguments.modes)
    if arguments.plot is not None and not any(parts):
        parser.error("--plot: draws what --sweep, --ablation and --modes measure")
    try:
        deal.Search(mode=arguments.mode)
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
        search_plots.draw(result, arguments.plot)
    return int(bool(result["check"]["differences"]))


if __name__ == "__main__":
    sys.exit(main())
