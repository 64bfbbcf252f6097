"""DealLM against the harness' own model type "hf", on the same tiny weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from lm_eval_requests import instance
from tiny_model import TinyConfig, make_tiny, write_hf_folder

pytest.importorskip("lm_eval", reason="lm_eval is not installed")
pytest.importorskip("torch", reason="the model type hf needs torch")
pytest.importorskip("transformers", reason="the model type hf needs transformers")
pytest.importorskip("accelerate", reason="the model type hf needs accelerate")

from deal.lm_eval import DealLM

NATS_PER_TOKEN = 1e-4  # f32 sums in another order
PAIRS = [
    ("", "a cat sat"),
    ("The cat", " sat on a couch"),
    ("The cat  ", "sat"),  # spaces move to the continuation
    ("The cat\n", "sat"),
    ("The cat", " ünï 😀 é"),  # characters of several tokens
    ("😀", "é\n\n"),
    ("<|im_start|>user\nhello<|im_end|>\n", "big apple"),
    ("<s>The cat", " sat"),
    ("the sun " * 40, "at a tree"),  # more than max_length
    ("a", " couch" * 20),
]
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": " hello there\n"},
    {"role": "assistant", "content": " Sure: "},
]


@pytest.fixture(scope="module", params=["byte", "spm"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(f"tiny-{request.param}")
    write_hf_folder(make_tiny(TinyConfig(vocab=request.param)), path)
    return path


@pytest.fixture(scope="module", params=[{}, {"add_bos_token": True, "max_length": 40}])
def both(request: Any, folder: Path) -> tuple[DealLM, Any]:
    from lm_eval.models.huggingface import HFLM

    hf = HFLM(str(folder), device="cpu", dtype="float32", batch_size=3, **request.param)
    return DealLM(str(folder), compute="f32", **request.param), hf


def test_tokens(both: tuple[DealLM, Any]) -> None:
    ours, hf = both
    assert ours.prefix_token_id == hf.prefix_token_id
    assert ours.eot_token_id == hf.eot_token_id
    assert ours.max_length == hf.max_length
    for context, continuation in PAIRS:
        assert ours.tok_encode(context) == hf.tok_encode(context)
        for adds in (True, False):
            expected = hf.tok_encode(context, add_special_tokens=adds)
            assert ours.tok_encode(context, add_special_tokens=adds) == expected
        if context:
            expected = hf._encode_pair(context, continuation)
            assert ours._encode_pair(context, continuation) == expected


def test_loglikelihoods(both: tuple[DealLM, Any]) -> None:
    ours, hf = both
    limit = ours.max_length
    pairs = [p for p in PAIRS if len(hf.tok_encode(p[1])) <= limit]
    # What greedy decoding writes, so that both answers occur.
    settings = {"until": ["\n"], "max_gen_toks": 4}
    pairs += [
        (c, ours.generate_until([instance(c, settings)], disable_tqdm=True)[0])
        for c in ("The cat sat on", "hello")
    ]
    pairs = [p for p in pairs if p[1].strip()]
    random.Random(0).shuffle(pairs)
    requests = [instance(*pair) for pair in pairs]
    found = ours.loglikelihood(requests, disable_tqdm=True)
    expected = hf.loglikelihood(requests, disable_tqdm=True)
    for pair, (a, is_greedy), (b, is_hf_greedy) in zip(
        pairs, found, expected, strict=True
    ):
        n = len(hf.tok_encode(pair[1]))
        assert abs(a - b) < NATS_PER_TOKEN * n, pair
        assert is_greedy == is_hf_greedy, pair
    assert {is_greedy for _, is_greedy in found} == {True, False}


def test_rolling(both: tuple[DealLM, Any]) -> None:
    ours, hf = both
    texts = ["a cat", "The cat sat on a couch by the sea. " * 12, "é😀\n" * 30]
    requests = [instance(text) for text in texts]
    found = ours.loglikelihood_rolling(requests, disable_tqdm=True)
    expected = hf.loglikelihood_rolling(requests, disable_tqdm=True)
    for text, a, b in zip(texts, found, expected, strict=True):
        assert abs(a - b) < NATS_PER_TOKEN * len(hf.tok_encode(text))


@pytest.mark.parametrize("until", [["\n"], ["ird", "xyz"], ["big", "<|im_end|>"], []])
def test_greedy_texts(both: tuple[DealLM, Any], until: list[str]) -> None:
    ours, hf = both
    settings = {"until": until, "max_gen_toks": 12, "do_sample": False}
    contexts = ["The cat", "hello there, big", "the sun " * 40, "é😀"]
    for context in contexts:
        requests = [instance(context, dict(settings))]
        [a] = ours.generate_until(requests, disable_tqdm=True)
        [b] = hf.generate_until(
            [instance(context, dict(settings, until=list(until)))], disable_tqdm=True
        )
        # Of a SentencePiece text hf loses the space that it begins with.
        assert a.removeprefix(" ") == b.removeprefix(" "), context


def test_chats(both: tuple[DealLM, Any]) -> None:
    ours, hf = both
    for chat in (CHAT[:2], CHAT[1:2]):
        assert ours.apply_chat_template(chat) == hf.apply_chat_template(chat)
    for chat in (CHAT, CHAT[1:]):
        expected = hf.apply_chat_template(chat, add_generation_prompt=False)
        assert ours.apply_chat_template(chat, add_generation_prompt=False) == expected
    assert ours.chat_template(True) == hf.chat_template(True)
