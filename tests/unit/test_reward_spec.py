"""Rewards written as text: what a spec means, and what it may not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import make_tiny, write_gguf

import deal
from deal._reward_spec import CALLS, FROM_FILE, RewardSpec
from deal.rewards import (
    Classifier,
    Fluency,
    Keywords,
    Length,
    Lexicon,
    NgramModel,
    Repetition,
    RewardModel,
    at_least,
    clip,
    minimum,
)

TEXTS = ["a cat sat", "a cat and a dog", "the the the the", ""]
DOC = {"words": ["dog"], "nested": {"rows": [["cat"]]}, "n": 2}
CASES = [
    ('Keywords(["cat"])', Keywords(["cat"])),
    ("Keywords([['cat', 'dog']], mode='all')", Keywords([["cat", "dog"]], mode="all")),
    (
        'Keywords(["cat"]) + 0.5*Length(max=3) - Repetition(2)',
        Keywords(["cat"]) + 0.5 * Length(max=3) - Repetition(2),
    ),
    ("-(Length(max=3)) * 2 + 1", -1.0 * Length(max=3) * 2 + 1),
    ("Keywords(['cat']) * Length(max=3)", Keywords(["cat"]) * Length(max=3)),
    ("at_least(Keywords(['cat']), 0.5)", at_least(Keywords(["cat"]), 0.5)),
    (
        "minimum(Length(max=3), 0.5 * Length(min=1))",
        minimum(Length(max=3), 0.5 * Length(min=1)),
    ),
    ("Length(min=1, max=null)", Length(min=1)),
    ('Keywords(doc["words"])', Keywords(["dog"])),
    ("Keywords(doc['nested']['rows'][-1])", Keywords(["cat"])),
    ('Length(max=doc["n"])', Length(max=2)),
]


@pytest.mark.parametrize("text, reward", CASES, ids=[text for text, _ in CASES])
def test_formulas(text: str, reward: Any) -> None:
    spec = RewardSpec(f" {text}\n")
    assert spec.build(DOC).score(TEXTS) == reward.score(TEXTS)
    assert spec.uses_doc == ("doc" in text)


@pytest.mark.parametrize(
    "text, objects",
    [
        ("a/b.py:f", {"a/b.py:f"}),
        ("'a b.py:f'", {"a b.py:f"}),
        ("'m.n:f' - 0.5 * -'b.py:g' + Regex('x:y')", {"m.n:f", "b.py:g"}),
        ("clip(1 * 'm:f', 0, 1)", {"m:f"}),
        ("Keywords(['a:b', doc['c:d']])", set()),
    ],
)
def test_what_a_formula_imports(text: str, objects: set[str]) -> None:
    assert set(RewardSpec(text).objects) == objects


def test_every_call_is_a_reward() -> None:
    from deal import rewards

    assert all(callable(getattr(rewards, name)) for name in CALLS)


@pytest.mark.parametrize(
    "text, what",
    [
        ("", "expected a formula"),
        (0.5, "expected a formula"),
        ("x" * 10_001, "expected a formula"),
        ("Keywords(", "was never closed"),
        ("Keywords(['a']); 1", "invalid syntax"),
        ("Keywords", "expected rewards, numbers"),
        ("Keywords(['a']) / 2", "expected rewards, numbers"),
        ("Keywords(['a']) ** 2", "expected rewards, numbers"),
        ("True * Keywords(['a'])", "expected rewards, numbers"),
        ("open('x')", "expected one of Classifier, Contrast"),
        ("Keywords.__init__(1)", "expected one of Classifier, Contrast"),
        ("RewardModel([1.0])", "RewardModel: expected path="),
        ("Classifier(path='head')", "Classifier: expected a model that writes"),
        ("Fluency(floor=-8)", "Fluency: expected a model that writes"),
        ("Lexicon(path=1)", "path: expected the name of a file, got 1"),
        ("Lexicon('words.txt')", "Lexicon: "),
        ("1 + 2", "expected a reward, got 3.0"),
        ("1e400 * Keywords(['a'])", "finite"),
        ("Native(1)", "expected one of Classifier, Contrast"),
        ("(lambda: 1)()", "expected one of Classifier, Contrast"),
        ("Keywords(__import__('os'))", "expected one of Classifier, Contrast"),
        ("Keywords([x for x in 'ab'])", "expected a literal"),
        ("Keywords(['a' * 3])", "path/to/file.py:name or .*, got 'a'"),
        ("Keywords(f'{1}')", "expected a literal"),
        ("Keywords(**{'concepts': ['a']})", "got \\*\\*"),
        ("Keywords([*['a']])", "expected a literal"),
        ("Keywords(['a'], mode='best')", "Keywords: mode"),
        ("Keywords(nothing=1)", "Keywords: .*nothing"),
        ('Keywords(doc["other"])', "no such field; fields: \\['n', 'nested', 'words'"),
        ("Keywords(doc)", "expected a literal"),
        ("-" * 5000 + "1", "rewards"),
        ("(" * 5000 + "1" + ")" * 5000, "rewards"),
    ],
)
def test_what_is_no_formula(text: Any, what: str) -> None:
    with pytest.raises((ValueError, ImportError), match=what):
        RewardSpec(text).build(DOC)


def test_a_doc_is_needed() -> None:
    with pytest.raises(ValueError, match="fields: none"):
        RewardSpec('Keywords(doc["words"])').build()


def test_functions_of_files_and_modules(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "mine.py").write_text(
        "import deal\n\n"
        "def short(completions, doc, **kwargs):\n"
        "    return [d['n'] - len(c) for c, d in zip(completions, doc)]\n\n"
        "@deal.reward(range=(0, 1))\n"
        "def cats(completions, **kwargs):\n"
        "    return [float('cat' in text) for text in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rows = [DOC] * len(TEXTS)
    for place in ("mine.py", str(tmp_path / "mine.py"), "mine"):
        short = RewardSpec(f"{place}:short").build()
        assert short.score(TEXTS, doc=rows) == [2 - len(text) for text in TEXTS]
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.py").write_text("def short(completions):\n    return [7.0] * 4\n")
    monkeypatch.chdir(other)  # a name is that of the file that it stands for now
    assert RewardSpec("mine.py:short").build().score(TEXTS) == [7] * 4
    monkeypatch.chdir(tmp_path)
    both = RewardSpec("'mine.py:cats' + 0.5 * Length(max=3)").build()
    expected = RewardSpec("mine.py:cats").build().score(TEXTS)
    assert expected == [1, 1, 0, 0]
    half = [0.5 * x for x in Length(max=3).score(TEXTS)]
    assert both.score(TEXTS) == [a + b for a, b in zip(expected, half, strict=True)]


@pytest.mark.parametrize(
    "text, error, what",
    [
        ("none.py:fn", FileNotFoundError, "none.py"),
        ("no_such_module_here:fn", ImportError, "no_such_module_here"),
        ("bad.py:missing", ImportError, "has no 'missing'"),
        ("raises.py:fn", ZeroDivisionError, "division"),
        ("bad.py:number", TypeError, "reward"),
        ("'nowhere'", ValueError, "path/to/file.py:name"),
    ],
)
def test_bad_places(
    text: str, error: Any, what: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("number = 1\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    with pytest.raises(error, match=what):
        RewardSpec(text).build()


JSON_CASES = [
    ({"type": "Keywords", "concepts": [["cat", "dog"]]}, Keywords([["cat", "dog"]])),
    ({"type": "length", "unit": "words", "max": 3}, Length("words", max=3)),
    (
        {"type": "repetition", "n": 2, "weight": -0.5, "clip": [0.5, None]},
        -0.5 * clip(Repetition(2), 0.5),
    ),
    (
        {"type": "lexicon", "weights": {"cat": 1, "dog": -1.5}, "clip": [-0.2, 0.2]},
        clip(Lexicon({"cat": 1.0, "dog": -1.5}), -0.2, 0.2),
    ),
    (
        {"type": "ngram_model", "weights": {"a cat": 2.5}, "words": [1, 2]},
        NgramModel({"a cat": 2.5}, words=(1, 2)),
    ),
    (
        [{"type": "length", "max": 3, "weight": 2}, "Keywords(['cat']) - 0.5"],
        2.0 * Length(max=3) + (Keywords(["cat"]) - 0.5),
    ),
]


@pytest.mark.parametrize("spec, reward", JSON_CASES, ids=str)
def test_json(spec: Any, reward: Any) -> None:
    for given in (spec, f" {json.dumps(spec)}"):
        read = RewardSpec(given, allow_files=False)
        assert read.build().score(TEXTS) == reward.score(TEXTS)
        assert RewardSpec(read.text).build().score(TEXTS) == reward.score(TEXTS)


@pytest.mark.parametrize(
    "spec, what",
    [
        ([], "at least one"),
        ("[", "JSON"),
        ("[" * 100_000, "JSON|recursion"),
        ({"type": "open"}, r"rewards\[0\]: type: expected one of .*, got 'open'"),
        ({"max": 3}, 'a mapping with "type"'),
        ([{"type": "length", "max": 3}, 5], r"rewards\[1\]: expected a formula"),
        (["[]"], r"rewards\[0\]: expected a formula"),
        ({"type": "length", "max": 3, "weight": "1"}, "weight: expected a finite"),
        ('{"type": "length", "max": 3, "weight": NaN}', "weight: expected a finite"),
        ('{"type": "length", "max": 1e999}', "max: expected finite"),
        ({"type": "length", "max": 3, "weight": True}, "weight: expected a finite"),
        ({"type": "length", "max": 3, "clip": 1}, r"clip: expected \[low, high\]"),
        ({"type": "length", "max": 3, "clip": [1, 0]}, "clip: expected low <= high"),
        ({"type": "length", "max": {1}}, "max: expected what JSON has"),
        ({"type": "length", "max) + (1": 1}, "names of arguments"),
        ({"type": "length", "longest": 1}, "Length: .*longest"),
        ({"type": "keywords", "concepts": "cat"}, "concepts: expected a list"),
        ({"type": "lexicon", "path": ["x"]}, "path: expected the name of a file"),
        ({"type": "lexicon", "path": "a\0b"}, "path: expected the name of a file"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_json(spec: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        RewardSpec(spec).build()


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("spec") / "tiny.gguf"
    write_gguf(make_tiny(), path)
    return deal.load(path, compute="f32", threads=1)


def test_files_and_models(tmp_path: Path, lm: deal.Model) -> None:
    asked = TEXTS, ["a prompt"] * len(TEXTS)
    weight = np.linspace(-1, 1, lm.hparams.n_embd)
    (tmp_path / "lexicon").write_text("cat\t1.5\ndog\t-1\n")
    made = {
        "Lexicon": Lexicon({"cat": 1.5, "dog": -1.0}),
        "NgramModel": NgramModel({"a": 1.0}),
        "Classifier": Classifier(weight, model=lm),
        "RewardModel": RewardModel(weight, pooling="mean", model=lm),
    }
    assert sorted(made) == sorted(FROM_FILE)
    for name, reward in made.items():
        path = tmp_path / name.lower()
        if name != "Lexicon":
            reward.save(path)
        for spec in (f"{name}(path={str(path)!r})", {"type": name, "path": str(path)}):
            read = RewardSpec(spec).build(model=lm)
            assert read.score(*asked) == reward.score(*asked)
            with pytest.raises(ValueError, match="no files"):
                RewardSpec(spec, allow_files=False).build(model=lm)
        with pytest.raises(FileNotFoundError):
            RewardSpec({"type": name, "path": str(path) + "x"}).build(model=lm)
    fluency = RewardSpec({"type": "fluency", "floor": -9}, allow_files=False)
    assert fluency.build(model=lm).score(*asked) == Fluency(lm, floor=-9).score(*asked)


@pytest.mark.parametrize("text", ["m.py:f", "os:getcwd", "Length(max=1) + 'os:getcwd'"])
def test_others_run_no_code(text: str) -> None:
    with pytest.raises(ValueError, match="no files and no code"):
        RewardSpec(text, allow_files=False).build()
