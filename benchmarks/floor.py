"""What stands between a search and plain decoding: rows that no bounds can spare.

    python -m benchmarks.floor --data DEV.jsonl --json OUT

An oracle knows all scores of a decision before it begins, and how every rollout goes
on. It still has to evaluate

- the last token of every hypothesis, for its candidates;
- the rollout of a chosen candidate, up to where its reward is settled, or log P +
  reward_weight * (the lowest reward that it can still get) is no worse than the best
  score that is not chosen;
- that of any other candidate, up to where log P + reward_weight * (the highest reward
  that it can still get) is no better than the worst score that is chosen;

each context once, as long as it can be reached. What the rewards can still be is what
the native reward's own bounds say. The decisions are those of mode "naive", which are
all there are; the rows and passes that mode "exact" needed for the same ones, without
knowing, stand beside the oracle's. By the line of benchmarks.cost_model, over the time
of a plain token: what the oracle's rows cost without any pass; these and one pass a
decision; and of the exact mode its rows, its passes, and both.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import deal
from benchmarks import common
from benchmarks.commongen import read_items
from benchmarks.cost_model import Curve, measure_curve
from benchmarks.search_runs import keywords
from benchmarks.search_settings import SETTINGS, Setting
from deal import _core
from deal.demo import prompt_for, warm_up

Tokens = tuple[int, ...]


class Oracle:
    """Counts the rows that the decisions of one request need.

    Parameters
    ----------
    lm : deal.Model
    reward : deal.rewards.Reward
        A native one.
    search : deal.Search
        With ``commit=1``.
    n_new_max : int
        Most tokens of the request.
    """

    def __init__(
        self,
        lm: deal.Model,
        reward: deal.rewards.Reward,
        search: deal.Search,
        n_new_max: int,
    ) -> None:
        self._lm, self._search, self._n_new_max = lm, search, n_new_max
        self._capsule = reward._capsule({})
        self._bounds: dict[tuple[Tokens, int], tuple[float, float]] = {}
        self._token_size_max = max(
            len(lm.tokenizer.decode([token]).encode())
            for token in range(lm.hparams.n_vocab)
        )

    def _bounds_of(self, tokens: Tokens, n_left: int) -> tuple[float, float]:
        """What the reward of a text that begins with these tokens can be."""
        if (tokens, n_left) not in self._bounds:
            state = _core.RewardState(
                self._capsule,
                "",
                n_new_max=self._n_new_max,
                token_size_max=self._token_size_max,
            )
            state.advance(self._lm.tokenizer.decode(list(tokens)).encode())
            self._bounds[tokens, n_left] = state.bounds(n_left)
        return self._bounds[tokens, n_left]

    def _n_needed(self, candidate: Any, context: Tokens, bar: float) -> int:
        """Tokens of the rollout after which it is certain on which side of the bar the
        candidate is."""
        weight, rollout = self._search.reward_weight, candidate.rollout
        begun = (*context, candidate.token_id)
        for n in range(len(rollout)):
            n_room = self._n_new_max - len(begun) - n
            n_left = min(self._search.lookahead - n, n_room)
            low, high = self._bounds_of(begun + tuple(rollout[:n]), n_left)
            if candidate.is_chosen:
                is_certain = low == high or candidate.logprob + weight * low >= bar
            else:
                is_certain = candidate.logprob + weight * high <= bar
            if is_certain:
                return n
        return len(rollout)

    @staticmethod
    def _next(live: list[Tokens], decision: Any) -> list[Tokens]:
        """Contexts of the next decision, in the order in which candidates name them."""
        going = [c for c in decision.candidates if c.next_beam is not None]
        going.sort(key=lambda c: c.next_beam)
        return [(*live[c.beam], c.token_id) for c in going]

    def contexts(self, trace: Sequence[Any]) -> list[Tokens]:
        """Those of the last decision."""
        live: list[Tokens] = [()]
        for decision in trace[:-1]:
            live = self._next(live, decision)
        return live

    def count(self, trace: Sequence[Any]) -> int:
        """Rows of all decisions, beside the prompt's."""
        live: list[Tokens] = [()]
        known: set[Tokens] = {()}
        n_row = 0
        for decision in trace:
            chosen = [c.score for c in decision.candidates if c.is_chosen]
            worst = min(chosen, default=math.inf)  # of none: the search is over
            others = [c.score for c in decision.candidates if not c.is_chosen]
            best = max(others, default=-math.inf)
            rows = set(live)
            for each in decision.candidates:
                context, bar = live[each.beam], best if each.is_chosen else worst
                for n in range(self._n_needed(each, context, bar)):
                    rows.add((*context, each.token_id, *each.rollout[:n]))
            n_row += len(rows - known)
            known |= rows
            live = self._next(live, decision)
            known = {
                row for row in known if any(row[: len(one)] == one for one in live)
            }
        return n_row


def measure(
    lm: deal.Model,
    setting: Setting,
    items: Sequence[Mapping[str, Any]],
    limit: int,
    curve: Curve,
) -> dict[str, Any]:
    """Rows and passes per generated token, the oracle's and mode "exact"'s."""
    total = dict.fromkeys(("tokens", "decisions", "needed", "rows", "passes"), 0)
    for item in tqdm(items, unit="item", desc=setting.name):
        messages = [{"role": "user", "content": prompt_for(item["concepts"])}]
        reward = keywords(item["concepts"])
        searches = [deal.Search(**setting.search, mode=m) for m in ("naive", "exact")]
        naive, exact = (
            lm.chat(messages, rewards=reward, search=search, max_new_tokens=limit)
            for search in searches
        )
        if (naive.token_ids, naive.score) != (exact.token_ids, exact.score):
            raise RuntimeError(f"{item['id']}: mode exact is not naive")
        oracle = Oracle(lm, reward, searches[0], limit)
        total["needed"] += oracle.count(naive.trace)
        total["tokens"] += len(naive.token_ids)
        total["decisions"] += len(naive.trace)
        stats = exact.stats
        total["rows"] += stats.n_forward_tokens - stats.n_prompt_tokens
        total["passes"] += stats.n_forward_passes - 1
    row = {name: n / total["tokens"] for name, n in total.items() if name != "tokens"}
    a_pass, a_row, _ = curve.line()
    plain = a_pass + a_row
    times = {
        "needed_rows": row["needed"] * a_row / plain,
        "floor": (row["decisions"] * a_pass + row["needed"] * a_row) / plain,
        "exact_rows": row["rows"] * a_row / plain,
        "exact_passes": row["passes"] * a_pass / plain,
    }
    return {
        "setting": setting.name,
        "n": len(items),
        "n_tokens": total["tokens"],
        **row,
        **times,
        "goal": setting.goal,
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, measure, and return the result document."""
    items = read_items(arguments.data, arguments.n, None)
    lm = deal.load(arguments.model, compute="int8", threads=arguments.threads)
    warm_up(lm)
    curve = measure_curve(lm)
    rows = [
        measure(lm, setting, items, arguments.max_new_tokens, curve)
        for setting in SETTINGS
        if setting.reward is keywords
    ]
    return {
        "benchmark": "floor",
        "environment": common.environment(),
        "settings": {
            "model": arguments.model,
            **common.what_was_run(lm, arguments.data),
            "n": arguments.n,
            "max_new_tokens": arguments.max_new_tokens,
        },
        "cost": curve.as_dict(),
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.floor", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="JSON lines")
    parser.add_argument("-n", "--n", type=int, default=6, help="items")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args(argv)
    result = run(arguments)
    print(json.dumps(result["rows"], indent=1))
    if arguments.json is not None:
        common.write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
