"""Rewards: how fast native scorers read, what they cost a search, how good they are.

    python -m benchmarks.rewards --data DATA --json OUT

Three parts, all of them or those that ``--parts`` names:

throughput
    Bytes per second of processor time that each scorer of SCORERS reads on one core,
    in a C loop that advances and scores texts as a search does; median of the rounds.
search
    Seconds per token of the same search with different rewards, against Keywords; what
    one call of a Python reward costs beside the function, and its share of the time.
quality
    Sentiment and toxicity of NgramModel and Lexicon on data sets of others.

DATA holds folders ``rt_polarity``, ``hate_offensive``, ``wiki_toxicity`` with
``train.jsonl`` or ``dev.jsonl``, and ``lexicons``; ``--rt-polarity`` and so on name
them one by one. A task whose data are not there is left out. Texts to read are those of
rt_polarity, or words drawn with a seed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import deal
from benchmarks import common, heads, reward_quality
from benchmarks.coverage import coverage
from deal import _core
from deal.demo import WORD_SETS, prompt_for
from deal.rewards import (
    Format,
    Keywords,
    Length,
    Lexicon,
    NgramModel,
    Repetition,
    clip,
)

PARTS = ("throughput", "search", "quality")
TOKEN_SIZES = (4, 64)  # bytes: a token of a language model, and a line at a time
GOAL_BYTES_S = 50e6
# In mode "naive" next to nothing, so that all rewards make the same text and cost what
# they cost; in mode "exact" what a user would take, where bounds matter too.
REWARD_WEIGHT = {"naive": 1e-9, "exact": 4.0}
CLIP_AT, HEAD_CLIP_AT = 0.5, 0.8
SECONDS_MIN = 0.05  # of one timing
WORDS = sorted(
    {form for words in WORD_SETS for forms in words.values() for form in forms}
)


# --- what is measured: one line each --------------------------------------------------


def ngrams(**settings: Any) -> NgramModel:
    """Fitted on a toy task: what is in the weights does not change the speed."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=20)) for _ in range(400)]
    half = set(WORDS[::2])
    labels = [sum(word in half for word in text.split()) > 10 for text in texts]
    return NgramModel.fit(texts, labels, **settings)


def lexicon(data: reward_quality.Data) -> Lexicon:
    """VADER's where it is there, else one of our words."""
    if data.lexicons is not None:
        return Lexicon.from_file(data.lexicons / "vader_lexicon.txt")
    return Lexicon({word: (-1.0) ** i for i, word in enumerate(WORDS)})


# Name -> its reward, given the data.
SCORERS: dict[str, Callable[[reward_quality.Data], Any]] = {
    "Keywords, 5 concepts": lambda data: Keywords(list(WORD_SETS[4].values())),
    "Length, words": lambda data: Length("words", min=5, max=10),
    "Length, sentences": lambda data: Length("sentences", max=3),
    "Repetition": lambda data: Repetition(),
    "Format": lambda data: Format(bullets=3, letter_case="lower", no_commas=True),
    "Lexicon": lexicon,
    "Lexicon, per word": lambda data: Lexicon(lexicon(data).weights, per="word"),
    "NgramModel, counts of words": lambda data: ngrams(
        words=(1, 1), tf="count", idf=False, norm=False
    ),
    "NgramModel, words (1, 2), tf-idf": lambda data: ngrams(),
    "NgramModel, characters (3, 5), counts": lambda data: ngrams(
        words=None, characters=(3, 5), tf="count", idf=False, norm=False
    ),
    "NgramModel, characters (3, 5), tf-idf": lambda data: ngrams(
        words=None, characters=(3, 5)
    ),
}


# --- throughput -----------------------------------------------------------------------


def texts_to_read(data: reward_quality.Data) -> list[str]:
    """About half a megabyte in texts of the size of a completion."""
    if data.rt_polarity is not None:
        rows = reward_quality.read_rows(data.rt_polarity / "train.jsonl")
        texts = [row["input"] for row in rows]
        return [" ".join(texts[i : i + 4]) for i in range(0, len(texts), 4)]
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=80)) + "." for _ in range(1000)]


def throughput(data: reward_quality.Data, rounds: int) -> list[dict[str, Any]]:
    """A row for each scorer: bytes per second by size of a token."""
    texts = texts_to_read(data)
    n_bytes = sum(len(text.encode()) for text in texts)
    rows = []
    for name, make in tqdm(SCORERS.items(), desc="throughput", leave=False):
        reward = make(data)
        capsule = reward._capsule({})
        rates = {}
        for size in TOKEN_SIZES:
            once = _core.reward_seconds(capsule, texts, size, 1)
            n = max(1, round(SECONDS_MIN / once))
            seconds = [
                _core.reward_seconds(capsule, texts, size, n) / n for _ in range(rounds)
            ]
            rates[str(size)] = n_bytes / statistics.median(seconds)
        rows.append(
            {
                "scorer": name,
                "bytes_s": rates,
                "n_bytes": n_bytes,
                "n_texts": len(texts),
            }
        )
    return rows


# --- search ---------------------------------------------------------------------------


class Timed:
    """A Python reward that knows how long its own code took."""

    def __init__(self, concepts: Any) -> None:
        self._score = coverage(concepts)
        self.seconds = 0.0

    def reward(self) -> Any:
        def covered(completions: list[str], **kwargs: Any) -> list[float]:
            start = time.perf_counter()
            scores = [self._score(text) for text in completions]
            self.seconds += time.perf_counter() - start
            return scores

        return deal.reward(covered, range=(0, 1))


def search_rewards(
    concepts: Any, data: reward_quality.Data, head: Any
) -> dict[str, Any]:
    """Rewards of one item by name; the first is what others are compared with.

    A score per text grows with every word that the text gets; clipped it has an end
    that can be reached, as Keywords has: that of as many words as Keywords wants.
    """
    forms = [list(row) for row in concepts.values()]
    same = Lexicon({form: 1.0 for row in forms for form in row}, negators=())
    name = "Classifier, a head over hidden states"
    by_head = (
        {}
        if head is None
        else {
            name: head,
            f"{name}, clipped at {HEAD_CLIP_AT}": clip(head, high=HEAD_CLIP_AT),
        }
    )
    return {
        "Keywords": Keywords(forms),
        "Lexicon of the same words": same,
        "Lexicon of the same words, clipped": clip(
            same, high=len(forms) / math.sqrt(len(forms) ** 2 + 15.0)
        ),
        "Lexicon": lexicon(data),
        f"Lexicon, clipped at {CLIP_AT}": clip(lexicon(data), high=CLIP_AT),
        "NgramModel, words (1, 2), tf-idf": ngrams(),
        "Python": Timed(concepts),
        **by_head,
    }


def run_search(lm: deal.Model, concepts: Any, reward: Any, search: Any, n: int) -> Any:
    """One run: seconds per token without the prompt, and what the reward took."""
    timed = reward if isinstance(reward, Timed) else None
    before = timed.seconds if timed else 0.0
    messages = [{"role": "user", "content": prompt_for(concepts)}]
    start = time.perf_counter()
    r = lm.chat(
        messages,
        rewards=timed.reward() if timed else reward,
        search=search,
        max_new_tokens=n,
    )
    seconds = time.perf_counter() - start
    stats = r.stats
    run = {
        "seconds_token": (seconds - stats.seconds_prefill) / len(r.token_ids),
        "rows_token": (stats.n_forward_tokens - stats.n_prompt_tokens)
        / len(r.token_ids),
        "reward_share": stats.seconds_reward / stats.seconds_total,
    }
    if timed:
        inside = timed.seconds - before
        run["call_overhead"] = (stats.seconds_reward - inside) / stats.n_reward_calls
        run["text_overhead"] = (stats.seconds_reward - inside) / stats.n_reward_texts
        run["n_texts_call"] = stats.n_reward_texts / stats.n_reward_calls
    return run


def search_cost(
    lm: deal.Model, data: reward_quality.Data, settings: dict[str, Any], rounds: int
) -> list[dict[str, Any]]:
    """A row for each mode and reward: medians over rounds, then over items."""
    rows = []
    items = WORD_SETS[: settings["n"]]
    head = None
    if data.rt_polarity is not None:
        head = heads.sentiment_head(lm, data.rt_polarity / "train.jsonl")
    for mode in ("naive", "exact"):
        weight = settings["reward_weight"][mode]
        search = deal.Search(mode=mode, reward_weight=weight, **settings["search"])
        runs: dict[str, list[list[Any]]] = {}
        for concepts in tqdm(items, desc=f"search, {mode}", leave=False):
            rewards = search_rewards(concepts, data, head)
            found: dict[str, list[Any]] = {name: [] for name in rewards}
            for i_round in range(rounds + 1):  # the first one warms up
                for name, reward in rewards.items():
                    run = run_search(
                        lm, concepts, reward, search, settings["max_new_tokens"]
                    )
                    if i_round:
                        found[name].append(run)
            for name, each in found.items():
                runs.setdefault(name, []).append(each)
        base = [median_of(each, "seconds_token") for each in runs["Keywords"]]
        for name, each in runs.items():
            medians = [median_of(item, "seconds_token") for item in each]
            ratios = [m / b for m, b in zip(medians, base, strict=True)]
            row = {
                "mode": mode,
                "reward": name,
                "of_keywords": statistics.median(ratios),
            }
            for key in each[0][0]:
                row[key] = statistics.median(median_of(item, key) for item in each)
            rows.append(row)
    return rows


def median_of(runs: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


# --- command --------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the result document."""
    data = reward_quality.Data.find(arguments)
    search = {"top_k": 5, "lookahead": 16}
    settings = {
        "rounds": arguments.rounds,
        "token_sizes": list(TOKEN_SIZES),
        "goal_bytes_s": GOAL_BYTES_S,
        "n": arguments.n,
        "max_new_tokens": arguments.max_new_tokens,
        "search": search,
        "reward_weight": REWARD_WEIGHT,
        "data": {k: v is not None for k, v in asdict(data).items()},
    }
    result: dict[str, Any] = {"benchmark": "rewards", "settings": settings}
    if "throughput" in arguments.parts:
        result["throughput"] = throughput(data, arguments.rounds)
    if "search" in arguments.parts:
        lm = deal.load(arguments.model, threads=arguments.threads)
        settings |= {
            "model": arguments.model,
            "model_file": lm.path.name,
            "compute": lm.compute,
            "threads": lm.threads,
        }
        result["search"] = search_cost(lm, data, settings, arguments.rounds)
    if "quality" in arguments.parts:
        result["quality"] = reward_quality.quality(data)
    environment = common.environment()
    result["environments"] = {part: environment for part in arguments.parts}
    return result | {"environment": environment}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rewards", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", type=Path, help="folder of all data sets")
    for name in reward_quality.FOLDERS:
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=Path, help="folder of this one")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-n", type=int, default=3, help="word sets to search for")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument(
        "--into", action="store_true", help="keep other parts that the file has"
    )
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.n < 1:
        parser.error("--rounds and -n: expected at least 1")
    result = run(arguments)
    for part in PARTS:
        for row in result.get(part, []):
            print(row)
    if arguments.json is not None:
        if arguments.into and arguments.json.is_file():
            before = json.loads(arguments.json.read_text(encoding="utf-8"))
            for key in ("settings", "environments"):
                result[key] = before.get(key, {}) | result[key]
            result = before | result
        common.write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
