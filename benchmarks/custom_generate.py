"""Speed of `deal.hf.custom_generate` beside transformers' greedy decoding.

    python -m benchmarks.custom_generate --data DEV.jsonl -n 3 --rounds 5 \\
        --threads 1 --json benchmarks/results/custom_generate.json

Data as for `benchmarks.commongen`. One torch model, of the weights of a GGUF file at
f32, writes greedily by transformers and by the search without rewards, and with DeAL in
modes "naive" and "exact"; the engine does the same over the same floats, and in int8
over the file. The ways take turns in every round, after one that is not counted and
writes two tokens. Passes are forward passes of the model, whatever their batch; times
are wall times of the whole call. A ratio is of tokens per second in one round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import deal
from benchmarks import common
from benchmarks.commongen import read_items
from deal.demo import prompt_for

# Token ids of a prompt, its words, most new tokens -> new token ids, forward passes
Way = Callable[[list[int], Any, int], tuple[list[int], int]]

GREEDY = "transformers, greedy"
CUSTOM = "custom_generate"
ENGINE = "engine"
# Ways that should write the same as another one, but for rounding.
SAME_AS = {
    f"{CUSTOM}, greedy": GREEDY,
    f"{CUSTOM}, exact": f"{CUSTOM}, naive",
    f"{ENGINE} f32, greedy": GREEDY,
    f"{ENGINE} f32, exact": f"{CUSTOM}, naive",
}


class TorchWays:
    """Greedy decoding and searches over one torch model, whose passes are counted."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        import deal.hf

        self._model = model
        self._search = deal.hf.custom_generate(tokenizer=tokenizer)
        self._n_pass = 0
        model.register_forward_pre_hook(self._count)

    def _count(self, model: Any, inputs: Any) -> None:
        self._n_pass += 1

    def _write(self, ids: list[int], n: int, **kwargs: Any) -> tuple[list[int], int]:
        import torch

        prompt = torch.tensor([ids])
        self._n_pass = 0
        found = self._model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=n,
            **kwargs,
        )
        return found[0, len(ids) :].tolist(), self._n_pass

    def plain(self, ids: list[int], words: Any, n: int) -> tuple[list[int], int]:
        """What transformers writes greedily."""
        return self._write(ids, n)

    def searched(self, search: deal.Search | None) -> Way:
        """custom_generate; greedy where `search` is None."""

        def write(ids: list[int], words: Any, n: int) -> tuple[list[int], int]:
            given = {"custom_generate": self._search, "search": search}
            if search is not None:
                given["rewards"] = deal.rewards.Keywords(list(words))
            return self._write(ids, n, **given)

        return write


def engine_way(lm: deal.Model, search: deal.Search | None) -> Way:
    """The engine's own decoding; greedy where `search` is None."""

    def write(ids: list[int], words: Any, n: int) -> tuple[list[int], int]:
        given = {}
        if search is not None:
            given = {"search": search, "rewards": deal.rewards.Keywords(list(words))}
        r = lm.generate(ids, max_new_tokens=n, **given)
        return list(r.token_ids), r.stats.n_forward_passes

    return write


def ways_of(
    model: Any, tokenizer: Any, engines: dict[str, deal.Model], search: deal.Search
) -> dict[str, Way]:
    """All ways by name; the first is what the others are compared with."""
    torch_ways = TorchWays(model, tokenizer)
    found: dict[str, Way] = {
        GREEDY: torch_ways.plain,
        f"{CUSTOM}, greedy": torch_ways.searched(None),
    }
    for mode in ("naive", "exact"):
        found[f"{CUSTOM}, {mode}"] = torch_ways.searched(replace(search, mode=mode))
    for name, lm in engines.items():
        found[f"{ENGINE} {name}, greedy"] = engine_way(lm, None)
        found[f"{ENGINE} {name}, exact"] = engine_way(lm, replace(search, mode="exact"))
    return found


def measure(
    ways: dict[str, Way],
    items: Sequence[tuple[list[int], Any]],
    max_new_tokens: int,
    n_round: int,
) -> dict[str, dict[str, Any]]:
    """For each way: seconds of every round, tokens, passes, and what was written."""
    rows: dict[str, dict[str, Any]] = {name: {"seconds": []} for name in ways}
    for i_round in tqdm(range(n_round + 1), unit="round", desc="custom_generate"):
        for name, write in ways.items():
            n_new = max_new_tokens if i_round else 2
            start = time.perf_counter()
            written = [write(ids, words, n_new) for ids, words in items]
            seconds = time.perf_counter() - start
            if i_round == 0:
                continue
            rows[name]["seconds"].append(seconds)
            rows[name] |= {
                "token_ids": [ids for ids, _ in written],
                "n_tokens": sum(len(ids) for ids, _ in written),
                "n_passes": sum(n for _, n in written),
            }
    return rows


def summarise(rows: dict[str, dict[str, Any]]) -> None:
    """Adds to each way its rate, its ratio to the first way, and equal texts."""
    base = next(iter(rows.values()))
    for name, row in rows.items():
        pairs = zip(row["seconds"], base["seconds"], strict=True)
        row["tok_s"] = row["n_tokens"] / statistics.median(row["seconds"])
        row["time_ratio"] = statistics.median(
            (mine / row["n_tokens"]) / (theirs / base["n_tokens"])
            for mine, theirs in pairs
        )
        row["passes_per_token"] = row["n_passes"] / row["n_tokens"]
        if name in SAME_AS:
            others = rows[SAME_AS[name]]["token_ids"]
            same = zip(row["token_ids"], others, strict=True)
            row["n_same"] = sum(mine == theirs for mine, theirs in same)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, measure, and return the result document."""
    import torch
    import transformers

    from deal import _hub

    torch.set_num_threads(arguments.threads)
    file = _hub.resolve(arguments.model)
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    int8 = deal.load(file, compute="int8", threads=arguments.threads)
    f32 = deal.from_transformers(model, tokenizer, threads=arguments.threads)
    search = deal.Search(
        top_k=arguments.top_k,
        lookahead=arguments.lookahead,
        reward_weight=arguments.reward_weight,
    )
    items = []
    for item in read_items(arguments.data, arguments.n, None):
        messages = [{"role": "user", "content": prompt_for(item["concepts"])}]
        text = int8.tokenizer.apply_chat_template(messages)
        ids = int8.tokenizer.encode(text, add_special_tokens=False)
        items.append((ids, item["concepts"]))
    ways = ways_of(model, tokenizer, {"f32": f32, "int8": int8}, search)
    rows = measure(ways, items, arguments.max_new_tokens, arguments.rounds)
    summarise(rows)
    return {
        "benchmark": "custom_generate",
        "environment": common.environment(),
        "settings": {
            "model": arguments.model,
            **common.what_was_run(int8, arguments.data),
            "n": arguments.n,
            "rounds": arguments.rounds,
            "max_new_tokens": arguments.max_new_tokens,
            "search": asdict(search),
            "packages": {m.__name__: m.__version__ for m in (torch, transformers)},
        },
        "ways": rows,
    }


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.custom_generate",
        description=__doc__.partition("\n")[0],
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="JSON lines with forms"
    )
    parser.add_argument("-n", type=int, default=3, help="items (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--lookahead", type=int, default=16)
    parser.add_argument("--reward-weight", type=float, default=4.0)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    result = run(arguments)
    for name, row in result["ways"].items():
        print(
            f"{name:26}{row['tok_s']:8.1f} tokens/s {row['time_ratio']:8.2f} x greedy"
            f"{row['passes_per_token']:8.2f} passes per token"
        )
    if arguments.json is not None:
        common.write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
