"""Runs of the search benchmark: what is timed, what is kept, how it is summed up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tqdm.auto import tqdm

import deal
from benchmarks.cost_model import Curve
from benchmarks.coverage import coverage
from deal.demo import find_forms, prompt_for

Concepts = Mapping[str, Sequence[str]]
Key = tuple[str, str]  # setting and mode
PLAIN: Key = ("plain greedy", "plain")
N_PLAIN = 5  # runs of plain decoding an item, at least


@dataclass(frozen=True)
class Job:
    """One search to run on the first `n` items, `rounds` times each."""

    key: Key
    reward: Callable[[Concepts], Any] | None = field(repr=False)
    search: deal.Search | None
    n: int
    rounds: int
    options: Mapping[str, Any] = field(default_factory=dict)  # of deal.Model.chat


# --- rewards --------------------------------------------------------------------------


def keywords(concepts: Concepts) -> Any:
    """The native reward."""
    return deal.rewards.Keywords([list(forms) for forms in concepts.values()])


def unbounded(concepts: Concepts) -> Any:
    """The same in Python, with nothing known about its values."""
    score = coverage(concepts)

    def covered(completions: list[str], **kwargs: Any) -> list[float]:
        return [score(text) for text in completions]

    return covered


def ranged(concepts: Concepts) -> Any:
    """The same in Python, with its range declared."""
    return deal.reward(unbounded(concepts), range=(0, 1))


# --- runs -----------------------------------------------------------------------------


def coverage_of(text: str, concepts: Concepts) -> dict[str, float]:
    """Share of words used, and whether all are."""
    found = find_forms(text, concepts)
    soft = sum(map(bool, found.values())) / len(found)
    return {"coverage_soft": soft, "coverage_hard": float(soft == 1)}


def decisions_of(generation: deal.Generation) -> dict[str, int]:
    """Decisions, candidates in them, and decisions that the likeliest one won."""
    trace = generation.trace
    won = [
        d.candidates[0].logprob >= max(c.logprob for c in d.candidates) for d in trace
    ]
    n_candidates = sum(len(d.candidates) for d in trace)
    return {
        "n_decisions": len(trace),
        "n_candidates": n_candidates,
        "n_top_wins": sum(won),
    }


class Runs:
    """All runs of one item: the first result of each key, and every time."""

    def __init__(
        self, lm: deal.Model, item: Mapping[str, Any], i_item: int, limit: int
    ) -> None:
        self._lm, self._item, self._i_item, self._limit = lm, item, i_item, limit
        self._messages = [{"role": "user", "content": prompt_for(item["concepts"])}]
        self.records: dict[Key, dict[str, Any]] = {}

    def _options(self, job: Job | None) -> dict[str, Any]:
        options: dict[str, Any] = {"max_new_tokens": self._limit}
        if job is None:
            return options
        options |= job.options
        if "sampling" in options:  # else all items would draw the same numbers
            options["sampling"] = replace(options["sampling"], seed=self._i_item)
        if job.reward is not None:
            options["rewards"] = job.reward(self._item["concepts"])
        if job.search is not None:
            options["search"] = job.search
        return options

    def run_plain_as_long(self, job: Job) -> None:
        """Plain greedy decoding of as many tokens as `job` wrote, ends or not."""
        record = self.records[job.key]
        n = len(record["token_ids"])
        start = time.perf_counter()
        self._lm.chat(self._messages, max_new_tokens=n, eos_token_id=[])
        record["seconds_as_long"].append(time.perf_counter() - start)

    def run(self, job: Job | None) -> None:
        """One run of `job`; None is plain greedy decoding."""
        options = self._options(job)
        start = time.perf_counter()
        found = self._lm.chat(self._messages, **options)
        seconds = time.perf_counter() - start
        key = PLAIN if job is None else job.key
        record = self.records.get(key)
        if record is None:
            record = {
                "text": found.text,
                "token_ids": [int(token) for token in found.token_ids],
                "logprob": found.logprob,
                "score": found.score,
                "finish_reason": found.finish_reason,
                "stats": asdict(found.stats),
                "seconds": [],
                "seconds_prefill": [],
                "seconds_as_long": [],
            }
            record |= coverage_of(found.text, self._item["concepts"])
            self.records[key] = record | decisions_of(found)
        self.records[key]["seconds"].append(seconds)
        self.records[key]["seconds_prefill"].append(found.stats.seconds_prefill)


def measure(
    lm: deal.Model,
    items: Sequence[dict[str, Any]],
    jobs: Sequence[Job],
    max_new_tokens: int,
    title: str,
    after: Callable[[int, Mapping[str, Any], dict], dict[Key, dict]] | None = None,
) -> list[dict[str, Any]]:
    """Run all jobs, in rounds, each run between two of plain decoding: one to its own
    end, and one of as many tokens as the job wrote.

    Parameters
    ----------
    after : callable, optional
        ``after(i_item, item, records)`` gives more records of an item.

    Returns
    -------
    list of dict
        A record for each item and key, with ``id``, ``setting`` and ``mode``.
    """
    records = []
    for i_item, item in enumerate(tqdm(items, unit="item", desc=title)):
        runs = Runs(lm, item, i_item, max_new_tokens)
        for i_round in range(max((job.rounds for job in jobs), default=0)):
            for job in jobs:
                if i_item < job.n and i_round < job.rounds:
                    runs.run(None)
                    runs.run(job)
                    runs.run_plain_as_long(job)
        while PLAIN not in runs.records or (
            len(runs.records[PLAIN]["seconds"]) < N_PLAIN
        ):
            runs.run(None)
        found = dict(runs.records)
        if after is not None:
            found |= after(i_item, item, runs.records)
        for (setting, mode), record in found.items():
            records.append(
                {"id": item["id"], "setting": setting, "mode": mode} | record
            )
    return records


def llama_record(answer: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    """A record of one answer of benchmarks.llama_deal."""
    kept = ("text", "token_ids", "logprob", "score")
    counts = ("n_forward_tokens", "n_forward_passes")
    record = {name: answer[name] for name in kept}
    record["stats"] = {name: answer[name] for name in counts}
    record["seconds"] = [answer["seconds"]]
    return record | coverage_of(answer["text"], item["concepts"])


# --- summaries ------------------------------------------------------------------------


def pick(records: Sequence[dict[str, Any]], key: Key) -> dict[str, dict[str, Any]]:
    """Records of one setting and mode by the item's id."""
    return {r["id"]: r for r in records if (r["setting"], r["mode"]) == key}


def seconds_per_token(record: Mapping[str, Any], is_whole: bool = True) -> float:
    """Median over its runs; not `is_whole`: without the prompt."""
    seconds = record["seconds"]
    if not is_whole:
        prefill = record["seconds_prefill"]
        seconds = [s - p for s, p in zip(seconds, prefill, strict=True)]
    return statistics.median(seconds) / len(record["token_ids"])


def quartiles(values: Sequence[float]) -> list[float]:
    """The first and the third."""
    if len(values) < 2:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def times(records: Sequence[dict[str, Any]], key: Key, other: Key) -> float | None:
    """Time of a token of `key` over that of `other`: median over shared items."""
    ours, theirs = pick(records, key), pick(records, other)
    ratios = [
        seconds_per_token(ours[i]) / seconds_per_token(theirs[i])
        for i in ours
        if i in theirs
    ]
    return statistics.median(ratios) if ratios else None


def agreement(
    records: Sequence[dict[str, Any]], key: Key, other: Key
) -> dict[str, float | None]:
    """Share of shared items with the same text; mean share of the tokens of `key`
    before the first that differs; share of decisions that are the same after the same
    beginning, where they were compared."""
    ours, theirs = pick(records, key), pick(records, other)
    shared = [(ours[i], theirs[i]) for i in ours if i in theirs]
    if not shared:
        return dict.fromkeys(("same_text", "same_start", "same_decisions"))
    starts = []
    for a, b in shared:
        pairs = list(zip(a["token_ids"], b["token_ids"], strict=False))
        n = next((i for i, (s, t) in enumerate(pairs) if s != t), len(pairs))
        starts.append(n / len(a["token_ids"]))
    same = statistics.fmean(a["text"] == b["text"] for a, b in shared)
    n_compared = sum(a.get("n_compared", 0) for a, _ in shared)
    n_same = sum(a.get("n_same", 0) for a, _ in shared)
    return {
        "same_text": same,
        "same_start": statistics.fmean(starts),
        "same_decisions": n_same / n_compared if n_compared else None,
    }


def summary(
    records: Sequence[dict[str, Any]], key: Key, curve: Curve | None = None
) -> dict[str, Any]:
    """Figures over the items that ran with `key`.

    Parameters
    ----------
    curve : Curve, optional
        What passes cost; adds ``slowdown_predicted``, a median like ``slowdown``.

    Returns
    -------
    dict
        ``slowdown`` is a median of ratios, of the time of a token to that of plain
        decoding of the same item, between its quartiles ``slowdown_quartiles``;
        ``slowdown_as_long`` is the same to plain decoding of as many tokens, and
        ``slowdown_decode`` leaves out the prompts; ``seconds_per_token`` is a median;
        counts are totals over totals, with those of a model that rolls out.
        ``top_wins`` is the share of decisions that the likeliest
        candidate won, ``rolled_out`` the share of candidates that were rolled out.
    """
    runs, plain = pick(records, key), pick(records, PLAIN)
    ratios = [
        seconds_per_token(r) / seconds_per_token(plain[i]) for i, r in runs.items()
    ]
    n_tokens = sum(len(r["token_ids"]) for r in runs.values())

    def total(name: str) -> float:
        return sum(r["stats"].get(name, 0) for r in runs.values())

    def forward(what: str) -> float:
        return total(f"n_forward_{what}") + total(f"n_rollout_model_{what}")

    def mean(name: str) -> float:
        return statistics.fmean(r[name] for r in runs.values())

    row: dict[str, Any] = {
        "setting": key[0],
        "mode": key[1],
        "n": len(runs),
        "n_tokens": n_tokens,
        "slowdown": statistics.median(ratios),
        "slowdown_quartiles": quartiles(ratios),
        "slowdown_min": min(ratios),
        "slowdown_max": max(ratios),
        "seconds_per_token": statistics.median(map(seconds_per_token, runs.values())),
        "forward_tokens_per_token": forward("tokens") / n_tokens,
        "forward_passes_per_token": forward("passes") / n_tokens,
        "coverage_soft": mean("coverage_soft"),
        "coverage_hard": mean("coverage_hard"),
        "logprob_per_token": sum(r["logprob"] for r in runs.values()) / n_tokens,
    }
    if any("n_decisions" not in r for r in runs.values()):
        return row  # not by this engine, which alone tells more
    if key != PLAIN:
        as_long = [
            statistics.median(r["seconds"]) / statistics.median(r["seconds_as_long"])
            for r in runs.values()
        ]
        row["slowdown_as_long"] = statistics.median(as_long)
        row["slowdown_as_long_quartiles"] = quartiles(as_long)
    row["slowdown_decode"] = statistics.median(
        seconds_per_token(r, False) / seconds_per_token(plain[i], False)
        for i, r in runs.items()
    )
    if curve is not None and not total("n_rollout_model_passes"):
        row["slowdown_predicted"] = statistics.median(
            curve.seconds_per_token(r) / curve.seconds_per_token(plain[i])
            for i, r in runs.items()
        )
    stats = next(iter(runs.values()))["stats"]
    names = [name for name, value in stats.items() if isinstance(value, (int, float))]
    row["stats_per_token"] = {name: total(name) / n_tokens for name in names}
    n_decisions = sum(r["n_decisions"] for r in runs.values())
    n_candidates = sum(r["n_candidates"] for r in runs.values())
    if n_decisions:
        row["top_wins"] = sum(r["n_top_wins"] for r in runs.values()) / n_decisions
        row["rolled_out"] = total("n_rollouts") / n_candidates
        row["shares_of_candidates"] = {
            name: total(name) / n_candidates for name in names if "pruned" in name
        }
    return row


# --- switches -------------------------------------------------------------------------


def variants(names: Sequence[str]) -> Iterator[tuple[str, dict[str, bool]]]:
    """All switches on, all off, each alone, all but each."""
    yield "all", dict.fromkeys(names, True)
    yield "none", dict.fromkeys(names, False)
    for name in names:
        yield f"only {name}", {n: n == name for n in names}
    for name in names:
        yield f"all but {name}", {n: n != name for n in names}
