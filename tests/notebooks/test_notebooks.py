"""The notebooks: stored without outputs, and run from top to bottom on the demo model.

Each runs in a kernel of its own, as a reader's would; a cell of checks, on what the
notebook's own names hold, is added behind the last one.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SHARED = Path(os.environ.get("DEAL_SHARED", ROOT.parent / "shared")).resolve()

CHECKS = {
    "01-first-steps": """
assert found.rewards["keywords"] > keywords.score([greedy.text])[0]
assert found.rewards["keywords"] == keywords.score([found.text])[0]
assert greedy.logprob / len(greedy.token_ids) >= found.logprob / len(found.token_ids)
assert any(c.is_chosen for c in step.candidates)
assert "<script" in found.tree().html
""",
    "02-your-own-reward": """
assert unknown.token_ids == ranged.token_ids == bounded.token_ids
assert unknown.score == ranged.score == bounded.score
assert bounded.reward == worth(bounded.text) > worth(greedy.text)
works = [r.stats.n_forward_tokens for r in (unknown, ranged, bounded)]
assert works[0] > works[1] and works[0] > works[2]
assert not deal.rewards.check(no_e, texts)
assert deal.rewards.check(wrong, texts)
assert len(both.text.split()) < len(bounded.text.split())
""",
    "03-native-scorer": """
assert python.token_ids == c.token_ids and python.score == c.score
assert c.reward > native.score([greedy.text])[0]
assert native.score(texts) == in_python.score(texts)
assert times["C"] < times["Python"]
assert not Path(folder.name).exists()
""",
    "04-harmless-and-helpful": """
assert not found.errors and len(found.outcomes) == 27
for aim, other in (("harmless", "helpful"), ("helpful", "harmless")):
    alone = frame[frame[other] == 0].groupby(aim)[f"reward:{aim}"].mean()
    assert alone.iloc[-1] > alone.iloc[0], aim
assert found.n_recalled_tokens > 0
front = [[row["reward:harmless"], row["reward:helpful"]] for row in found.front()]
assert ax.lines[0].get_xydata().tolist() == front and front == sorted(front)
assert sorted([y for _, y in front], reverse=True) == [y for _, y in front]
""",
    "05-lm-eval": """
assert used[1] > used[0], used
assert accuracy > 1 / 3  # by chance
assert steered["samples"]["words"][0]["doc"]["words"] == sets[0].split()
assert steered["config"]["gen_kwargs"]["reward_weight"] == 4.0
assert not Path(folder.name).exists()
""",
}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_notebook_is_checked() -> None:
    assert [path.stem for path in NOTEBOOKS] == list(CHECKS)
    listed = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\S+\.ipynb)` \|", listed, re.M)
    assert found == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_form(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook["metadata"] == {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    cells = notebook["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    assert texts[0].startswith("# ") and "**Question.**" in texts[0]
    assert sum("## Answer" in text for text in texts) == 1
    for cell, text in zip(cells, texts, strict=True):
        assert max(map(len, text.splitlines())) <= 88, text
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            ast.parse(text)  # no magics: the cells are plain Python


RUNS = [(name, SHARED) for name in CHECKS] + [("04-harmless-and-helpful", None)]


@pytest.mark.parametrize(
    ("name", "shared"),
    RUNS,
    ids=[name if shared else f"{name} without data" for name, shared in RUNS],
)
def test_run(
    name: str, shared: Path | None, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    for module in ("ipykernel", "pandas", "matplotlib"):
        pytest.importorskip(module, reason=f"the notebooks need {module}")
    if name == "05-lm-eval":
        pytest.importorskip("lm_eval", reason="the notebook needs lm-eval")
    if name == "04-harmless-and-helpful":
        if shared is not None and not (shared / "data" / "hh_rlhf").is_dir():
            pytest.skip(f"no data/hh_rlhf in {shared}, see DEAL_SHARED")
        monkeypatch.setenv("DEAL_SHARED", str(shared or FOLDER / "nowhere"))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS[name]))
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute()  # raises nbclient.exceptions.CellExecutionError with the traceback
    assert any(
        "text/markdown" in output.get("data", {})
        for cell in notebook.cells[-4:]
        for output in cell.get("outputs", ())
    ), "no answer"
