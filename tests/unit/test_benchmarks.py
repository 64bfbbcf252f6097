"""The search benchmark without llama.cpp, and the tables made of results."""

from __future__ import annotations

import json
import random
import sys
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generation import PROMPTS, WORDS
from tiny_model import TinyConfig, make_tiny, write_gguf

import deal
from deal.generation import Candidate, Decision

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import make_results_table as tables  # noqa: E402

from benchmarks import commongen, scaling, search, search_runs  # noqa: E402
from benchmarks.cost_model import Curve  # noqa: E402
from benchmarks.coverage import coverage  # noqa: E402
from benchmarks.llama_deal import NaiveSearch, top_candidates  # noqa: E402
from benchmarks.search_settings import (  # noqa: E402
    GRIDS,
    MODES,
    SETTINGS,
    sweep_settings,
)

ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00",
    "machine": {"cpu": "a processor", "cores": 2, "system": "a system"},
    "commit": {"id": "0123456789abcdef", "is_dirty": False},
    "versions": {"deal-lm": "1", "python": "3", "numpy": "2", "core": {}},
}


STATS = [f.name for f in fields(deal.Stats)]
COUNTS = {"n_prompt_tokens": 10, "n_forward_tokens": 30, "n_forward_passes": 3}
COUNTS["seconds_total"] = 1.0
CURVE = Curve((1, 2, 4), (1.0, 1.5, 3.5), 20.0)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> deal.Model:
    path = tmp_path_factory.mktemp("benchmarks") / "tiny.gguf"
    write_gguf(make_tiny(TinyConfig(seed=0)), path)
    return deal.load(path, compute="f32", threads=2)


# --- the search over llama.cpp --------------------------------------------------------


class Sequences:
    """What benchmarks.llama_deal asks of llama.cpp, over a model of ours."""

    def __init__(self, lm: deal.Model) -> None:
        self._lm = lm
        self._cells: dict[int, list[int]] = {}
        self.n_row = 0

    def clear(self) -> None:
        self._cells = {}

    def copy(self, source: int, target: int) -> None:
        assert not self._cells.get(target)
        self._cells[target] = list(self._cells[source])

    def cut(self, sequence: int, position: int = 0) -> None:
        self._cells[sequence] = self._cells.get(sequence, [])[:position]

    def run(self, rows: list[tuple[int, int, int, bool]]) -> np.ndarray:
        self.n_row += len(rows)
        found = []
        for token, position, sequence, wants in rows:
            cells = self._cells.setdefault(sequence, [])
            assert position == len(cells)
            cells.append(token)
            if wants:
                found.append(self._lm.logits(cells)[-1])
        return np.stack(found)

    def piece(self, token: int) -> bytes:
        return self._lm.tokenizer.decode([token]).encode()


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 5, "lookahead": 6, "reward_weight": 4.0, "num_beams": 1},
        {"top_k": 3, "lookahead": 0, "reward_weight": 2.0, "num_beams": 1},
        {"top_k": 4, "lookahead": 5, "reward_weight": 6.0, "num_beams": 3},
        {"top_k": 2, "lookahead": 30, "reward_weight": -3.0, "num_beams": 2},
    ],
)
def test_llama_search_decides_as_naive_mode_does(
    lm: deal.Model, options: dict[str, Any]
) -> None:
    concepts = {word: (word,) for word in WORDS}
    score = coverage(concepts)
    settings = {"search": deal.Search(**options, mode="naive"), "max_new_tokens": 12}
    for prompt in PROMPTS:
        ids = [int(t) for t in lm.tokenizer.encode(prompt)]
        ends: list[int] = []
        for _ in range(2):  # the second time with ends on the way
            keywords = deal.rewards.Keywords(WORDS)
            ours = lm.generate(ids, rewards=keywords, eos_token_id=ends, **settings)
            sequences = Sequences(lm)
            theirs = NaiveSearch(sequences, ends, score, 12, options).run(ids)
            assert tuple(theirs.tokens) == ours.token_ids
            assert theirs.score == pytest.approx(ours.score, abs=1e-4)
            assert theirs.text.decode() == ours.text
            assert sequences.n_row >= len(ids) + len(ours.token_ids) - 1
            if options["num_beams"] == 1:
                search = NaiveSearch(Sequences(lm), ends, score, 12, options)
                for i, token in enumerate(ours.token_ids):
                    assert search.decide(ids, ours.token_ids[:i]) == token
            ends = ends or [ours.token_ids[3], ours.token_ids[7]]


def test_top_candidates_put_lower_ids_first() -> None:
    logits = np.array([0.0, 2.0, 1.0, 2.0, -1.0], np.float32)
    found = top_candidates(logits, 3)
    assert [token for token, _ in found] == [1, 3, 2]
    p = np.exp(logits) / np.exp(logits).sum()
    assert [x for _, x in found] == pytest.approx(np.log(p[[1, 3, 2]]), abs=1e-6)


def test_coverage_is_the_keyword_reward() -> None:
    rng = random.Random(5)
    concepts = {"cat": ("cat", "cats"), "a.c": ("a.c",), "ice cream": ("ice cream",)}
    score = coverage(concepts)
    words = ("Cat", "cats", "concat", "abc", "a.c", "ice", "cream", "ice cream", "_cat")
    texts = [
        "".join(rng.choice(words) + rng.choice((" ", "", ", ")) for _ in range(5))
        for _ in range(200)
    ]
    expected = search_runs.keywords(concepts).score(texts)
    assert [score(text) for text in texts] == expected
    assert search_runs.ranged(concepts).score(texts) == expected
    assert len(set(expected)) > 2


# --- figures --------------------------------------------------------------------------


def record(
    item_id: str, key: tuple[str, str], seconds: list[float], n_tokens: int, **more: Any
) -> dict[str, Any]:
    return {
        "id": item_id,
        "setting": key[0],
        "mode": key[1],
        "text": "text",
        "token_ids": list(range(n_tokens)),
        "logprob": -1.0 * n_tokens,
        "score": 1.0,
        "seconds": seconds,
        "seconds_prefill": [0.5] * len(seconds),
        "seconds_as_long": [0.8] * len(seconds),
        "stats": dict.fromkeys(STATS, 0)
        | {"n_forward_tokens": 3 * n_tokens, "n_forward_passes": n_tokens}
        | {"n_prompt_tokens": n_tokens, "n_rollouts": 2, "n_pruned": 4}
        | {"seconds_total": 1.0},
        "coverage_soft": 0.5,
        "coverage_hard": 0.0,
        "n_decisions": n_tokens,
        "n_candidates": 8,
        "n_top_wins": n_tokens // 2,
    } | more


def test_summary() -> None:
    key = ("a setting", "exact")
    records = [
        record("1", search_runs.PLAIN, [1.5, 1.0, 9.0], 10),
        record("2", search_runs.PLAIN, [2.0], 10),
        record("1", key, [6.0, 5.0, 7.0], 20, coverage_hard=1.0),
        record("2", key, [8.0], 10),
    ]
    row = search_runs.summary(records, key)
    assert row["n"] == 2 and row["n_tokens"] == 30
    assert row["slowdown"] == pytest.approx((2.0 + 4.0) / 2)
    assert (row["slowdown_min"], row["slowdown_max"]) == pytest.approx((2.0, 4.0))
    assert row["slowdown_decode"] == pytest.approx((0.275 / 0.1 + 0.75 / 0.15) / 2)
    assert row["seconds_per_token"] == pytest.approx((0.3 + 0.8) / 2)
    assert row["forward_tokens_per_token"] == 3.0
    assert row["coverage_hard"] == 0.5
    assert row["top_wins"] == 0.5
    assert row["rolled_out"] == 0.25
    assert row["shares_of_candidates"] == {"n_pruned": 0.5}
    assert search_runs.times(records, key, search_runs.PLAIN) == pytest.approx(3.0)
    found = search_runs.agreement(records, key, search_runs.PLAIN)
    assert found["same_text"] == 1.0 and found["same_decisions"] is None
    assert found["same_start"] == pytest.approx(0.75)


def test_differences_from_naive_are_found() -> None:
    setting = SETTINGS[0].name
    records = [
        record(i, (setting, mode), [1.0], 3)
        for i in ("1", "2")
        for mode in ("exact", "naive")
    ]
    records.append(record("3", (setting, "exact"), [1.0], 3))
    assert search.differences(records, "exact") == {"n_compared": 2, "differences": []}
    records[1]["score"] = 2.0
    found = search.differences(records, "exact")["differences"]
    assert found == [{"id": "1", "setting": setting, "differs": ["score"]}]


def test_variants_of_switches() -> None:
    found = dict(search_runs.variants(("reuse", "bounds")))
    assert found["all"] == {"reuse": True, "bounds": True}
    assert found["only bounds"] == {"reuse": False, "bounds": True}
    assert found["all but bounds"] == {"reuse": True, "bounds": False}
    assert len(found) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "naive"], "--data: expected"),
        (["--data", "x", "--mode", "fast"], "mode: expected one of"),
        (["--data", "x", "--mode", "naive", "--n", "0"], "--n: expected at least 1"),
        (["--data", "x", "--mode", "naive", "--n-llama", "-1"], "--n-llama: expected"),
        (["--data", "x", "--mode", "naive", "--plot", "y"], "what --sweep, --ablation"),
        (["--data", "x", "--modes", "--n-modes", "0"], "--n-modes: expected"),
    ],
)
def test_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        search.parse_arguments(arguments)
    assert message in capsys.readouterr().err


# --- whole runs -----------------------------------------------------------------------


class StubModel:
    """Writes one text plainly and one when steered; remembers what it was asked."""

    path = Path("stub.gguf")
    compute = "int8"
    threads = 2

    def __init__(self) -> None:
        self.searches: list[Any] = []
        self.asked: list[dict[str, Any]] = []

    def chat(self, messages: Any, **options: Any) -> deal.Generation:
        rewards = options.get("rewards")
        self.searches.append(options.get("search"))
        self.asked.append(options)
        text = "A cat." if rewards is None else "The dog saw it."
        scores = deal.rewards.as_reward(rewards).score([text]) if rewards else [0.0]
        candidates = tuple(
            Candidate(0, i, -1.0 - i, (), 0.0, {}, 0.0, (0.0, 0.0), False, i == 0)
            for i in (1, 0)
        )
        return deal.Generation(
            text=text,
            token_ids=(1, 2, 3),
            logprob=-2.0,
            reward=scores[0],
            rewards={},
            score=scores[0],
            finish_reason="stop",
            stats=deal.Stats(**dict.fromkeys(STATS, 0) | COUNTS),
            trace=() if rewards is None else (Decision(0, candidates),),
        )


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubModel:
    model = StubModel()
    monkeypatch.setattr(deal, "load", lambda *args, **kwargs: model)
    monkeypatch.setattr(search, "measure_curve", lambda lm: CURVE)
    monkeypatch.setattr(search, "thinned_settings", lambda lm: nullcontext([]))
    return model


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"id": str(i), "concepts": ["dog"], "forms": {"dog": ["dog"]}} for i in range(3)
    ]
    path = tmp_path / "dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_whole_run(stub: StubModel, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "benchmarks" / "results" / "search.json"
    arguments = ["--data", str(data), "--mode", "naive", "--peers", "none", "--sweep"]
    arguments += ["--n", "2", "--rounds", "1", "--n-sweep", "1", "--json", str(out)]
    arguments += ["--modes", "--n-modes", "2"]
    assert search.main(arguments) == 0
    result = json.loads(out.read_text())
    plain, *rows = result["rows"]
    assert plain["mode"] == "plain" and plain["coverage_hard"] == 0.0
    assert [row["setting"] for row in rows] == [s.name for s in SETTINGS]
    for row in rows:
        assert row["n"] == 2 and row["coverage_hard"] == 1.0
        assert row["forward_tokens_per_token"] == 10.0
        assert row["top_wins"] == 0.0  # the second in likelihood is ranked first
    assert all(
        len(r["seconds"]) >= search_runs.N_PLAIN
        for r in search_runs.pick(result["items"], search_runs.PLAIN).values()
    )
    points = [(row["against"], row["value"]) for row in result["sweep"]]
    assert points == [(axis, v) for axis, grid in GRIDS.items() for v in grid]
    assert {s.num_beams for s in stub.searches if s} == {1, 2, 4, 8, 16}
    assert "not measured" in tables.results_text(out)
    assert result["cost"]["rows"] == [1, 2, 4]
    modes = {row["setting"]: row for row in result["modes"]}
    assert list(modes) == ["plain greedy", *(mode.name for mode in MODES)]
    assert modes["plain greedy"]["score"] == -2.0  # no word is used
    assert modes["best of 4"]["score"] == modes["commit=2"]["score"] == 2.0
    assert modes["best of 4"]["mode"] == "segment"
    drawn = [o["sampling"] for o in stub.asked if "sampling" in o]
    assert {s.seed for s in drawn} == {0, 1}  # of the item
    assert {o["num_beams"] for o in stub.asked if "num_beams" in o} == {4}


def test_settings_have_names_of_their_own() -> None:
    assert len({s.name for s in SETTINGS}) == len(SETTINGS)
    assert len({s.name for s in MODES}) == len(MODES)
    by_name: dict[str, Any] = {}
    for (axis, value), setting in sweep_settings():
        assert setting.search[axis] == value
        assert by_name.setdefault(setting.name, setting.search) == setting.search
    assert len(by_name) == sum(map(len, GRIDS.values())) - len(GRIDS) + 1


def test_ablation(stub: StubModel, data: Path) -> None:
    arguments = ["--data", str(data), "--n", "3", "--ablation", "--n-ablation", "2"]
    parsed = search.parse_arguments([*arguments, "--rounds", "1"])
    items = commongen.read_items(data, 3, None)
    rows = search.run_ablation(stub, items, parsed)
    assert all(row["n"] == 2 for row in rows)
    variants = list(search_runs.variants([one.name for one in fields(deal.Exact)]))
    names = [name for name, _ in variants]
    cheap = [name for name in names if name == "all" or name.startswith("all but")]
    expected = 2 * names + (len(SETTINGS) - 2) * cheap
    assert [row["variant"] for row in rows] == expected and "only drafts" in names
    used = {s.exact for s in stub.searches if s}
    assert len(used) == len(variants) and deal.Exact(drafts=False) in used


# --- tables ---------------------------------------------------------------------------


def search_result() -> dict[str, Any]:
    """A result as benchmarks.search makes it, of made-up runs."""
    names = [setting.name for setting in SETTINGS]
    records = [
        record("1", search_runs.PLAIN, [1.0], 10),
        record("1", (names[0], "exact"), [1.6], 10, coverage_hard=1.0),
        record("1", (names[0], "naive"), [14.0], 10),
        record("1", (names[1], "exact"), [2.5], 10),
    ]
    llama = record("1", (names[0], "llama.cpp naive"), [60.0], 10)
    llama |= {"n_compared": 10, "n_same": 9}
    for unknown in ("n_decisions", "seconds_prefill"):
        del llama[unknown]
    records.append(llama)
    points = [("top_k", 2), ("top_k", 5), ("num_beams", 4)]
    row = search_runs.summary(records, (names[0], "exact"), CURVE)
    plain = search_runs.summary(records, search_runs.PLAIN, CURVE)
    modes = [("exact", "exact"), ("commit=2", "exact"), ("best of 4", "segment")]
    return {
        "benchmark": "search",
        "environment": ENVIRONMENT,
        "settings": {
            "model": "a-model",
            "model_file": "a.gguf",
            "compute": "int8",
            "threads": 2,
            "max_new_tokens": 48,
            "mode": "exact",
        },
        "llama.cpp": {"version": "0.3", "settings": "2 threads"},
        "cost": CURVE.as_dict(),
        "rows": search.rows_of(records, "exact", CURVE),
        "check": search.differences(records, "exact"),
        "sweep": [{"against": a, "value": v} | row for a, v in points],
        "ablation": [
            row | {"setting": names[0], "variant": "all"},
            row | {"setting": names[0], "variant": "only bounds"},
        ],
        "modes": [plain | {"score": -3.0}]
        + [row | {"setting": s, "mode": m, "score": -4.5} for s, m in modes],
    }


def write(root: Path, name: str, result: dict[str, Any]) -> Path:
    folder = root / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result))
    return folder / f"{name}.json"


def test_search_tables(tmp_path: Path) -> None:
    path = write(tmp_path, "search", search_result())
    head = tables.results_text(path, "headline")
    assert "| search | exact mode | naive mode | naive over llama.cpp |" in head
    assert "| keywords, k=5, l=16 | 1.6 | 14.0 | 60.0 | 37.5 | 2.0 | 1.00 |" in head
    assert "| keywords, k=10, l=32 | 2.5 |  |  |  | 3.1 | 0.00 |" in head
    assert "are equal in 1 of 1 texts" in head
    assert "commit 0123456789ab" in head and "benchmarks/results/search.json" in head
    whole = tables.results_text(path)
    assert head.splitlines()[0] in whole
    goals = "| 1.60 | 1.60 to 1.60 | 1.7 | 2.00 | 2.00 to 2.00 | 2.20 | 37.5 | 30 |"
    assert f"| keywords, k=5, l=16 {goals}" in whole
    assert "the same text as naive mode's in 100% of the sets" in whole
    assert "90% of the decisions are the same" in whole
    sweep = tables.results_text(path, "sweep")
    assert "| top_k=2 | 1 | 1.60 | 3.0 | 1.00 |" in sweep and "num_beams=4" in sweep
    ablation = tables.results_text(path, "ablation")
    assert "| all | 1.60 (3.0) |" in ablation
    assert "| only bounds | 1.60 (" in ablation
    assert "n_pruned" not in whole and "| pruned |" in whole
    assert "| keywords, k=5, l=16 | exact | 1 | 160.0 | 3.0 | 1.00 |" in whole
    assert "| keywords, k=5, l=16 | 0.00 | 0.40 | 0.00 |" in whole
    modes = tables.results_text(path, "modes")
    assert "| plain greedy | 3.0 | 1.00 | 100.0 |" in modes
    assert "| best of 4 | 3.0 | 1.60 | 160.0 | 1.00 | 0.50 | 1.00 | -1.00 |" in modes
    cost = tables.results_text(path, "cost")
    assert "| ms, measured | 1000.00 | 1500.00 | 3500.00 |" in cost
    assert "| keywords, k=5, l=16 | exact | 0.90 | 2.2 | 1.00 | 1.60 | 0.62 |" in cost
    assert cost.count("| exact | exact |") == 0 and "| commit=2 | exact |" in cost
    assert "Over the 5 points" in cost
    for part, text in {"sweep": sweep, "ablation": ablation, "modes": modes}.items():
        assert f"(img/search-{part}.svg)" in text
    for text in (head, whole, sweep, ablation, modes, cost):
        for block in text.split("\n\n"):
            rows = [line for line in block.splitlines() if line.startswith("|")]
            assert len({line.count("|") for line in rows}) <= 1


def test_tables_of_parts_that_were_not_measured(tmp_path: Path) -> None:
    result = search_result()
    for part in ("sweep", "ablation", "modes", "cost"):
        del result[part]
    path = write(tmp_path, "search", result)
    assert "--sweep" in tables.results_text(path, "sweep")
    assert "--ablation" in tables.results_text(path, "ablation")
    assert "--modes" in tables.results_text(path, "modes")
    assert "Not measured" in tables.results_text(path, "cost")


def test_search_report_tells_all() -> None:
    text = search.report(search_result())
    parts = ("goal 1.7", "37.5 times ours", "top_k=2", "only bounds", "1 texts")
    for part in (*parts, "best of 4", "score -4.50"):
        assert part in text


def scaling_result() -> dict[str, Any]:
    rows = [
        {"against": "batch", "threads": n, "prefix": 64, "branches": b}
        | {"decode_tok_s": 100.0 * n * b, "prefill_tok_s": 1.0}
        for n in (1, 2)
        for b in (1, 8)
    ]
    more = {"against": "context", "threads": 2, "prefix": 1024, "branches": 8}
    rows.append(more | {"decode_tok_s": 1234.0, "prefill_tok_s": 4321.0})
    settings = {"model": "a-model", "model_file": "a.gguf", "threads": 2, "rounds": 5}
    return {
        "benchmark": "scaling",
        "environment": ENVIRONMENT,
        "settings": settings,
        "rows": rows,
    }


def test_scaling_table(tmp_path: Path) -> None:
    text = tables.results_text(write(tmp_path, "scaling", scaling_result()))
    assert "| 2 threads | 200 | 1,600 |" in text
    assert "| gain of 2 threads | 2.00 | 2.00 |" in text
    assert "| shared prefix | 1,024 |" in text and "| branches | 1,234 |" in text


def test_documents_are_filled(tmp_path: Path) -> None:
    write(tmp_path, "scaling", scaling_result())
    write(tmp_path, "search", search_result() | {"sweep": []})
    block = "<!-- BEGIN results: {0} -->\n{1}<!-- END results: {0} -->\n"
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "performance.md"
    readme.write_text(block.format("search headline", "old\n") + "after\n")
    page.write_text(block.format("scaling", "") + block.format("engine", "kept\n"))
    (message,) = tables.update(tmp_path, is_check=False)
    assert "docs/performance.md: results: engine: there is no engine.json" in message
    assert "old" not in readme.read_text() and readme.read_text().endswith("after\n")
    assert "| 2 threads | 200 |" in page.read_text() and "kept" in page.read_text()
    assert tables.update(tmp_path, is_check=True) == [message]
    page.write_text(page.read_text().replace("| 200 |", "| 300 |"))
    faults = tables.update(tmp_path, is_check=True)
    assert faults[1:] == ["docs/performance.md: results differ from benchmarks/results"]
    assert "| 300 |" in page.read_text()
    readme.write_text(block.format("search sweep", ""))
    tables.update(tmp_path, is_check=False)
    assert "run `python -m benchmarks.search` with `--sweep`" in readme.read_text()
    assert tables.update(tmp_path, is_check=True) == [message]
    readme.write_text(block.format("search tail", ""))
    assert "no table for part 'tail'" in tables.update(tmp_path, is_check=True)[0]
    for broken in (
        "<!-- BEGIN results: scaling -->\n",
        block.format("scaling", "").replace("END results: scaling", "END results: x"),
        "<!-- BEGIN results: scaling -->\n" + block.format("scaling", ""),
    ):
        readme.write_text(broken)
        assert "README.md: " in tables.update(tmp_path, is_check=True)[0]
        assert readme.read_text() == broken


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws the plots")
    result = search_result()
    path = tmp_path / "search.json"
    path.write_text(json.dumps(result))
    arguments = ["--from-json", str(path), "--plot", str(tmp_path)]
    assert search.main(arguments) == 0
    for part in ("sweep", "ablation", "modes"):
        assert "<svg" in (tmp_path / f"search-{part}.svg").read_text()
    scaling.plot(scaling_result(), tmp_path)
    assert (tmp_path / "batch.svg").stat().st_size > 0
