"""What the points of a sweep share: a sweep beside separate runs of its points.

    python -m benchmarks.sweep --data DEV.jsonl -n 6 --json OUT

Data as for `benchmarks.commongen`. Each item is swept over reward weights and
lookaheads, and then generated once for every point, so that both meet the same state of
the machine; that the texts and scores are the same is checked. Tokens are those that
the model evaluated, seconds those of the processor, all threads together.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import deal
from benchmarks import common
from benchmarks.commongen import read_items
from deal.demo import prompt_for, warm_up

GRID = {"reward_weight": [0.5, 1.0, 2.0, 4.0, 8.0], "lookahead": [8, 16]}


def measure_item(
    lm: deal.Model, item: dict[str, Any], search: deal.Search, max_new_tokens: int
) -> dict[str, Any]:
    """Seconds and tokens of both ways; an error where they do not agree."""
    concepts = item["concepts"]
    messages = [{"role": "user", "content": prompt_for(concepts)}]
    rewards = deal.rewards.Keywords(list(concepts))
    start = time.process_time()
    found = deal.sweep(
        lm,
        [messages],
        GRID,
        rewards=rewards,
        search=search,
        max_new_tokens=max_new_tokens,
    )
    row = {"id": item["id"], "sweep_seconds": time.process_time() - start}
    row |= {
        "sweep_tokens": found.n_forward_tokens,
        "recalled_tokens": found.n_recalled_tokens,
        "separate_tokens": 0,
    }
    start = time.process_time()
    for outcome in found.outcomes:
        r = lm.chat(
            messages,
            rewards=rewards,
            search=replace(search, **outcome.point),
            max_new_tokens=max_new_tokens,
        )
        if (r.text, r.score) != (outcome.text, outcome.score):
            raise AssertionError(f"{item['id']}, {outcome.point}: not the same text")
        row["separate_tokens"] += r.stats.n_forward_tokens
    row["separate_seconds"] = time.process_time() - start
    return row


def summary_of(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Medians over the items of separate runs over the sweep."""
    ratios = {
        what: [row[f"separate_{what}"] / row[f"sweep_{what}"] for row in rows]
        for what in ("tokens", "seconds")
    }
    return {
        f"{what}_ratio_{name}": of(values)
        for what, values in ratios.items()
        for name, of in (("median", statistics.median), ("min", min), ("max", max))
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, measure, and return the result document."""
    items = read_items(arguments.data, arguments.n, None)
    search = deal.Search(top_k=arguments.top_k)
    lm = deal.load(arguments.model, threads=arguments.threads)
    warm_up(lm)
    rows = [
        measure_item(lm, item, search, arguments.max_new_tokens)
        for item in tqdm(items, unit="item", desc="sweep")
    ]
    return {
        "benchmark": "sweep",
        "environment": common.environment(),
        "settings": {
            "model": arguments.model,
            **common.what_was_run(lm, arguments.data),
            "n": arguments.n,
            "top_k": arguments.top_k,
            "max_new_tokens": arguments.max_new_tokens,
            "grid": GRID,
        },
        "summary": summary_of(rows),
        "items": rows,
    }


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="JSON lines with forms"
    )
    parser.add_argument("-n", type=int, default=6, help="items (default %(default)s)")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    result = run(arguments)
    for name, value in result["summary"].items():
        print(f"{name:24}{value:8.2f}")
    if arguments.json is not None:
        common.write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
