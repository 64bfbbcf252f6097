"""Fluency, Contrast and heads on another model: against what the models themselves say,
with every new token evaluated once.
"""

from __future__ import annotations

import gc
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import PROMPT, WORDS, key
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.rewards import Contrast, Fluency, Keywords, RewardModel, from_model

SEARCH = deal.Search(top_k=4, lookahead=5, reward_weight=2.0)
TEXTS = [
    " the cat sat on the couch",
    " the cat sat on the couch and looked",
    " the cat",
    " dog dog house",
    " Zwölf né 日本",
    " the cat sat on the couch and looked at",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_gguf(make_tiny(TinyConfig(seed=0)), folder / "byte.gguf")
    write_gguf(make_tiny(TinyConfig(seed=5, vocab="spm")), folder / "spm.gguf")
    return folder


@pytest.fixture
def lm(folder: Path) -> deal.Model:
    return deal.load(folder / "byte.gguf", compute="f32", threads=2)


@pytest.fixture
def other(folder: Path) -> deal.Model:
    """With another tokenizer."""
    return deal.load(folder / "spm.gguf", compute="f32", threads=1)


def pieces(model: deal.Model, prompt: str, text: str) -> list[int]:
    ids = model.tokenizer.encode(prompt)
    return model._encode_completion(ids, prompt, text)


def mean_logprob(model: deal.Model, prompt: str, text: str) -> float:
    return model.logprob(prompt, text) / len(pieces(model, prompt, text))


# --- fluency -------------------------------------------------------------------------


def test_fluency_is_the_mean_logprob(lm: deal.Model, other: deal.Model) -> None:
    for model in (lm, other):
        expected = [mean_logprob(model, PROMPT, text) for text in TEXTS]
        reward = Fluency(model)
        assert reward.score(TEXTS, PROMPT) == expected
        assert reward.score(TEXTS[::-1], PROMPT) == expected[::-1]
        assert [reward.score([text], PROMPT)[0] for text in TEXTS] == expected
    assert Fluency(lm).range == (-np.inf, 0.0)
    assert Fluency(lm).score([""], PROMPT) == [0.0]


def test_fluency_with_a_floor(lm: deal.Model) -> None:
    scores = Fluency(lm).score(TEXTS, PROMPT)
    floor = sorted(scores)[2]
    reward = Fluency(lm, floor=floor, name="fluent")
    assert reward.score(TEXTS, PROMPT) == [max(s, floor) for s in scores]
    assert reward.range == (floor, 0.0) and reward.name == "fluent"
    for bad in (0.0, 1.0, float("nan"), -float("inf")):
        with pytest.raises(ValueError, match="floor: expected less than 0"):
            Fluency(lm, floor=bad)
    with pytest.raises(TypeError, match=r"model: expected a deal.Model"):
        Fluency("smollm2")
    with pytest.raises(ValueError, match="cache_tokens"):
        Fluency(lm, cache_tokens=-1)


def test_each_prompt_has_its_own_context(lm: deal.Model) -> None:
    prompts = [PROMPT, "the dog", PROMPT, "", "the dog", "a"]
    reward = Fluency(lm)
    found = reward.score(TEXTS, prompts)
    for prompt, text, score in zip(prompts, TEXTS, found, strict=True):
        if prompt:
            assert score == mean_logprob(lm, prompt, text)
    # Nothing to go on: the end token, which texts follow in training, stands for it.
    assert lm.tokenizer.bos_token_id is None or not lm.tokenizer.encode("")
    start = lm.tokenizer.bos_token_id
    start = lm.tokenizer.eos_token_id if start is None else start
    ids = lm.tokenizer.encode(TEXTS[3])
    assert found[3] == lm.logprob([start], ids) / len(ids)


def test_only_new_tokens_are_evaluated(lm: deal.Model) -> None:
    reward = Fluency(lm)
    text, seen = "", set()
    rng = random.Random(3)
    for step in range(30):
        text += " " + rng.choice(WORDS)
        ends = [text + " " + " ".join(rng.choices(WORDS, k=4)) for _ in range(5)]
        before = lm.n_forward_tokens
        reward.score(ends, PROMPT)
        n_new = 0
        for end in ends:
            ids = lm.tokenizer.encode(PROMPT) + pieces(lm, PROMPT, end)
            for n in range(1, len(ids)):  # the last one is scored and not read
                n_new += tuple(ids[:n]) not in seen
                seen.add(tuple(ids[:n]))
        assert lm.n_forward_tokens - before == n_new
        again = lm.n_forward_tokens
        reward.score(ends, PROMPT)
        assert lm.n_forward_tokens == again
        if step > 3:  # far less than the texts have
            assert n_new < sum(len(pieces(lm, PROMPT, end)) for end in ends) / 2


@pytest.mark.parametrize("cache_tokens", [0, 7, 60])
def test_scores_do_not_depend_on_what_is_kept(
    lm: deal.Model, cache_tokens: int
) -> None:
    rng = random.Random(cache_tokens)
    small, large = Fluency(lm, cache_tokens=cache_tokens), Fluency(lm)
    for _ in range(12):
        texts = [
            " " + " ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(6)
        ]
        assert small.score(texts, PROMPT) == large.score(texts, PROMPT)


def test_little_memory(folder: Path) -> None:
    page = deal.load(folder / "byte.gguf")._core.kv_page_size(0)
    tight = deal.load(folder / "byte.gguf", compute="f32", kv_budget=page)
    plenty = deal.load(folder / "byte.gguf", compute="f32")
    one, two = Fluency(tight), Fluency(plenty)
    rng = random.Random(4)
    for _ in range(12):  # more tokens than a page has cells, which is made room in
        text = " " + " ".join(rng.choices(WORDS, k=20))
        assert one.score([text], PROMPT) == two.score([text], PROMPT)
    with pytest.raises(deal.KVBudgetError):
        one.score([" the cat sat" * 40], PROMPT)
    assert one.score([TEXTS[0]], PROMPT) == two.score([TEXTS[0]], PROMPT)


def test_search_takes_the_same_decisions(lm: deal.Model, other: deal.Model) -> None:
    for model in (lm, other):
        rewards = Fluency(model, floor=-12.0) + 3.0 * Keywords(WORDS[:3])
        results = [
            lm.generate(
                PROMPT,
                rewards=rewards,
                search=deal.Search(top_k=4, lookahead=5, reward_weight=2.0, mode=mode),
                max_new_tokens=12,
            )
            for mode in ("naive", "exact")
        ]
        assert key(results[0])[:-1] == key(results[1])[:-1]  # the trace shows pruning
        text = results[0].text
        expected = max(mean_logprob(model, PROMPT, text), -12.0)
        assert results[0].rewards["fluency"] == expected


def test_in_a_chat_the_template_writes_the_prompt(lm: deal.Model) -> None:
    messages = [{"role": "user", "content": "the cat"}]
    r = lm.chat(messages, rewards=Fluency(lm), search=SEARCH, max_new_tokens=6)
    ids = lm.tokenizer.apply_chat_template(messages, tokenize=True)
    written = [i for i in r.token_ids if i not in lm.tokenizer.eos_token_ids]
    again = lm.tokenizer.encode(r.text, add_special_tokens=False)
    if again == written:  # the text may be cut otherwise than it was written
        assert r.reward == lm.logprob(ids, written) / len(written)
    assert r.reward == lm.logprob(ids, again) / len(again)


def test_another_model_has_its_own_template(lm: deal.Model, other: deal.Model) -> None:
    other.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} said {{ m['content'] }}. {% endfor %}"
    )
    messages = [{"role": "user", "content": "the cat"}]
    weight = np.random.default_rng(3).standard_normal(other.hparams.n_embd) / 8
    rewards = Fluency(other) + from_model(other, weight, sigmoid=False)
    r = lm.chat(messages, rewards=rewards, search=SEARCH, max_new_tokens=6)
    ids = other.tokenizer.encode("user said the cat. ", False)
    text = other.tokenizer.encode("user said the cat. " + r.text, False)[len(ids) :]
    assert r.rewards["fluency"] == other.logprob(ids, text) / len(text)
    state = other.hidden(ids + text)[0].astype(np.float64)
    assert r.rewards["reward_model"] == pytest.approx(float(state @ weight))


def test_controls_in_force_count(lm: deal.Model) -> None:
    reward = Fluency(lm)
    plain = reward.score(TEXTS, PROMPT)
    vector = np.random.default_rng(1).standard_normal(lm.hparams.n_embd)
    edit = deal.AddResidual(0, vector, 2.0)
    with lm.controls([edit]):
        inside = reward.score(TEXTS, PROMPT)
        assert inside == [mean_logprob(lm, PROMPT, text) for text in TEXTS]
        assert inside == reward.score(TEXTS, PROMPT)
    assert inside != plain
    assert reward.score(TEXTS, PROMPT) == plain
    completion = deal.AddResidual(0, vector, 2.0, where="completion")
    with lm.controls([completion]):  # hangs on the prompt's length
        prompts = [PROMPT, "the", PROMPT, "the", "the", PROMPT]
        assert reward.score(TEXTS, prompts) == [
            mean_logprob(lm, prompt, text)
            for prompt, text in zip(prompts, TEXTS, strict=True)
        ]


def test_threads_share_a_reward(lm: deal.Model) -> None:
    reward = Fluency(lm)
    expected = {text: mean_logprob(lm, PROMPT, text) for text in TEXTS}
    found: list[bool] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(20):
            texts = rng.sample(TEXTS, 3)
            scores = reward.score(texts, PROMPT)
            found.append(scores == [expected[text] for text in texts])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80 and all(found)


def test_a_dropped_reward_gives_its_session_back(lm: deal.Model) -> None:
    for _ in range(5):
        reward = Fluency(lm)
        reward.score(TEXTS, PROMPT)
        loop = [reward]
        loop.append(loop)  # a cycle, for the garbage collector alone
        held = lm.kv_size
        del reward, loop
        gc.collect()
        assert lm.kv_size <= held
    assert len(lm._sessions) == len(lm._idle) == 1
    assert lm._sessions[0].n_live == 0


def test_errors_leave_the_reward_usable(lm: deal.Model) -> None:
    reward = Fluency(lm)
    expected = reward.score(TEXTS, PROMPT)
    with pytest.raises(deal.ContextLengthError, match="max_length"):
        reward.score([" the cat" * lm.max_length], PROMPT)
    with pytest.raises(ValueError, match="lone surrogate"):
        reward.score(["\ud800"], PROMPT)
    assert reward.score(TEXTS, PROMPT) == expected


# --- contrast ------------------------------------------------------------------------


def test_contrast_is_a_difference(lm: deal.Model) -> None:
    asked = "you would like the bird. " + PROMPT
    expected = [lm.logprob(asked, t) - lm.logprob(PROMPT, t) for t in TEXTS]
    reward = Contrast(lm, "you would like the bird. {prompt}")
    assert reward.score(TEXTS, PROMPT) == expected
    called = Contrast(lm, lambda prompt: "you would like the bird. " + prompt)
    assert called.score(TEXTS, PROMPT) == expected
    turned = Contrast(lm, "{prompt}", "you would like the bird. {prompt}")
    assert turned.score(TEXTS, PROMPT) == [-score for score in expected]
    fixed = Contrast(lm, "the bird", "the dog")
    assert fixed.score(TEXTS, PROMPT) == [
        lm.logprob("the bird", t) - lm.logprob("the dog", t) for t in TEXTS
    ]
    mean = Contrast(lm, "the bird", "the dog", per_token=True)
    assert mean.score(TEXTS, PROMPT) == [
        mean_logprob(lm, "the bird", t) - mean_logprob(lm, "the dog", t) for t in TEXTS
    ]
    assert fixed.score([""], PROMPT) == [0.0]
    for bad in (None, 3, []):
        with pytest.raises(TypeError, match="prompt: expected a str, messages"):
            Contrast(lm, bad)


def test_contrast_of_messages(lm: deal.Model) -> None:
    messages = [
        {"role": "system", "content": "a big bird"},
        {"role": "user", "content": "{prompt}"},
    ]
    reward = Contrast(lm, messages, messages[1:])

    def rendered(rows: list[dict[str, str]]) -> list[int]:
        rows = [{**m, "content": m["content"].replace("{prompt}", "it")} for m in rows]
        return lm.tokenizer.apply_chat_template(rows, tokenize=True)

    expected = []
    for text in TEXTS:
        ids = lm.tokenizer.encode(text, add_special_tokens=False)
        a, b = (lm.logprob(rendered(rows), ids) for rows in (messages, messages[1:]))
        expected.append(a - b)
    assert reward.score(TEXTS, "it") == expected


def test_contrast_asks_new_tokens_alone(lm: deal.Model) -> None:
    reward = Contrast(lm, "the bird. {prompt}")
    reward.score(TEXTS, PROMPT)
    before = lm.n_forward_tokens
    reward.score([TEXTS[3] + " day"], PROMPT)
    # Under either prompt: the text's own last token, which was not read yet.
    assert lm.n_forward_tokens - before == 2


# --- heads on another model ----------------------------------------------------------


def expected_states(
    model: deal.Model, prompt: str, text: str, layers: Any, pooling: str
) -> np.ndarray:
    """(n_layers * n_embd,) by the model's own reading."""
    before = model.tokenizer.encode(prompt)
    ids = before + pieces(model, prompt, text)
    states = model.hidden(ids, layers=layers, positions="all")
    n = min(len(before), len(ids) - 1)
    if pooling == "last":
        return states[:, -1].reshape(-1)
    mean = states[:, n:].astype(np.float64).mean(axis=1).astype(np.float32)
    return mean.reshape(-1)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("layers", [(-1,), (0, 1), (0, -1)])
def test_head_on_another_model(
    lm: deal.Model, other: deal.Model, pooling: str, layers: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal(len(layers) * other.hparams.n_embd) / 8
    head = RewardModel(weight, 0.25, layers=layers, pooling=pooling)
    values = []
    for text in [*TEXTS, ""]:
        state = expected_states(other, PROMPT, text, layers, pooling)
        values.append(float(state.astype(np.float64) @ weight) + 0.25)
    raw = from_model(
        other, weight, bias=0.25, layers=layers, pooling=pooling, sigmoid=False
    )
    assert raw.score([*TEXTS, ""], PROMPT) == pytest.approx(values, rel=1e-12)
    assert raw.range == (-np.inf, np.inf)
    squashed = 1 / (1 + np.exp(-np.array(values)))
    for reward in (
        from_model(other, head),
        from_model(other, weight, bias=0.25, layers=layers, pooling=pooling),
    ):
        assert reward.range == (0.0, 1.0)
        assert reward.score([*TEXTS, ""], PROMPT) == pytest.approx(squashed)
    on_itself = RewardModel(weight, 0.25, layers=layers, pooling=pooling, model=other)
    assert on_itself.score(TEXTS, PROMPT) == pytest.approx(squashed[:-1])


def test_head_in_a_search(lm: deal.Model, other: deal.Model) -> None:
    weight = np.random.default_rng(7).standard_normal(other.hparams.n_embd)
    reward = from_model(other, weight, name="judge")
    for mode in ("naive", "exact"):
        before = other.n_forward_tokens
        search = deal.Search(top_k=4, lookahead=5, reward_weight=2.0, mode=mode)
        r = lm.generate(PROMPT, rewards=reward, search=search, max_new_tokens=12)
        asked = other.n_forward_tokens - before
        state = expected_states(other, PROMPT, r.text, (-1,), "last")
        value = 1 / (1 + np.exp(-float(state.astype(np.float64) @ weight)))
        assert r.rewards["judge"] == pytest.approx(value)
        assert (asked > 0) == (mode == "naive")  # then all texts are known


def test_what_the_head_reads(lm: deal.Model, other: deal.Model) -> None:
    weight = np.random.default_rng(8).standard_normal(lm.hparams.n_embd) / 8

    def value(ids: list[int]) -> float:
        state = lm.hidden(ids)[0].astype(np.float64)
        return float(state @ weight)

    def scores(text: Any) -> list[float]:
        return from_model(lm, weight, text=text, sigmoid=False).score(TEXTS, "it is")

    encode = lm.tokenizer.encode
    whole = [value(encode("it is") + pieces(lm, "it is", text)) for text in TEXTS]
    assert scores("prompt+completion") == pytest.approx(whole)
    start = lm.tokenizer.bos_token_id
    start = lm.tokenizer.eos_token_id if start is None else start
    alone = [value([start, *encode(text)]) for text in TEXTS]
    assert scores("completion") == pytest.approx(alone)
    chat = lm.tokenizer.apply_chat_template([{"role": "user", "content": "it is"}])
    turn = [value(encode(chat, False) + encode(text, False)) for text in TEXTS]
    assert scores("chat") == pytest.approx(turn)
    swapped = [value(encode("Q: it is") + pieces(lm, "Q: it is", t)) for t in TEXTS]
    made = scores(lambda prompt, text: (f"Q: {prompt}", text))
    assert made == pytest.approx(swapped)
    with pytest.raises(TypeError, match="text: expected a pair"):
        scores(lambda prompt, text: prompt + text)
    with pytest.raises(ValueError, match="text: expected a callable or one of"):
        scores("prompt")


def test_heads_that_do_not_fit(lm: deal.Model) -> None:
    n = lm.hparams.n_embd
    with pytest.raises(ValueError, match=f"{n} numbers"):
        from_model(lm, np.ones(n + 1))
    with pytest.raises(ValueError, match=f"expected {n} features"):
        from_model(lm, RewardModel(np.ones(n + 1)))
    with pytest.raises(ValueError, match="has its own bias"):
        from_model(lm, RewardModel(np.ones(n)), pooling="mean")
    with pytest.raises(ValueError, match="layers: expected -1 to"):
        from_model(lm, RewardModel(np.ones(n), layers=[99]))
