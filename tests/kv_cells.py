"""KV cells of a request: bytes of a page, how many a search holds, how many it may."""

from __future__ import annotations

from typing import Any

import deal
from deal._request import GENERATE_DEFAULTS

PAGE_LEN = 64
BATCH_LEN = 64  # rows of a batch with some ahead


def page_size(lm: deal.Model) -> int:
    """Bytes of 64 cells: heads are padded to 16 numbers, the final state is f32."""
    h = lm.hparams
    head = (h.head_dim + 15) // 16 * 16 * {"f32": 4, "f16": 2}[lm.kv_type]
    return PAGE_LEN * (2 * h.n_layer * h.n_head_kv * head + 4 * h.n_embd)


def most_pages(search: deal.Search, n_prompt: int, n_new: int) -> int:
    """Pages that a search of mode "exact" may hold at any time.

    The contexts themselves, one for each hypothesis, below each what a decision
    evaluates, `top_k` candidates with their rollouts, and what is evaluated ahead.
    """
    contexts = search.num_beams * (n_prompt + n_new)
    below = search.num_beams * search.top_k * (search.lookahead + 1)
    cells = 1 + contexts + below + ahead_cells(search)  # the root is one
    return -(-cells // PAGE_LEN)


def ahead_cells(search: deal.Search) -> int:
    """Most tokens ahead: a batch, and what may be held where one is added."""
    return BATCH_LEN * (search.lookahead + 1) if search.exact.speculation else 0


def peak_pages(lm: deal.Model, prompt: str, **options: Any) -> tuple[int, Any, Any]:
    """Most pages that a request holds, its first result, and its statistics.

    Pages are given back when the last cell is free, at the request's end, so that what
    is held before the last decision is the most that there was.
    """
    given = lm._options(GENERATE_DEFAULTS | options)
    with lm._session() as session:
        search = lm._start(
            (session, None), lm._encode(prompt, True), given, {}, (None, None)
        )
        peak = 0
        while not search.step():
            peak = session.kv_size
        found = search.results()[0], search.stats()
        del search  # gives its nodes back before the session is
    return peak // page_size(lm), *found
