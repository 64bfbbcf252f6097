"""Hard constraints: what a mask costs a token, and how often the form is met.

    python -m benchmarks.constraints --json OUT

The same prompts are decoded without a constraint and with each of constraints(),
greedily and searched with keywords, in turns; seconds of processor time per token after
the first, as a multiple of those of the same decoding without. "any text" forbids
nothing but special tokens, so that the text stays what it was and the ratio is the cost
of masks alone; the others change the text, and their forced tokens make rollouts
shorter.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import deal
from benchmarks import common
from deal.demo import WORD_SETS, prompt_for
from deal.rewards import JsonSchema, Keywords, Regex

MODES = ("greedy", "exact", "naive")
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "sentence": {"type": "string", "maxLength": 120},
    },
    "required": ["title", "sentence"],
    "additionalProperties": False,
}
SEARCH = {"top_k": 5, "lookahead": 16, "reward_weight": 4.0}


def constraints() -> dict[str, Any]:
    """By name; None is no constraint."""
    return {
        "none": None,
        "any text": Regex(r"(?s:.*)"),
        "one sentence": Regex(r"[A-Z][a-z]*( [a-z]+,?)+\."),
        "JSON of a schema": JsonSchema(SCHEMA, whitespace_flexible=False),
    }


def decode(
    lm: deal.Model, words: Any, mode: str, constraint: Any, max_new_tokens: int
) -> dict[str, Any]:
    """One text, and what it cost."""
    options: dict[str, Any] = {}
    if mode != "greedy":
        options["rewards"] = Keywords(words.values())
        options["search"] = deal.Search(mode=mode, **SEARCH)
    seconds = []
    for n in (1, max_new_tokens):  # the first run is what the second one starts with
        start = time.process_time()
        r = lm.chat(
            [{"role": "user", "content": prompt_for(words)}],
            constraint=constraint,
            max_new_tokens=n,
            **options,
        )
        seconds.append(time.process_time() - start)
    n_token = len(r.token_ids)
    is_met = constraint is None or constraint.score([r.text]) == [1.0]
    return {
        "token_ids": list(r.token_ids),
        "seconds_token": (seconds[1] - seconds[0]) / max(1, n_token - 1),
        "passes_token": r.stats.n_forward_passes / n_token,
        "is_stopped": r.finish_reason == "stop",
        "is_sound": is_met or r.finish_reason == "length",
    }


def measure(
    lm: deal.Model, mode: str, n: int, rounds: int, max_new_tokens: int
) -> list[dict[str, Any]]:
    """A row for each constraint: medians over rounds, then over items."""
    forms = constraints()
    runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in forms}
    for words in tqdm(WORD_SETS[:n], desc=mode, leave=False):
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in forms}
        for i_round in range(rounds + 1):  # the first one warms up
            for name, constraint in forms.items():
                run = decode(lm, words, mode, constraint, max_new_tokens)
                if i_round:
                    found[name].append(run)
        for name, each in found.items():
            runs[name].append(each)
    base = [median_of(item, "seconds_token") for item in runs["none"]]
    rows = []
    for name, items in runs.items():
        seconds = [median_of(item, "seconds_token") for item in items]
        pairs = zip(items, runs["none"], strict=True)
        rows.append(
            {
                "mode": mode,
                "constraint": name,
                "seconds_token": statistics.median(seconds),
                "of_none": statistics.median(
                    a / b for a, b in zip(seconds, base, strict=True)
                ),
                "passes_token": statistics.median(
                    median_of(item, "passes_token") for item in items
                ),
                "n_same_text": sum(
                    a[0]["token_ids"] == b[0]["token_ids"] for a, b in pairs
                ),
                "n_stopped": sum(item[0]["is_stopped"] for item in items),
                "n_sound": sum(item[0]["is_sound"] for item in items),
                "n": len(items),
            }
        )
    return rows


def median_of(runs: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.constraints", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=["greedy", "exact"]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-n", type=int, default=5, help="word sets")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.n < 1:
        parser.error("--rounds and -n: expected at least 1")
    lm = deal.load(arguments.model, threads=arguments.threads)
    rows = []
    for mode in arguments.modes:
        shape = (arguments.n, arguments.rounds, arguments.max_new_tokens)
        rows += measure(lm, mode, *shape)
    settings = {
        "model": arguments.model,
        "model_file": lm.path.name,
        "compute": lm.compute,
        "threads": lm.threads,
        "n": len(WORD_SETS[: arguments.n]),
        "rounds": arguments.rounds,
        "max_new_tokens": arguments.max_new_tokens,
        "search": SEARCH,
    }
    for row in rows:
        print(row)
    if arguments.json is not None:
        environment = common.environment()
        environment["versions"]["llguidance"] = metadata.version("llguidance")
        common.write_json(
            arguments.json,
            {
                "benchmark": "constraints",
                "settings": settings,
                "rows": rows,
                "environment": environment,
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
