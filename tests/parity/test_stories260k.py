"""stories260K, trained and with a SentencePiece-style vocabulary, in both file formats.

The golden text is what llama2.c documents for greedy decoding from BOS, made again by
the NumPy reference (tools/make_goldens.py stories).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy_llama
import pytest
import stories260k
from tiny_model import write_gguf, write_hf_folder

import deal

FOLDER = stories260k.stories_folder()
pytestmark = pytest.mark.skipif(
    FOLDER is None,
    reason="stories260K is missing: set DEAL_SHARED to the folder of shared test data",
)

GOLDEN = json.loads((Path(__file__).parent / "data" / "stories260k.json").read_text())

# A model of this size is sharp where it is sure: f32 sums differ by about 1e-5.
LOGIT_TOLERANCE = 5e-4


@pytest.fixture(scope="module")
def stories() -> stories260k.StoriesModel:
    return stories260k.read_stories(FOLDER)


@pytest.fixture(scope="module", params=["gguf", "folder"])
def path(
    request: pytest.FixtureRequest,
    stories: stories260k.StoriesModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("stories") / f"stories.{request.param}"
    (write_gguf if request.param == "gguf" else write_hf_folder)(stories, path)
    return path


def test_documented_text(path: Path) -> None:
    lm = deal.load(path, compute="f32")
    r = lm.generate([1], max_new_tokens=len(GOLDEN["token_ids"]), eos_token_id=[])
    assert list(r.token_ids) == GOLDEN["token_ids"]
    assert r.text.removeprefix(" ") == GOLDEN["text"]
    assert lm.tokenizer.decode(list(r.token_ids)) == GOLDEN["text"]
    assert GOLDEN["text"].startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play "
        "outside in the park. One day, she saw a big, red ball."
    )
    assert GOLDEN["text"].endswith("worry, Lily. We can help you.")


def test_logits(path: Path, stories: stories260k.StoriesModel) -> None:
    tokens = [1, *GOLDEN["token_ids"]][:200]
    expected = numpy_llama.forward(stories.config, stories.weights, tokens)
    logits = deal.load(path, compute="f32").logits(tokens)
    assert np.abs(logits - expected).max() <= LOGIT_TOLERANCE
    int8 = deal.load(path, compute="int8").logits(tokens)
    p, q = numpy_llama.log_softmax(expected), numpy_llama.log_softmax(int8)
    assert (np.exp(p) * (p - q)).sum(-1).mean() <= 0.01


def test_an_empty_text_prompt_is_bos(path: Path) -> None:
    r = deal.load(path, compute="f32").generate("", max_new_tokens=16)
    assert list(r.token_ids) == GOLDEN["token_ids"][:16]


def test_text_prompt(path: Path) -> None:
    """The vocabulary gives the greedy text's own tokens back, so it goes on alike."""
    lm = deal.load(path, compute="f32")
    start = "Once upon a time, there was a little girl named"
    ids = lm.tokenizer.encode(start)
    assert ids == [1, *GOLDEN["token_ids"][: len(ids) - 1]]
    r = lm.generate(start, max_new_tokens=24)
    assert (start + r.text) == GOLDEN["text"][: len(start + r.text)]
    for text in ("Tom and Mia", "caf\u00e9 \u4f60\u597d", "a  b\n c", " x"):
        assert lm.tokenizer.decode(lm.tokenizer.encode(text)) in (
            text,
            text.lstrip(" "),
        )


def test_steered_story(path: Path) -> None:
    """A reward that plain decoding does not earn is earned by the search."""
    lm = deal.load(path, compute="f32")
    reward = deal.rewards.Keywords(["dog", "tree"])
    prompt = "Once upon a time, there was a"
    plain = lm.generate(prompt, max_new_tokens=48)
    steered = lm.generate(
        prompt,
        max_new_tokens=48,
        rewards=reward,
        search=deal.Search(top_k=8, lookahead=12, reward_weight=8.0),
    )
    words = steered.text.lower().replace(".", " ").replace(",", " ").split()
    assert steered.reward == sum(word in words for word in ("dog", "tree")) / 2
    assert steered.reward > sum(word in plain.text for word in ("dog", "tree")) / 2
