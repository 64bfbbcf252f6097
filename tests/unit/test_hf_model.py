"""deal.hf.DealForCausalLM and DealPipeline: the engine where a model is wanted.

Oracles: transformers' generate on the same weights, and deal.Model.generate.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hf_models import SEARCH, deal, gpt2, llama, torch, transformers, vowels
from tiny_model import TinyConfig, make_tiny, write_gguf, write_hf_folder

from deal.hf import DealForCausalLM, DealGenerateOutput, DealPipeline

TEXTS = ["one two", "the cat", "a big green window"]


@pytest.fixture(scope="module")
def lm() -> DealForCausalLM:
    model, tokenizer = llama()
    return DealForCausalLM.from_transformers(model, tokenizer, threads=1)


def batch(texts: list[str] = TEXTS) -> dict[str, Any]:
    return dict(llama()[1](texts, return_tensors="pt", padding=True))


# --- generate ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 12},
        {"max_length": 15},
        {},
        {"max_new_tokens": 12, "eos_token_id": [373, 415], "pad_token_id": 7},
        {"max_new_tokens": 12, "num_beams": 3},
        {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 2},
        {"max_new_tokens": 12, "num_beams": 2, "length_penalty": 0.0},
        {"max_new_tokens": 12, "repetition_penalty": 1.6},
        {"max_new_tokens": 12, "do_sample": True, "top_k": 1},
        {"max_new_tokens": 12, "do_sample": True, "top_p": 1e-6, "temperature": 2.0},
    ],
    ids=lambda s: ",".join(s) or "nothing",
)
def test_sequences_are_those_of_transformers(
    lm: DealForCausalLM, settings: dict[str, Any]
) -> None:
    given = {"do_sample": False} | settings
    expected = llama()[0].generate(**batch(), **given)
    assert torch.equal(lm.generate(**batch(), **given), expected)
    config = transformers.GenerationConfig(**given)
    assert torch.equal(lm.generate(**batch(), generation_config=config), expected)


def test_stop_strings(lm: DealForCausalLM) -> None:
    model, tokenizer = llama()
    given = {"max_new_tokens": 16, "stop_strings": ["night", "dog in"]}
    for text in TEXTS:
        expected = model.generate(
            **batch([text]), do_sample=False, tokenizer=tokenizer, **given
        )
        found = lm.generate(**batch([text]), tokenizer=tokenizer, **given)
        assert torch.equal(found, expected)


def test_rewards_and_search(lm: DealForCausalLM) -> None:
    tokenizer = llama()[1]
    search = deal.Search(num_beams=3, **SEARCH)
    out = lm.generate(
        **batch(),
        rewards=vowels,
        search=search,
        max_new_tokens=10,
        num_return_sequences=2,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert isinstance(out, DealGenerateOutput)
    assert out.sequences.shape[0] == len(out.generations) == 6
    expected = [
        result
        for text in TEXTS
        for result in lm.deal.generate(
            tokenizer(text)["input_ids"],
            rewards=vowels,
            search=search,
            max_new_tokens=10,
            num_return_sequences=2,
        )
    ]
    for i, result in enumerate(expected):
        assert out.generations[i].token_ids == result.token_ids
        assert float(out.sequences_scores[i]) == pytest.approx(result.score)
        steps = [float(out.scores[j][i, t]) for j, t in enumerate(result.token_ids)]
        assert sum(steps) == pytest.approx(result.logprob, abs=1e-3)
        n = out.sequences.shape[1] - len(result.token_ids)
        tail = out.sequences[i, 6 + len(result.token_ids) :].tolist()
        assert tail == [0] * (n - 6)
    made = DealForCausalLM(lm.deal, rewards=vowels, search=deal.Search(**SEARCH))
    one = lm.generate(**batch(), rewards=vowels, search=deal.Search(**SEARCH))
    assert torch.equal(made.generate(**batch()), one)


def test_scores_and_logits_are_those_of_transformers(lm: DealForCausalLM) -> None:
    given = {
        "max_new_tokens": 6,
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 3,
        "repetition_penalty": 1.2,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    out = lm.generate(**batch(TEXTS[:1]), **given)
    ids = out.sequences
    with torch.no_grad():
        logits = llama()[0](ids).logits[0, 5:-1]
    for j, raw in enumerate(logits):
        assert torch.allclose(out.logits[j][0], raw, atol=1e-3)
        kept = torch.isfinite(out.scores[j][0])
        assert kept.sum() == 3 and kept[ids[0, 6 + j]]
    steps = [
        torch.log_softmax(raw, -1)[t] for raw, t in zip(logits, ids[0, 6:], strict=True)
    ]
    assert float(sum(steps)) == pytest.approx(out.generations[0].logprob, abs=1e-3)


def test_sampling_follows_torchs_seed(lm: DealForCausalLM) -> None:
    given = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": 12}
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(lm.generate(**batch(), temperature=1.5, **given).tolist())
    assert found[0] == found[1] != found[2]
    assert len({tuple(row) for row in found[0]}) > 6


def test_prompts(lm: DealForCausalLM) -> None:
    whole = batch()
    by_pad = lm.generate(whole["input_ids"], max_new_tokens=5)
    assert torch.equal(by_pad, lm.generate(**whole, max_new_tokens=5))
    from_begin = lm.generate(max_new_tokens=4)
    assert from_begin.shape == (1, 5) and from_begin[0, 0] == 1
    right = {k: v.flip(1) for k, v in whole.items()}
    bad: list[tuple[dict[str, Any], type[Exception], str]] = [
        (right, ValueError, "row 1: expected padding on the left"),
        ({"input_ids": torch.zeros(1, 3, dtype=torch.long)}, ValueError, "row 0"),
        ({"input_ids": torch.zeros(0, 3, dtype=torch.long)}, ValueError, "shape"),
        ({"input_ids": torch.zeros(2, 3)}, TypeError, "tensor of token ids"),
        ({"input_ids": [[1, 2]]}, TypeError, "expected a tensor"),
        ({"input_ids": torch.tensor([[1, 9999]])}, ValueError, "prompt"),
        (whole | {"attention_mask": torch.ones(3, 5)}, ValueError, "attention_mask"),
        ({"inputs": torch.ones(1, 2).long()} | whole, ValueError, "got both"),
        (whole | {"max_length": 6}, ValueError, "max_length: expected more than"),
    ]
    for given, error, message in bad:
        with pytest.raises(error, match=message):
            lm.generate(**given)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"logits_processor": [1]}, ValueError, "logits_processor.*custom_generate"),
    ({"prefix_allowed_tokens_fn": print}, TypeError, "prefix_allowed_tokens_fn"),
    ({"assistant_model": "x"}, TypeError, "assistant_model"),
    ({"position_ids": torch.ones(1)}, TypeError, "position_ids"),
    ({"max_new_token": 4}, TypeError, "max_new_token"),
    ({"bad_words_ids": [[4]]}, ValueError, "bad_words_ids"),
    ({"min_new_tokens": 4}, ValueError, "min_new_tokens: expected None or 0"),
    ({"no_repeat_ngram_size": 2}, ValueError, "no_repeat_ngram_size"),
    ({"typical_p": 0.9, "do_sample": True}, ValueError, "typical_p"),
    ({"early_stopping": True, "num_beams": 2}, ValueError, "early_stopping"),
    ({"use_cache": False}, ValueError, "use_cache"),
    ({"cache_implementation": "static"}, ValueError, "cache_implementation"),
    ({"output_attentions": True}, ValueError, "output_attentions"),
    ({"num_return_sequences": 2}, ValueError, "num_return_sequences"),
    ({"num_beams": 2, "do_sample": True}, ValueError, "num_beams"),
    ({"repetition_penalty": 1.2, "num_beams": 2}, ValueError, "repetition_penalty"),
    (
        {"rewards": vowels, "search": deal.Search(), "do_sample": True},
        ValueError,
        "draw",
    ),
    ({"rewards": 3}, TypeError, "reward"),
    ({"search": "x"}, TypeError, "search"),
    ({"reward_kwargs": {"a": [1]}}, ValueError, "reward_kwargs"),
]


@pytest.mark.parametrize(("given", "error", "message"), REFUSED)
def test_nothing_is_ignored(
    lm: DealForCausalLM, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lm.generate(**batch(), **given)


def test_a_models_own_settings(lm: DealForCausalLM) -> None:
    own = transformers.GenerationConfig(
        do_sample=True, temperature=5.0, max_new_tokens=7, pad_token_id=0
    )
    made = DealForCausalLM(lm.deal, generation_config=own)
    greedy = made.generate(**batch(), do_sample=False)
    assert greedy.shape[1] <= 6 + 7
    assert not torch.equal(made.generate(**batch()), greedy)
    search = deal.Search(**SEARCH)
    steered = made.generate(**batch(), rewards=vowels, search=search)
    expected = lm.generate(**batch(), rewards=vowels, search=search, max_new_tokens=7)
    assert torch.equal(steered, expected)


# --- streamers and stopping criteria -------------------------------------------------


def test_streamers(lm: DealForCausalLM) -> None:
    tokenizer = llama()[1]
    search = deal.Search(**SEARCH)
    for given in ({}, {"rewards": vowels, "search": search}, {"num_beams": 2}):
        given = given | {"max_new_tokens": 12}
        streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True)
        kwargs = batch(TEXTS[:1]) | given | {"streamer": streamer}
        thread = threading.Thread(target=lm.generate, kwargs=kwargs)
        thread.start()
        pieces = list(streamer)
        thread.join()
        ids = lm.generate(**batch(TEXTS[:1]), **given)[0, 6:]
        assert "".join(pieces) == tokenizer.decode(ids)
        assert len(pieces) > 3
    with pytest.raises(ValueError, match="streamer: expected one prompt"):
        lm.generate(**batch(), streamer=streamer)


class Recorder(transformers.StoppingCriteria):
    """Stops at a length, and keeps what it was asked."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked: list[list[int]] = []

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        assert input_ids.shape[0] == 1
        self.asked.append(input_ids[0].tolist())
        return torch.tensor([input_ids.shape[1] >= self.n])


def test_stopping_criteria(lm: DealForCausalLM) -> None:
    ours, theirs = Recorder(6 + 4), Recorder(6 + 4)
    given = batch(TEXTS[:1]) | {"max_new_tokens": 12}
    found = lm.generate(**given, stopping_criteria=[ours])
    expected = llama()[0].generate(
        **given, stopping_criteria=transformers.StoppingCriteriaList([theirs])
    )
    assert torch.equal(found, expected)
    assert ours.asked == theirs.asked


@pytest.mark.parametrize("mode", ["naive", "exact"])
def test_a_stopped_search_is_scored(lm: DealForCausalLM, mode: str) -> None:
    tokenizer = llama()[1]
    search = deal.Search(mode=mode, **SEARCH)
    given = {"rewards": vowels, "search": search, "max_new_tokens": 12}
    whole = lm.generate(**batch(), return_dict_in_generate=True, **given)
    out = lm.generate(
        **batch(),
        stopping_criteria=[Recorder(6 + 3)],
        return_dict_in_generate=True,
        **given,
    )
    for i, text in enumerate(TEXTS):
        stopped = out.generations[i]
        assert stopped.token_ids == whole.generations[i].token_ids[:3]
        assert stopped.finish_reason == "stop" and len(stopped.trace) == 3
        share = sum(c in "aeiou" for c in stopped.text) / len(stopped.text)
        assert stopped.rewards == {"vowels": share}
        prompt = tokenizer(text)["input_ids"]
        logprob = lm.deal.logprob(prompt, [list(stopped.token_ids)])[0]
        assert stopped.logprob == pytest.approx(logprob, abs=1e-4)
        assert stopped.score == pytest.approx(stopped.logprob + 6.0 * share)


def test_criteria_of_several_sequences(lm: DealForCausalLM) -> None:
    torch.manual_seed(0)
    out = lm.generate(
        **batch(TEXTS[:1]),
        do_sample=True,
        num_return_sequences=3,
        max_new_tokens=9,
        stopping_criteria=[Recorder(6 + 4)],
    )
    assert out.shape == (3, 6 + 4) and len({tuple(r) for r in out.tolist()}) == 3
    with pytest.raises(ValueError, match="stopping_criteria: several hypotheses"):
        lm.generate(**batch(), num_beams=2, stopping_criteria=[Recorder(8)])
    search = deal.Search(commit=2, **SEARCH)
    with pytest.raises(ValueError, match="stopping_criteria: .*commit=2"):
        lm.generate(
            **batch(), rewards=vowels, search=search, stopping_criteria=[Recorder(8)]
        )
    none = lm.generate(**batch(TEXTS[:1]), max_time=0.0, max_new_tokens=9)
    assert none.shape == (1, 7)


# --- pipelines and folders -----------------------------------------------------------


def test_pipeline(lm: DealForCausalLM) -> None:
    tokenizer = llama()[1]
    pipe = transformers.pipeline(
        "text-generation", model=lm, tokenizer=tokenizer, pipeline_class=DealPipeline
    )
    given = {"max_new_tokens": 8}
    reference = transformers.pipeline(
        "text-generation", model=llama()[0], tokenizer=tokenizer, device="cpu"
    )
    expected = reference(TEXTS, do_sample=False, **given)
    assert pipe(TEXTS, **given) == expected
    assert pipe(TEXTS, batch_size=3, **given) == expected
    ids = lm.generate(**batch(TEXTS[:1]), rewards=vowels, **given)
    found = pipe(TEXTS[0], rewards=vowels, return_full_text=False, **given)
    text = tokenizer.decode(ids[0, 6:], skip_special_tokens=True)
    assert found == [{"generated_text": text}]
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = pipe([{"role": "user", "content": TEXTS[0]}], **given)
    reply = chat[0]["generated_text"][-1]
    assert reply["role"] == "assistant" and reply["content"]
    assert len(pipe(TEXTS[0], do_sample=True, num_return_sequences=2, **given)) == 2
    assert "DealForCausalLM" in repr(pipe)
    with pytest.raises(ValueError, match="min_new_tokens"):
        pipe(TEXTS[0], min_new_tokens=3, **given)


def test_pipelines_of_other_things(lm: DealForCausalLM) -> None:
    tokenizer = llama()[1]
    make = {"tokenizer": tokenizer, "pipeline_class": DealPipeline}
    with pytest.raises(TypeError, match="expected deal.hf.DealForCausalLM, got GPT2"):
        transformers.pipeline("text-generation", model=gpt2(), **make)
    with pytest.raises(ValueError, match="device: expected cpu, got meta"):
        transformers.pipeline("text-generation", model=lm, device="meta", **make)
    made = transformers.pipeline(
        "text-generation", model=lm, rewards=vowels, max_new_tokens=5, **make
    )
    plain = made(TEXTS[0], rewards=None)
    assert plain == made(TEXTS[0])


@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_from_pretrained(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"tiny.{form}"
    (write_gguf if form == "gguf" else write_hf_folder)(make_tiny(TinyConfig()), path)
    if form == "folder":
        settings = transformers.GenerationConfig(max_new_tokens=3, eos_token_id=2)
        settings.save_pretrained(path)
    lm = DealForCausalLM.from_pretrained(path, threads=1, max_length=64)
    assert lm.deal.max_length == 64
    assert lm.config.vocab_size == lm.deal.hparams.n_vocab
    assert lm.generation_config.eos_token_id == (2 if form == "folder" else [2, 0])
    ids = llama()[1](TEXTS[0], return_tensors="pt")["input_ids"]
    found = lm.generate(ids)
    assert found.shape[1] == 6 + (3 if form == "folder" else 20)
    expected = llama()[0].generate(ids, max_new_tokens=20, do_sample=False)
    assert torch.equal(found, expected[:, : found.shape[1]])


def test_bad_models() -> None:
    with pytest.raises(TypeError, match=r"model: expected deal\.Model, got str"):
        DealForCausalLM("x")  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="custom_generate"):
        DealForCausalLM.from_transformers(gpt2(), llama()[1])
