"""Mode exact against mode naive on a real model and real prompts, to the last bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import deal
from deal.demo import prompt_for

# Word sets of CommonGen's kind; `make test-exact` runs all of them.
WORDS = [
    ["field", "look", "stand"],
    ["kid", "room", "dance"],
    ["cat", "pet", "couch"],
    ["dog", "throw", "frisbee", "catch"],
    ["snow", "mountain", "ski"],
    ["hand", "hold", "baby", "smile"],
    ["water", "boat", "row"],
    ["street", "walk", "umbrella", "rain"],
    ["horse", "ride", "beach"],
    ["guitar", "play", "sing", "stage"],
]
N_ITEM = int(os.environ.get("DEAL_EXACT_ITEMS", "1"))
SETTINGS = {
    "k5": deal.Search(top_k=5, lookahead=16, reward_weight=4.0),
    "k10": deal.Search(top_k=10, lookahead=32, reward_weight=10.0),
    "beams": deal.Search(top_k=5, lookahead=16, reward_weight=4.0, num_beams=4),
}


@pytest.fixture(scope="module")
def lm(smollm2_path: Path) -> deal.Model:
    return deal.load(smollm2_path)


@pytest.mark.parametrize("name", SETTINGS)
def test_exact_is_naive(lm: deal.Model, name: str) -> None:
    search = SETTINGS[name]
    naive = deal.Search(
        top_k=search.top_k,
        lookahead=search.lookahead,
        reward_weight=search.reward_weight,
        num_beams=search.num_beams,
        mode="naive",
    )
    n_tokens = [0, 0]
    for words in WORDS[:N_ITEM]:
        chat = [{"role": "user", "content": prompt_for(words)}]
        reward = deal.rewards.Keywords(words)
        a, b = (
            lm.chat(chat, rewards=reward, search=one, max_new_tokens=24)
            for one in (naive, search)
        )
        assert (a.token_ids, a.logprob, a.rewards, a.score, a.finish_reason) == (
            (b.token_ids, b.logprob, b.rewards, b.score, b.finish_reason)
        )
        for want, found in zip(a.trace, b.trace, strict=True):
            rows = {(c.beam, c.token_id): c for c in found.candidates}
            assert len(rows) == len(want.candidates)
            for c in want.candidates:
                row = rows[c.beam, c.token_id]
                assert (row.is_chosen, row.logprob) == (c.is_chosen, c.logprob)
                assert row.score in (None, c.score)
                assert row.bounds[0] <= c.score <= row.bounds[1]
        n_tokens[0] += a.stats.n_forward_tokens
        n_tokens[1] += b.stats.n_forward_tokens
    assert n_tokens[1] < 0.6 * n_tokens[0]
