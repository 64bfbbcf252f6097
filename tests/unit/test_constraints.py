"""Rewards for text of a given form: against Python's own matchers, incremental against
from the start, and in a search.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest
from generation import PROMPT, WORDS
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.rewards import Grammar, JsonSchema, Keywords, Regex

llguidance = pytest.importorskip(
    "llguidance",
    reason="llguidance is not installed; pip install 'deal-lm[constraints]'",
)

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"enum": ["cat", "dog"]}},
        "age": {"type": "integer"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("constraints") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32", threads=1)


PATTERNS = [r"a*b", r"(ab)+", r"a|ba?b", r"é+a?", r"[^a]{2,3}", r"(a|b)*é"]


def all_texts(length: int) -> list[str]:
    texts = [""]
    for text in texts:
        if len(text) < length:
            texts += [text + c for c in "abé"]
    return texts


@pytest.mark.parametrize("pattern", PATTERNS)
def test_regex_on_all_short_texts(pattern: str) -> None:
    texts = all_texts(4)
    longer = all_texts(7)  # long enough to tell what can still match
    full = {text for text in longer if re.fullmatch(pattern, text)}
    live = {text[:n] for text in full for n in range(len(text) + 1)}
    expected = [1.0 if t in full else 0.5 if t in live else 0.0 for t in texts]
    assert {0.0, 0.5, 1.0} >= set(expected) > {0.0}
    assert Regex(pattern).score(texts) == expected
    shuffled = list(zip(texts, expected, strict=True))
    random.Random(1).shuffle(shuffled)
    reward = Regex(pattern, partial=0.25, name="form")
    assert reward.score([text for text, _ in shuffled]) == [
        0.25 if score == 0.5 else score for _, score in shuffled
    ]
    assert reward.name == "form" and reward.range == (0.0, 1.0)


def test_json_of_a_schema() -> None:
    good = [
        {"name": "x", "age": 3},
        {"name": 'é "日"\n', "tags": [], "age": -17},
        {"name": "", "tags": ["cat", "dog", "cat"], "age": 0},
    ]
    for value in good:
        for indent in (None, 2):
            text = json.dumps(value, ensure_ascii=False, indent=indent)
            reward = JsonSchema(SCHEMA)
            parts = [text[:n] for n in range(len(text))]
            assert reward.score(parts) == [0.5] * len(parts)
            assert reward.score([text, text + "}", text + "x"]) == [1.0, 0.0, 0.0]
    bad = [
        "[",
        '{"age"',  # the schema's order
        '{"name": 3',
        '{"name": "x", "age": "',
        '{"name": "x", "tags": ["cow"',
        '{"name": "x"}',
        '{"name": "\\u00e9',  # characters are written out
        '{"name": "x", "age": 3, "more"',
    ]
    assert JsonSchema(SCHEMA).score(bad) == [0.0] * len(bad)
    assert JsonSchema(json.dumps(SCHEMA)).score(["{", "["]) == [0.5, 0.0]
    tight = JsonSchema(SCHEMA, whitespace_flexible=False)
    assert tight.score(['{\n "name"']) == [0.0]
    assert JsonSchema(SCHEMA).score(['{\n "name"']) == [0.5]

    class Model:
        @staticmethod
        def model_json_schema() -> dict[str, Any]:
            return SCHEMA

    assert JsonSchema(Model).schema == SCHEMA


def test_grammar() -> None:
    nested = Grammar('start: "(" start* ")"')
    texts = ["", "(", "()", "(()", "(()())", ")", "())", "(x"]
    assert nested.score(texts) == [0.5, 0.5, 1.0, 0.5, 1.0, 0.0, 0.0, 0.0]


def test_white_space_at_the_ends() -> None:
    plain, stripped = Regex("ab"), Regex("ab", strip=True)
    texts = [" ab", "ab\n", " ", "\n a", "a b", "  "]
    assert plain.score(texts) == [0.0] * 6
    assert stripped.score(texts) == [1.0, 1.0, 0.5, 0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Regex("("), "Regex: .*unclosed group"),
        (lambda: Regex("a(?=b)"), "Regex: "),
        (lambda: Grammar("start: nothing"), "Grammar: .*nothing"),
        (lambda: JsonSchema({"type": "thing"}), "JsonSchema: .*thing"),
        (lambda: Regex("a", partial=1.5), "partial: expected 0 to 1"),
        (lambda: JsonSchema("{"), "."),
    ],
)
def test_what_does_not_parse(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        make()


def test_wrong_types() -> None:
    for make in (Regex, Grammar, JsonSchema):
        with pytest.raises(TypeError, match="expected"):
            make(3)


# --- incremental ---------------------------------------------------------------------


def test_only_new_bytes_are_matched() -> None:
    reward = JsonSchema({"type": "array", "items": {"type": "string"}})
    matchers = reward.matchers
    text, n_bytes = "[", 1
    reward.score([text])
    for step in range(200):
        word = '"' + WORDS[step % len(WORDS)] + '",'
        reward.score([text + word, text + word + '"and', text + "]"])
        n_bytes += len(word) + len('"and') + (step == 0)  # "]" after a comma is dead
        text += word
        assert matchers.n_bytes == n_bytes
    reward.score([text + "}"])
    dead = matchers.n_bytes
    reward.score([text + "}" + WORDS[0] * 100])  # nothing to match after the dead
    assert matchers.n_bytes == dead == n_bytes


def test_what_is_forgotten_is_matched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deal.rewards.constraints._N_KEPT", 5)
    rng = random.Random(2)
    small = Regex(r"(ab|b)*é")
    texts = ["".join(rng.choices("abbé", k=rng.randint(0, 9))) for _ in range(300)]
    found = [small.score([text])[0] for text in texts]
    assert len(small.matchers._kept) == 5
    assert sum(small.matchers._n_of_length.values()) == 5
    assert set(found) == {0.0, 0.5, 1.0}
    assert found == [Regex(r"(ab|b)*é").score([text])[0] for text in texts]


def test_bounds_hold_for_all_that_can_follow() -> None:
    reward = Regex(r"a*b(é|a)", partial=0.3)
    texts = all_texts(6)
    scores = dict(zip(texts, reward.score(texts), strict=True))
    for text in texts:
        for n in (0, 1, 2):
            ((low, high),) = reward._bounds("", [text], [n], {})
            if len(text) + n <= 6:
                ends = [
                    scores[t]
                    for t in texts
                    if t.startswith(text) and len(t) <= len(text) + n
                ]
                assert low <= min(ends) and max(ends) <= high
            if scores[text] == 0.0:
                assert (low, high) == (0.0, 0.0)


# --- in a search ---------------------------------------------------------------------


def test_search_finds_what_matches(lm: deal.Model) -> None:
    pattern = r"( (dog|river|happy|sun)){2,}\.?"
    reward = Regex(pattern) + 0.1 * Keywords(WORDS)
    for weight in (2.0, 20.0):
        found = []
        for mode in ("naive", "exact"):
            search = deal.Search(top_k=12, lookahead=3, reward_weight=weight, mode=mode)
            r = lm.generate(PROMPT, rewards=reward, search=search, max_new_tokens=8)
            found.append((r.token_ids, r.score, r.rewards))
            if mode == "exact":
                bounds = [
                    candidate
                    for decision in r.trace
                    for candidate in decision.candidates
                    if candidate.score is None
                ]
                assert weight < 20 or bounds  # what is dead was not rolled out
        assert found[0] == found[1]


def test_dead_texts_save_rollouts(lm: deal.Model) -> None:
    """Against the same reward without bounds."""
    pattern = r"( (dog|river|happy|sun))+"
    bounded = Regex(pattern)
    plain = deal.reward(range=(0, 1), per_text=True)(
        lambda text: Regex(pattern).score([text])[0]
    )
    stats = []
    for reward in (bounded, plain):
        search = deal.Search(top_k=12, lookahead=6, reward_weight=20.0)
        r = lm.generate(PROMPT, rewards=reward, search=search, max_new_tokens=8)
        stats.append((r.text, r.stats.n_forward_tokens))
    assert stats[0][0] == stats[1][0]
    assert stats[0][1] < stats[1][1]
