"""Rewards without a model: native ones against plain Python twins on random text, what
a Python reward may return, and weighted sums.
"""

from __future__ import annotations

import functools
import gc
import math
import random
import unicodedata
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reward_streams import check_stream, random_tokens
from reward_twins import fold_one, is_word, keywords_twin, length_twin

import deal
from deal import _core
from deal.rewards import Keywords, Length, WeightedSum, as_reward

OLD = unicodedata.ucd_3_2_0  # what it knows is the same in every later version
UNITS = ("tokens", "characters", "words", "sentences")


# --- Keywords ------------------------------------------------------------------------

LETTERS = ["a", "b", "A", "B", " ", " ", ".", "_", "1"]
SCRIPTS = ["é", "É", "σ", "ς", "Σ", "Ⱥ", "ⱥ", "ß", "ẞ", "K", "k", "ñ", "\u0301", "字"]
OTHERS = ["’", "—", "🐈", "\u200d", "\u00a0", "\0", "\U0010ffff"]


@pytest.mark.parametrize(
    ("seed", "alphabet"),
    [(0, LETTERS), (1, SCRIPTS + [" "] * 4), (2, SCRIPTS + OTHERS)],
)
def test_keywords_equal_a_plain_search(seed: int, alphabet: list[str]) -> None:
    rng = random.Random(seed)
    n_partly = 0
    for _ in range(300):
        tokens = random_tokens(rng, alphabet)
        text = "".join(tokens)
        concepts = []
        for _ in range(rng.randrange(1, 6)):
            forms = ["".join(rng.choices(alphabet, k=rng.randrange(1, 4)))]
            if text and rng.random() < 0.7:  # one that has a chance to occur
                i = rng.randrange(len(text))
                forms.append(text[i : i + rng.randrange(1, 6)].swapcase())
            concepts.append(forms)
        check_stream(
            _core.keywords(concepts),
            tokens,
            lambda seen, c=concepts: keywords_twin(c, "".join(seen)),
        )
        n_partly += 0 < keywords_twin(concepts, text) < 1
    assert n_partly > 50


def test_keywords_of_many_concepts() -> None:
    rng = random.Random(3)
    words = sorted(
        {"".join(rng.choices("abc", k=rng.randrange(1, 6))) for _ in range(400)}
    )
    concepts = [[word] for word in words]
    assert len(concepts) > 130  # more than two words of covered bits
    capsule = _core.keywords(concepts)
    for _ in range(20):
        tokens = [rng.choice([*words, " "]) + " " for _ in range(30)]
        check_stream(
            capsule, tokens, lambda seen: keywords_twin(concepts, "".join(seen))
        )


def test_word_characters_of_all_scripts() -> None:
    keywords = Keywords(["a"])
    rng = random.Random(4)
    codes = [*range(0x3100), *rng.sample(range(0x3100, 0x110000), 6000)]
    known = [chr(c) for c in codes if OLD.category(chr(c)) not in ("Cn", "Cs", "Co")]
    assert len(known) > 8000
    for character in known:
        if OLD.category(character) != unicodedata.category(character):
            continue
        found = keywords.score(["a" + character, character + "a"])
        expected = [float(not is_word(character))] * 2
        assert found == expected, hex(ord(character))


def test_case_folding_of_all_scripts() -> None:
    known = [
        chr(c) for c in range(0x110000) if OLD.category(chr(c)) in ("Lu", "Ll", "Lt")
    ]
    changed = [c for c in known if fold_one(c) != c]
    assert len(changed) > 700
    for character in changed:
        assert Keywords([character]).score([fold_one(character)]) == [1.0]
        assert Keywords([fold_one(character)]).score([character]) == [1.0]
    for character in set(known) - set(changed):
        assert Keywords([character]).score([character, "#"]) == [1.0, 0.0]


def test_keywords_examples() -> None:
    keywords = Keywords(["cat", ["sit", "sits", "sat"], "New York"])
    assert keywords.concepts == (("cat",), ("sit", "sits", "sat"), ("New York",))
    assert keywords.range == (0.0, 1.0) and keywords.name == "keywords"
    texts = ["CAT!", "cats sit", "concatenate", "The cat sat in new york."]
    assert keywords.score(texts) == [1 / 3, 1 / 3, 0.0, 1.0]
    assert keywords.score([]) == []
    assert Keywords({"cat": ["cat", "cats"], "run": ["ran"]}).score(["cats"]) == [0.5]
    assert Keywords(["?"]).score(["really?"]) == [1.0]


@pytest.mark.parametrize(
    ("concepts", "error"),
    [
        ("cat", TypeError),
        ([3], TypeError),
        ([["cat", None]], TypeError),
        ([b"cat"], TypeError),
        (None, TypeError),
        ([], ValueError),
        ([""], ValueError),
        ([[]], ValueError),
        (["\ud800"], ValueError),
    ],
)
def test_keywords_refuse(concepts: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Keywords(concepts)


# --- Length --------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_length_equals_a_plain_count(unit: str) -> None:
    rng = random.Random(5)
    alphabet = list("aab  .!?,") + ["é", "。", "！", "\u3000", "\x1d", "\n", "🐈", '"']
    seen = set()
    for _ in range(500):
        tokens = random_tokens(rng, alphabet)
        low = rng.randrange(5)
        high = rng.choice([math.inf, low, low + rng.randrange(5)])
        top = -1 if math.isinf(high) else int(high)
        twin = functools.partial(length_twin, unit, low, high)
        check_stream(_core.length(UNITS.index(unit), low, top), tokens, twin)
        seen.add(twin(tokens))
    assert len(seen) > 5


def test_length_examples() -> None:
    assert Length(target=4).score(["one two three"]) == [1 / (1 + 1 / 4)]
    assert Length(min=2, max=3).score(["a", "a b", "a b c d"]) == [2 / 3, 1.0, 0.75]
    assert Length("characters", max=4).score(["naïf", "naïve"]) == [1.0, 0.8]
    assert Length("sentences", target=2).score(["It is 3.5. Yes!"]) == [1.0]
    assert Length("tokens", target=2).score([[5, 6], (7,), np.array([1, 2, 3, 4])]) == [
        1.0,
        1 / 1.5,
        0.5,
    ]
    with pytest.raises(TypeError, match="token ids"):
        Length("tokens", target=2).score(["text"])


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({}, ValueError),
        ({"min": -1}, ValueError),
        ({"max": -1}, ValueError),
        ({"min": 3, "max": 2}, ValueError),
        ({"min": 3, "target": 2}, ValueError),
        ({"target": 2, "unit": "miles"}, ValueError),
        ({"target": 2.5}, TypeError),
        ({"target": 2**63}, ValueError),
    ],
)
def test_length_refuses(kwargs: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Length(**kwargs)


# --- Python rewards ------------------------------------------------------------------


def through_capsule(reward: deal.Reward, texts: list[str], **row: Any) -> list[float]:
    """Scores by way of the C trampoline, as a search takes it, a text at a time."""
    capsule = reward._capsule(row)
    scores = []
    for text in texts:
        state = _core.RewardState(capsule, "the prompt")
        for character in text:
            state.advance(character.encode())
        assert state.bounds(5) == reward.range
        scores.append(state.fork().score())
    return scores


def test_decorator_forms() -> None:
    @deal.reward
    def plain(completions: list[str], prompts: list[str], **kwargs: Any) -> list[float]:
        """Counts."""
        return [len(text) for text in completions]

    @deal.reward(range=(0, 1), name="other", per_text=True)
    def each(text: str) -> float:
        return text.isupper()

    assert isinstance(plain, deal.Reward) and isinstance(each, deal.Reward)
    assert (plain.name, plain.range) == ("plain", (-math.inf, math.inf))
    assert (each.name, each.range) == ("other", (0.0, 1.0))
    assert plain.__doc__ == "Counts." and plain(["abc"], [""]) == [3]
    for score in (plain.score, functools.partial(through_capsule, plain)):
        assert score(["", "äb"]) == [0.0, 2.0]
    for score in (each.score, functools.partial(through_capsule, each)):
        assert score(["A", "a"]) == [1.0, 0.0]


def test_keywords_arguments_that_a_function_gets() -> None:
    seen: list[dict[str, Any]] = []

    def some(completions: list[str], label: list[int]) -> list[float]:
        seen.append({"completions": completions, "label": label})
        return [0.0] * len(completions)

    def every(completions: list[str], **kwargs: Any) -> list[float]:
        seen.append({"completions": completions, **kwargs})
        return [0.0] * len(completions)

    as_reward(some).score(["a", "b"], "p", label=[1, 2], more=[3, 4])
    as_reward(every).score(["a", "b"], ["p", "q"], label=[1, 2], more=[3, 4])
    through_capsule(as_reward(every), ["a"], label=1, messages=[{"role": "user"}])
    assert seen == [
        {"completions": ["a", "b"], "label": [1, 2]},
        {
            "completions": ["a", "b"],
            "prompts": ["p", "q"],
            "label": [1, 2],
            "more": [3, 4],
        },
        {
            "completions": ["a"],
            "prompts": ["the prompt"],
            "label": [1],
            "messages": [[{"role": "user"}]],
        },
    ]
    with pytest.raises(ValueError, match="label"):
        as_reward(every).score(["a", "b"], label=[1])
    with pytest.raises(ValueError, match="prompts"):
        as_reward(every).score(["a", "b"], ["p"])
    with pytest.raises(ValueError, match="completions"):
        as_reward(every)._capsule({"completions": 1})
    for reward in (Keywords(["cat"]), every):
        with pytest.raises(ValueError, match=r"completions\[1\].*surrogate at 2"):
            as_reward(reward).score(["a", "b \ud800"])
    with pytest.raises(TypeError, match="one string"):
        as_reward(every).score("ab")
    with pytest.raises(TypeError, match=r"completions\[1\]"):
        as_reward(every).score(["a", 5])


@pytest.mark.parametrize(
    "value",
    [True, 1, 0.5, np.float32(0.5), np.float64(0.25), np.int64(1), np.bool_(True)],
)
def test_numbers_that_count(value: Any) -> None:
    reward = deal.reward(range=(0, 1))(lambda completions: [value])
    assert reward.score(["a"]) == through_capsule(reward, ["a"]) == [float(value)]


@pytest.mark.parametrize(
    "make", [tuple, list, np.array, lambda v: np.array(v, np.float32), range]
)
def test_sequences_that_count(make: Callable[..., Any]) -> None:
    values = 3 if make is range else [0.0, 1.0, 2.0]
    reward = as_reward(lambda completions: make(values))
    assert reward.score(["a", "b", "c"]) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, "expected a list of 1 numbers, got NoneType None"),
        ("a", TypeError, "expected a list of 1 numbers, got str 'a'"),
        (b"a", TypeError, "got bytes"),
        (0.5, TypeError, "got float 0.5"),
        ({0.5: 1}, TypeError, "got dict"),
        (np.array(0.5), TypeError, "got numpy.ndarray"),
        ([None], TypeError, "score 0: expected a number, got NoneType None"),
        (["0.5"], TypeError, "score 0: expected a number, got str '0.5'"),
        ([[0.5]], TypeError, "score 0: expected a number, got list"),
        (np.zeros((1, 2)), TypeError, "score 0: expected a number"),
        ([1j], TypeError, "score 0: expected a number, got complex"),
        ([], ValueError, "expected 1 scores, got 0"),
        ([0.5, 0.5], ValueError, "expected 1 scores, got 2"),
        ([math.nan], ValueError, "score 0: expected a finite number, got nan"),
        ([np.float32("inf")], ValueError, "score 0: expected a finite number, got inf"),
        ([10**400], ValueError, "score 0: expected a finite number"),
        ([1.5], ValueError, r"its range \[0.0, 1.0\], got 1.5"),
        ([-1e-9], ValueError, r"its range \[0.0, 1.0\], got -1e-09"),
    ],
)
def test_results_that_break_the_contract(
    result: Any, error: type[Exception], message: str
) -> None:
    reward = deal.reward(range=(0, 1), name="mine")(lambda completions: result)
    for score in (reward.score, functools.partial(through_capsule, reward)):
        with pytest.raises(deal.RewardError, match=message) as caught:
            score(["a"])
        assert isinstance(caught.value, error) and "'mine'" in str(caught.value)


def test_index_of_a_bad_score() -> None:
    reward = as_reward(lambda completions: [0.0, 1.0, math.nan])
    with pytest.raises(deal.RewardError, match="score 2"):
        reward.score(["a", "b", "c"])


def test_own_exceptions_arrive_unchanged() -> None:
    error = KeyError("mine")

    class Odd:
        def __float__(self) -> float:
            raise error

    def raising(completions: list[str]) -> list[float]:
        raise error

    for reward in (as_reward(raising), as_reward(lambda completions: [Odd()])):
        with pytest.raises(KeyError) as caught:
            through_capsule(reward, ["a"])
        assert caught.value is error
    with pytest.raises(KeyError) as caught:
        through_capsule(as_reward(raising), ["a"])
    assert caught.traceback[-1].name == "raising"


@pytest.mark.parametrize(
    "make",
    [
        lambda: deal.reward(3),
        lambda: deal.reward(range=(1, 0))(lambda completions: []),
        lambda: deal.reward(range=(0, math.nan))(lambda completions: []),
        lambda: deal.reward(range=(0, 1, 2))(lambda completions: []),
        lambda: deal.reward(range="ab")(lambda completions: []),
        lambda: deal.reward(name="")(lambda completions: []),
        lambda: deal.reward(lambda text: 0.5),
        lambda: as_reward("keywords"),
        lambda: as_reward(None),
    ],
)
def test_definitions_that_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        make()


def test_async_functions_are_refused() -> None:
    async def later(completions: list[str]) -> list[float]:
        return [0.0]

    with pytest.raises(TypeError, match="async"):
        deal.reward(later)


def test_capsule_keeps_and_frees_its_function() -> None:
    class Function:
        def __call__(self, prompt: str, texts: list[str]) -> list[float]:
            return [float(len(prompt + texts[0]))]

    function = Function()
    alive = weakref.ref(function)
    capsule = _core.python_reward("f", function, 0.0, 9.0)
    state = _core.RewardState(capsule, "abc")
    del function, capsule
    gc.collect()
    assert alive() is not None and state.score() == 3.0
    del state
    gc.collect()
    assert alive() is None


def test_state_is_not_used_from_inside_its_reward() -> None:
    def again(prompt: str, texts: list[str]) -> list[float]:
        state.advance(b"more")
        return [0.0]

    state = _core.RewardState(_core.python_reward("f", again, 0.0, 1.0), "")
    with pytest.raises(RuntimeError, match="inside its reward"):
        state.score()
    state.advance(b"free again")


# --- weighted sums -------------------------------------------------------------------


def test_algebra() -> None:
    a, b = Keywords(["a"], name="a"), Keywords(["b"], name="b")

    @deal.reward(range=(-1, 2))
    def f(completions: list[str]) -> list[float]:
        return [1.5] * len(completions)

    total = a + 0.5 * b - (f * 2 + a) * np.float64(0.25)
    assert isinstance(total, WeightedSum)
    assert [(p.name, p.weight, p.reward) for p in total.parts()] == [
        ("a", 1.0, a),
        ("b", 0.5, b),
        ("f", -0.5, f),
        ("a#2", -0.25, a),
    ]
    assert total.range == (0 - 1.0 - 0.25, 1 + 0.5 + 0.5)
    assert total.score(["a b", ""]) == [1 + 0.5 - 0.75 - 0.25, -0.75]
    assert total.name == "a + 0.5 * b + -0.5 * f + -0.25 * a#2"
    assert [p.name for p in sum([a, b, a]).parts()] == ["a", "b", "a#2"]
    assert (a + 0) is a and (-a).parts()[0].weight == -1.0
    assert [p.weight for p in (-(a - 2 * b)).parts()] == [-1.0, 2.0]
    assert a.parts()[0].reward is a and a.parts()[0].weight == 1.0


def test_functions_and_capsules_in_sums() -> None:
    def f(completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    a = Keywords(["a"])
    capsule = _core.keywords([["b"]])
    for total in (a + f, f + a, a + capsule, capsule + a, a - f, f - a):
        assert len(total.parts()) == 2
    assert (f - a).score(["a a"]) == [2.0]
    assert (a + f).range == (-math.inf, math.inf)
    assert (a + 0 * as_reward(f)).range == (0.0, 1.0)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_weights_are_finite(weight: float) -> None:
    with pytest.raises(ValueError, match="'keywords'.*finite"):
        weight * Keywords(["a"])


def test_weights_do_not_overflow() -> None:
    with pytest.raises(ValueError, match="finite"):
        1e200 * (1e200 * Keywords(["a"]))


@pytest.mark.parametrize("other", ["a", None, [1], 1j])
def test_only_rewards_and_numbers_are_added(other: Any) -> None:
    with pytest.raises(TypeError):
        Keywords(["a"]) + other
    with pytest.raises(TypeError):
        other - Keywords(["a"])


@pytest.mark.parametrize("other", ["a", None, [1], 1j])
def test_only_numbers_and_rewards_multiply(other: Any) -> None:
    with pytest.raises(TypeError):
        Keywords(["a"]) * other


def test_sum_has_no_capsule() -> None:
    with pytest.raises(TypeError, match="parts"):
        (Keywords(["a"]) + Keywords(["b"]))._capsule({})
