"""deal.hf.custom_generate: the engine's search over torch models.

Oracles: the engine itself on the same weights, transformers' own greedy and beam search
on models of other architectures, and mode "naive" for mode "exact".
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from hf_models import (
    SEARCH,
    TinyConfig,
    bloom,
    deal,
    gpt2,
    llama,
    made,
    torch,
    transformers,
    vowels,
)

from deal.hf import DealForCausalLM, custom_generate
from deal.hf.cells import TorchCells

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["one two", "the cat", "a big green window"]
MODELS = {
    "gpt2": gpt2,
    "bloom": bloom,  # no positions: it counts the attention mask
    "mistral": lambda: llama(TinyConfig(arch="mistral", n_swa=8))[0],
    "gemma3": lambda: llama(
        TinyConfig(arch="gemma3_text", n_swa=8, swa_period=2, is_tied=True)
    )[0],
    "neox": lambda: made(
        "GPTNeoX",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
    ),
}


class Until(transformers.StoppingCriteria):
    """Stops one row at a length, and keeps what it was asked."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.asked.append(input_ids.tolist())
        return torch.tensor([input_ids.shape[1] >= self.n])


def batch(texts: list[str] = TEXTS) -> dict[str, Any]:
    return llama()[1](texts, return_tensors="pt", padding=True)


def run(model: Any, texts: list[str], fn: Any, **kwargs: Any) -> Any:
    kwargs = {"max_new_tokens": 16, "return_dict_in_generate": True} | kwargs
    return model.generate(**batch(texts), custom_generate=fn, **kwargs)


# --- the engine ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["naive", "exact"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_engine_decides_the_same(mode: str, num_beams: int) -> None:
    model, tokenizer = llama()
    lm = deal.from_transformers(model, tokenizer, threads=1)
    search = deal.Search(mode=mode, num_beams=num_beams, **SEARCH)
    fn = custom_generate(rewards=vowels, search=search, tokenizer=tokenizer)
    out = run(model, TEXTS, fn)
    for i, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        expected = lm.generate(ids, rewards=vowels, search=search, max_new_tokens=16)
        found = out.generations[i]
        assert found.token_ids == expected.token_ids
        assert found.text == expected.text
        assert found.rewards == expected.rewards
        assert found.score == pytest.approx(expected.score, abs=1e-3)
        assert found.logprob == pytest.approx(expected.logprob, abs=1e-3)
        steps = [[c.token_id for c in d.candidates if c.is_chosen] for d in found.trace]
        other = [
            [c.token_id for c in d.candidates if c.is_chosen] for d in expected.trace
        ]
        assert steps == other
    assert out.sequences_scores.tolist() == pytest.approx(
        [g.score for g in out.generations]
    )


def test_the_reward_steers() -> None:
    model, tokenizer = llama()
    plain = run(model, TEXTS, custom_generate(tokenizer=tokenizer, rewards=None))
    search = deal.Search(top_k=8, lookahead=5, reward_weight=60.0)
    fn = custom_generate(rewards=vowels, search=search, tokenizer=tokenizer)
    steered = run(model, TEXTS, fn)
    shares = [
        sum(sum(c in "aeiou" for c in g.text) / len(g.text) for g in out.generations)
        for out in (plain, steered)
    ]
    assert shares[1] > shares[0] + 0.1


# --- other models --------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"bad_words_ids": [[400], [104, 365]], "min_new_tokens": 4},
    ],
    ids=["greedy", "beams", "penalty", "words"],
)
def test_decoding_is_that_of_transformers(name: str, settings: Any) -> None:
    """Left padding, positions, windows, logits processors: the same tokens."""
    model = MODELS[name]()
    given = {"max_new_tokens": 14, "do_sample": False} | settings
    expected = model.generate(**batch(), **given)
    fn = custom_generate(tokenizer=llama()[1], batch_size=2)
    assert torch.equal(model.generate(**batch(), custom_generate=fn, **given), expected)


@pytest.mark.parametrize("name", MODELS)
def test_exact_decides_as_naive(name: str) -> None:
    model = MODELS[name]()
    found = {}
    for mode in ("naive", "exact"):
        search = deal.Search(mode=mode, **SEARCH)
        fn = custom_generate(rewards=vowels, search=search, tokenizer=llama()[1])
        found[mode] = run(model, TEXTS, fn)
    assert torch.equal(found["naive"].sequences, found["exact"].sequences)
    for a, b in zip(
        found["naive"].generations, found["exact"].generations, strict=True
    ):
        assert a.score == pytest.approx(b.score, abs=1e-4)
        assert b.stats.n_rollouts <= a.stats.n_rollouts


def test_half_precision() -> None:
    model = made("GPT2", n_embd=32, n_layer=1, n_head=2, n_positions=64).bfloat16()
    fn = custom_generate(tokenizer=llama()[1])
    expected = model.generate(**batch(TEXTS[:1]), max_new_tokens=6, do_sample=False)
    assert torch.equal(run(model, TEXTS[:1], fn, max_new_tokens=6).sequences, expected)


def test_the_context_ends_a_text() -> None:
    model = made("GPT2", n_embd=32, n_layer=1, n_head=2, n_positions=16)
    fn = custom_generate(
        tokenizer=llama()[1], rewards=vowels, search=deal.Search(**SEARCH)
    )
    out = run(model, TEXTS[:1], fn, max_new_tokens=40, eos_token_id=None)
    assert out.sequences.shape[1] == 16
    assert out.generations[0].finish_reason == "length"


# --- settings and what comes out -----------------------------------------------------


def test_scores_and_logits() -> None:
    model = gpt2()
    fn = custom_generate(tokenizer=llama()[1])
    settings = {"output_scores": True, "output_logits": True, "do_sample": False}
    given = settings | {"repetition_penalty": 1.3, "max_new_tokens": 6}
    out = run(model, TEXTS, fn, **given)
    expected = model.generate(**batch(), return_dict_in_generate=True, **given)
    assert len(out.scores) == len(out.logits) == len(expected.scores)
    for j in range(len(out.scores)):
        for i, g in enumerate(out.generations):
            if j < len(g.token_ids):
                for a, b in (
                    (out.scores, expected.scores),
                    (out.logits, expected.logits),
                ):
                    assert torch.allclose(a[j][i], b[j][i], atol=1e-4)
    search = deal.Search(**SEARCH)
    fn = custom_generate(tokenizer=llama()[1], rewards=vowels, search=search)
    out = run(model, TEXTS, fn, **settings)
    for i, g in enumerate(out.generations):
        steps = [float(out.scores[j][i, t]) for j, t in enumerate(g.token_ids)]
        assert sum(steps) == pytest.approx(g.logprob, abs=1e-3)


def test_sampling_draws_from_processed_logits() -> None:
    model, tokenizer = gpt2(), llama()[1]
    fn = custom_generate(tokenizer=tokenizer)
    settings: dict[str, Any] = {"do_sample": True, "num_return_sequences": 3}
    settings["temperature"] = 1.5
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(run(model, TEXTS, fn, **settings).sequences)
    assert torch.equal(texts[0], texts[1])
    assert texts[0].shape != texts[2].shape or not torch.equal(texts[0], texts[2])
    rows = {tuple(row.tolist()) for row in texts[0]}
    assert len(rows) > 3  # the sequences of a prompt differ
    short = run(model, TEXTS, fn, stopping_criteria=[Until(6 + 4)], **settings)
    assert short.sequences.shape == (9, 6 + 4)
    greedy = run(model, TEXTS, fn, do_sample=False).sequences
    one = run(model, TEXTS, fn, do_sample=True, top_k=1).sequences
    assert torch.equal(one, greedy)


def test_a_default_of_sampling_gives_way_to_a_search() -> None:
    model, tokenizer = llama()
    fn = custom_generate(
        tokenizer=tokenizer, rewards=vowels, search=deal.Search(**SEARCH)
    )
    expected = run(model, TEXTS, fn).sequences
    with pytest.raises(ValueError, match="sampling: a search draws nothing"):
        run(model, TEXTS, fn, do_sample=True)
    model.generation_config.do_sample = True
    try:
        assert torch.equal(run(model, TEXTS, fn).sequences, expected)
    finally:
        model.generation_config.do_sample = None


def test_stops_streams_and_criteria() -> None:
    model, tokenizer = llama()
    fn = custom_generate(tokenizer=tokenizer)
    whole = run(model, TEXTS[:1], fn).generations[0]
    word = whole.text.split()[3]
    stopped = run(model, TEXTS[:1], fn, stop=word).generations[0]
    assert stopped.finish_reason == "stop" and word not in stopped.text
    assert stopped.token_ids == whole.token_ids[: len(stopped.token_ids)]

    class Streamer(transformers.generation.BaseStreamer):
        def __init__(self) -> None:
            self.got: list[Any] = []

        def put(self, value: Any) -> None:
            self.got.append(value.tolist())

        def end(self) -> None:
            self.got.append("end")

    until = Until(6 + 5)
    streamer = Streamer()
    out = run(model, TEXTS[:1], fn, deal_streamer=streamer, stopping_criteria=[until])
    ids = batch(TEXTS[:1])["input_ids"].tolist()
    tokens = list(whole.token_ids[:5])
    assert out.sequences.tolist() == [ids[0] + tokens]
    assert streamer.got == [ids, *([t] for t in tokens), "end"]
    assert until.asked == [[ids[0] + tokens[: n + 1]] for n in range(5)]
    with pytest.raises(ValueError, match="streamer: expected one prompt"):
        run(model, TEXTS, fn, deal_streamer=streamer)
    for given in ({"num_beams": 2}, {"search": deal.Search(commit=2, **SEARCH)}):
        given = {"rewards": vowels} | given
        with pytest.raises(ValueError, match="stopping_criteria"):
            run(model, TEXTS, fn, stopping_criteria=[until], **given)


def test_keywords_of_the_call_go_first() -> None:
    model, tokenizer = llama()
    seen = []

    def spy(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
        seen.append((prompts[0], kwargs["target"][0]))
        return [0.0 for _ in completions]

    search = deal.Search(top_k=2, lookahead=0)
    fn = custom_generate(tokenizer=tokenizer, rewards=vowels, search=search)
    out = run(
        model,
        TEXTS[:2],
        fn,
        max_new_tokens=2,
        rewards=spy,
        reward_kwargs={"target": ["x", "y"]},
    )
    assert list(out.generations[0].rewards) == ["spy"]
    assert set(seen) == {("one two", "x"), ("the cat", "y")}


class Even:
    """A constraint whose matcher allows tokens of even ids alone."""

    name = "even"

    def __init__(self, n_vocab: int = 0) -> None:
        self.n_vocab = n_vocab

    def matcher(self, tokenizer: Any) -> Even:
        return Even(tokenizer.vocab_size)

    def deep_copy(self) -> Even:
        return Even(self.n_vocab)

    def consume_token(self, token: int) -> bool:
        return token % 2 == 0

    def compute_bitmask(self) -> bytes:
        return bytes([0b01010101] * ((self.n_vocab + 31) // 32 * 4))

    def is_accepting(self) -> bool:
        return False


@pytest.mark.parametrize("kind", ["engine", "torch"])
def test_hard_constraints(kind: str) -> None:
    model, tokenizer = llama()
    given: dict[str, Any] = {"rewards": vowels, "search": deal.Search(**SEARCH)}
    given |= {"constraint": Even(), "max_new_tokens": 8}
    if kind == "engine":
        lm = DealForCausalLM.from_transformers(model, tokenizer, threads=1)
        ids = lm.generate(**batch(), **given)
    else:
        fn = custom_generate(tokenizer=tokenizer)
        ids = model.generate(**batch(), custom_generate=fn, **given)
    assert ids.shape == (3, 6 + 8) and (ids[:, 6:] % 2 == 0).all()


# --- refusals, faults and memory -----------------------------------------------------


class Stateful(transformers.LogitsProcessor):
    """One that fails when it is called."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        raise OSError("the processor's own")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"deal_tokenizer": "x"}, TypeError, "tokenizer: expected"),
        ({"position_ids": torch.full((3, 6), 9)}, TypeError, "position_ids"),
        ({"guidance_scale": 2.0}, ValueError, "logits_processor: Unbatched"),
        ({"early_stopping": True, "num_beams": 2}, ValueError, "early_stopping"),
        ({"use_cache": False}, ValueError, "use_cache"),
        ({"do_sample": True, "num_beams": 2}, ValueError, "num_beams"),
        ({"logits_processor": [Stateful()]}, OSError, "the processor's own"),
        ({"search": deal.Search(mode="segment")}, ValueError, "rewards"),
        ({"reward_kwargs": {"a": [1]}}, ValueError, r"reward_kwargs\['a'\]"),
    ],
)
def test_refusals(given: Any, error: type[Exception], message: str) -> None:
    model, tokenizer = llama()
    fn = custom_generate(tokenizer=tokenizer)
    with pytest.raises(error, match=message):
        run(model, TEXTS, fn, **given)


def test_models_that_cannot_be_searched() -> None:
    tokenizer = llama()[1]
    fn = custom_generate(tokenizer=tokenizer)
    with pytest.raises(ValueError, match="tokenizer: expected the model's"):
        run(gpt2(), TEXTS, custom_generate())
    model = gpt2()
    model.train()
    try:
        with pytest.raises(ValueError, match=r"model\.eval\(\)"):
            run(model, TEXTS, fn)
    finally:
        model.eval()
    mamba = made("Mamba", hidden_size=32, num_hidden_layers=1)
    with pytest.raises(NotImplementedError, match="Mamba.*keys and values"):
        run(mamba, TEXTS[:1], fn)
    lm = deal.from_transformers(*llama(), threads=1)
    search = deal.Search(rollout_model=lm)
    with pytest.raises(ValueError, match="rollout_model"):
        run(llama()[0], TEXTS, fn, search=search, rewards=vowels)
    with pytest.raises(ValueError, match="batch_size"):
        custom_generate(batch_size=0)


def cells_alive() -> int:
    gc.collect()
    return sum(type(o) is TorchCells for o in gc.get_objects())


def test_errors_of_the_forward_pass_come_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, tokenizer = gpt2(), llama()[1]
    search = deal.Search(mode="naive", **SEARCH)
    fn = custom_generate(tokenizer=tokenizer, rewards=vowels, search=search)
    forward, n = model.transformer.forward, [0]

    def fail(*args: Any, **kwargs: Any) -> Any:
        n[0] += 1
        if n[0] == 5:
            raise ZeroDivisionError("in the middle")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.transformer, "forward", fail)
    with pytest.raises(ZeroDivisionError, match="in the middle"):
        run(model, TEXTS, fn)
    monkeypatch.undo()
    run(model, TEXTS, fn, max_new_tokens=2)  # nothing is left of it
    with torch.no_grad():
        saved = model.lm_head.weight[7].clone()
        model.lm_head.weight[7] = float("nan")
        try:
            with pytest.raises(deal.ModelFormatError, match="finite numbers, got nan"):
                run(model, TEXTS, fn)
        finally:
            model.lm_head.weight[7] = saved
    assert cells_alive() == 0


def test_the_cache_is_bounded_and_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = gpt2(), llama()[1]
    search = deal.Search(**SEARCH)
    fn = custom_generate(tokenizer=tokenizer, rewards=vowels, search=search)
    sizes = []
    call = TorchCells.__call__

    def watch(self: TorchCells, *args: Any) -> Any:
        out = call(self, *args)
        sizes.append(self.size)
        return out

    monkeypatch.setattr(TorchCells, "__call__", watch)
    out = run(model, TEXTS[:1], fn, max_new_tokens=60, eos_token_id=None)
    assert len(out.generations[0].token_ids) == 60
    cell = 2 * 2 * 32 * 4  # keys and values, layers, features, bytes
    n_evaluated = out.generations[0].stats.n_forward_tokens
    # Cells of what was dropped serve again: a path, and the decisions around its end.
    n_most = 6 + 60 + 3 * SEARCH["top_k"] * (1 + SEARCH["lookahead"])
    assert max(sizes) <= 2 * n_most * cell
    assert max(sizes) < n_evaluated * cell
    assert cells_alive() == 0
    budget = 40 * cell
    small = custom_generate(
        tokenizer=tokenizer, rewards=vowels, search=search, kv_budget=budget
    )
    sizes.clear()
    with pytest.raises(deal.KVBudgetError, match="at most 39 tokens"):
        run(model, TEXTS[:1], small, max_new_tokens=60, eos_token_id=None)
    assert max(sizes) <= budget
    tiny = custom_generate(tokenizer=tokenizer, kv_budget=2 * cell)
    with pytest.raises(deal.KVBudgetError, match="prompt's 6 tokens"):
        run(model, TEXTS[:1], tiny)


# --- the hub's folder ----------------------------------------------------------------


def test_the_folder_for_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamic = transformers.dynamic_module_utils
    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path))
    model, tokenizer = gpt2(), llama()[1]
    search = deal.Search(**SEARCH)
    fn = custom_generate(tokenizer=tokenizer, rewards=vowels, search=search)
    expected = run(model, TEXTS, fn).sequences
    found = model.generate(
        **batch(),
        custom_generate=str(ROOT),
        trust_remote_code=True,
        tokenizer=tokenizer,
        rewards=vowels,
        search=search,
        max_new_tokens=16,
    )
    assert torch.equal(found, expected)
    word = tokenizer.decode(expected[0, 6:], skip_special_tokens=True).split()[2]
    short = model.generate(
        **batch(TEXTS[:1]),
        custom_generate=str(ROOT),
        trust_remote_code=True,
        tokenizer=tokenizer,
        rewards=vowels,
        search=search,
        stop_strings=word,
        max_new_tokens=16,
    )
    assert short.shape[1] <= expected.shape[1]


def test_a_facade_is_no_torch_model() -> None:
    lm = DealForCausalLM(deal.from_transformers(*llama(), threads=1))
    with pytest.raises(TypeError, match="custom_generate"):
        lm.generate(batch()["input_ids"], custom_generate=custom_generate())
