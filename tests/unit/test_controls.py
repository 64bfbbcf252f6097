"""Controls and batched reading: what is in force where, errors, shared prefixes."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import PROMPT, PROMPTS, SEARCH, key, python_keywords
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import AddResidual, EditFinal, MapHead


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("controls") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return path


@pytest.fixture(scope="module")
def lm(path: Path) -> deal.Model:
    return deal.load(path, compute="f32", threads=2)


RNG = np.random.default_rng(1)
VECTOR = RNG.normal(size=64)
MATRIX = RNG.normal(size=(16, 16)) / 4


def some_controls() -> list[Any]:
    return [
        AddResidual(0, VECTOR, where="completion"),
        MapHead(1, 2, MATRIX),
        EditFinal(lambda states: states + 0.5 * np.roll(states, 1, axis=1)),
    ]


def everything(lm: deal.Model) -> list[Any]:
    return [
        key(lm.generate(PROMPT, max_new_tokens=12)),
        [key(r) for r in lm.generate(PROMPTS, num_beams=3, max_new_tokens=8)],
        key(lm.generate(PROMPT, sampling=deal.Sampling(seed=2), max_new_tokens=12)),
        key(
            lm.generate(
                PROMPT, rewards=python_keywords, search=SEARCH, max_new_tokens=8
            )
        ),
        "".join(lm.stream(PROMPT, max_new_tokens=12)),
        key(lm.chat([{"role": "user", "content": "the dog"}], max_new_tokens=8)),
        lm.logprob(PROMPT, [" a river", " the dog ran"]),
        lm.logits(PROMPT).tobytes(),
        lm.hidden(PROMPTS, layers=[0, -1], positions="mean").tobytes(),
    ]


# --- what is in force ----------------------------------------------------------------


def test_all_requests_inside_and_none_outside(lm: deal.Model) -> None:
    plain = everything(lm)
    with lm.controls(some_controls()):
        edited = everything(lm)
        assert edited == everything(lm)
        with lm.controls(None):
            assert everything(lm) == plain
        with lm.controls([]):
            assert everything(lm) == edited
        assert everything(lm) == edited
    assert everything(lm) == plain
    assert all(a != b for a, b in zip(plain, edited, strict=True))


def test_blocks_add_up(lm: deal.Model) -> None:
    controls = some_controls()
    with lm.controls(controls):
        expected = everything(lm)
    with lm.controls(controls[:1]), lm.controls(controls[1]), lm.controls(controls[2:]):
        assert everything(lm) == expected


def test_neutral_controls_change_nothing(lm: deal.Model) -> None:
    plain = everything(lm)
    neutral = [
        AddResidual(1, VECTOR, scale=0.0),
        MapHead(0, 1, np.eye(16), np.zeros(16)),
        MapHead(0, 1, np.ones(16)),
        EditFinal(lambda states: states),
    ]
    with lm.controls(neutral):
        assert everything(lm) == plain


def test_the_block_ends_with_an_error(lm: deal.Model) -> None:
    plain = lm.logits(PROMPT)
    with pytest.raises(KeyError), lm.controls(some_controls()):
        raise KeyError
    assert np.array_equal(lm.logits(PROMPT), plain)


def test_models_apart(path: Path, lm: deal.Model) -> None:
    other = deal.load(path, compute="f32", threads=1)
    with lm.controls(some_controls()):
        edited = lm.logits(PROMPT)
        plain = other.logits(PROMPT)
        with other.controls(some_controls()):
            assert np.array_equal(other.logits(PROMPT), edited)
    assert np.array_equal(lm.logits(PROMPT), plain)


def test_threads_apart(lm: deal.Model) -> None:
    """Sets of several threads at once, over sessions that all of them use in turn."""
    scales = [0.0, 1.0, -1.0, 2.0]
    expected = []
    for scale in scales:
        with lm.controls([AddResidual(0, VECTOR, scale=scale)]):
            expected.append(key(lm.generate(PROMPT, max_new_tokens=6)))
    plain = key(lm.generate(PROMPT, max_new_tokens=6))
    failed: list[float] = []

    def work(i: int) -> None:
        for _ in range(5):
            with lm.controls([AddResidual(0, VECTOR, scale=scales[i])]):
                if key(lm.generate(PROMPT, max_new_tokens=6)) != expected[i]:
                    failed.append(scales[i])
            if key(lm.generate(PROMPT, max_new_tokens=6)) != plain:
                failed.append(np.nan)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(scales))]
    with lm.controls([AddResidual(0, VECTOR, scale=9.0)]):  # of this thread alone
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed


def test_a_stream_keeps_the_controls_of_its_start(lm: deal.Model) -> None:
    plain = lm.generate(PROMPT, max_new_tokens=12).text
    with lm.controls(some_controls()):
        expected = lm.generate(PROMPT, max_new_tokens=12).text
        stream = lm.stream(PROMPT, max_new_tokens=12)
    assert "".join(stream) == expected != plain
    stream = lm.stream(PROMPT, max_new_tokens=12)
    with lm.controls(some_controls()):
        assert "".join(stream) == plain


def test_sessions_hold_nothing(lm: deal.Model) -> None:
    def edit(states: np.ndarray) -> np.ndarray:
        return states

    gone = weakref.ref(edit)
    with lm.controls([EditFinal(edit)]):
        everything(lm)
    del edit
    gc.collect()
    assert gone() is None
    assert all(session.n_live == 0 for session in lm._idle)


def test_thread_count_and_batch_change_nothing(path: Path) -> None:
    results = []
    for threads in (1, 2, 3):
        for compute in ("f32", "int8"):
            lm = deal.load(path, compute=compute, threads=threads)
            with lm.controls(some_controls()):
                results.append((compute, everything(lm)))
    for compute in ("f32", "int8"):
        same = [r for c, r in results if c == compute]
        assert same[0] == same[1] == same[2]


# --- callbacks -----------------------------------------------------------------------


def test_a_callback_runs_on_the_calling_thread(lm: deal.Model) -> None:
    seen = []

    def edit(states: np.ndarray) -> np.ndarray:
        assert states.dtype == np.float32 and states.flags.c_contiguous
        seen.append((threading.get_ident(), states.shape))
        states[:] = 0  # its own copy
        return states + 1

    with lm.controls([EditFinal(edit)]):
        h = lm.hidden(PROMPT, positions="all")
    assert (h == 1).all()
    n = len(lm.tokenizer.encode(PROMPT))
    assert seen == [(threading.get_ident(), (n, 64))]


def test_final_states_of_the_completion(lm: deal.Model) -> None:
    n_states = []

    def edit(states: np.ndarray) -> np.ndarray:
        n_states.append(len(states))
        return states

    with lm.controls([EditFinal(edit, where="completion")]):
        lm.generate(PROMPT, max_new_tokens=5, eos_token_id=[])
    assert n_states == [1] * 5


def test_a_callback_may_use_the_model(lm: deal.Model) -> None:
    plain = lm.logits(PROMPT)
    inner = []

    def edit(states: np.ndarray) -> np.ndarray:
        inner.append(lm.logits(PROMPT))
        return states * 2

    with lm.controls([EditFinal(edit)]):
        edited = lm.logits(PROMPT)
    assert np.array_equal(inner[0], plain) and len(inner) == 1
    assert not np.array_equal(edited, plain)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_what_a_callback_raises_goes_through(lm: deal.Model, error: type) -> None:
    plain = lm.logits(PROMPT)
    raised = error("mine")

    def edit(states: np.ndarray) -> np.ndarray:
        raise raised

    with lm.controls([EditFinal(edit)]):
        for call in (
            lambda: lm.generate(PROMPT),
            lambda: lm.logits(PROMPT),
            lambda: lm.logprob(PROMPT, " a"),
            lambda: lm.hidden(PROMPTS),
            lambda: list(lm.stream(PROMPT)),
        ):
            with pytest.raises(error) as info:
                call()
            assert info.value is raised
    assert np.array_equal(lm.logits(PROMPT), plain)
    assert all(session.n_live == 0 for session in lm._idle)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda s: None, "got NoneType"),
        (lambda s: s[:-1], r"shape \(7, 64\), got shape \(6, 64\)"),
        (lambda s: s[:, 0], r"got shape \(7,\)"),
        (lambda s: s.astype(complex), "complex"),
        (lambda s: "text", "got shape"),
        (lambda s: [[1.0], [1.0, 2.0]], "got list"),
        (lambda s: s * np.nan, "not finite"),
        (lambda s: s + np.inf, "not finite"),
    ],
)
def test_what_a_callback_must_return(lm: deal.Model, result: Any, message: str) -> None:
    ids = lm.tokenizer.encode(PROMPT)[:7]
    with lm.controls([EditFinal(result)]), pytest.raises(deal.ControlError) as info:
        lm.logits(ids)
    assert info.match(message)
    with lm.controls([EditFinal(lambda s: s.astype(np.float64).tolist())]):
        assert np.array_equal(lm.logits(ids), lm.logits(ids))


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AddResidual(2, VECTOR), ValueError, "layer: expected 0 to 1, got 2"),
        (lambda: AddResidual(-1, VECTOR), ValueError, "layer: expected at least 0"),
        (lambda: AddResidual(0.5, VECTOR), TypeError, "layer: expected an integer"),
        (
            lambda: AddResidual(0, VECTOR[:9]),
            ValueError,
            r"\(64,\) \(n_embd\), got \(9",
        ),
        (lambda: AddResidual(0, [VECTOR]), ValueError, "vector: expected 1 dimensions"),
        (lambda: AddResidual(0, "text"), TypeError, "vector: expected an array"),
        (
            lambda: AddResidual(0, VECTOR * np.nan),
            ValueError,
            "vector: expected finite",
        ),
        (lambda: AddResidual(0, VECTOR, 1e300), ValueError, "range of float32"),
        (lambda: AddResidual(0, VECTOR, "2"), TypeError, "scale: expected a number"),
        (
            lambda: AddResidual(0, VECTOR, where="end"),
            ValueError,
            "where: .* got 'end'",
        ),
        (lambda: MapHead(0, 4, MATRIX), ValueError, "head: expected 0 to 3, got 4"),
        (lambda: MapHead(0, 0), ValueError, "a matrix, a shift or both"),
        (lambda: MapHead(0, 0, MATRIX[:3]), ValueError, "MapHead.matrix: expected sh"),
        (lambda: MapHead(0, 0, shift=VECTOR), ValueError, "MapHead.shift: expected sh"),
        (lambda: EditFinal(3), TypeError, "fn: expected a callable"),
        (lambda: 3, TypeError, "expected AddResidual, MapHead or EditFinal, got 3"),
    ],
)
def test_bad_controls(lm: deal.Model, make: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message), lm.controls([make()]):
        pass


def test_a_capsule_of_another_kind(lm: deal.Model) -> None:
    capsule = deal._core.length(0, 1, 2)
    with pytest.raises(TypeError, match="deal.control.v1"):
        with lm.controls([EditFinal(capsule)]):
            pass


def test_bad_arguments_of_hidden(lm: deal.Model) -> None:
    for layers in ([2], [-2], [], 0, "0", [0.5]):
        with pytest.raises((ValueError, TypeError), match="layers: expected"):
            lm.hidden(PROMPT, layers=layers)
    with pytest.raises(ValueError, match="layers: expected 0 to 1, got -1"):
        lm.head_outputs(PROMPT, layers=[-1])
    for positions in ("first", 3, [], [10**6], [0.5]):
        with pytest.raises((ValueError, TypeError), match="positions: expected"):
            lm.hidden(PROMPT, positions=positions)
    with pytest.raises(deal.ContextLengthError, match="text 1: .* 257"):
        lm.hidden([[5], [5] * 257])


# --- batches -------------------------------------------------------------------------


def test_hidden_of_many_is_hidden_of_each(lm: deal.Model) -> None:
    texts = [*PROMPTS, PROMPT + " a dog", "the", PROMPT, "the cat"] * 12
    for positions in ("last", "mean", "all", [0, -1]):
        kwargs: dict[str, Any] = {"layers": [1, -1, 0], "positions": positions}
        together = lm.hidden(texts, **kwargs)
        single = [lm.hidden(text, **kwargs) for text in texts]
        assert len(together) == len(texts)
        for a, b in zip(together, single, strict=True):
            assert a.dtype == np.float32 and np.array_equal(a, b)
    assert lm.hidden(texts).shape == (len(texts), 1, 64)
    assert lm.hidden(texts, layers=[0, 1], positions=[0, -1]).shape[1:] == (2, 2, 64)


def n_prefixes(sequences: list[list[int]]) -> int:
    return len({tuple(s[: i + 1]) for s in sequences for i in range(len(s))})


def test_shared_prefixes_are_evaluated_once(lm: deal.Model) -> None:
    rng = np.random.default_rng(3)
    prompt = lm.tokenizer.encode(PROMPT)
    completions = [
        [int(t) for t in rng.integers(20, 24, rng.integers(1, 9))] for _ in range(400)
    ]
    before = lm.n_forward_tokens
    together = lm.logprob(prompt, completions)
    evaluated = lm.n_forward_tokens - before
    assert evaluated == n_prefixes([[*prompt, *c][:-1] for c in completions])
    assert evaluated > 256  # more than a batch
    assert together == [lm.logprob(prompt, c) for c in completions]
    before = lm.n_forward_tokens
    lm.hidden([[*prompt, *c] for c in completions], positions="mean")
    evaluated = lm.n_forward_tokens - before
    assert evaluated == n_prefixes([[*prompt, *c] for c in completions])


def test_logprob_of_pairs(lm: deal.Model) -> None:
    completions = [" a river", [" the dog ran", " a dog"], lm.tokenizer.encode(" on")]
    pairs = lm.logprob(PROMPTS, completions)
    expected = [lm.logprob(p, c) for p, c in zip(PROMPTS, completions, strict=True)]
    assert pairs == expected and isinstance(pairs[1], list)
    ids = [lm.tokenizer.encode(p) for p in PROMPTS]
    assert lm.logprob(ids, completions) == pairs
    prompts = [PROMPT] * 300
    before = lm.n_forward_tokens
    assert (
        lm.logprob(prompts, [" a river"] * 300)
        == [lm.logprob(PROMPT, " a river")] * 300
    )
    n = len(lm.tokenizer.encode(PROMPT + " a river"))
    assert lm.n_forward_tokens - before == 2 * (n - 1)
    with pytest.raises(ValueError, match="completions: expected a list of 3"):
        lm.logprob(PROMPTS, [" a"])
    with pytest.raises(ValueError, match="completions: expected a list of 3"):
        lm.logprob(PROMPTS, " a ")
    assert lm.logprob(PROMPT, "") == 0 and lm.logprob(PROMPT, ["", ""]) == [0, 0]


def test_batches_with_controls_that_go_by_the_prompt(lm: deal.Model) -> None:
    """Texts with prompts of other lengths share nothing then, and score as alone."""
    prompts = [*PROMPTS, "the", "the cat", PROMPT + " a"] * 9
    completions = [" sat on a river", " a dog"] * 27
    with lm.controls(some_controls()):
        together = lm.logprob(prompts, completions)
        single = [lm.logprob(p, c) for p, c in zip(prompts, completions, strict=True)]
        states = lm.hidden(prompts, layers=[0, -1])
        assert together == single
        for text, state in zip(prompts, states, strict=True):
            assert np.array_equal(lm.hidden(text, layers=[0, -1]), state)
    assert all(session.n_live == 0 for session in lm._idle)


def test_logprob_matches_logits(lm: deal.Model) -> None:
    ids = lm.tokenizer.encode(PROMPT)
    completion = [40, 41, 42]
    with lm.controls([MapHead(1, 2, MATRIX), AddResidual(0, VECTOR)]):
        logits = lm.logits([*ids, *completion]).astype(np.float64)
        score = lm.logprob(ids, completion)
    rows = logits[len(ids) - 1 : -1]
    log_z = np.log(np.exp(rows - rows.max(1)[:, None]).sum(1)) + rows.max(1)
    assert score == pytest.approx((rows[np.arange(3), completion] - log_z).sum())
