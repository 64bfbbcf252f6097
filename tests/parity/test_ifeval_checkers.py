"""The format reward against IFEval's own checkers, as packaged in if-verifiable, on
instructions of our own, those of the dev file where it is there, and random edits of
their texts that hit and miss.

Most of what the package requires is not imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from deal.rewards import Format, Keywords, Native

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("DEAL_SHARED", ROOT.parent / "shared"))
DEV = DATA / "data/ifeval/dev.jsonl"
N_TEXTS = 60  # for each instruction and its arguments

# What the edits of a text insert; `{}` stands for what the instruction asks for.
PIECES = {
    "punctuation:no_comma": [","],
    "detectable_format:number_highlighted_sections": [
        *["*one two*", "**three**", "*", "**", "* *", "***a***", "*x**y**z*", "\n"]
    ],
    "detectable_format:number_bullet_lists": [
        *[
            "\n* one",
            "\n- two",
            "\n  * three",
            "\n** four",
            "\n*\nfive",
            "\n\t-",
            "*",
            "-",
        ]
    ],
    "detectable_content:number_placeholders": [
        "[name]",
        "[]",
        "[a\nb]",
        "[[x]",
        "]",
        "[",
    ],
    "detectable_format:title": ["<<A title>>", "<< >>", "<<>>", "<<<", ">>", "<<a\n>>"],
    "detectable_content:postscript": [
        "P.S.",
        "p. s.",
        "P.P.S",
        "P. P.\ns",
        "p.s",
        "P.P.",
    ],
    "length_constraints:number_paragraphs": ["***", "\n***\n", " *** ", "****", "*"],
    "startend:quotation": ['"'],
    "startend:end_checker": ["{}", '{}"', "{} \n", '{}" ', "{}."],
    "change_case:english_lowercase": ["A", "\u00c9", "1"],
    "change_case:english_capital": ["a", "\u00e9", "1"],
    "keywords:forbidden_words": ["{}", " {} ", "{}s", "_{}", "'{}'"],
}
FROM_KWARGS = {
    "detectable_format:number_highlighted_sections": ("highlights", "num_highlights"),
    "detectable_format:number_bullet_lists": ("bullets", "num_bullets"),
    "detectable_content:number_placeholders": ("placeholders", "num_placeholders"),
    "detectable_content:postscript": ("postscript", "postscript_marker"),
    "length_constraints:number_paragraphs": ("paragraphs", "num_paragraphs"),
    "startend:end_checker": ("ends_with", "end_phrase"),
}
PLAIN: dict[str, dict[str, Any]] = {
    "punctuation:no_comma": {"no_commas": True},
    "detectable_format:title": {"title": True},
    "startend:quotation": {"quoted": True},
    "change_case:english_lowercase": {"letter_case": "lower"},
    "change_case:english_capital": {"letter_case": "upper"},
}

# Arguments of each instruction, for rows that need no file.
OWN: dict[str, list[dict[str, Any]]] = {
    **{name: [{}] * 3 for name in PLAIN},
    "detectable_format:number_highlighted_sections": [
        {"num_highlights": n} for n in (1, 3)
    ],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2, 4)],
    "detectable_content:number_placeholders": [
        {"num_placeholders": n} for n in (1, 3, 5)
    ],
    "detectable_content:postscript": [
        {"postscript_marker": marker} for marker in ("P.S.", "P.P.S")
    ],
    "length_constraints:number_paragraphs": [{"num_paragraphs": n} for n in (1, 2, 5)],
    "startend:end_checker": [
        {"end_phrase": phrase} for phrase in ("That is all.", "Is it?", "the end")
    ],
    "keywords:forbidden_words": [
        {"forbidden_words": words} for words in (["cat"], ["rain", "the end"])
    ],
}
TEXTS = [
    "Write two lines about rain, and one about the cat that sits in it.",
    "* First, a list\n* of two *bold* things\n\nThen the end. [name], [address]",
    "One paragraph.\n***\nANOTHER, LOUDER ONE.\n***\nP.S. That is all.",
    "<<A title>>\n\nWhat does it say? Is it?",
]


def reward_of(instruction: str, kwargs: dict[str, Any]) -> Native:
    if instruction == "keywords:forbidden_words":
        return Keywords(mode="all", forbidden=kwargs["forbidden_words"])
    if instruction in PLAIN:
        return Format(**PLAIN[instruction])
    name, key = FROM_KWARGS[instruction]
    return Format(**{name: kwargs[key]})


@pytest.fixture(scope="module")
def checkers() -> dict[str, Any]:
    """Checker classes by instruction; the package's own __init__ is not run."""
    spec = importlib.util.find_spec("if_verifiable")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("needs if-verifiable")
    package = types.ModuleType("if_verifiable")
    package.__path__ = list(spec.submodule_search_locations)
    before = sys.modules.get("if_verifiable")
    sys.modules["if_verifiable"] = package
    try:
        registry = importlib.import_module("if_verifiable.ifeval.instructions_registry")
        instructions = importlib.import_module("if_verifiable.ifeval.instructions")
    except ImportError as error:
        pytest.skip(f"needs what if-verifiable's checkers import: {error}")
    finally:
        for name in [name for name in sys.modules if name.startswith("if_verifiable")]:
            del sys.modules[name]
        if before is not None:
            sys.modules["if_verifiable"] = before
    # The format reward does not look at the language.
    instructions.langdetect = types.SimpleNamespace(
        detect=lambda text: "en",
        LangDetectException=instructions.langdetect.LangDetectException,
    )
    return dict(registry.INSTRUCTION_DICT)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    own = [
        {"input": text, "instruction_ids": [name], "kwargs": [kwargs]}
        for name, rows in OWN.items()
        for kwargs in rows
        for text in TEXTS
    ]
    lines = DEV.read_text().splitlines() if DEV.is_file() else []
    return own + [json.loads(line) for line in lines]


def edited(rng: random.Random, text: str, pieces: list[str], n: int) -> str:
    """`text`, cut to some part, with up to n + 2 pieces in random places and often its
    case changed, quoted or with white space around it."""
    start = rng.randrange(len(text))
    text = text[start : start + rng.randrange(300)]
    for _ in range(rng.choice([0, n - 1, n, n, n + 1, n + 2])):
        i = rng.choice([0, len(text), rng.randint(0, len(text)), text.find("\n") + 1])
        text = text[:i] + rng.choice(pieces) + text[i:]
    text = rng.choice([str, str, str.lower, str.upper, str.swapcase])(text)
    quote = rng.choice(["", "", '"'])
    space = rng.choice(["", "", " ", "\n", "\u00a0"])
    return space + quote + text + rng.choice(["", quote, quote]) + space


@pytest.mark.parametrize("instruction", PIECES)
def test_agrees(
    instruction: str, checkers: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    rng = random.Random(instruction)
    passed = [0, 0]
    for row in rows:
        for name, kwargs in zip(row["instruction_ids"], row["kwargs"], strict=True):
            if name != instruction:
                continue
            checker = checkers[name](name)
            checker.build_description(**kwargs)
            reward = reward_of(name, kwargs)
            wanted = kwargs.get("end_phrase") or rng.choice(
                kwargs.get("forbidden_words", [""])
            )
            pieces = [piece.replace("{}", wanted) for piece in PIECES[name]]
            n = next((v for k, v in kwargs.items() if k.startswith("num_")), 1)
            texts = [row["input"], "", " "]
            texts += [
                edited(rng, rng.choice(rows)["input"], pieces, n)
                for _ in range(N_TEXTS)
            ]
            for text, score in zip(texts, reward.score(texts), strict=True):
                expected = bool(checker.check_following(text))
                assert score == expected, (kwargs, text)
                passed[expected] += 1
    assert min(passed) > 20, passed
