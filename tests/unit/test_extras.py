"""Rewards whose library is not installed name the extra that brings it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import deal
from deal.rewards import Grammar, JsonSchema, Regex, from_pipeline, from_transformers


@pytest.mark.parametrize("missing", ["torch", "transformers"])
@pytest.mark.parametrize("make", [from_pipeline, from_transformers])
def test_models_of_transformers(
    make: Any, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "transformers"):
        module = None if name == missing else sys.modules.get(name, sys)
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    what = rf"deal\.rewards\.{make.__name__} needs {missing}, .*'deal-lm\[hf\]'"
    with pytest.raises(ImportError, match=what):
        make("some/model")


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_the_facade(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(deal, "hf", raising=False)
    for name in [n for n in sys.modules if n == "deal.hf" or n.startswith("deal.hf.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("torch", "transformers"):
        module = None if name == missing else sys.modules.get(name, sys)
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=rf"deal\.hf needs {missing}, .*-lm\[hf\]'"):
        deal.hf.custom_generate()


@pytest.mark.parametrize("make", [Regex, Grammar, JsonSchema])
def test_constraints(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)  # type: ignore[arg-type]
    what = (
        rf"deal\.rewards\.{make.__name__} needs llguidance, .*'deal-lm\[constraints\]'"
    )
    with pytest.raises(ImportError, match=what):
        make("{}")
