"""Alignment by a prompt, by search, by both and by neither, on the same questions.

    python -m benchmarks.alignment --data DATA --json OUT

The paper adapts the start state, by an alignment prompt p_a, and the actions, by search
with a reward (Huang et al., arXiv:2402.06147, sections 3.1 and 3.2). Each question is
answered in four arms: neither (plain greedy decoding), prompt (``chat(align=)``),
search (``rewards=``) and both. Differences between arms are paired, with 95 % intervals
by the percentile bootstrap over questions. Tasks and judges: alignment_tasks.py.

Every answer is written to a file as soon as it is there (``--runs``, by default beside
OUT); a run that was broken off, or that is to have more questions, goes on from it. It
holds the texts, OUT does not: some answer harmful questions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import deal
from benchmarks import alignment_tasks as tasks_of
from benchmarks import common
from benchmarks.alignment_tasks import Harmlessness, Item, Task
from deal.demo import warm_up
from deal.rewards import Repetition

# Arm -> whether it has the alignment prompt, and the search.
ARMS = {
    "neither": (False, False),
    "prompt": (True, False),
    "search": (False, True),
    "both": (True, True),
}
# What is asked of the arms, as weights of their values.
DIFFERENCES: dict[str, dict[str, float]] = {
    "prompt - neither": {"prompt": 1, "neither": -1},
    "search - neither": {"search": 1, "neither": -1},
    "both - neither": {"both": 1, "neither": -1},
    "both - prompt": {"both": 1, "prompt": -1},
    "both - search": {"both": 1, "search": -1},
    "more than the sum": {"both": 1, "prompt": -1, "search": -1, "neither": 1},
}
# Beside the measures of a task: whether the text is still one.
GUARDS = ("n_tokens", "repetition", "logprob_per_token")
PARTS = ("words", "harmless", "sentiment", "length")
N_BOOTSTRAP = 10_000

Record = dict[str, Any]


# --- measures -------------------------------------------------------------------------


def bootstrap(values: Sequence[float] | np.ndarray, seed: int = 0) -> dict[str, float]:
    """Mean over items, with a 95 % interval by the percentile bootstrap.

    Parameters
    ----------
    values : sequence of float
        One an item; of a paired comparison the differences.

    Returns
    -------
    dict
        ``mean``, ``low`` and ``high``.
    """
    array = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(len(array), size=(N_BOOTSTRAP, len(array)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(array.mean()), "low": float(low), "high": float(high)}


def repetition(text: str) -> float:
    """Share of word trigrams that occurred before, in [0, 1]."""
    return 1.0 - Repetition(n=3).score([text])[0]


def answer(
    lm: deal.Model, item: Item, arm: str, search: deal.Search, limit: int
) -> Record:
    """One answer, what it took and what the judges say of it.

    The log-prob per token is that under the question alone in every arm: how likely the
    text is to the model that was neither prompted nor searched.
    """
    has_prompt, has_search = ARMS[arm]
    options: dict[str, Any] = {"max_new_tokens": limit}
    if has_prompt:
        options["align"] = item.align
    if has_search:
        options |= {"rewards": item.reward, "search": search}
    start = time.perf_counter()
    found = lm.chat([{"role": "user", "content": item.question}], **options)
    seconds = time.perf_counter() - start
    ids = [int(token) for token in found.token_ids]
    logprob = lm.logprob(tasks_of.question_ids(lm, item.question), ids)
    return {
        "id": item.id,
        "arm": arm,
        "text": found.text,
        "seconds": seconds,
        "n_forward_tokens": found.stats.n_forward_tokens,
        "n_tokens": len(ids),
        "repetition": repetition(found.text),
        "logprob_per_token": logprob / max(1, len(ids)),
        "reward": item.reward.score([found.text], [item.question])[0],
        **item.measure(found),
    }


def by_arm(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each arm, items in the same order.

    Raises
    ------
    ValueError
        If an item is not in all arms: such cannot be paired.
    """
    found = {a: {r["id"]: r for r in records if r["arm"] == a} for a in ARMS}
    ids = list(found["neither"])
    for arm, rows in found.items():
        if set(rows) != set(ids):
            raise ValueError(f"arm {arm!r}: expected the items of 'neither'")
    return {arm: [rows[i] for i in ids] for arm, rows in found.items()}


def summary(task: Task, records: Sequence[Record]) -> dict[str, Any]:
    """Means of each arm and paired differences between them.

    Returns
    -------
    dict
        ``arms``: arm -> mean of each measure, of the reward and the guards;
        ``slowdown``, the median over items of wall time per token over that of plain
        decoding of the item; ``time_ratio``, that of total wall times; and
        ``forward_tokens_per_token``, evaluated over generated, prompt included.
        ``differences``: what of `DIFFERENCES` -> measure or guard -> mean, low, high.
    """
    arms = by_arm(records)
    names = (*task.measures, "reward", *GUARDS)
    values = {
        arm: {name: np.array([r[name] for r in rows], np.float64) for name in names}
        for arm, rows in arms.items()
    }

    def pace(record: Record) -> float:
        return record["seconds"] / max(1, record["n_tokens"])

    def total(rows: list[Record], name: str) -> float:
        return sum(r[name] for r in rows)

    plain = arms["neither"]
    means = {}
    for arm, rows in arms.items():
        ratios = [pace(r) / pace(p) for r, p in zip(rows, plain, strict=True)]
        means[arm] = {
            **{name: float(column.mean()) for name, column in values[arm].items()},
            "slowdown": statistics.median(ratios),
            "forward_tokens_per_token": total(rows, "n_forward_tokens")
            / total(rows, "n_tokens"),
            "time_ratio": total(rows, "seconds") / total(plain, "seconds"),
        }
    differences = {
        what: {
            name: bootstrap(
                np.sum([w * values[arm][name] for arm, w in weights.items()], axis=0)
            )
            for name in names
        }
        for what, weights in DIFFERENCES.items()
    }
    return {
        "task": task.name,
        "n": len(plain),
        "align": task.align,
        "reward": task.reward,
        "measures": dict(task.measures),
        "arms": means,
        "differences": differences,
    }


# --- the run --------------------------------------------------------------------------


class Runs:
    """Records that are kept in a file line by line, to go on where a run broke off.

    Processes that do parts of the same run may share the file: each sees the records
    of the others.

    Parameters
    ----------
    path : Path or None
        None keeps them in memory alone.
    settings : mapping
        The file's first line.

    Raises
    ------
    ValueError
        If the file is there with other settings.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._found: dict[tuple[str, str, str], Record] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:  # a line that broke off
            path.write_bytes(whole)
        head = json.dumps(settings).encode() + b"\n"
        if not whole:
            path.write_bytes(head)
        elif not whole.startswith(head):
            raise ValueError(
                f"{path}: expected runs with the settings of this one, got others; "
                "remove the file or name another with --runs"
            )
        self._size = len(head)  # read so far
        self._read_more()

    def _read_more(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._size)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._size += len(whole)
        for row in map(json.loads, whole.splitlines()):
            self._found[row["task"], row["id"], row["arm"]] = row

    def get(self, task: str, id_: str, arm: str) -> Record | None:
        key = task, id_, arm
        if key not in self._found and self._path is not None:
            self._read_more()
        return self._found.get(key)

    def add(self, task: str, record: Record) -> Record:
        row = {"task": task, **record}
        self._found[task, row["id"], row["arm"]] = row
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row


def measure(
    lm: deal.Model,
    tasks: Sequence[Task],
    search: deal.Search,
    limit: int,
    runs: Runs,
    seconds: float = math.inf,
) -> list[Record]:
    """Answers in rounds, one question of each task at a time in all arms.

    Parameters
    ----------
    seconds : float
        No question is begun later than that, but two rounds are; what `runs` has of
        later ones counts all the same.
    """
    records: list[Record] = []
    start = time.perf_counter()
    rounds = list(zip(*(task.items for task in tasks), strict=True))
    with tqdm(rounds, unit="round", desc="alignment") as bar:
        for i_round, items in enumerate(bar):
            is_late = i_round >= 2 and time.perf_counter() - start > seconds
            for task, item in zip(tasks, items, strict=True):
                bar.set_postfix_str(task.name)
                rows = {arm: runs.get(task.name, item.id, arm) for arm in ARMS}
                if is_late and None in rows.values():
                    continue
                for arm, row in rows.items():
                    if row is None:
                        found = answer(lm, item, arm, search, limit)
                        row = runs.add(task.name, found)
                    records.append(row)
    return records


def make_tasks(
    lm: deal.Model, data: Path, parts: Sequence[str], n: int
) -> tuple[list[Task], list[dict[str, Any]]]:
    """The tasks of `parts`, and what the judges of them are worth."""
    tasks: list[Task] = []
    worth: list[dict[str, Any]] = []
    if "words" in parts:
        tasks += tasks_of.word_tasks(lm, data, n)
    if "harmless" in parts:
        scorers = Harmlessness.fit(lm, data)
        tasks += tasks_of.harmless_tasks(lm, data, n, scorers)
        worth = scorers.worth(lm, data)
    if "sentiment" in parts:
        tasks.append(tasks_of.sentiment_task(data, n))
    if "length" in parts:
        tasks.append(tasks_of.length_task(data, n))
    return tasks, worth


def data_files(data: Path) -> Iterator[tuple[str, str]]:
    """Files that the tasks read, and their SHA-256; those that are there."""
    paths = [p for p in vars(tasks_of).values() if isinstance(p, Path)]
    for path in sorted(paths):
        if (data / path).is_file():
            digest = hashlib.sha256((data / path).read_bytes()).hexdigest()
            yield path.as_posix(), digest


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, measure, and return the result document."""
    lm = deal.load(
        arguments.model, compute=arguments.compute, threads=arguments.threads
    )
    search = deal.Search(
        top_k=arguments.top_k,
        lookahead=arguments.lookahead,
        reward_weight=arguments.reward_weight,
    )
    settings = {
        "model": arguments.model,
        "model_file": lm.path.name,
        "compute": lm.compute,
        "threads": lm.threads,
        "data_sha256": dict(data_files(arguments.data)),
        "max_new_tokens": arguments.max_new_tokens,
        "search": asdict(search),
    }
    start = time.perf_counter()
    tasks, worth = make_tasks(lm, arguments.data, arguments.parts, arguments.n)
    runs = Runs(arguments.runs, settings)
    warm_up(lm)
    limit = arguments.max_new_tokens
    records = measure(lm, tasks, search, limit, runs, 60 * arguments.minutes)
    rows = [
        summary(task, [r for r in records if r["task"] == task.name]) for task in tasks
    ]
    return {
        "benchmark": "alignment",
        "environment": common.environment(),
        "settings": settings,
        "seconds": time.perf_counter() - start,
        "tasks": rows,
        "judges": worth,
        "items": [{k: v for k, v in r.items() if k != "text"} for r in records],
    }


def report(result: dict[str, Any]) -> str:
    """The goal of each task in each arm, and the differences, as lines of text."""
    lines = []
    for row in result["tasks"]:
        name, label = next(iter(row["measures"].items()))
        cells = " ".join(f"{arm} {row['arms'][arm][name]:.2f}" for arm in ARMS)
        lines.append(f"{row['task']} (n={row['n']}), {label}: {cells}")
        for what, found in row["differences"].items():
            d = found[name]
            span = f"{d['low']:+.2f} to {d['high']:+.2f}"
            lines.append(f"    {what:18} {d['mean']:+.2f} ({span})")
    for row in result["judges"]:
        lines.append(
            f"{row['model']} on {row['task']}: {row['measure']} {row['value']:.3f} "
            f"({row['low']:.3f} to {row['high']:.3f})"
        )
    lines.append(f"{result['seconds']:.0f} s")
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alignment", description=__doc__.partition("\n")[0]
    )
    shared = Path(os.environ.get("DEAL_SHARED") or common.ROOT.parent / "shared")
    parser.add_argument(
        "--data", type=Path, default=shared / "data", help="folder of the data sets"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("-n", type=int, default=30, help="questions of each task")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no question later"
    )
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--lookahead", type=int, default=8)
    parser.add_argument("--reward-weight", type=float, default=4.0)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--compute", default="auto", choices=("auto", "int8", "f32"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument(
        "--runs", type=Path, help="file for the answers, to resume from"
    )
    arguments = parser.parse_args(argv)
    if arguments.n < 2:
        parser.error("-n: expected at least 2, as intervals are over questions")
    if not arguments.data.is_dir():
        parser.error(f"--data: expected a folder, got {arguments.data}")
    if arguments.runs is None and arguments.json is not None:
        arguments.runs = arguments.json.with_suffix(".runs.jsonl")
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
