"""SmolLM2-135M-Instruct (Q4_1) against transformers f32 on the dequantised file.

Goldens: tools/make_goldens.py smollm2. The file is taken from the user's cache (`make
test` fetches it first); without it these tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deal

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "smollm2.json").read_text(encoding="utf-8"))

# Two f32 passes through 30 layers that sum in different orders; logits reach 30.
LOGIT_TOLERANCE = 2e-3

# Below this difference between the best two logits either may come first.
SURE_MARGIN = 1e-2

# Transformers keeps beam scores in f32, and each of 24 log-probs has its own error.
BEAM_SCORE_TOLERANCE = 2e-3

# nats per token, the mean over 2,000 tokens of text.
INT8_KL = 0.01


@pytest.fixture(scope="module")
def f32(smollm2_path: Path) -> deal.Model:
    return deal.load(smollm2_path, compute="f32")


@pytest.fixture(scope="module")
def int8(smollm2_path: Path) -> deal.Model:
    return deal.load(smollm2_path, compute="int8")


def log_softmax_f32(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    log_z = np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64))
    return shifted - log_z.astype(np.float32)


def sure_length(row: dict[str, Any]) -> int:
    """Tokens before the first decision that rounding may take either way."""
    unsure = [i for i, margin in enumerate(row["margin"]) if margin <= SURE_MARGIN]
    return unsure[0] if unsure else len(row["tokens"])


def test_hparams(f32: deal.Model) -> None:
    h = f32.hparams
    assert (h.n_vocab, h.n_embd, h.n_layer, h.n_head, h.n_head_kv) == (
        49152,
        576,
        30,
        9,
        3,
    )
    assert (h.head_dim, h.n_ff, h.n_ctx_train, h.rope_base) == (64, 1536, 8192, 1e5)
    assert h.norm_eps == pytest.approx(1e-5) and h.is_tied


def test_logits(f32: deal.Model) -> None:
    golden = np.load(DATA / "smollm2.npz")
    logits = f32.logits(golden["ids"])
    assert logits.shape == (64, 49152)
    top_logits = np.take_along_axis(logits, golden["top"], axis=1)
    errors = {
        "columns": np.abs(logits[:, golden["columns"]] - golden["column_logits"]).max(),
        "top 20": np.abs(top_logits - golden["top_logits"]).max(),
    }
    top = logits.max(-1, keepdims=True)
    log_z = top[:, 0] + np.log(np.exp(logits - top).sum(-1, dtype=np.float64))
    errors["log Z"] = np.abs(log_z - golden["log_z"]).max()
    print(errors)
    assert max(errors.values()) <= LOGIT_TOLERANCE, errors


@pytest.mark.parametrize("i_prompt", range(20))
def test_greedy(i_prompt: int, f32: deal.Model) -> None:
    row = GOLDEN["greedy"][i_prompt]
    n_sure = sure_length(row)
    assert f32.tokenizer.encode(row["prompt"]) == row["prompt_ids"]
    r = f32.generate(
        row["prompt_ids"], max_new_tokens=64, eos_token_id=GOLDEN["end_token"]
    )
    assert list(r.token_ids[:n_sure]) == row["tokens"][:n_sure]
    if n_sure == len(row["tokens"]):
        is_ended = row["tokens"][-1] == GOLDEN["end_token"]
        assert len(r.token_ids) == n_sure
        assert r.finish_reason == ("stop" if is_ended else "length")


def test_greedy_covers_enough() -> None:
    """The margins leave nearly all of the golden tokens to compare."""
    n_sure = sum(map(sure_length, GOLDEN["greedy"]))
    assert len(GOLDEN["greedy"]) == 20 and n_sure >= 800, n_sure


def test_every_sure_choice(f32: deal.Model) -> None:
    """Past an unsure decision the texts may part; along the golden one they agree."""
    n_checked = 0
    for row in GOLDEN["greedy"]:
        tokens, n_prompt = row["tokens"], len(row["prompt_ids"])
        n_sure = sure_length(row)
        if n_sure == len(tokens):
            continue  # test_greedy has compared all of it
        chosen = f32.logits(row["prompt_ids"] + tokens[:-1]).argmax(-1)[n_prompt - 1 :]
        for i in range(n_sure, len(tokens)):
            if row["margin"][i] > SURE_MARGIN:
                assert chosen[i] == tokens[i], (row["prompt"], i)
                n_checked += 1
    assert n_checked >= 100


def test_end_token_of_the_file(f32: deal.Model) -> None:
    row = next(
        r for r in GOLDEN["greedy"] if r["tokens"][-1] == 2 and sure_length(r) > 10
    )
    r = f32.generate(row["prompt"], max_new_tokens=64)
    assert list(r.token_ids) == row["tokens"] and r.finish_reason == "stop"
    assert "<|im_end|>" not in r.text


@pytest.mark.parametrize("i_row", range(len(GOLDEN["beams"])))
def test_beams(i_row: int, f32: deal.Model) -> None:
    row = GOLDEN["beams"][i_row]
    results = f32.generate(
        row["prompt_ids"],
        max_new_tokens=24,
        num_beams=4,
        num_return_sequences=4,
        length_penalty=row["length_penalty"],
        eos_token_id=GOLDEN["end_token"],
    )
    assert [list(r.token_ids) for r in results] == row["tokens"]
    scores = [r.score for r in results]
    assert scores == pytest.approx(row["scores"], abs=BEAM_SCORE_TOLERANCE)
    for r in results:
        expected = f32.logprob(row["prompt_ids"], list(r.token_ids))
        assert r.logprob == pytest.approx(expected, abs=1e-4)


def test_chat_template(f32: deal.Model) -> None:
    for chat in GOLDEN["chats"]:
        assert f32.tokenizer.apply_chat_template(chat["messages"]) == chat["text"]


def test_chat_equals_the_rendered_prompt(f32: deal.Model) -> None:
    row = next(r for r in GOLDEN["greedy"] if "17 + 25" in r["prompt"])
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    n_sure = sure_length(row)
    r = f32.chat(messages, max_new_tokens=64)
    assert list(r.token_ids[:n_sure]) == row["tokens"][:n_sure]


def test_int8_divergence(f32: deal.Model, int8: deal.Model) -> None:
    """Mean KL divergence of the int8 path from f32 over text the model wrote."""
    total, n = 0.0, 0
    n_same_top = 0
    for ids in GOLDEN["sequences"]:
        p = log_softmax_f32(f32.logits(ids))
        q = log_softmax_f32(int8.logits(ids))
        total += float((np.exp(p) * (p - q)).sum())
        n_same_top += int((p.argmax(-1) == q.argmax(-1)).sum())
        n += len(ids)
    print(f"int8: mean KL {total / n:.5f} nats over {n} tokens", end=", ")
    print(f"same first choice {n_same_top / n:.4f}; llama.cpp: {GOLDEN['llama_cpp']}")
    assert n >= 2000
    assert 0 < total / n <= INT8_KL


def test_int8_greedy_is_close(int8: deal.Model) -> None:
    """int8 writes the same first words where f32 is far from undecided."""
    n_checked = 0
    for row in GOLDEN["greedy"]:
        margins = row["margin"]
        n_clear = next((i for i, m in enumerate(margins) if m < 1.0), len(margins))
        if n_clear < 2:
            continue
        r = int8.generate(row["prompt_ids"], max_new_tokens=n_clear, eos_token_id=2)
        assert list(r.token_ids) == row["tokens"][:n_clear]
        n_checked += 1
    assert n_checked >= 3
