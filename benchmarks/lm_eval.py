"""lm-evaluation-harness over `deal` against its own model types, on local tasks.

    python -m benchmarks.lm_eval --data ../shared/data -n 8 --rounds 5 \\
        --json benchmarks/results/lm_eval.json

The weights are those of one GGUF file: the model type "hf" reads it dequantised, at
f32. For the model type "gguf" start a server as ``benchmarks/lm_eval_server.py`` says,
and give its address with ``--gguf-url``; it scores continuations and writes texts, but
no perplexities. All model types then put a begin token before every text. Times are
those inside the model types' methods, in rounds that take turns; the harness' own work
and loading are left out. Beside the wall's there is the time that the process got from
its processors (``cpu_seconds``; none of a server), which other load on the machine
moves less; with ``--threads 1`` the two are the same on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.common import environment, write_json
from benchmarks.lm_eval_server import server_version
from benchmarks.lm_eval_tasks import NAMES, write_tasks

METHODS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
PACKAGES = ("lm_eval", "torch", "transformers")
SERVER = "gguf"


class Recorder:
    """Times a model's methods, and keeps what they were asked and said."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm
        for name in METHODS:
            setattr(lm, name, self._timed(getattr(lm, name)))
        self.clear()

    def clear(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.answers: list[tuple[tuple[Any, ...], Any]] = []

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(requests: list[Any], **kwargs: Any) -> Any:
            start, cpu_start = time.perf_counter(), time.process_time()
            found = method(requests, **kwargs)
            self.seconds += time.perf_counter() - start
            self.cpu_seconds += time.process_time() - cpu_start
            self.answers += [
                (tuple(r.args), a) for r, a in zip(requests, found, strict=True)
            ]
            return found

        return call


def models(args: argparse.Namespace) -> dict[str, Any]:
    """Model types by the name that a result has; the first is the reference."""
    import torch
    from lm_eval.models.gguf import GGUFLM
    from lm_eval.models.huggingface import HFLM

    from deal import _hub
    from deal.lm_eval import DealLM

    torch.set_num_threads(args.threads)
    file = _hub.resolve(args.model)
    adds_bos = True if args.gguf_url else None
    found: dict[str, Any] = {
        f"deal {compute}": DealLM(
            str(file), compute=compute, threads=args.threads, add_bos_token=adds_bos
        )
        for compute in ("f32", "int8")
    }
    found["hf f32"] = HFLM(
        str(file.parent),
        gguf_file=file.name,
        device="cpu",
        dtype="float32",
        batch_size=args.batch_size,
        add_bos_token=adds_bos,
    )
    if args.gguf_url:
        # NB: by itself a tokenizer that was read from GGUF does not do as it is told.
        found["hf f32"].tokenizer.add_bos_token = True
        found[SERVER] = GGUFLM(base_url=args.gguf_url)
    return found


def evaluate(recorder: Recorder, task: str, manager: Any) -> dict[str, Any]:
    """One task by one model: metrics, seconds and answers."""
    import lm_eval

    recorder.clear()
    result = lm_eval.simple_evaluate(
        model=recorder.lm, tasks=[task], task_manager=manager, bootstrap_iters=0
    )
    metrics = {
        name.partition(",")[0]: value
        for name, value in result["results"][task].items()
        if isinstance(value, float) and "stderr" not in name
    }
    return {
        "metrics": metrics,
        "seconds": recorder.seconds,
        "cpu_seconds": recorder.cpu_seconds,
        "answers": recorder.answers,
    }


def times(rounds: list[dict[str, Any]], is_server: bool) -> dict[str, Any]:
    """Seconds of all rounds, and their medians; of a server the wall's alone."""
    found: dict[str, Any] = {}
    for name in ("seconds",) if is_server else ("seconds", "cpu_seconds"):
        found[name] = [one[name] for one in rounds]
        found[f"{name}_median"] = statistics.median(found[name])
    return found


def n_tokens(lm: Any, args: tuple[Any, ...]) -> int:
    """Tokens that a request scores, or that it begins with."""
    if len(args) == 2 and isinstance(args[1], str):
        return len(lm._encode_pair(*args)[1])
    return len(lm.tok_encode(args[0]))


def agreement(lm: Any, ours: list[Any], theirs: list[Any]) -> dict[str, Any]:
    """How far two models' answers to the same requests lie apart."""
    nats, same = [], []
    known = {repr(args): answer for args, answer in theirs}
    for args, answer in ours:
        other = known[repr(args)]
        if isinstance(answer, str):
            same.append(answer.strip() == other.strip())
            continue
        a, b = ((x[0] if isinstance(x, tuple) else x) for x in (answer, other))
        nats.append(abs(a - b) / n_tokens(lm, args))
        if isinstance(answer, tuple):
            same.append(answer[1] == other[1])
    return {
        "nats_per_token_max": max(nats, default=None),
        "same": sum(same),
        "n_compared": len(same),
    }


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    write_tasks(args.data, folder, args.n)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    recorders = {name: Recorder(lm) for name, lm in models(args).items()}
    reference = next(iter(recorders))
    lm = recorders[reference].lm
    server = server_version(args.gguf_url, lm) if args.gguf_url else None
    tasks: dict[str, Any] = {}
    for task in NAMES:
        names = [n for n in recorders if not (n == SERVER and task == "deal_scitldr")]
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                rounds[name].append(evaluate(recorders[name], task, manager))
        asked = [a for a, _ in rounds[reference][0]["answers"]]
        tasks[task] = {
            "n_requests": len(asked),
            "n_tokens": sum(n_tokens(lm, a) for a in asked),
            "models": {
                name: {
                    "metrics": found[0]["metrics"],
                    **times(found, name == SERVER),
                    **agreement(
                        lm, rounds[reference][0]["answers"], found[0]["answers"]
                    ),
                }
                for name, found in rounds.items()
            },
        }
    return {
        "benchmark": "lm_eval",
        "environment": environment(),
        "settings": {
            "model": args.model,
            "model_file": lm.lm.path.name,
            "n": args.n,
            "rounds": args.rounds,
            "threads": lm.lm.threads,
            "batch_size": args.batch_size,
            "reference": reference,
            "adds_bos": bool(args.gguf_url),
            "packages": {name: _version(name) for name in PACKAGES}
            | {"llama-cpp-python": server},
        },
        "tasks": tasks,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("-n", type=int, default=8, help="items of each task")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-size", type=int, default=8, help="of the type hf")
    parser.add_argument(
        "--gguf-url",
        type=lambda url: url.rstrip("/"),
        help="address of a llama.cpp server, http://127.0.0.1:8000",
    )
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        write_json(args.json, run(args, Path(folder)))


if __name__ == "__main__":
    main()
