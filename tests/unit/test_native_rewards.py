"""Native rewards of others: a scorer from an extension of its own, and bad capsules."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from generation import PROMPT, SEARCH
from reward_streams import check_stream, random_tokens
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import _core
from deal.rewards import Keywords, Native, as_reward

SCORER = Path(__file__).parent / "scorer_ext"


def build(folder: Path) -> ModuleType:
    """The extension in `folder`, built against the installed header."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (library,) = folder.glob("scorer_example*.so")
    spec = importlib.util.spec_from_file_location("scorer_example", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The example extension, built out of the tree."""
    folder = tmp_path_factory.mktemp("scorer")
    for name in ("setup.py", "scorer.c"):
        shutil.copy(SCORER / name, folder)
    return build(folder)


def vowels_twin(tokens: Sequence[str]) -> float:
    letters = re.findall("[a-zA-Z]", "".join(tokens))
    return len(re.findall("[aeiouAEIOU]", "".join(letters))) / max(1, len(letters))


def test_scorer_of_a_third_party(scorer: ModuleType) -> None:
    reward = Native(scorer.vowels())
    assert (reward.name, reward.range) == ("vowels", (0.0, 1.0))
    assert Native(scorer.vowels(), name="mine").name == "mine"
    texts = ["", "Aeroplane", "xyz 123", "naïve"]
    assert reward.score(texts) == [vowels_twin([text]) for text in texts]
    rng = random.Random(6)
    for _ in range(50):
        tokens = random_tokens(rng, list("abEx é1"))
        state = _core.RewardState(reward._capsule({}), "")
        for i, token in enumerate(tokens):
            state = state.fork()
            state.advance(token.encode())
            assert state.score() == vowels_twin(tokens[: i + 1])
            assert state.bounds(3) == (0.0, 1.0)


def test_scorer_whose_states_own_memory(scorer: ModuleType) -> None:
    capsule = scorer.letters()

    def twin(tokens: Sequence[str]) -> float:
        return len(set(re.findall("[a-z]", "".join(tokens).lower()))) / 26

    rng = random.Random(7)
    for _ in range(50):
        check_stream(capsule, random_tokens(rng, list("abcXYZ 1é")), twin)
    gc.collect()
    assert scorer.n_live() == 0


def test_scorer_on_texts(scorer: ModuleType) -> None:
    reward = as_reward(scorer.shortness())
    assert (reward + Keywords(["a"])).score(["", "a b"]) == [1.0, 1.25]
    assert _core.reward_info(scorer.shortness())[3:] == (False, True, 0)
    state = _core.RewardState(scorer.shortness(), "")
    state.advance(b"abc")
    assert (state.bounds(2), state.bounds(0)) == ((0.0, 0.25), (0.25, 0.25))


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("capsule name", TypeError),
        ("abi_version", ValueError),
        ("struct_size", ValueError),
        ("name", ValueError),
        ("low <= high", ValueError),
        ("score_texts alone", ValueError),
        ("init, advance and score", ValueError),
        ("hidden states", ValueError),
        ("n_hidden_layers", ValueError),
        ("is_text_alone", ValueError),
    ],
)
def test_capsules_that_are_refused(
    scorer: ModuleType, how: str, error: type[Exception]
) -> None:
    message = (
        "deal.reward.v1.*deal.reward.v0" if how == "capsule name" else re.escape(how)
    )
    with pytest.raises(error, match=message):
        Native(scorer.bad(how))
    with pytest.raises(error):
        _core.RewardState(scorer.bad(how), "")


def test_scorer_of_hidden_states(scorer: ModuleType, tmp_path: Path) -> None:
    write_gguf(make_tiny(TinyConfig(seed=0)), tmp_path / "tiny.gguf")
    lm = deal.load(tmp_path / "tiny.gguf", compute="f32", threads=2)
    reward = Native(scorer.positive())
    ids = lm.tokenizer.encode(PROMPT)
    for mode in ("naive", "exact"):
        search = dataclasses.replace(SEARCH, mode=mode)
        r = lm.generate(ids, rewards=reward, search=search, max_new_tokens=12)
        states = lm.hidden(ids + list(r.token_ids), layers=[1, -1], positions="all")
        told = states[:, len(ids) - 1 : len(ids) + len(r.token_ids)]
        assert r.finish_reason == "length"
        assert r.reward == (told > 0).mean()
    with pytest.raises(ValueError, match="'positive': it scores a model's hidden"):
        reward.score(["a"])


def test_scorer_that_fails(scorer: ModuleType) -> None:
    with pytest.raises(
        deal.RewardError, match="reward 'vowels': no opinion on token -1"
    ):
        Native(scorer.bad("message")).score(["a"])
    with pytest.raises(deal.RewardError, match="'vowels'.*nan"):
        Native(scorer.bad("nan")).score(["a"])


def test_no_capsule_at_all() -> None:
    with pytest.raises(TypeError, match="capsule"):
        Native(object())
    with pytest.raises(TypeError):
        _core.RewardState("text", "")


def test_header_is_where_it_says() -> None:
    text = (Path(deal.get_include()) / "deal" / "reward.h").read_text()
    assert "DEAL_REWARD_CAPSULE" in text
