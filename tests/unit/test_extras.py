"""Without an extra: what imports, and what names the extra that brings it."""

from __future__ import annotations

import json
import subprocess
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
    monkeypatch.delitem(vars(deal), "hf", raising=False)
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


OPTIONAL = (
    "IPython",
    "huggingface_hub",
    "ipywidgets",
    "llguidance",
    "lm_eval",
    "matplotlib",
    "pandas",
    "pyarrow",
    "ray",
    "sklearn",
    "starlette",
    "torch",
    "transformers",
    "uvicorn",
)
# Modules that are an extra's and nothing else: their import asks for it.
OF_AN_EXTRA = {"deal.hf": "hf", "deal.lm_eval": "lm-eval", "deal.serve": "serve"}
USES = {
    "deal.ray.map(['text'])": "ray",
    "deal.load('organisation/model')": "hub",
    "deal.rewards.Regex('a')": "constraints",
    "deal.rewards.JsonSchema({})": "constraints",
    "deal.rewards.NgramModel.from_sklearn(object())": "sklearn",
    "deal.rewards.from_pipeline('some/model')": "hf",
    "deal.rewards.from_transformers('some/model')": "hf",
    "deal.Comparison((), ()).frame()": "notebook",
    "deal.Sweep((), ({},), ('a',)).frame()": "notebook",
    "plot()": "notebook",
}
BARE = """
import importlib, json, pkgutil, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
import deal

def plot():
    from deal._sweep import Outcome
    row = Outcome(0, {}, "text", 1, -1.0, 1.0, {"a": 1.0}, 1.0, "stop")
    return deal.Sweep((row,), ({},), ("a",)).plot()

def outcome(do):
    try:
        do()
    except ImportError as error:
        return str(error)

names = [m.name for m in pkgutil.walk_packages(deal.__path__, "deal.", lambda _: None)]
names = [name for name in names if not name.endswith("__main__")]
print(json.dumps([
    {name: outcome(lambda: importlib.import_module(name)) for name in names},
    {use: outcome(lambda: eval(use)) for use in json.loads(sys.argv[2])},
]))
"""


@pytest.fixture(scope="module")
def bare() -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Messages of the imports and of the uses in a process without any extra."""
    arguments = [json.dumps(OPTIONAL), json.dumps(list(USES))]
    command = [sys.executable, "-c", BARE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    imports, uses = json.loads(done.stdout)
    return imports, uses


def test_modules_import_without_extras(bare: Any) -> None:
    imports, _ = bare
    assert {"deal.ray", "deal.lm_eval", "deal.rewards.constraints"} <= imports.keys()
    for name, message in imports.items():
        extra = OF_AN_EXTRA.get(".".join(name.split(".")[:2]))
        if extra is None:
            assert message is None, name
        else:
            assert message is not None, name
            assert f"pip install 'deal-lm[{extra}]'" in message


@pytest.mark.parametrize("use", USES)
def test_uses_name_the_extra(use: str, bare: Any) -> None:
    message = bare[1][use]
    assert message is not None
    assert f"pip install 'deal-lm[{USES[use]}]'" in message


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_the_server(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from deal.cli import main; sys.exit(main(['serve']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("deal: error: deal.serve needs ")
    assert f"needs {missing}, " in done.stderr
    assert "pip install 'deal-lm[serve]'" in done.stderr
