"""A long exact search holds what can still be reached, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from generation import PROMPT, WORDS, coverage
from kv_cells import PAGE_LEN, ahead_cells, most_pages, page_size, peak_pages
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal

LONG = {"top_k": 10, "lookahead": 32, "num_beams": 4, "reward_weight": 10.0}
TRIMMED = deal.Search(**LONG, exact=deal.Exact(speculation=False))
N_NEW = 512


def used(completions: list[str], **kwargs: Any) -> list[float]:
    """The keywords with nothing known of their range: all is rolled out."""
    return coverage(completions, WORDS)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kv") / "long.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0, n_ctx=1024)), path)
    return path


def load(path: Path, pages: int | None = None) -> deal.Model:
    lm = deal.load(path, compute="f32")
    if pages is None:
        return lm
    return deal.load(path, compute="f32", kv_budget=pages * page_size(lm))


def options_of(reward: str, n_new: int) -> dict[str, Any]:
    rewards = used if reward == "unbounded" else deal.rewards.Keywords([*WORDS, "zoo"])
    return {"rewards": rewards, "max_new_tokens": n_new, "eos_token_id": []}


@pytest.mark.slow
@pytest.mark.parametrize("search", [TRIMMED, deal.Search(**LONG)])
@pytest.mark.parametrize(("reward", "n_new"), [("native", N_NEW), ("unbounded", 96)])
def test_long_search_stays_within_its_bound(
    path: Path, search: deal.Search, reward: str, n_new: int
) -> None:
    lm = load(path)
    n_prompt = len(lm.tokenizer.encode(PROMPT))
    most = most_pages(search, n_prompt, n_new)
    options = options_of(reward, n_new) | {"search": search}
    peak, result, stats = peak_pages(lm, PROMPT, **options)
    assert len(result["token_ids"]) == n_new
    assert n_new // 64 < peak <= most
    assert stats["n_forward_tokens"] > 10 * 64 * peak  # to be held without trimming
    # What is held beside the contexts does not grow with the text.
    early, *_ = peak_pages(load(path), PROMPT, **options | {"max_new_tokens": 64})
    later = search.num_beams * (n_new - 64) + ahead_cells(search)
    assert peak <= early + later // PAGE_LEN + 1
    within = load(path, most).generate(PROMPT, **options)
    assert within.token_ids == tuple(result["token_ids"])
    assert within.score == result["score"]


def test_budget_below_the_contexts_ends_a_long_search(path: Path) -> None:
    lm = load(path, N_NEW // 64)  # one hypothesis alone needs a page more
    options = options_of("native", N_NEW)
    for search in (TRIMMED, deal.Search(**LONG)):
        with pytest.raises(deal.KVBudgetError, match="kv_budget: .* held"):
            lm.generate(PROMPT, search=search, **options)
    assert lm.kv_size <= N_NEW // 64 * page_size(lm)
    small = deal.Search(top_k=2, lookahead=3, reward_weight=10.0)
    short = options_of("native", 20) | {"search": small}
    found, free = (one.generate(PROMPT, **short) for one in (lm, load(path)))
    assert (found.token_ids, found.score) == (free.token_ids, free.score)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("reward", ["native", "unbounded"])
def test_a_budget_that_fits_naive_fits_exact(
    path: Path, reward: str, num_beams: int
) -> None:
    """Rows that nobody needs make way, rather than end the search."""
    asked = {"top_k": 8, "lookahead": 24, "reward_weight": 10.0}
    asked["num_beams"] = num_beams
    naive = deal.Search(mode="naive", **asked)
    options = options_of(reward, 70)
    for pages in range(2, 60):  # the least that naive needs
        lm = load(path, pages)
        try:
            expected = lm.generate(PROMPT, search=naive, **options)
            break
        except deal.KVBudgetError:
            continue
    for _ in range(3):  # what is evaluated ahead hangs on measured costs
        found = lm.generate(PROMPT, search=deal.Search(**asked), **options)
        assert (found.token_ids, found.score) == (expected.token_ids, expected.score)
    with pytest.raises(deal.KVBudgetError):
        load(path, pages - 1).generate(PROMPT, search=naive, **options)
