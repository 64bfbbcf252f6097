"""Rewards written as text: what a spec means, and what it may not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deal._reward_spec import CALLS, RewardSpec
from deal.rewards import Keywords, Length, Repetition, at_least, minimum

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
        ("open('x')", "expected one of Format"),
        ("Keywords.__init__(1)", "expected one of Format"),
        ("RewardModel([1.0])", "expected one of Format"),
        ("Native(1)", "expected one of Format"),
        ("(lambda: 1)()", "expected one of Format"),
        ("Keywords(__import__('os'))", "expected one of Format"),
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
