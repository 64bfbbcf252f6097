"""CommonGen: sentences that use all given words, plain greedy against DeAL.

    python -m benchmarks.commongen --data DEV.jsonl -n 24 --top-k 5 --lookahead 16 \
        --reward-weight 4 --json OUT

Data: one JSON record a line with ``id``, ``concepts`` (words) and ``forms`` (word ->
accepted lower-case inflections). Lin et al., "CommonGen: A Constrained Text Generation
Challenge for Generative Commonsense Reasoning", Findings of EMNLP 2020.

Coverage is counted by a regular expression on whole words, not by the native reward
that steers the search. *Soft* is the mean share of words used, *hard* the share of
items with all words used. Each item is decoded greedily and then with DeAL, so that
both meet the same state of the machine; times are wall times of the whole call.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import deal
from benchmarks import common
from deal.demo import PROMPT, Run, compare, prompt_for, slowdown, summarise, warm_up


def read_items(path: Path, n: int, seed: int | None) -> list[dict[str, Any]]:
    """The first `n` records, or `n` drawn with `seed`.

    Raises
    ------
    ValueError
        If a record has no forms for one of its concepts, or there are fewer than `n`.
    """
    items = []
    with path.open(encoding="utf-8") as file:
        for i_line, line in enumerate(file, 1):
            record = json.loads(line)
            forms = record.get("forms") or {}
            missing = [c for c in record["concepts"] if not forms.get(c)]
            if missing:
                raise ValueError(f"{path}, line {i_line}: no forms for {missing}")
            concepts = {c: tuple(forms[c]) for c in record["concepts"]}
            items.append({"id": record["id"], "concepts": concepts})
    if len(items) < n:
        raise ValueError(f"{path}: expected at least {n} records, got {len(items)}")
    return items[:n] if seed is None else random.Random(seed).sample(items, n)


def measure(
    lm: deal.Model,
    items: Sequence[dict[str, Any]],
    search: deal.Search,
    max_new_tokens: int,
) -> list[tuple[Run, Run]]:
    """Decode every item both ways; a progress bar on stderr tells where it is."""
    pairs: list[tuple[Run, Run]] = []
    with tqdm(items, unit="item", desc="commongen") as bar:
        for item in bar:
            plain, steered = compare(lm, item["concepts"], search, max_new_tokens)
            pairs.append((plain, steered))
            hard = summarise(pairs)["deal"]["coverage_hard"]
            bar.set_postfix(hard=f"{hard:.2f}", slowdown=f"{slowdown(*pairs[-1]):.0f}")
    return pairs


def summary_of(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    """`deal.demo.summarise`, and what the search did for it."""
    summary = summarise(pairs)
    ratios = sorted(slowdown(*pair) for pair in pairs)
    summary["slowdown_min"], summary["slowdown_max"] = ratios[0], ratios[-1]
    for key, index in (("plain", 0), ("deal", 1)):
        runs = [pair[index] for pair in pairs]
        row = summary[key]
        for name in runs[0].stats:
            row[name] = sum(run.stats[name] for run in runs)
        row["finished"] = statistics.fmean(run.finish_reason == "stop" for run in runs)
    decode = [
        (summary[key]["seconds"] - summary[key]["seconds_prefill"])
        / summary[key]["n_tokens"]
        for key in ("plain", "deal")
    ]
    summary["slowdown_decode"] = decode[1] / decode[0]  # without the prompt's share
    return summary


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, measure, and return the result document."""
    items = read_items(arguments.data, arguments.n, arguments.seed)
    search = deal.Search(
        top_k=arguments.top_k,
        lookahead=arguments.lookahead,
        reward_weight=arguments.reward_weight,
        num_beams=arguments.num_beams,
        mode=arguments.mode,
    )
    lm = deal.load(
        arguments.model, compute=arguments.compute, threads=arguments.threads
    )
    memory_loaded = common.peak_memory()
    warm_up(lm)
    pairs = measure(lm, items, search, arguments.max_new_tokens)
    rows = [
        {
            "id": item["id"],
            "prompt": prompt_for(item["concepts"]),
            "plain": plain.as_dict(),
            "deal": steered.as_dict(),
            "slowdown": slowdown(plain, steered),
        }
        for item, (plain, steered) in zip(items, pairs, strict=True)
    ]
    return {
        "benchmark": "commongen",
        "environment": common.environment(),
        "settings": {
            "model": arguments.model,
            **common.what_was_run(lm, arguments.data),
            "n": arguments.n,
            "seed": arguments.seed,
            "max_new_tokens": arguments.max_new_tokens,
            "prompt": PROMPT,
            "search": asdict(search),
        },
        "summary": summary_of(pairs),
        "memory": {"peak_loaded": memory_loaded, "peak": common.peak_memory()},
        "items": rows,
    }


def report(result: dict[str, Any]) -> str:
    """The summary as a few lines of text."""
    summary = result["summary"]
    lines = [f"{'':14}{'soft':>8}{'hard':>8}{'log-prob/token':>16}{'tokens/s':>10}"]
    for key, name in (("plain", "plain greedy"), ("deal", "DeAL")):
        row = summary[key]
        lines.append(
            f"{name:14}{row['coverage_soft']:8.3f}{row['coverage_hard']:8.3f}"
            f"{row['logprob_per_token']:16.3f}{row['tokens_per_second']:10.2f}"
        )
    lines.append(
        f"slowdown: median {summary['slowdown_median']:.1f}, total "
        f"{summary['slowdown_total']:.1f}, without the prompt "
        f"{summary['slowdown_decode']:.1f}"
    )
    if result["memory"]["peak"]:
        lines.append(f"peak memory: {result['memory']['peak'] / 1e6:.0f} MB")
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.commongen", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="JSON lines with forms"
    )
    parser.add_argument("-n", type=int, default=24, help="items (default %(default)s)")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--lookahead", type=int, default=16)
    parser.add_argument("--reward-weight", type=float, default=4.0)
    parser.add_argument("--num-beams", type=int, default=1)
    parser.add_argument("--mode", default=deal.Search().mode, help="of deal.Search")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--compute", default="auto", choices=("auto", "int8", "f32"))
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--seed", type=int, help="draw the items with this seed; default: the first n"
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args(argv)
    if arguments.n < 1:
        parser.error("-n: expected at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    result = run(arguments)
    print(report(result))
    if arguments.json is not None:
        common.write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
