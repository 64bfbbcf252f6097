"""Mode exact against mode naive on a real model and real prompts, to the last bit.

``make test-exact`` runs 40 CommonGen items at both settings of the paper's kind; a run
of all tests takes one word set of `deal.demo`. What is compared: tokens, log-prob,
rewards, score and end of the text; of every decision the candidates, their log-probs
and which are chosen; naive's scores inside exact's bounds, and equal where it has one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kv_cells import most_pages, page_size, peak_pages

import deal
from deal.demo import WORD_SETS, prompt_for

Concepts = Mapping[str, Sequence[str]]
N_ITEM = int(os.environ.get("DEAL_EXACT_ITEMS", "0"))
SETTINGS = {
    "k5": deal.Search(top_k=5, lookahead=16, reward_weight=4.0),
    "k10": deal.Search(top_k=10, lookahead=32, reward_weight=10.0),
}
BEAMS = deal.Search(top_k=5, lookahead=16, reward_weight=4.0, num_beams=4)
WITH_EVERYTHING = pytest.mark.skipif(
    N_ITEM == 0, reason="takes minutes: `make test-exact` runs it (DEAL_EXACT_ITEMS)"
)


def commongen() -> list[Concepts]:
    """The first `N_ITEM` items of the data, or the built-in word sets.

    ``DEAL_COMMONGEN`` names the file, else it is looked for in the shared folder.
    """
    root = Path(__file__).resolve().parents[2]
    shared = Path(os.environ.get("DEAL_SHARED", root.parent / "shared"))
    named = os.environ.get("DEAL_COMMONGEN")
    path = Path(named) if named else shared / "data" / "commongen" / "dev.jsonl"
    if not path.is_file():
        if named:
            pytest.skip(f"DEAL_COMMONGEN: there is no file {path}")
        return list(WORD_SETS[:N_ITEM])
    with path.open(encoding="utf-8") as file:
        records = [
            json.loads(line) for _, line in zip(range(N_ITEM), file, strict=False)
        ]
    return [{c: record["forms"][c] for c in record["concepts"]} for record in records]


@pytest.fixture(scope="module")
def lm(smollm2_path: Path) -> deal.Model:
    return deal.load(smollm2_path)


def check_item(
    lm: deal.Model, concepts: Concepts, search: deal.Search, max_new_tokens: int
) -> tuple[int, int]:
    """Compares both modes on one item; tokens evaluated by naive and by exact."""
    chat = [{"role": "user", "content": prompt_for(concepts)}]
    reward = deal.rewards.Keywords([list(forms) for forms in concepts.values()])
    a, b = (
        lm.chat(chat, rewards=reward, search=one, max_new_tokens=max_new_tokens)
        for one in (replace(search, mode="naive"), search)
    )
    assert (a.token_ids, a.text, a.logprob, a.finish_reason) == (
        (b.token_ids, b.text, b.logprob, b.finish_reason)
    )
    assert (a.reward, a.rewards, a.score) == (b.reward, b.rewards, b.score)
    for want, found in zip(a.trace, b.trace, strict=True):
        rows = {(c.beam, c.token_id): c for c in found.candidates}
        assert len(rows) == len(want.candidates)
        for c in want.candidates:
            row = rows[c.beam, c.token_id]
            assert (row.is_chosen, row.logprob) == (c.is_chosen, c.logprob)
            assert row.score in (None, c.score)
            assert row.reward in (None, c.reward)
            assert row.bounds[0] <= c.score <= row.bounds[1]
            assert row.rollout == c.rollout[: len(row.rollout)]
    return a.stats.n_forward_tokens, b.stats.n_forward_tokens


@pytest.mark.parametrize(
    "search", [*SETTINGS.values(), BEAMS], ids=[*SETTINGS, "beams"]
)
def test_exact_is_naive(lm: deal.Model, search: deal.Search) -> None:
    naive, exact = check_item(lm, WORD_SETS[0], search, 24)
    assert exact < 0.6 * naive


@WITH_EVERYTHING
@pytest.mark.parametrize("search", SETTINGS.values(), ids=SETTINGS)
def test_exact_is_naive_on_many_items(lm: deal.Model, search: deal.Search) -> None:
    items = commongen()
    pairs = [check_item(lm, concepts, search, 48) for concepts in items]
    naive, exact = map(sum, zip(*pairs, strict=True))
    print(f"\n{len(items)} items: {naive} tokens evaluated by naive, {exact} by exact")
    assert exact < 0.3 * naive


@WITH_EVERYTHING
def test_long_search_stays_within_a_budget(smollm2_path: Path, lm: deal.Model) -> None:
    search = deal.Search(top_k=10, lookahead=32, reward_weight=10.0, num_beams=4)
    chat = [{"role": "user", "content": "Write a long story about a dog and a river."}]
    prompt = lm.tokenizer.apply_chat_template(chat)
    n_prompt = len(lm.tokenizer.encode(prompt, add_special_tokens=False))
    most = most_pages(search, n_prompt, 512)
    within = deal.load(smollm2_path, kv_budget=most * page_size(lm))
    peak, result, stats = peak_pages(
        within,
        prompt,
        rewards=deal.rewards.Keywords(["dog", "river", "mountain"]),
        search=search,
        max_new_tokens=512,
        eos_token_id=[],
    )
    assert len(result["token_ids"]) == 512 and peak <= most
    print(
        f"\n{64 * peak} cells of {64 * most} at most, {stats['n_forward_tokens']} rows"
    )
