"""Decoding on a tiny random model that writes words: `Model.generate` and its kin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import (
    PROMPT,
    PROMPTS,
    SEARCH,
    key,
    log_softmax,
    python_keywords,
)
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generate") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return path


@pytest.fixture(scope="module")
def lm(path: Path) -> deal.Model:
    return deal.load(path, compute="f32", threads=2)


# --- decoding ------------------------------------------------------------------------


def test_greedy_is_the_default(lm: deal.Model) -> None:
    r = lm.generate(PROMPT, max_new_tokens=20, eos_token_id=[])
    assert len(r.token_ids) == 20 and r.finish_reason == "length"
    assert r.text == lm.tokenizer.decode(list(r.token_ids))
    assert r.reward == 0 and r.rewards == {} and r.trace == ()
    assert r.score == pytest.approx(r.logprob) and r.logprob < 0
    assert str(r) == r.text
    ids = lm.tokenizer.encode(PROMPT)
    for token in r.token_ids:
        assert token == lm.logits(ids)[-1].argmax()
        ids.append(token)


def test_ids_as_prompt(lm: deal.Model) -> None:
    ids = lm.tokenizer.encode(PROMPT)
    expected = key(lm.generate(PROMPT))
    assert key(lm.generate(ids)) == expected
    assert key(lm.generate(tuple(ids))) == expected
    assert key(lm.generate(np.array(ids))) == expected


def test_temperature_zero_is_greedy(lm: deal.Model) -> None:
    r = lm.generate(PROMPT, sampling=deal.Sampling(temperature=0.0))
    assert r.token_ids == lm.generate(PROMPT).token_ids
    r = lm.generate(PROMPT, sampling=deal.Sampling(top_k=1, seed=5))
    assert r.token_ids == lm.generate(PROMPT).token_ids


def test_same_seed_same_text(lm: deal.Model) -> None:
    def draw(seed: int, n: int = 1) -> Any:
        sampling = deal.Sampling(temperature=1.3, top_p=0.98, seed=seed)
        return lm.generate(
            PROMPT, sampling=sampling, num_return_sequences=n, max_new_tokens=24
        )

    assert key(draw(1)) == key(draw(1))
    assert len({draw(seed).text for seed in range(6)}) == 6
    several = draw(1, 4)
    assert len(several) == 4 and len({r.token_ids for r in several}) == 4
    assert [key(r) for r in several] == [key(r) for r in draw(1, 4)]
    assert key(several[0]) == key(draw(1)), "a stream depends on the number of streams"
    assert draw(2**64 - 1).text != draw(0).text


def test_sampled_frequencies(lm: deal.Model) -> None:
    """The first token is drawn from the softmax, within five standard errors."""
    n = 2000
    sampling = deal.Sampling(temperature=0.7, seed=3)
    rs = lm.generate(
        PROMPT, sampling=sampling, num_return_sequences=n, max_new_tokens=1
    )
    drawn = np.bincount([r.token_ids[0] for r in rs], minlength=lm.hparams.n_vocab) / n
    logits = lm.logits(PROMPT)[-1].astype(np.float64) / 0.7
    p = np.exp(logits - logits.max())
    p /= p.sum()
    assert (np.abs(drawn - p) <= 5 * np.sqrt(p * (1 - p) / n) + 1 / n).all()


def test_sampling_filters(lm: deal.Model) -> None:
    logits = lm.logits(PROMPT)[-1].astype(np.float64)
    order = np.argsort(-logits, kind="stable")
    p = np.exp(logits - logits.max())
    p /= p.sum()
    n_top_p = int(np.searchsorted(np.cumsum(p[order]), 0.5)) + 1
    n_min_p = int((p >= 0.2 * p.max()).sum())
    for settings, allowed in (
        ({"top_k": 3}, order[:3]),
        ({"top_p": 0.5}, order[:n_top_p]),
        ({"min_p": 0.2}, order[:n_min_p]),
        ({"top_k": 10**9}, order),
    ):
        sampling = deal.Sampling(seed=4, **settings)
        rs = lm.generate(
            PROMPT, sampling=sampling, num_return_sequences=400, max_new_tokens=1
        )
        drawn = {r.token_ids[0] for r in rs}
        assert drawn <= set(allowed.tolist()), settings
        if len(allowed) <= 4:
            assert len(drawn) == len(allowed), settings


def test_repetition_penalty(lm: deal.Model) -> None:
    plain = lm.generate(PROMPT, max_new_tokens=60, eos_token_id=[])
    sampling = deal.Sampling(temperature=0.0, repetition_penalty=1e6)
    r = lm.generate(PROMPT, sampling=sampling, max_new_tokens=60, eos_token_id=[])
    assert len(set(plain.token_ids)) < len(plain.token_ids)
    seen = [*lm.tokenizer.encode(PROMPT), *r.token_ids]
    n_prompt = len(seen) - len(r.token_ids)
    for i in range(n_prompt, len(seen)):
        logits = lm.logits(seen[:i])[-1].astype(np.float64)
        old = np.unique(seen[:i])
        logits[old] = np.where(logits[old] < 0, logits[old] * 1e6, logits[old] / 1e6)
        assert seen[i] == logits.argmax()


def test_end_tokens(lm: deal.Model) -> None:
    free = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[])
    end = free.token_ids[7]
    first = free.token_ids.index(end)
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=end)
    assert r.token_ids == free.token_ids[: first + 1] and r.finish_reason == "stop"
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[end, free.token_ids[1]])
    assert len(r.token_ids) == min(first, free.token_ids.index(free.token_ids[1])) + 1


def test_end_token_in_the_last_place(lm: deal.Model) -> None:
    free = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[])
    end = free.token_ids[4]
    n = free.token_ids.index(end) + 1
    r = lm.generate(PROMPT, max_new_tokens=n, eos_token_id=end)
    assert len(r.token_ids) == n and r.finish_reason == "stop"


def test_stop_strings(lm: deal.Model) -> None:
    free = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[])
    words = free.text.split()
    stop = words[4]
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[], stop=stop)
    assert r.text == free.text[: free.text.index(stop)] and r.finish_reason == "stop"
    stops = ["never written", f"{words[2]} {words[3]}", stop]
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[], stop=stops)
    at = min(free.text.index(s) for s in stops[1:])
    assert r.text == free.text[:at] and r.finish_reason == "stop"
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[], stop="never written")
    assert r.text == free.text and r.finish_reason == "length"


def test_stop_string_inside_a_token(lm: deal.Model) -> None:
    free = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[])
    word = next(w for w in free.text.split()[2:] if len(w) > 4)
    r = lm.generate(PROMPT, max_new_tokens=30, eos_token_id=[], stop=word[1:3])
    assert r.text == free.text[: free.text.index(word[1:3])]


def test_lists(lm: deal.Model) -> None:
    single = [key(lm.generate(p, max_new_tokens=12)) for p in PROMPTS]
    assert [key(r) for r in lm.generate(PROMPTS, max_new_tokens=12)] == single
    ids = [lm.tokenizer.encode(p) for p in PROMPTS]
    assert [key(r) for r in lm.generate(ids, max_new_tokens=12)] == single
    assert [key(r) for r in lm.generate(PROMPTS[:1], max_new_tokens=12)] == single[:1]
    rs = lm.generate(PROMPTS, max_new_tokens=8, num_beams=3, num_return_sequences=3)
    assert [len(row) for row in rs] == [3, 3, 3]


def test_beams(lm: deal.Model) -> None:
    rs = lm.generate(PROMPT, num_beams=4, num_return_sequences=4, max_new_tokens=10)
    scores = [r.score for r in rs]
    assert scores == sorted(scores, reverse=True)
    assert len({r.token_ids for r in rs}) == 4
    for r in rs:
        assert r.score == pytest.approx(r.logprob / len(r.token_ids))
        ids = lm.tokenizer.encode(PROMPT)
        assert r.logprob == pytest.approx(lm.logprob(ids, list(r.token_ids)), abs=1e-4)
    one = lm.generate(PROMPT, num_beams=4, max_new_tokens=10)
    assert key(one) == key(rs[0])
    zero = lm.generate(PROMPT, num_beams=4, length_penalty=0.0, max_new_tokens=10)
    greedy = lm.generate(PROMPT, max_new_tokens=10)
    assert zero.score == pytest.approx(zero.logprob) and zero.logprob >= greedy.logprob


def test_wide_beam_finds_the_best_sequence(lm: deal.Model) -> None:
    """With every pair in reach the first result is the arg-max over all of them."""
    n_vocab = lm.hparams.n_vocab
    ids = lm.tokenizer.encode(PROMPT)
    r = lm.generate(
        PROMPT, num_beams=n_vocab, max_new_tokens=2, length_penalty=0.0, eos_token_id=[]
    )
    best = -math.inf, (0, 0)
    first = log_softmax(lm.logits(ids)[-1])
    for token in np.argsort(-first)[:60]:
        second = log_softmax(lm.logits([*ids, int(token)])[-1])
        total = first[token] + second.max()
        best = max(best, (total, (int(token), int(second.argmax()))))
    assert r.token_ids == best[1]
    assert r.logprob == pytest.approx(best[0], abs=1e-4)


# --- determinism ---------------------------------------------------------------------


@pytest.mark.parametrize("compute", ["f32", "int8"])
def test_thread_count_changes_nothing(path: Path, compute: str) -> None:
    results = []
    for threads in (1, 2, 3):
        lm = deal.load(path, compute=compute, threads=threads)
        results.append(
            [
                key(lm.generate(PROMPT)),
                key(lm.generate(PROMPT, sampling=deal.Sampling(seed=9))),
                [key(r) for r in lm.generate(PROMPTS, num_beams=3)],
                key(lm.generate(PROMPT, rewards=python_keywords, search=SEARCH)),
                lm.logits(PROMPT).tobytes(),
                lm.logprob(PROMPT, [" a river", " the dog ran"]),
            ]
        )
    assert results[0] == results[1] == results[2]


def test_earlier_requests_change_nothing(path: Path, lm: deal.Model) -> None:
    """A session is used again and again; its leftovers are no part of a result."""
    fresh = key(deal.load(path, compute="f32", threads=1).generate(PROMPT, num_beams=3))
    for prompt in PROMPTS:
        lm.generate(prompt, rewards=python_keywords, search=SEARCH, max_new_tokens=9)
        lm.generate(prompt, sampling=deal.Sampling(seed=1), num_return_sequences=5)
    assert key(lm.generate(PROMPT, num_beams=3)) == fresh


def test_logprob_is_batch_invariant(lm: deal.Model) -> None:
    texts = [" a river", " the dog ran", " a", ""]
    together = lm.logprob(PROMPT, texts)
    assert together == [lm.logprob(PROMPT, text) for text in texts]
    assert together[3] == 0
    assert lm.logprob(PROMPT, texts[::-1]) == together[::-1]


# --- streaming -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sampling": deal.Sampling(temperature=2.5, seed=2)},  # many raw bytes
        {"sampling": deal.Sampling(temperature=2.5, seed=7)},
        {"num_beams": 3},
        {"rewards": python_keywords, "search": SEARCH},
        {"stop": " was"},
    ],
)
@pytest.mark.parametrize("vocab", ["byte", "spm"])
def test_stream(settings: dict[str, Any], vocab: str, tmp_path: Path) -> None:
    write_gguf(make_tiny(TinyConfig(seed=2, vocab=vocab)), tmp_path / "tiny.gguf")
    lm = deal.load(tmp_path / "tiny.gguf", compute="f32", threads=1)
    expected = lm.generate(PROMPT, max_new_tokens=40, **settings)
    stream = lm.stream(PROMPT, max_new_tokens=40, **settings)
    assert stream.generation is None
    pieces = list(stream)
    assert "".join(pieces) == expected.text
    assert key(stream.generation) == key(expected)
    assert all(pieces)
    if not settings:
        assert len(pieces) > 10


def test_stream_is_lazy_and_can_be_left(lm: deal.Model) -> None:
    expected = lm.generate(PROMPT, max_new_tokens=20).text
    stream = lm.stream(PROMPT, max_new_tokens=20)
    first = next(stream)
    assert expected.startswith(first) and first != expected
    inner = lm.generate(PROMPT, max_new_tokens=20)  # while the stream is open
    assert inner.text == expected
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    assert lm.generate(PROMPT, max_new_tokens=20).text == expected


def test_chat(lm: deal.Model) -> None:
    messages = [{"role": "user", "content": "the red house"}]
    prompt = lm.tokenizer.apply_chat_template(messages)
    assert (
        prompt == "<|im_start|>user\nthe red house<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = lm.tokenizer.encode(prompt, add_special_tokens=False)
    assert ids[0] == 1 and ids.count(2) == 1
    r = lm.chat(messages, max_new_tokens=10)
    assert r.token_ids == lm.generate(ids, max_new_tokens=10).token_ids
    several = lm.chat([messages, messages], max_new_tokens=10)
    assert [key(x) for x in several] == [key(r), key(r)]
    assert "".join(lm.stream(messages, max_new_tokens=10)) == r.text


def test_max_length_ends_a_text(path: Path) -> None:
    lm = deal.load(path, compute="f32", threads=1, max_length=24)
    n_prompt = len(lm.tokenizer.encode(PROMPT))
    for settings in (
        {},
        {"num_beams": 2},
        {"rewards": python_keywords, "search": SEARCH},
    ):
        r = lm.generate(PROMPT, max_new_tokens=500, eos_token_id=[], **settings)
        assert r.finish_reason == "length"
        assert 24 - n_prompt <= len(r.token_ids) <= 24 - n_prompt + 1


def test_int8_and_auto(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    assert deal.load(path).compute == "f32"
    write_gguf(make_tiny(), tmp_path / "q.gguf", "Q8_0")
    lm = deal.load(tmp_path / "q.gguf")
    assert lm.compute == "int8"
    r = lm.generate(PROMPT, rewards=python_keywords, search=SEARCH)
    ids = lm.tokenizer.encode(PROMPT)
    assert r.logprob == pytest.approx(lm.logprob(ids, list(r.token_ids)), abs=1e-4)
