"""Heads fitted to chats: preferences and classes as lists of messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import make_tiny, write_gguf

import deal
from deal.rewards import Classifier, RewardModel
from deal.rewards._chats import last_turn, preference

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ASKED = [user("Why does it rain?")]
GOOD, BAD = [assistant(" Warm air rises. ")], [assistant("Who cares.")]
PROMPT = "<user>Why does it rain?</s>\n<assistant>"
LONG = [*GOOD, user("And?"), assistant("It cools.")]
FITS: dict[str, Any] = {"validation": 0.0, "progress": False, "max_steps": 20}


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path: Path = tmp_path_factory.mktemp("chats") / "tiny.gguf"
    write_gguf(make_tiny(), path)
    model = deal.load(path, compute="f32", threads=1)
    model.tokenizer.chat_template = TEMPLATE
    return model


@pytest.mark.parametrize(
    "pair",
    [
        {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
        {"chosen": ASKED + GOOD, "rejected": ASKED + BAD, "score": 1.0},
        {"prompt": None, "chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        (ASKED, GOOD, BAD),
    ],
)
def test_all_forms_of_a_pair(pair: Any, lm: deal.Model) -> None:
    ids, chosen, rejected = preference(lm, "pairs[0]", pair)
    assert list(ids) == lm.tokenizer.apply_chat_template(ASKED, tokenize=True)
    assert lm.tokenizer.apply_chat_template(ASKED) == PROMPT
    assert (chosen, rejected) == ("Warm air rises.", "Who cares.")


def test_further_turns_stay(lm: deal.Model) -> None:
    pair = {"prompt": ASKED, "chosen": LONG, "rejected": BAD}
    _, chosen, _ = preference(lm, "pairs[0]", pair)
    assert chosen == "Warm air rises.</s>\n<user>And?</s>\n<assistant>It cools."


@pytest.mark.parametrize("text", ["s", "</s", "/", ">", "assistant", "user", "\ue000"])
def test_texts_that_the_template_has_too(text: str, lm: deal.Model) -> None:
    ids, last = last_turn(lm, "texts[0]", [*ASKED, assistant(text)])
    assert list(ids) == lm.tokenizer.apply_chat_template(ASKED, tokenize=True)
    assert last == text
    after = [*GOOD, user("And?"), assistant(text)]
    pair = {"prompt": ASKED, "chosen": after, "rejected": BAD}
    _, chosen, _ = preference(lm, "pairs[0]", pair)
    assert chosen == f"Warm air rises.</s>\n<user>And?</s>\n<assistant>{text}"


def test_chats_fit_as_their_texts(lm: deal.Model) -> None:
    """The head is that of what lm.chat reads and writes."""
    n = 6
    pairs = [
        {
            "prompt": [user(f"What is {i}?")],
            "chosen": [assistant(f"A {i}.")],
            "rejected": [assistant("No" * (1 + i))],
        }
        for i in range(n)
    ]
    prompts = [
        lm.tokenizer.apply_chat_template(row["prompt"], tokenize=True) for row in pairs
    ]
    texts = [
        text for i in range(n) for text in (f"A {i}.", "No" * (1 + i))
    ]  # chosen and rejected
    twice = [prompt for prompt in prompts for _ in range(2)]
    states = deal.rewards.pooled_states(lm, texts, twice, pooling="mean")
    chats = RewardModel.fit(lm, pairs, pooling="mean", **FITS)
    same = RewardModel.fit(lm, pairs, states=states, pooling="mean", **FITS)
    assert np.array_equal(chats.weight, same.weight)
    implicit = [
        {key: row["prompt"] + row[key] for key in ("chosen", "rejected")}
        for row in pairs
    ]
    again = RewardModel.fit(lm, implicit, pooling="mean", **FITS)
    assert np.array_equal(chats.weight, again.weight)
    classes = [row["prompt"] + row[k] for row in pairs for k in ("chosen", "rejected")]
    head = Classifier.fit(lm, classes, [1, 0] * n, **FITS)
    known = Classifier.fit(lm, texts, [1, 0] * n, prompts=twice, **FITS)
    assert np.array_equal(head.weight, known.weight)
    scores = head.score(texts, twice)
    assert min(scores[0::2]) > max(scores[1::2])


@pytest.mark.parametrize(
    "pair, what",
    [
        ({"chosen": GOOD, "rejected": BAD}, "begin with the same messages.* 0 in comm"),
        ({"chosen": ASKED, "rejected": ASKED}, "1 in common"),
        (
            {"prompt": ASKED, "chosen": GOOD, "rejected": []},
            "rejected: expected a l",
        ),
        (
            {"prompt": ASKED, "chosen": GOOD, "rejected": "No"},
            "rejected: expected a l",
        ),
        ({"prompt": ASKED, "chosen": "No", "rejected": BAD}, "chosen: expected a l"),
        (
            {"prompt": "Why?", "chosen": GOOD, "rejected": BAD},
            "prompt: expected a l",
        ),
        ({"prompt": [], "chosen": GOOD, "rejected": BAD}, "prompt: expected a l"),
        ({"prompt": ASKED, "chosen": ["a"], "rejected": BAD}, r"chosen\[0\]: .*'a'"),
        (
            {"prompt": ASKED, "chosen": [{"role": "user"}], "rejected": BAD},
            r"chosen\[0\]: expected a message",
        ),
        (
            {"prompt": ASKED, "chosen": [user("a")], "rejected": BAD},
            "an assistant's first, got role 'user'",
        ),
        ({"prompt": ASKED, "chosen": GOOD}, "expected a field 'rejected'"),
    ],
)
def test_pairs_that_are_none(pair: Any, what: str, lm: deal.Model) -> None:
    good = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}
    with pytest.raises((TypeError, ValueError), match=rf"pairs\[1\]: .*{what}"):
        RewardModel.fit(lm, [good, pair], **FITS)


@pytest.mark.parametrize(
    "chat, what",
    [
        (GOOD, "at least two messages"),
        (ASKED + ASKED, "an assistant's first"),
        ([*ASKED, assistant(" ")], "expected a last message with text"),
        ("text", "expected a list of messages"),
    ],
)
def test_chats_that_are_none(chat: Any, what: str, lm: deal.Model) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"texts\[1\]: .*{what}"):
        Classifier.fit(lm, [ASKED + GOOD, chat], [1, 0], **FITS)


def test_chats_hold_their_prompts(lm: deal.Model) -> None:
    assert last_turn(lm, "chat", ASKED + BAD)[1] == "Who cares."
    with pytest.raises(ValueError, match="prompts: expected None"):
        Classifier.fit(lm, [ASKED + GOOD] * 2, [1, 0], prompts=["a", "b"], **FITS)


def test_a_template_is_needed(lm: deal.Model) -> None:
    lm.tokenizer.chat_template = None
    try:
        with pytest.raises(deal.TokenizerError, match="chat template"):
            RewardModel.fit(lm, [(ASKED, GOOD, BAD)] * 2, **FITS)
    finally:
        lm.tokenizer.chat_template = TEMPLATE
