"""Classifiers and reward models of transformers, tiny and random: against asking them
one text at a time.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from generation import PROMPT, WORDS
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.rewards import from_pipeline, from_transformers

REASON = "{} is not installed; pip install 'deal-lm[hf]'"
torch = pytest.importorskip("torch", reason=REASON.format("torch"))
transformers = pytest.importorskip("transformers", reason=REASON.format("transformers"))

TEXTS = ["the cat", "a dog and a river", "sun", "happy happy happy window", "the cat"]
CHAT = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s> {% endfor %}"
LABELS = {0: "negative", 1: "neutral", 2: "positive"}


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("hf") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32", threads=1)


def make_tokenizer(is_bert: bool = True, **kwargs: Any) -> Any:
    """Words, with BERT's special tokens around them or with none."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<user>", "<assistant>", "</s>"]
    words = [*special, *sorted({*WORDS, *PROMPT.split(), *" ".join(TEXTS).split()})]
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if is_bert:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    given = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 48}
    if is_bert:
        given |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, **{**given, **kwargs}
    )


def make_bert(n_labels: int, **kwargs: Any) -> Any:
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=n_labels,
        initializer_range=0.6,
        **kwargs,
    )
    if n_labels == 3:
        config.id2label = LABELS
    return transformers.BertForSequenceClassification(config).eval()


def make_llama(n_labels: int = 1, pad_token_id: int | None = 0) -> Any:
    torch.manual_seed(2)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=n_labels,
        pad_token_id=pad_token_id,
        bos_token_id=None,
        eos_token_id=6,
        initializer_range=0.5,
    )
    return transformers.LlamaForSequenceClassification(config).eval()


def make_pipe(model: Any, tokenizer: Any = None) -> Any:
    return transformers.pipeline(
        "text-classification", model=model, tokenizer=tokenizer or make_tokenizer()
    )


def logits_of(model: Any, tokenizer: Any, *text: str, **kwargs: Any) -> Any:
    """(n_labels,) of one text alone."""
    with torch.inference_mode():
        given = tokenizer(*text, return_tensors="pt", **kwargs)
        return model(**given).logits[0].double()


# --- pipelines -----------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_pipeline_by_label(batch_size: int) -> None:
    model, tokenizer = make_bert(3), make_tokenizer()
    pipe = make_pipe(model, tokenizer)
    spread = []
    for i, label in LABELS.items():
        reward = from_pipeline(pipe, label, batch_size=batch_size)
        expected = [
            float(logits_of(model, tokenizer, text).softmax(-1)[i]) for text in TEXTS
        ]
        assert reward.score(TEXTS) == pytest.approx(expected, abs=1e-6)
        assert reward.range == (0.0, 1.0) and reward.name == label
        spread.append(max(expected) - min(expected))
    assert max(spread) > 0.01


def test_pipeline_functions() -> None:
    model, tokenizer = make_bert(3), make_tokenizer()
    logits = [logits_of(model, tokenizer, text) for text in TEXTS]
    cases = {
        "softmax": [x.softmax(-1) for x in logits],
        "sigmoid": [x.sigmoid() for x in logits],
        "none": logits,
    }
    for function, rows in cases.items():
        reward = from_pipeline(
            make_pipe(model, tokenizer), "neutral", function_to_apply=function
        )
        expected = [float(row[1]) for row in rows]
        assert reward.score(TEXTS) == pytest.approx(expected, abs=1e-5)
        assert (reward.range == (0.0, 1.0)) == (function != "none")
    several = make_bert(3, problem_type="multi_label_classification")
    reward = from_pipeline(make_pipe(several, tokenizer), "neutral")
    expected = [float(logits_of(several, tokenizer, t).sigmoid()[1]) for t in TEXTS]
    assert reward.score(TEXTS) == pytest.approx(expected, abs=1e-6)


def test_pipeline_of_one_label() -> None:
    model, tokenizer = make_bert(1), make_tokenizer()
    reward = from_pipeline(make_pipe(model, tokenizer))
    expected = [float(logits_of(model, tokenizer, text).sigmoid()) for text in TEXTS]
    assert reward.score(TEXTS) == pytest.approx(expected, abs=1e-6)
    assert reward.name == "LABEL_0"
    with pytest.raises(ValueError, match="softmax of a single label"):
        from_pipeline(make_pipe(model), function_to_apply="softmax")


def test_pipeline_texts() -> None:
    model, tokenizer = make_bert(3), make_tokenizer()
    pipe = make_pipe(model, tokenizer)

    def scores(text: Any) -> list[float]:
        reward = from_pipeline(pipe, "positive", text=text)
        return reward.score(TEXTS, "she said ")

    def alone(*text: str) -> float:
        return float(logits_of(model, tokenizer, *text).softmax(-1)[2])

    near = {"abs": 1e-6}
    assert scores("completion") == pytest.approx([alone(t) for t in TEXTS], **near)
    whole = [alone("she said " + t) for t in TEXTS]
    assert scores("prompt+completion") == pytest.approx(whole, **near)
    pairs = [alone("she said ", t) for t in TEXTS]
    assert scores("pair") == pytest.approx(pairs, **near)
    assert scores(lambda p, c: (p, c)) == pytest.approx(pairs, **near)
    turned = [alone(t + " dog") for t in TEXTS]
    assert scores(lambda p, c: c + " dog") == pytest.approx(turned, **near)
    with pytest.raises(TypeError, match="text: expected a str or a pair"):
        scores(lambda p, c: 3)
    with pytest.raises(ValueError, match="text: expected a callable or one of"):
        scores("chat")


def test_pipeline_cuts_long_texts() -> None:
    model, tokenizer = make_bert(3), make_tokenizer()
    text = "the cat and " * 50  # 150 tokens, and the model takes 64
    kept = float(logits_of(model, tokenizer, text, truncation=True).softmax(-1)[0])
    reward = from_pipeline(make_pipe(model, tokenizer), "negative")
    assert reward.score([text, "sun"])[0] == pytest.approx(kept, abs=1e-6)
    shorter = from_pipeline(make_pipe(model, tokenizer), "negative", max_length=5)
    kept = float(
        logits_of(model, tokenizer, text, truncation=True, max_length=5).softmax(-1)[0]
    )
    assert shorter.score([text])[0] == pytest.approx(kept, abs=1e-6)


def test_pipelines_that_are_refused() -> None:
    pipe = make_pipe(make_bert(3))
    with pytest.raises(
        ValueError, match="expected one of negative, neutral, positive; got 'POSITIVE'"
    ):
        from_pipeline(pipe, "POSITIVE")
    with pytest.raises(ValueError, match="negative, neutral, positive; got none"):
        from_pipeline(pipe)
    with pytest.raises(ValueError, match="function_to_apply: expected one of softmax"):
        from_pipeline(pipe, "neutral", function_to_apply="tanh")
    with pytest.raises(ValueError, match="batch_size"):
        from_pipeline(pipe, "neutral", batch_size=0)
    with pytest.raises(TypeError, match="pipe: expected a pipeline"):
        from_pipeline(3)
    pipe.tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        from_pipeline(pipe, "neutral")
    alone = from_pipeline(pipe, "neutral", batch_size=1)
    assert len(alone.score(TEXTS)) == len(TEXTS)


def test_pipeline_by_name(tmp_path: Path) -> None:
    model, tokenizer = make_bert(3), make_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scores = from_pipeline(make_pipe(model, tokenizer), "neutral").score(TEXTS)
    assert from_pipeline(str(tmp_path), "neutral").score(TEXTS) == scores
    reward = from_transformers(str(tmp_path), label="neutral")
    assert reward.score(TEXTS) == pytest.approx(scores, abs=1e-6)


def test_pipeline_in_a_search(lm: deal.Model) -> None:
    calls: list[int] = []

    class Counting:
        def __init__(self, pipe: Any) -> None:
            self.pipe, self.model = pipe, pipe.model
            self.tokenizer = pipe.tokenizer

        def __call__(self, texts: list[str], **kwargs: Any) -> Any:
            calls.append(len(texts))
            return self.pipe(texts, **kwargs)

    pipe = Counting(make_pipe(make_bert(3)))
    reward = from_pipeline(pipe, "positive", decimals=5)
    found = []
    for mode in ("naive", "exact"):
        search = deal.Search(top_k=4, lookahead=4, reward_weight=3.0, mode=mode)
        r = lm.generate(PROMPT, rewards=reward, search=search, max_new_tokens=8)
        assert r.reward == reward.score([r.text])[0]
        found.append((r.text, r.reward, r.score))
    assert found[0] == found[1]
    assert max(calls) > 1  # several texts a call


def test_decimals() -> None:
    pipe = make_pipe(make_bert(3))
    rounded = from_pipeline(pipe, "positive", decimals=3).score(TEXTS)
    plain = from_pipeline(pipe, "positive").score(TEXTS)
    assert rounded == [round(score, 3) for score in plain] != plain


# --- models --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_raw_score_of_a_reward_model(batch_size: int) -> None:
    model, tokenizer = make_llama(), make_tokenizer(is_bert=False)
    expected = [float(logits_of(model, tokenizer, f"she said {t}")) for t in TEXTS]
    reward = from_transformers(model, tokenizer, batch_size=batch_size)
    assert reward.score(TEXTS, "she said ") == pytest.approx(expected, abs=1e-5)
    assert reward.range[1] == float("inf")
    squashed = from_transformers(model, tokenizer, function_to_apply="sigmoid")
    assert squashed.range == (0.0, 1.0)
    assert squashed.score(TEXTS, "she said ") == pytest.approx(
        [1 / (1 + 2.718281828459045**-x) for x in expected], abs=1e-5
    )


def test_chat_of_a_reward_model(lm: deal.Model) -> None:
    model = make_llama()
    tokenizer = make_tokenizer(is_bert=False)
    tokenizer.chat_template = CHAT

    def alone(text: str) -> float:
        return float(logits_of(model, tokenizer, text))

    reward = from_transformers(model, tokenizer)
    expected = [alone(f"<user> she said </s> <assistant> {t} </s> ") for t in TEXTS]
    assert reward.score(TEXTS, "she said") == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.01
    messages = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "sun"},
    ]
    r = lm.chat(
        messages,
        rewards=reward,
        search=deal.Search(top_k=3, lookahead=3),
        max_new_tokens=6,
    )
    whole = "<user> the cat </s> <assistant> a dog </s> <user> sun </s> <assistant> "
    assert r.reward == pytest.approx(alone(f"{whole}{r.text} </s> "), abs=1e-5)
    made = from_transformers(
        model, tokenizer, text=lambda p, c: [{"role": "user", "content": c}]
    )
    turned = [alone(f"<user> {t} </s> ") for t in TEXTS]
    assert made.score(TEXTS, "she") == pytest.approx(turned, abs=1e-5)


def test_long_chats_keep_their_end() -> None:
    model, tokenizer = make_llama(), make_tokenizer(is_bert=False)
    tokenizer.chat_template = CHAT
    reward = from_transformers(model, tokenizer, max_length=4)
    kept = [
        float(logits_of(model, tokenizer, f"</s> <assistant> {word} </s>"))
        for word in ("dog", "sun")
    ]
    found = reward.score(["dog", "sun"], "the cat sat " * 30)
    assert found == pytest.approx(kept, abs=1e-5)
    default = from_transformers(model, tokenizer)  # the tokenizer says 48
    assert len(default.score(["dog"], "the cat sat " * 300)) == 1


def test_labels_of_a_model() -> None:
    model, tokenizer = make_bert(3), make_tokenizer()
    rows = [logits_of(model, tokenizer, "she said", t) for t in TEXTS]
    for label in ("positive", 2):
        reward = from_transformers(model, tokenizer, label, text="pair")
        expected = [float(row.softmax(-1)[2]) for row in rows]
        assert reward.score(TEXTS, "she said") == pytest.approx(expected, abs=1e-6)
        assert reward.range == (0.0, 1.0)
    raw = from_transformers(model, tokenizer, 0, text="pair", function_to_apply="none")
    expected = [float(row[0]) for row in rows]
    assert raw.score(TEXTS, "she said") == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="negative, neutral, positive; got 'good'"):
        from_transformers(model, tokenizer, "good")
    with pytest.raises(ValueError, match="negative, neutral, positive; got none"):
        from_transformers(model, tokenizer)
    with pytest.raises(ValueError, match="label: expected 0 to 2"):
        from_transformers(model, tokenizer, 3)


def test_models_that_are_refused() -> None:
    model, tokenizer = make_llama(), make_tokenizer(is_bert=False)
    with pytest.raises(ValueError, match="'chat' needs tokenizer.chat_template"):
        from_transformers(model, tokenizer, text="chat")
    with pytest.raises(TypeError, match="tokenizer: expected the model's tokenizer"):
        from_transformers(model)
    with pytest.raises(ValueError, match="softmax of a single label"):
        from_transformers(model, tokenizer, function_to_apply="softmax")
    reward = from_transformers(model, tokenizer)
    with pytest.raises(ValueError, match="text: expected at least one token"):
        reward.score([""])
    assert len(reward.score(["sun"])) == 1


def test_model_without_padding_token() -> None:
    tokenizer = make_tokenizer(is_bert=False, pad_token=None)
    model = make_llama(pad_token_id=None)
    expected = [float(logits_of(model, tokenizer, t)) for t in TEXTS]
    reward = from_transformers(model, tokenizer, text="completion")
    assert reward.score(TEXTS) == pytest.approx(expected, abs=1e-5)


def test_model_is_not_trained_by_being_asked() -> None:
    model, tokenizer = make_bert(1), make_tokenizer()
    model.train()  # with dropout
    reward = from_transformers(model, tokenizer, device="cpu")
    assert not model.training
    assert reward.score(TEXTS) == reward.score(TEXTS)
    assert all(p.grad is None for p in model.parameters())


def test_threads_share_a_model_and_its_tokenizer() -> None:
    model, tokenizer = make_bert(3), make_tokenizer()
    rewards = [
        from_transformers(model, tokenizer, "positive", decimals=4),
        from_pipeline(make_pipe(model, tokenizer), "positive", decimals=4),
    ]
    for reward in rewards:
        expected = reward.score(TEXTS)
        found: list[bool] = []

        def work(reward: Any, expected: list[float], found: list[bool]) -> None:
            for _ in range(10):
                found.append(reward.score(TEXTS) == expected)

        given = (reward, expected, found)
        threads = [threading.Thread(target=work, args=given) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 30 and all(found)
