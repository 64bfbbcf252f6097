"""deal._core.CallbackLM: what a forward pass in Python must give, and what goes wrong.

That searches over it decide as over any language model is tests/c/test_callback_lm.c's
and test_hf_custom.py's to check; here the pass is a table of the last token.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deal import _core
from deal._request import GENERATE_DEFAULTS, generations, make_options, start

N_VOCAB = 5
TABLE = np.random.default_rng(1).standard_normal((N_VOCAB, N_VOCAB)).astype(np.float32)
PIECES = [b"a", b"b", b"c", b"d", b"e"]
TOKENIZER: Any = SimpleNamespace(vocab=_core.Vocab(PIECES, bytes(N_VOCAB), 0, 0))


def table(past: Any, nodes: Any, tokens: Any, wanted: Any) -> np.ndarray:
    return TABLE[tokens[wanted != 0]]


def run(evaluate: Any, **given: Any) -> Any:
    lm = _core.CallbackLM(evaluate, N_VOCAB, 32, 8, 16)
    options = make_options(GENERATE_DEFAULTS | given, N_VOCAB, 32, [])
    search = start((lm, None), TOKENIZER, ([0, 1], "ab"), options, {})
    search.run()
    found = generations(search, options, TOKENIZER)
    del search
    assert (lm.n_live, lm.n_logits) == (0, 0)
    return found


def test_greedy() -> None:
    token, expected = 1, []
    for _ in range(6):
        token = int(TABLE[token].argmax())
        expected.append(token)
    found = run(table, max_new_tokens=6)[0]
    assert list(found.token_ids) == expected
    rows = TABLE[[1, *expected[:-1]]].astype(np.float64)
    logprobs = rows - np.log(np.exp(rows).sum(1, keepdims=True))
    logprob = sum(logprobs[i, t] for i, t in enumerate(expected))
    assert found.logprob == pytest.approx(logprob, abs=1e-5)


def test_what_the_pass_is_given() -> None:
    seen = []

    def watch(past: Any, nodes: Any, tokens: Any, wanted: Any) -> np.ndarray:
        for array in (past, nodes, tokens, wanted):
            assert array.dtype == np.int32 and array.ndim == 2
        assert nodes.shape == tokens.shape == wanted.shape
        seen.append((past.tolist(), tokens.tolist(), wanted.tolist()))
        return table(past, nodes, tokens, wanted)

    run(watch, max_new_tokens=3, num_beams=2)
    assert seen[0] == ([[]], [[0, 1]], [[0, 1]])  # the prompt, its last token wanted
    past, tokens, wanted = seen[1]
    assert np.shape(tokens) == (2, 1) and wanted == [[1], [1]]
    assert past[0] == past[1] and len(past[0]) == 2


BAD = {
    "shape": (
        lambda *a: np.zeros((3, N_VOCAB), np.float32),
        ValueError,
        r"\(1, 5\), got",
    ),
    "width": (lambda *a: np.zeros((1, 4), np.float32), ValueError, r"\(1, 5\), got"),
    "type": (lambda *a: np.zeros((1, N_VOCAB)), TypeError, "float32"),
    "layout": (
        lambda *a: np.zeros((1, 10), np.float32)[:, ::2],
        TypeError,
        "contiguous",
    ),
    "list": (lambda *a: [[0.0] * N_VOCAB], TypeError, "float32, got list"),
    "none": (lambda *a: None, TypeError, "float32, got NoneType"),
    "nan": (lambda *a: np.full((1, 5), np.nan, np.float32), ValueError, "got -?nan"),
    "raises": (lambda *a: 1 / 0, ZeroDivisionError, "division"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_passes(name: str) -> None:
    evaluate, error, message = BAD[name]
    with pytest.raises(error, match=message):
        run(evaluate, max_new_tokens=3)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="evaluate: expected a callable, got int"):
        _core.CallbackLM(3, N_VOCAB, 32, 8, 16)
    for bad in ((0, 32, 8, 16), (5, 0, 8, 16), (5, 32, 0, 16), (5, 32, 8, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            _core.CallbackLM(table, *bad)
    lm = _core.CallbackLM(table, N_VOCAB, 32, 8, 16)
    with pytest.raises(ValueError, match="n_node_max"):
        lm.set_node_max(-1)
    options = make_options(GENERATE_DEFAULTS, N_VOCAB, 32, [])
    with pytest.raises(TypeError, match="session: expected Session, CallbackLM"):
        start((table, None), TOKENIZER, ([0], ""), options, {})
    with pytest.raises(TypeError, match="rollout_session: expected Session, Call"):
        start((lm, table), TOKENIZER, ([0], ""), options, {})


def test_a_pass_cannot_search_its_own_trie() -> None:
    options = make_options(GENERATE_DEFAULTS, N_VOCAB, 32, [])

    def again(*args: Any) -> np.ndarray:
        start((lm, None), TOKENIZER, ([0], ""), options, {}).run()
        return table(*args)

    lm = _core.CallbackLM(again, N_VOCAB, 32, 8, 16)
    with pytest.raises(RuntimeError, match="in use"):
        start((lm, None), TOKENIZER, ([0, 1], "ab"), options, {}).run()


def test_stopping() -> None:
    lm = _core.CallbackLM(table, N_VOCAB, 32, 8, 16)
    options = make_options(GENERATE_DEFAULTS, N_VOCAB, 32, [])
    search = start((lm, None), TOKENIZER, ([0, 1], "ab"), options, {})
    with pytest.raises(ValueError, match="stop: expected a running search"):
        search.stop()
    assert search.tokens() == []
    for _ in range(3):
        assert not search.step()
    tokens = search.tokens()
    search.stop()
    search.stop()  # once more is no error
    assert search.step() and search.tokens() == tokens
    result = generations(search, options, TOKENIZER)[0]
    assert list(result.token_ids) == tokens and len(tokens) == 3
    assert result.text == b"".join(PIECES[t] for t in tokens).decode()
    beams = make_options(GENERATE_DEFAULTS | {"num_beams": 2}, N_VOCAB, 32, [])
    search = start((lm, None), TOKENIZER, ([0, 1], "ab"), beams, {})
    search.step()
    assert search.tokens() == []
    with pytest.raises(ValueError, match="of one hypothesis"):
        search.stop()
