"""Speed of the engine beside its peers, at each one's fidelity, in one run.

    python -m benchmarks.engine --model smollm2-135m-instruct --peers auto --json OUT

``prefill512`` is one prompt of 512 tokens; ``decodeB`` is B branches that share a
prefix of 64, 32 greedy steps, all logits reduced to the most likely token. Tokens per
second, median of the rounds. Every round visits all engines in turn, each in a process
of its own that sleeps meanwhile, so that all of them meet the same state of the
machine.

The mean KL divergence from f32 is taken over at least 2,000 tokens
(benchmarks.fidelity); engines above 0.01 nats a token are marked, since speed counts at
equal fidelity. Peak memory is that of the engine's process before that.

The limits are measured by probes in the same run: bytes that a step reads over the read
bandwidth for decode1, multiply-adds over the int8 dot-product rate for the rest.

``--peers none`` runs ours alone. A peer that is not installed is reported as missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks import common, fidelity, peers
from benchmarks.worker import Worker, open_answers

N_PREFILL, N_PREFIX, N_STEP = 512, 64, 32
BATCHES = (1, 8, 32, 64)
WHATS = ("prefill512", *(f"decode{b}" for b in BATCHES))
KL_EQUAL = 0.01  # nats a token: above it an engine runs another model


def n_branch(what: str) -> int:
    return int(what.removeprefix("decode"))


# --- one engine in its own process ----------------------------------------------------


def measure(engine: peers.Engine, what: str) -> float:
    """Tokens per second, once."""
    if what.startswith("prefill"):
        n = int(what.removeprefix("prefill"))
        return n / engine.prefill([1000 + i for i in range(n)])
    first = [100 + i for i in range(n_branch(what))]
    prefix = [1000 + i for i in range(N_PREFIX)]
    return len(first) * N_STEP / engine.branches(prefix, first, N_STEP)


def serve(name: str, path: Path, threads: int, scratch: Path) -> None:
    """Answer requests, a line of JSON each, until there are no more."""
    answer = open_answers()
    engine = peers.open_engine(name, path, threads, scratch)
    if engine is None:
        answer(None)
        return
    answer({"version": engine.version, "settings": engine.settings})
    for line in sys.stdin:
        what = json.loads(line)
        if what == "kl":
            peak = common.peak_memory()
            reference = peers.open_engine("deal f32", path, threads, scratch)
            found = fidelity.divergence(reference.logits, engine.logits)
            answer(found | {"peak_memory": peak})
        else:
            answer(measure(engine, what))


def open_worker(name: str, path: Path, threads: int, scratch: Path) -> Worker:
    """The process of one engine; `facts` is None where its library is missing."""
    arguments = ["benchmarks.engine", "--serve", name, "--model", str(path)]
    arguments += ["--threads", str(threads), "--scratch", str(scratch)]
    return Worker(name, arguments, threads)


# --- the run --------------------------------------------------------------------------


def rows_of(workers: Sequence[Worker], rounds: int, whats: Sequence[str]) -> list[dict]:
    """One row for each engine and measurement; rounds visit every engine in turn."""
    seen: dict[tuple[str, str], list[float]] = {}
    present = [worker for worker in workers if worker.facts is not None]
    for i in tqdm(range(rounds + 1), desc="rounds"):
        for what in whats:
            for worker in present:
                rate = worker.ask(what)
                if i > 0:  # the first round warms up
                    seen.setdefault((worker.name, what), []).append(rate)
    rows = []
    for worker in workers:
        if worker.facts is None:
            rows.append({"engine": worker.name, "missing": "not installed"})
            continue
        found = worker.ask("kl")
        for what in whats:
            rates = seen[worker.name, what]
            row = {
                "engine": worker.name,
                "what": what,
                "tok_s": statistics.median(rates),
                "tok_s_all": rates,
                "is_equal": found["kl"] <= KL_EQUAL,
            }
            rows.append(row | found | worker.facts)
    return rows


def limits_of(path: Path, threads: int) -> dict[str, Any]:
    """Ceilings in tokens per second, from what the machine was measured to do."""
    import deal
    from deal import _core

    read_rate, multiply_rate = _core.probe(threads)
    h = deal.load(path, compute="int8").hparams
    n_attention = 2 * h.n_embd * h.head_dim * (h.n_head + h.n_head_kv)
    n_body = h.n_layer * (n_attention + 3 * h.n_embd * h.n_ff)
    n_head = h.n_vocab * h.n_embd
    size = path.stat().st_size
    rates = {"prefill512": multiply_rate / n_body}
    for b in BATCHES:
        by_multiply = multiply_rate / (n_body + n_head)
        rates[f"decode{b}"] = min(by_multiply, b * read_rate / size)
    return {
        "read_bytes_s": read_rate,
        "multiply_adds_s": multiply_rate,
        "file_bytes": size,
        "multiply_adds_body": n_body,
        "multiply_adds_head": n_head,
        "tok_s": rates,
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the result document."""
    from deal import _hub

    path = _hub.resolve(arguments.model).resolve()  # workers run in another folder
    names = ["deal int8"] if arguments.peers == "none" else ["deal int8", *peers.PEERS]
    scratch = arguments.scratch or Path(tempfile.mkdtemp(prefix="deal-engine-"))
    scratch = scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    workers = [open_worker(name, path, arguments.threads, scratch) for name in names]
    try:
        limits = limits_of(path, arguments.threads)
        rows = rows_of(workers, arguments.rounds, WHATS)
    finally:
        for worker in workers:
            worker.close()
    environment = common.environment()
    return {
        "benchmark": "engine",
        "machine": environment["machine"],
        "environment": environment,
        "settings": {
            "model": arguments.model,
            "model_file": path.name,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "kl_equal": KL_EQUAL,
        },
        "limits": limits,
        "rows": rows,
    }


def report(result: dict[str, Any]) -> str:
    """The table as text, and the distance to the limits."""
    header = f"{'engine':20}{'KL':>9}" + "".join(f"{w:>12}" for w in WHATS)
    table: dict[str, dict[str, Any]] = {}
    lines = [header]
    for row in result["rows"]:
        table.setdefault(row["engine"], {})[row.get("what")] = row
    for engine, cells in table.items():
        if None in cells:
            lines.append(f"{engine:20}  {cells[None]['missing']}")
            continue
        kl = next(iter(cells.values()))["kl"]
        mark = "*" if kl > KL_EQUAL else " "
        rates = "".join(f"{cells[w]['tok_s']:12.0f}" for w in WHATS)
        lines.append(f"{engine:20}{kl:8.4f}{mark}{rates}")
    limits = result["limits"]["tok_s"]
    lines.append(f"{'limit':29}" + "".join(f"{limits[w]:12.0f}" for w in WHATS))
    ours = table["deal int8"]
    shares = (f"{ours[w]['tok_s'] / limits[w]:12.0%}" for w in WHATS)
    lines.append(f"{'deal int8 of the limit':29}" + "".join(shares))
    lines.append(f"* above {KL_EQUAL} nats a token from f32: another model")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--peers", default="auto", choices=("auto", "none"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--scratch", type=Path, help="folder for converted files")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        path = Path(arguments.model)
        serve(arguments.serve, path, arguments.threads, arguments.scratch)
        return 0
    result = run(arguments)
    print(report(result))
    if arguments.json is not None:
        common.write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
