"""Native scorers against plain Python twins, on random texts, cut anywhere, with bytes
among them that are no text; and what their constructors refuse.
"""

from __future__ import annotations

import doctest
import random
import unicodedata
from typing import Any

import pytest
from format_twin import checks, format_twin
from generation import PROMPTS, WORDS
from reward_streams import check_stream, random_bytes, random_tokens
from reward_twins import keywords_twin, length_twin, repetition_twin
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal import _core
from deal.rewards import Format, Keywords, Length, Repetition

MODES = ("fraction", "all", "any", "ordered")
LETTERS = [
    "a",
    "b",
    "A",
    " ",
    " ",
    ".",
    "_",
    "\u00e9",
    "\u00c9",
    "\u03c3",
    "\u03c2",
    "-",
]
SPACES = [" ", "\n", "\t", "\u3000", "\x1d", "\u00a0"]


def forms(rng: random.Random, alphabet: list[str]) -> list[str]:
    return [
        "".join(rng.choices(alphabet, k=rng.randint(1, 3)))
        for _ in range(rng.choice([1, 1, 2]))
    ]


@pytest.mark.parametrize("mode", MODES)
def test_keywords(mode: str) -> None:
    rng = random.Random(mode)
    scores = set()
    n_hit = 0
    for _ in range(400):
        wanted = [forms(rng, LETTERS) for _ in range(rng.randrange(4))]
        forbidden = [forms(rng, LETTERS) for _ in range(rng.choice([0, 0, 1, 3]))]
        if not wanted and not forbidden:
            continue
        tokens = random_bytes(rng, LETTERS)
        capsule = _core.keywords(wanted, forbidden, MODES.index(mode))

        def twin(seen: Any, w: Any = wanted, f: Any = forbidden) -> float:
            return keywords_twin(w, "".join(seen), f, mode)

        check_stream(capsule, tokens, twin)
        text = b"".join(tokens).decode("utf-8", "surrogateescape")
        scores.add(keywords_twin(wanted, text, forbidden, mode))
        n_hit += keywords_twin([], text, forbidden) < 1 if forbidden else 0
    assert len(scores) >= (2 if mode in ("all", "any") else 6)
    assert n_hit > 30


@pytest.mark.parametrize(
    "unit", ["tokens", "characters", "words", "sentences", "lines", "paragraphs"]
)
def test_length(unit: str) -> None:
    rng = random.Random(unit)
    units = ("tokens", "characters", "words", "sentences", "lines", "paragraphs")
    seen = set()
    for _ in range(300):
        tokens = random_bytes(rng, [*"ab.!\n\n", *SPACES, "\u3002", "\u5b57"])
        low = rng.randrange(5)
        high = low + rng.randrange(4)

        def twin(texts: Any, low: int = low, high: int = high) -> float:
            return length_twin(unit, low, high, texts)

        check_stream(_core.length(units.index(unit), low, high), tokens, twin)
        seen.add(twin([t.decode("utf-8", "surrogateescape") for t in tokens]))
    assert len(seen) > 5


@pytest.mark.parametrize("longest", [None, 0, 1, 2])
def test_repetition(longest: int | None) -> None:
    rng = random.Random(f"repetition {longest}")
    seen = set()
    for i in range(400):
        n = rng.choice([1, 1, 2, 2, 3, 5])
        alphabet = ["a", "A", "b ", "a ", " ", "\u00e9 ", "\u00c9", ". "]
        tokens = random_bytes(rng, alphabet * (1 + i % 3))

        def twin(texts: Any, n: int = n) -> float:
            return repetition_twin(n, longest, "".join(texts))

        capsule = _core.repetition(int(longest is not None), n, longest or 0)
        check_stream(capsule, tokens, twin)
        seen.add(twin([t.decode("utf-8", "surrogateescape") for t in tokens]))
    assert len(seen) > 4


def test_repetition_of_long_texts() -> None:
    """Thousands of n-grams, in states that forked from each other at random."""
    rng = random.Random(11)
    words = [f"w{i}" for i in range(40)]
    capsule = _core.repetition(0, 2, 0)
    states = [(_core.RewardState(capsule, ""), "")]
    for _ in range(3000):
        i = rng.randrange(len(states))
        state, text = states[i]
        if rng.random() < 0.3:
            state = state.fork()
            i = len(states) if len(states) < 12 else rng.randrange(12)
            if i == len(states):
                states.append((state, text))
        more = " ".join(rng.choices(words, k=rng.randrange(1, 9))) + rng.choice(
            ["", " "]
        )
        state.advance(more.encode())
        states[i] = (state, text + more)
    for state, text in states:
        assert state.score() == repetition_twin(2, None, text)
    assert max(len(text.split()) for _, text in states) > 500


# --- Format --------------------------------------------------------------------------

MARKS = [*'**--[]<>"",..pPsSaA', "\n", "\n", *SPACES, "\u00e9", "\u01c5", "\u00aa"]
PIECES = [
    "***",
    "**",
    "<<",
    ">>",
    "* ",
    "\n- ",
    "p.s.",
    "P. P. S",
    "end",
    '"',
    " x ",
    "[x]",
]
OPTIONS: dict[str, list[Any]] = {
    "starts_with": ["a", "aa", ' "P. "', "end p", "\u00c9"],
    "ends_with": ["a", "aa", "aap", "END", '"p.s."', "sp\u00e9"],
    "bullets": [0, 1, 2, 4],
    "paragraphs": [1, 2, 3],
    "placeholders": [0, 1, 2],
    "highlights": [0, 1, 2, 5],
    "letter_case": [1, 2],
    "postscript": [1, 2],
    "no_commas": [True],
    "quoted": [True],
    "title": [True],
}
# Characters that matter to a check, and others.
FOCUS = {
    "starts_with": ["a", "p", ".", "end", '"', " ", "\u00e9"],
    "ends_with": ["a", "p", "end", "p.s.", '"', " ", "s"],
    "bullets": ["*", "*", "-", "\n", "\n", " ", "x"],
    "paragraphs": ["*", "**", "***", " ", "x", "\n"],
    "placeholders": ["[", "]", "x", "\n"],
    "highlights": ["*", "*", "**", "x", " ", "\n"],
    "letter_case": ["a", "A", "1", "\u00e9", "\u00aa", "\u01c5", "\u24b6"],
    "postscript": ["p", "P", "s", ".", ".", " ", "\n"],
    "no_commas": [",", "a", "b", "."],
    "quoted": ['"', '"', " ", "x", "\n"],
    "title": ["<", "<<", ">", ">>", "x", " ", "\n"],
}


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """With the phrases as they are looked for."""
    names = ("starts_with", "ends_with")
    return {k: v.strip(' "') if k in names else v for k, v in options.items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_one_check(name: str) -> None:
    rng = random.Random(name)
    passed = [0, 0]
    for _ in range(900):
        options = {name: rng.choice(OPTIONS[name])}
        few = rng.sample([*MARKS, *PIECES], k=2) if rng.random() < 0.3 else []
        tokens = random_bytes(rng, [*FOCUS[name], *few])
        plain = plain_options(options)
        check_stream(
            _core.format(**options),
            tokens,
            lambda seen, o=plain: format_twin(o, "".join(seen)),
        )
        text = b"".join(tokens).decode("utf-8", "surrogateescape")
        passed[checks(text, plain)[name]] += 1
    assert min(passed) > 25, passed


@pytest.mark.parametrize("is_all", [False, True])
def test_some_checks(is_all: bool) -> None:
    rng = random.Random(is_all)
    seen = set()
    for _ in range(500):
        names = rng.sample(list(OPTIONS), k=rng.randint(1, 4 if is_all else 11))
        options = {name: rng.choice(OPTIONS[name]) for name in names}
        tokens = random_bytes(rng, rng.sample([*MARKS, *PIECES], k=12))
        plain = plain_options({**options, "is_all": is_all})
        check_stream(
            _core.format(**options, is_all=is_all),
            tokens,
            lambda texts, o=plain: format_twin(o, "".join(texts)),
        )
        text = b"".join(tokens).decode("utf-8", "surrogateescape")
        seen.add(format_twin(plain, text))
    assert len(seen) >= (2 if is_all else 10)


def test_chunks_of_any_length() -> None:
    """A text in one piece, longer than what checks look at at once, or in few."""
    rng = random.Random(5)
    options = {k: v[-1] for k, v in OPTIONS.items()}
    capsule = _core.format(**options)
    for _ in range(60):
        few = rng.sample([*MARKS, *PIECES], k=6)
        text = "".join(random_tokens(rng, few) + ["a"] * rng.randrange(600))
        text = text * 3 + rng.choice(["", "".join(rng.choices(few, k=400))])
        data = text.encode()
        for size in (1, 255, 256, 257, 10**6):
            state = _core.RewardState(capsule, "")
            while data and size < len(data):
                end = size
                while data[end] & 0xC0 == 0x80:
                    end -= 1
                if not end:
                    break
                state.advance(data[:end])
                data = data[end:]
            state.advance(data)
            assert state.score() == format_twin(plain_options(options), text)
            data = text.encode()


def test_case_of_all_characters() -> None:
    lower, upper = _core.format(letter_case=1), _core.format(letter_case=2)
    empty = [_core.RewardState(lower, ""), _core.RewardState(upper, "")]
    is_same_unicode = unicodedata.unidata_version == "14.0.0"
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        character = chr(code)
        is_case = []
        for start, letter in zip(empty, "aA", strict=True):
            for text in (character, character + letter):
                state = start.fork()
                state.advance(text.encode())
                is_case.append(state.score() == 1.0)
        if code > 0x2FFFF and not any(is_case[0::2]):
            continue  # no letters there in any version
        if not is_same_unicode and (
            unicodedata.category(character) == "Cn"  # newer than Python's tables
            or is_case == [False, True, False, True]  # or perhaps than the core's
        ):
            continue
        expected = [character.islower(), (character + "a").islower()]
        expected += [character.isupper(), (character + "A").isupper()]
        assert is_case == expected, hex(code)


@pytest.mark.parametrize(
    "make",
    [
        lambda: _core.keywords([], [], 0),
        lambda: _core.keywords([["a"]], [], 4),
        lambda: _core.keywords([["a"]], [[]], 0),
        lambda: _core.keywords([["a"]], [[""]], 0),
        lambda: _core.length(6, 1, 1),
        lambda: _core.repetition(2, 1, 0),
        lambda: _core.repetition(0, 0, 0),
        lambda: _core.repetition(0, 33, 0),
        lambda: _core.repetition(1, 3, -1),
        lambda: _core.format(),
        lambda: _core.format(starts_with=' "'),
        lambda: _core.format(ends_with=""),
        lambda: _core.format(paragraphs=0),
        lambda: _core.format(letter_case=3),
        lambda: _core.format(postscript=-1),
    ],
)
def test_what_is_refused(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


# --- The classes ---------------------------------------------------------------------


def test_examples() -> None:
    for module in (deal.rewards.native, deal.rewards.text_checks):
        result = doctest.testmod(module)
        assert result.attempted > 1 and not result.failed


def test_what_they_say_of_themselves() -> None:
    for reward, shown in [
        (Keywords(["a"]), "Keywords(['a'])"),
        (
            Keywords({"x": ["a", "b"]}, mode="any", forbidden=["c"]),
            "Keywords([['a', 'b']], mode='any', forbidden=['c'])",
        ),
        (Keywords(forbidden=["c"]), "Keywords([], forbidden=['c'])"),
        (Length("lines", target=5, tolerance=2), "Length('lines', min=3, max=7)"),
        (Length(target=1, tolerance=2), "Length('words', min=0, max=3)"),
        (Repetition(), "Repetition(n=3)"),
        (Repetition(2, longest=8), "Repetition(n=2, longest=8)"),
        (Format(bullets=0, title=True), "Format(bullets=0, title=True)"),
        (
            Format(letter_case="upper", postscript="P.P.S", mode="all"),
            "Format(letter_case='upper', postscript='P.P.S', mode='all')",
        ),
    ]:
        assert repr(reward) == f"deal.rewards.{shown}"
        assert reward.range == (0.0, 1.0)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Keywords(), ValueError),
        (lambda: Keywords(["a"], mode="some"), ValueError),
        (lambda: Keywords(["a"], forbidden="b"), TypeError),
        (lambda: Keywords(["a"], forbidden=[""]), ValueError),
        (lambda: Length(min=1, tolerance=1), ValueError),
        (lambda: Length(target=1, tolerance=-1), ValueError),
        (lambda: Length(target=1, tolerance=0.5), TypeError),
        (lambda: Length(target=2**63 - 1, tolerance=2**63 - 1), ValueError),
        (lambda: Repetition(n=0), ValueError),
        (lambda: Repetition(n=2**40), ValueError),
        (lambda: Repetition(n=2.0), TypeError),
        (lambda: Repetition(longest=-1), ValueError),
        (lambda: Format(), ValueError),
        (lambda: Format(no_commas=False), ValueError),
        (lambda: Format(bullets=-1), ValueError),
        (lambda: Format(bullets="3"), TypeError),
        (lambda: Format(paragraphs=0), ValueError),
        (lambda: Format(letter_case="title"), ValueError),
        (lambda: Format(postscript="PS"), ValueError),
        (lambda: Format(ends_with='"'), ValueError),
        (lambda: Format(ends_with=5), TypeError),
        (lambda: Format(title=True, mode="any"), ValueError),
    ],
)
def test_what_the_classes_refuse(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_checks_by_name() -> None:
    reward = Format(starts_with="dear", quoted=True, bullets=1, letter_case="lower")
    assert reward.checks('"dear a\n- b"') == {
        "starts_with": True,
        "bullets": True,
        "letter_case": True,
        "quoted": True,
    }
    assert reward.checks("Dear A") == {
        "starts_with": True,
        "bullets": False,
        "letter_case": False,
        "quoted": False,
    }


# --- In a search ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("scorers") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32", threads=2)


@pytest.mark.parametrize(
    "reward",
    [
        Repetition(n=1),
        Repetition(n=2, longest=1),
        Format(no_commas=True, letter_case="lower", bullets=1, ends_with="a"),
        Format(title=True, quoted=True, mode="all"),
        Keywords(WORDS, mode="ordered", forbidden=["the"]),
        Length("lines", target=3, tolerance=1),
        Repetition(n=1) + 0.5 * Keywords(WORDS, mode="any") - Format(placeholders=1),
    ],
)
def test_modes_of_the_search_agree(lm: deal.Model, reward: deal.Reward) -> None:
    settings = {"top_k": 4, "lookahead": 5, "reward_weight": 3.0, "num_beams": 2}
    for prompt in PROMPTS[:3]:
        exact, naive = (
            lm.generate(
                prompt,
                rewards=reward,
                search=deal.Search(mode=mode, **settings),
                max_new_tokens=16,
            )
            for mode in ("exact", "naive")
        )
        assert exact.token_ids == naive.token_ids
        assert exact.rewards == naive.rewards and exact.score == naive.score
        for part in reward.parts():
            text = lm.tokenizer.decode(exact.token_ids)
            assert exact.rewards[part.name] == part.reward.score([text])[0]
