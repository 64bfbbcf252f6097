"""benchmarks.thinned: a model without some of its layers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from generation import PROMPT, PROMPTS, WORDS
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import thinned  # noqa: E402


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("thinned") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(n_layer=4, seed=2)), path)
    return path


def test_layers_left_out(path: Path, tmp_path: Path) -> None:
    lm = deal.load(path, compute="f32")
    thinned.thin(path, tmp_path / "all.gguf", range(4))
    same = deal.load(tmp_path / "all.gguf", compute="f32")
    assert np.array_equal(lm.logits(PROMPT), same.logits(PROMPT))
    thinned.thin(path, tmp_path / "two.gguf", [0, 1])
    thinned.thin(path, tmp_path / "ends.gguf", [0, 3])
    two, ends = (
        deal.load(tmp_path / f"{name}.gguf", compute="f32") for name in ("two", "ends")
    )
    assert two.hparams.n_layer == ends.hparams.n_layer == 2
    assert np.array_equal(
        lm.hidden([PROMPT], layers=[0, 1]), two.hidden([PROMPT], layers=[0, 1])
    )
    assert np.array_equal(
        lm.hidden([PROMPT], layers=[0]), ends.hidden([PROMPT], layers=[0])
    )
    assert not np.array_equal(two.logits(PROMPT), ends.logits(PROMPT))
    given = {"rewards": deal.rewards.Keywords(WORDS), "max_new_tokens": 6}
    r = lm.generate(PROMPT, search=deal.Search(rollout_model=ends), **given)
    assert r.stats.n_rollout_model_tokens > 0


@pytest.mark.parametrize("layers", [[], [4], [-1], [1, 0], [1, 1]])
def test_layers_that_are_not_there(
    path: Path, tmp_path: Path, layers: list[int]
) -> None:
    with pytest.raises(ValueError, match="layers: expected some of 0 to 3, rising"):
        thinned.thin(path, tmp_path / "out.gguf", layers)
    assert not (tmp_path / "out.gguf").exists()
    with pytest.raises(ValueError, match="expected GGUF version 2 or 3"):
        thinned.thin(__file__, tmp_path / "out.gguf", [0])


def test_agreement(path: Path, tmp_path: Path) -> None:
    lm = deal.load(path, compute="f32")
    pairs = []
    for prompt in PROMPTS:
        ids = lm.tokenizer.encode(prompt)
        r = lm.generate(ids, max_new_tokens=20, eos_token_id=[])
        pairs.append((ids, list(r.token_ids)))
    same = thinned.agreement(lm, lm, pairs)
    assert same["same"] == 1.0 and same["followed"] == 16.0
    texts = [[*prompt, *tokens] for prompt, tokens in pairs]
    turned = thinned.influence(lm, texts)
    assert turned.shape == (4,) and turned[0] == np.inf
    assert (turned[1:] > 0).all() and (turned[1:] < 2).all()
    layers = thinned.most_turning(lm, texts, 3)
    assert set(range(4)) - set(layers) == {int(turned.argmin())}
    thinned.thin(path, tmp_path / "three.gguf", layers)
    other = deal.load(tmp_path / "three.gguf", compute="f32")
    found = thinned.agreement(lm, other, pairs)
    assert 0 <= found["same"] < 1 and 0 <= found["followed"] < 16
    assert min(found["ms"], found["ms_model"]) > 0
