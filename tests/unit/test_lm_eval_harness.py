"""The harness itself over a tiny model: registry, cache, tasks, command line."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
from lm_eval_requests import instance, tiny

pytest.importorskip("lm_eval", reason="lm_eval is not installed")

import deal
from benchmarks import lm_eval as benchmark
from benchmarks.lm_eval_tasks import NAMES, write_tasks
from deal.cli import main
from deal.lm_eval import DealLM

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> DealLM:
    return DealLM(tiny("byte", tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets made up here, in the form that the benchmark reads."""
    data = tmp_path_factory.mktemp("data")
    words = ["cat", "dog", "sun"]
    rows = {
        "rt_polarity": [
            {"input": f"{w} {i}", "label": i % 2} for w in words for i in range(2)
        ],
        "scitldr": [{"input": f"the {w} sat at the sea. " * 9} for w in words],
        "commongen": [
            {"input": w, "concepts": [w, "tree"], "forms": {w: [w], "tree": ["tree"]}}
            for w in words
        ],
    }
    for name, found in rows.items():
        (data / name).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in found)
        for part in ("dev", "train"):
            (data / name / f"{part}.jsonl").write_text(text)
    return data


@pytest.fixture(scope="module")
def tasks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    assert write_tasks(data, folder, 3) == list(NAMES)
    return folder


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line reads the thousands of task files of the harness first."""
    from lm_eval.tasks import TaskManager

    init = partialmethod(TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", init)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    # A report on the machine, through pip and other programs.
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def test_registration_keeps_the_built_in_types() -> None:
    code = (
        "import sys\n"
        "from importlib.metadata import entry_points\n"
        "[found] = entry_points(group='lm_eval.models', name='deal')\n"
        "model_type = found.load()\n"
        "from lm_eval.api.registry import get_model, model_registry\n"
        "assert get_model('deal') is model_type\n"
        "assert model_type.__name__ == 'DealLM'\n"
        "assert {'hf', 'gguf', 'dummy'} <= set(model_registry.keys())\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    # -I: of what is installed, not of a folder where it was built
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_responses_are_cached(lm: DealLM, tmp_path: Path) -> None:
    from lm_eval.api.model import CacheHook, CachingLM

    pairs = [instance("The cat", " sat"), instance("", "big"), instance("The", "")]
    texts = [instance("a cat sat"), instance("the sun " * 60)]
    asked = [instance("The cat", {"until": ["\n"], "max_gen_toks": 4})]
    calls = ((lm.loglikelihood, pairs), (lm.loglikelihood_rolling, texts))
    expected = [method(list(rows)) for method, rows in calls]
    expected.append(lm.generate_until(asked))
    try:
        cached = CachingLM(lm, str(tmp_path / "cache.db"))
        for _ in range(2):
            before = lm.lm.n_forward_tokens
            found = [
                cached.loglikelihood(pairs),
                cached.loglikelihood_rolling(texts),
                cached.generate_until(asked),
            ]
            assert [[*map(tuple_of, f)] for f in found] == [
                [*map(tuple_of, e)] for e in expected
            ]
        assert lm.lm.n_forward_tokens == before
    finally:
        lm.set_cache_hook(CacheHook(None))


def tuple_of(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def test_what_was_scored_before_a_fault_is_kept(lm: DealLM) -> None:
    kept: list[Any] = []

    class Hook:
        def add_partial(self, *row: Any) -> None:
            kept.append(row)
            if len(kept) == 3:
                raise KeyboardInterrupt

    pairs = [("The cat", f" {w} {i}") for w in ("sat", "big") for i in range(40)]
    expected = dict(zip(pairs, lm.loglikelihood([*map(pair, pairs)]), strict=True))
    before, lm.cache_hook = lm.cache_hook, Hook()  # type: ignore[assignment]
    try:
        with pytest.raises(KeyboardInterrupt):
            lm.loglikelihood([*map(pair, pairs)])
    finally:
        lm.cache_hook = before
    assert len(kept) == 3
    for name, texts, answer in kept:
        assert name == "loglikelihood" and expected[texts] == answer


def pair(texts: tuple[str, str]) -> Any:
    return instance(*texts)


def test_tasks(lm: DealLM, tasks: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    options: dict[str, Any] = {"task_manager": manager, "bootstrap_iters": 0}
    names = ["deal_polarity", "deal_scitldr", "deal_commongen"]
    plain = lm_eval.simple_evaluate(model=lm, tasks=names, **options)
    assert plain["config"]["model_dtype"] == "f32"
    assert 0 <= plain["results"]["deal_polarity"]["acc,none"] <= 1
    assert plain["results"]["deal_scitldr"]["byte_perplexity,none"] > 1
    steered = lm_eval.simple_evaluate(
        model=lm,
        tasks=["deal_commongen"],
        gen_kwargs={
            "rewards": 'Keywords(doc["concepts"])',
            "top_k": 40,
            "lookahead": 2,
            "reward_weight": 99.0,
        },
        **options,
    )
    key = "coverage,none"
    before = plain["results"]["deal_commongen"][key]
    assert steered["results"]["deal_commongen"][key] > before
    chat = lm_eval.simple_evaluate(
        model=lm, tasks=["deal_commongen"], apply_chat_template=True, **options
    )
    [row, *_] = chat["samples"]["deal_commongen"]
    assert row["arguments"][0][0].endswith("<|im_start|>assistant\n")


def test_benchmark_and_its_table(
    lm: DealLM, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    from make_results_table import results_text

    other = DealLM(deal.load(lm.lm.path, compute="int8", max_length=lm.max_length))
    three = {"deal f32": DealLM(lm.lm), "hf f32": other, "gguf": DealLM(lm.lm)}
    monkeypatch.setattr(benchmark, "models", lambda args: three)
    monkeypatch.setattr(benchmark, "server_version", lambda url, lm: f"0.3 at {url}")
    out = tmp_path / "benchmarks" / "results" / "lm_eval.json"
    options = ["lm_eval", "--data", str(data), "-n", "2", "--rounds", "2"]
    options += ["--gguf-url", "http://127.0.0.1:8000/"]
    monkeypatch.setattr(sys, "argv", [*options, "--json", str(out)])
    benchmark.main()
    found = json.loads(out.read_text())["tasks"]
    assert [found[name]["n_requests"] for name in NAMES] == [4, 4, 2, 2]
    for task in found.values():
        ours, theirs, *server = task["models"].values()
        assert len(theirs["seconds"]) == len(theirs["cpu_seconds"]) == 2
        assert all(set(s) & {"seconds", "cpu_seconds"} == {"seconds"} for s in server)
        assert not ours["nats_per_token_max"] and ours["same"] == ours["n_compared"]
    assert 0 < found["deal_scitldr"]["models"]["hf f32"]["nats_per_token_max"] < 1
    served = [name for name in NAMES if "gguf" in found[name]["models"]]
    assert served == [name for name in NAMES if name != "deal_scitldr"]
    text = results_text(out)
    assert "| choices, 5 examples: 4 requests | deal f32 |" in text
    assert "A begin token stands" in text and "0.3 at http://127.0.0.1:8000." in text
    assert "2 items a task" in text and "benchmarks/results/lm_eval.json" in text


@pytest.mark.usefixtures("few_tasks")
def test_command_line(
    lm: DealLM, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["eval", "--tasks", "deal_commongen", "--include_path", str(tasks)]
    argv += ["--model_args", f"model={lm.lm.path},compute=f32", "max_length=64"]
    argv += ["-L", "2", "-b", "auto", "--gen_kwargs", "max_gen_toks=5"]
    argv += ['rewards=Keywords(doc["concepts"])+0.5*Length(max=3)', "lookahead=2"]
    argv += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    before = list(sys.argv)
    assert main(argv) == 0
    assert sys.argv == before
    printed = capsys.readouterr().out
    assert "deal ({'model':" in printed and "|deal_commongen|" in printed
    [result] = (tmp_path / "out").rglob("results_*.json")
    config = json.loads(result.read_text())["config"]
    assert config["model"] == "deal" and config["batch_size"] == "auto"
    assert config["gen_kwargs"]["rewards"].startswith("Keywords(doc[")


@pytest.mark.usefixtures("few_tasks")
def test_other_model_types_stay(
    tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["eval", "run", "-M", "dummy", "-t", "deal_polarity"]
    assert main([*argv, "--include_path", str(tasks)]) == 0
    assert "dummy (" in capsys.readouterr().out


@pytest.mark.usefixtures("few_tasks")
def test_faults_of_the_command_line(
    tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--include_path", str(tasks)]
    assert main(["eval", "--tasks", "no_such_task", *where]) == 1
    assert "Tasks not found: no_such_task" in capsys.readouterr().err
    assert main(["eval", "--tasks", "deal_polarity", "--nonsense", "1"]) == 2
    argv = ["eval", "--tasks", "deal_commongen", *where]
    argv += ["--model_args", "model=no/such.gguf"]
    assert main(argv) == 1
    assert "no/such.gguf" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # type: ignore[arg-type]
    assert main(["eval", "--tasks", "deal_polarity"]) == 1
    assert "pip install 'deal-lm[lm-eval]'" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "deal.lm_eval")
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=r"'deal-lm\[lm-eval\]'"):
        import deal.lm_eval  # noqa: F401
