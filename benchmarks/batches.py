"""Several prompts at a time: tokens a second against the size of the batch.

    python -m benchmarks.batches --json OUT

The same prompts are generated with batch_size 1, which is one after the other, and
more, in turns: greedily, by beam search, drawn, and searched with keywords. Every text
and log-prob must be that of batch_size 1, or the run ends with an error.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import deal
from benchmarks import common
from deal.demo import WORD_SETS, prompt_for
from deal.rewards import Keywords

SIZES = (1, 2, 4, 8, 16, 32)
SEARCH = {"top_k": 5, "lookahead": 16, "reward_weight": 4.0}


def modes() -> dict[str, dict[str, Any]]:
    """Keywords of ``generate`` by name."""
    words = Keywords(["dog", "river", "sun", "bread"])
    return {
        "greedy": {},
        "drawn": {"sampling": deal.Sampling(temperature=1.0, seed=1)},
        "4 beams": {"num_beams": 4},
        "DeAL, exact": {"rewards": words, "search": deal.Search(**SEARCH)},
    }


def prompts_of(lm: deal.Model, n: int) -> list[list[int]]:
    """Token ids of chats that begin alike and then differ."""
    asked = [prompt_for(WORD_SETS[i % len(WORD_SETS)]) for i in range(n)]
    texts = [f"{text} It is sentence {i} of a story." for i, text in enumerate(asked)]
    render, encode = lm.tokenizer.apply_chat_template, lm.tokenizer.encode
    chats = [render([{"role": "user", "content": text}]) for text in texts]
    return [encode(chat, add_special_tokens=False) for chat in chats]


def run_once(
    lm: deal.Model, prompts: list[list[int]], size: int, options: dict[str, Any]
) -> tuple[float, int, list[Any]]:
    """Seconds, tokens evaluated, and what must not depend on `size`."""
    n_before, start = lm.n_forward_tokens, time.perf_counter()
    found = lm.generate(prompts, batch_size=size, eos_token_id=[], **options)
    seconds = time.perf_counter() - start
    results = [(r.token_ids, r.logprob, r.score) for r in found]
    return seconds, lm.n_forward_tokens - n_before, results


def measure(
    lm: deal.Model, mode: str, n: int, rounds: int, max_new_tokens: int
) -> list[dict[str, Any]]:
    """A row for each size: medians over rounds in turns."""
    prompts = prompts_of(lm, n)
    options = modes()[mode] | {"max_new_tokens": max_new_tokens}
    sizes = [size for size in SIZES if size <= n]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    tokens: dict[int, list[int]] = {size: [] for size in sizes}
    expected = run_once(lm, prompts, 1, options)[2]  # warms up
    for _ in tqdm(range(rounds), desc=mode, leave=False):
        for size in sizes:
            time_taken, n_token, results = run_once(lm, prompts, size, options)
            if results != expected:
                raise AssertionError(f"{mode}: batch_size={size} changed a text")
            seconds[size].append(time_taken)
            tokens[size].append(n_token)
    n_new = n * max_new_tokens
    return [
        {
            "mode": mode,
            "batch_size": size,
            "tokens_s": n_new / statistics.median(seconds[size]),
            "gain": statistics.median(
                one / many for one, many in zip(seconds[1], seconds[size], strict=True)
            ),
            "forward_tokens_token": statistics.median(tokens[size]) / n_new,
        }
        for size in sizes
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batches", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--modes", nargs="+", choices=modes(), default=list(modes()))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-n", type=int, default=32, help="prompts")
    parser.add_argument("--max-new-tokens", type=int, default=24)
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
        "n": arguments.n,
        "rounds": arguments.rounds,
        "max_new_tokens": arguments.max_new_tokens,
        "search": SEARCH,
    }
    for row in rows:
        print(row)
    if arguments.json is not None:
        common.write_json(
            arguments.json,
            {
                "benchmark": "batches",
                "settings": settings,
                "rows": rows,
                "environment": common.environment(),
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
