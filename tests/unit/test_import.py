"""What ``import deal`` and ``deal --help`` load."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = (
    "torch",
    "transformers",
    "llguidance",
    "tokenizers",
    "sentencepiece",
    "jinja2",
    "rich",
    "typer",
    "tqdm",
    "huggingface_hub",
    "matplotlib",
    "ray",
    "sklearn",
    "lm_eval",
    "starlette",
    "uvicorn",
)


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    report = "import json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = json.loads(done.stderr.strip().splitlines()[-1])
    return {name.partition(".")[0] for name in modules}


def test_import_is_light() -> None:
    loaded = loaded_after("import deal")
    assert "deal" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_public_names_exist() -> None:
    import deal

    for name in deal.__all__:
        assert getattr(deal, name) is not None
    assert isinstance(deal.__version__, str)
    assert deal._core.build_info()["version"] == deal.__version__


def test_help_loads_no_model_code() -> None:
    code = "from deal.cli import main\nassert main(['generate', '--help']) == 0"
    allowed = {"rich", "typer"}
    assert loaded_after(code).isdisjoint(set(HEAVY) - allowed)
