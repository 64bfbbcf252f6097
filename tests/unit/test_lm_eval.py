"""The model type of lm-evaluation-harness, on a tiny model, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from generation import log_softmax
from lm_eval_requests import N_CTX, instance, tiny, write
from tiny_model import CHAT_TEMPLATE

pytest.importorskip("lm_eval", reason="lm_eval is not installed")

import deal
from deal.lm_eval import DealLM

NEAR = 1e-4  # nats per token: sums in f32 of numbers that are the same


@pytest.fixture(scope="module", params=["byte", "spm"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    return tiny(request.param, tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def lm(model: deal.Model) -> DealLM:
    return DealLM(model)


def expected_of(lm: DealLM, context: Sequence[int], added: Sequence[int]) -> Any:
    """From all logits, one text at a time."""
    ids = [*context, *added][-(lm.max_length + 1) :]
    logits = lm.lm.logits(ids[:-1])[len(ids) - 1 - len(added) :]
    rows = [log_softmax(row) for row in logits]
    found = [row[token] for row, token in zip(rows, added, strict=True)]
    greedy = [int(np.argmax(row)) for row in rows] == list(added)
    return float(np.sum(found)), greedy


def score(lm: DealLM, *pairs: tuple[str, str]) -> list[tuple[float, bool]]:
    requests = [instance(*pair) for pair in pairs]
    return lm.loglikelihood(requests, disable_tqdm=True)


# --- log-likelihoods -----------------------------------------------------------------


def test_against_logits(lm: DealLM) -> None:
    greedy = write(lm, "The cat sat", max_gen_toks=3)
    pairs = [
        ("The cat", " sat on a couch"),
        ("The cat sat", greedy),
        ("The cat  ", "sat"),
        ("The cat", " ünï 😀 é"),
        ("the sun " * 40, "at a tree"),
        ("", "hello there"),
    ]
    found = score(lm, *pairs)
    for (context, continuation), (logprob, is_greedy) in zip(pairs, found, strict=True):
        if context:
            ids = lm._encode_pair(context, continuation)
        else:
            added = lm.tok_encode(continuation, add_special_tokens=False)
            ids = ([lm.prefix_token_id], added)
        expected = expected_of(lm, *ids)
        assert abs(logprob - expected[0]) < NEAR * len(ids[1])
        assert is_greedy == expected[1]
    assert [g for _, g in found].count(True) == 1 and found[1][1]
    assert all(type(a) is float and type(b) is bool for a, b in found)


def test_a_result_does_not_depend_on_the_others(lm: DealLM) -> None:
    pairs = [("The cat", " sat"), ("The cat", " sat on"), ("The", " cat"), ("", "é")]
    alone = [score(lm, pair)[0] for pair in pairs]
    assert score(lm, *pairs, *pairs[::-1]) == alone + alone[::-1]


def test_shared_prefixes_are_computed_once(lm: DealLM) -> None:
    contexts = [f"The cat sat on a couch {i} " * 4 for i in range(3)]
    choices = ["big apple", "big tree", "small", "a dog at play"]
    pairs = [(c, f" {choice}") for c in contexts for choice in choices]
    prefixes = set()
    for pair in pairs:
        context, added = lm._encode_pair(*pair)
        ids = [*context, *added][-(lm.max_length + 1) :]
        prefixes |= {tuple(ids[:i]) for i in range(1, len(ids))}
    before = lm.lm.n_forward_tokens
    score(lm, *pairs * 5)  # and what is asked again costs nothing
    assert lm.lm.n_forward_tokens - before == len(prefixes)


def test_what_is_empty(lm: DealLM) -> None:
    assert score(lm, ("", ""), ("The cat", ""), ("", "")) == [(0.0, True)] * 3
    assert lm.loglikelihood([], disable_tqdm=True) == []
    [whole] = lm.loglikelihood_rolling([instance("")], disable_tqdm=True)
    assert abs(whole - rolling(lm, "")) < NEAR
    [(spaces, _)] = score(lm, ("   ", "cat"))
    added = lm._encode_pair("   ", "cat")
    expected, _ = expected_of(lm, added[0] or [lm.prefix_token_id], added[1])
    assert abs(spaces - expected) < NEAR * len(added[1])


def test_what_cannot_be_scored(lm: DealLM, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="at most 64 tokens"):
        score(lm, ("The cat", " é😀" * 40))
    with pytest.raises(ValueError, match="Unicode"):
        score(lm, ("The cat", " \ud800"))
    monkeypatch.setattr(lm, "_encode_pair", lambda *pair: ([5, 6], []))
    with pytest.raises(ValueError, match="'ing' has no token of its own"):
        score(lm, ("sitt", "ing"))


def rolling(lm: DealLM, text: str) -> float:
    """Every token once: a first window, then windows that end with what is left."""
    ids, n = lm.tok_encode(text), lm.max_length
    total, begin = 0.0, 0
    while begin < len(ids):
        end = min(begin + n, len(ids))
        window = [lm.prefix_token_id, *ids][max(0, end - n) : end + 1]
        total += expected_of(lm, window[: begin - end], ids[begin:end])[0]
        begin = end
    return total


def test_rolling(lm: DealLM) -> None:
    texts = ["a cat", "The cat sat on a couch. " * 30, "é😀\n" * 9, "a cat"]
    found = lm.loglikelihood_rolling([instance(t) for t in texts], disable_tqdm=True)
    for text, value in zip(texts, found, strict=True):
        assert abs(value - rolling(lm, text)) < NEAR * len(lm.tok_encode(text))
    assert found[0] == found[3]


def test_likelihoods_of_ids(model: deal.Model) -> None:
    seen: list[Any] = []
    pairs = [([1, 5], [6, 7]), ([1], []), ([1, 5], [6])]
    found = model.loglikelihood(pairs, done=lambda *row: seen.append(row))
    assert sorted(seen) == [(i, *pair) for i, pair in enumerate(found)]
    assert found[1] == (0.0, True)
    assert found[0][0] == pytest.approx(model.logprob([1, 5], [6, 7]), abs=1e-12)
    with pytest.raises(ValueError, match="at least one token"):
        model.loglikelihood([([], [1])])
    with pytest.raises(deal.ContextLengthError, match="at most 64 tokens"):
        model.loglikelihood([([1] * N_CTX, [1, 1])])
    assert len(model.loglikelihood([([1] * N_CTX, [1])])) == 1


def test_what_done_raises_ends_the_call(model: deal.Model) -> None:
    def done(*row: Any) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        model.loglikelihood([([1], [2])], done=done)
    assert len(model.loglikelihood([([1], [2])])) == 1  # the session is free again


# --- texts and chats -----------------------------------------------------------------


def test_begin_tokens(model: deal.Model) -> None:
    bos = model.tokenizer.bos_token_id
    plain = model.tokenizer.encode("The cat", add_special_tokens=False)
    assert DealLM(model, add_bos_token=True).tok_encode("The cat") == [bos, *plain]
    without = DealLM(model, add_bos_token=False)
    assert without.tok_encode("The cat") == plain
    assert without.tok_encode("The cat", left_truncate_len=2) == plain[-2:]
    text = model.tokenizer.decode([bos], skip_special_tokens=False)
    ids = DealLM(model, add_bos_token=True).tok_encode(f"{text}The cat")
    assert ids[0] == bos and bos not in ids[1:]
    assert DealLM(model, prefix_token_id=7).prefix_token_id == 7


def test_chat_templates(lm: DealLM, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "So "}]
    assert lm.apply_chat_template(chat[:1]).endswith("<|im_start|>assistant\n")
    text = lm.apply_chat_template(chat, add_generation_prompt=False)
    assert text.endswith("assistant\nSo ")
    assert lm.chat_template(True) == CHAT_TEMPLATE
    assert "/" not in lm.tokenizer_name
    refuses = (
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('no system') }}{% endif %}[{{ m.content }}]{% endfor %}"
        "{{ tone }}"
    )
    monkeypatch.setattr(lm.tokenizer, "chat_template", refuses)
    system = [{"role": "system", "content": "Be kind."}]
    assert lm.apply_chat_template(system + chat[:1]) == "[hi]"
    ours = DealLM(lm.lm, chat_template_args={"tone": "!"})
    assert ours.apply_chat_template(chat[:1]) == "[hi]!"
    monkeypatch.setattr(lm.tokenizer, "chat_template", None)
    with pytest.raises(deal.TokenizerError, match="the model has none"):
        lm.apply_chat_template(system + chat)


# --- the model itself ----------------------------------------------------------------


@pytest.mark.parametrize("given", [1, "4", "auto", "auto:2", None])
def test_batch_sizes(model: deal.Model, given: Any) -> None:
    lm = DealLM(model, batch_size=given, max_batch_size=64, device="cuda:0")
    expected = {"4": 4, None: "auto"}.get(given, given)
    assert lm.batch_size == expected
    assert (lm.rank, lm.world_size) == (0, 1)


@pytest.mark.parametrize(
    "arguments, error, what",
    [
        ({"batch_size": 0}, ValueError, "batch_size: expected a number from 1"),
        ({"batch_size": "best"}, ValueError, "batch_size"),
        ({"max_length": 65}, ValueError, "max_length: expected at most 64"),
        ({"max_length": 0}, ValueError, "max_length: expected at least 1"),
        ({"max_length": "9"}, TypeError, "max_length: expected an int"),
        ({"prefix_token_id": -1}, ValueError, "prefix_token_id: expected 0 to"),
        ({"prefix_token_id": "a"}, TypeError, "prefix_token_id: expected an int"),
        ({"add_bos_token": "yes"}, TypeError, "add_bos_token"),
        ({"max_gen_toks": 0}, ValueError, "max_gen_toks"),
        ({"pretrained": "x"}, ValueError, "under one name"),
        ({"dtype": "float32"}, TypeError, "dtype"),
    ],
)
def test_bad_arguments(
    model: deal.Model, arguments: Any, error: Any, what: str
) -> None:
    with pytest.raises(error, match=what):
        DealLM(model, **arguments)


def test_loading_by_name(model: deal.Model) -> None:
    arguments = f"pretrained={model.path},compute=f32,max_length=32,threads=1"
    lm = DealLM.create_from_arg_string(arguments, {"batch_size": "auto"})
    assert (lm.max_length, lm.lm.threads, lm.lm.compute) == (32, 1, "f32")
    assert lm.get_model_info()["model_dtype"] == "f32"
    assert lm.get_model_info()["model_num_parameters"] > 100_000
