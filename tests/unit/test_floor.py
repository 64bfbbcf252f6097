"""The oracle of benchmarks.floor: no search evaluates less than it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from generation import PROMPT, WORDS
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from benchmarks.floor import Oracle  # noqa: E402

N_NEW = 24


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("floor") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32")


def rows_of(lm: deal.Model, search: deal.Search, reward: deal.rewards.Reward) -> int:
    r = lm.generate(PROMPT, rewards=reward, search=search, max_new_tokens=N_NEW)
    return r.stats.n_forward_tokens - r.stats.n_prompt_tokens


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("reward_weight", [0.05, 1.0, 10.0])
def test_no_search_needs_less(
    lm: deal.Model, num_beams: int, reward_weight: float
) -> None:
    asked = {
        "top_k": 4,
        "lookahead": 6,
        "reward_weight": reward_weight,
        "num_beams": num_beams,
    }
    reward = deal.rewards.Keywords(WORDS)
    options = {"rewards": reward, "max_new_tokens": N_NEW}
    naive = deal.Search(mode="naive", **asked)
    r = lm.generate(PROMPT, search=naive, **options)
    n_needed = Oracle(lm, reward, naive, N_NEW).count(r.trace)
    plain = deal.Exact(drafts=False, speculation=False)
    n_exact = rows_of(lm, deal.Search(exact=plain, **asked), reward)
    n_naive = rows_of(lm, naive, reward)
    assert len(r.trace) <= n_needed + 1 <= n_exact + 1
    assert n_exact < n_naive
    if reward_weight == 0.05:  # hardly any rollout matters
        assert n_needed < n_naive / 4


def test_hypotheses_are_followed_as_the_search_orders_them(lm: deal.Model) -> None:
    """The result's tokens are one of the contexts of the last decision."""
    n_checked = 0
    for weight in (0.3, 1.0, 3.0):
        search = deal.Search(
            mode="naive", top_k=4, lookahead=3, reward_weight=weight, num_beams=3
        )
        r = lm.generate(
            PROMPT,
            rewards=deal.rewards.Keywords(WORDS),
            search=search,
            max_new_tokens=N_NEW,
            eos_token_id=[],
        )
        oracle = Oracle(lm, deal.rewards.Keywords(WORDS), search, N_NEW)
        contexts = oracle.contexts(r.trace)
        assert all(len(one) == N_NEW - 1 for one in contexts)
        last = max(r.trace[-1].candidates, key=lambda c: c.score)
        assert (*contexts[last.beam], last.token_id) == r.token_ids
        n_checked += last.beam > 0
    assert n_checked
