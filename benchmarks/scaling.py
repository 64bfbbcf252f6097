"""What a forward pass costs against batch size, context and threads.

    python -m benchmarks.scaling --json OUT [--plot FOLDER]

Tokens per second of greedy branches (as ``decodeB`` of benchmarks.engine) for batches
of 1 to 128 after a prefix of 64, and for 8 branches after prefixes of 64 to 4,096;
batches again with one thread. Medians of the rounds. ``--plot`` draws both as SVG files
and needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import deal
from benchmarks import common
from deal import _core

BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
CONTEXTS = (64, 128, 256, 512, 1024, 2048, 4096)
N_PREFIX, N_CONTEXT_BATCH, N_STEP = 64, 8, 16


def decode(
    session: Any, n_vocab: int, n_prefix: int, n_branch: int
) -> tuple[float, float]:
    """Tokens per second of the steps, and of the prefix, once."""
    prefix = [(1000 + i % 4000) % n_vocab for i in range(n_prefix)]
    first = [(100 + i) % n_vocab for i in range(n_branch)]
    _, prefill, steps = _core.branches(session, prefix, first, N_STEP)
    return n_branch * N_STEP / steps, n_prefix / prefill


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the result document."""
    lm = deal.load(arguments.model, compute="int8", threads=arguments.threads)
    n_ctx = max(CONTEXTS) + N_STEP + 1
    sessions = {
        n: _core.Session(lm._core, n_ctx, n) for n in sorted({1, arguments.threads})
    }
    jobs = [("batch", n, N_PREFIX, b) for n in sessions for b in BATCHES]
    jobs += [("context", arguments.threads, c, N_CONTEXT_BATCH) for c in CONTEXTS]
    seen: dict[tuple, list[tuple[float, float]]] = {job: [] for job in jobs}
    for _ in tqdm(range(arguments.rounds), desc="rounds"):
        for job in jobs:
            _, n_thread, n_prefix, n_branch = job
            rates = decode(sessions[n_thread], lm.hparams.n_vocab, n_prefix, n_branch)
            seen[job].append(rates)
    rows = [
        {
            "against": against,
            "threads": n_thread,
            "prefix": n_prefix,
            "branches": n_branch,
            "decode_tok_s": statistics.median(r[0] for r in seen[job]),
            "prefill_tok_s": statistics.median(r[1] for r in seen[job]),
        }
        for job in jobs
        for against, n_thread, n_prefix, n_branch in [job]
    ]
    return {
        "benchmark": "scaling",
        "environment": common.environment(),
        "settings": {
            "model": arguments.model,
            "model_file": lm.path.name,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
        },
        "rows": rows,
    }


def plot(result: dict[str, Any], folder: Path) -> None:
    """Two SVG files, ``batch.svg`` and ``context.svg``."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "deal"
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for n_thread in sorted({row["threads"] for row in result["rows"]}):
        rows = [
            row
            for row in result["rows"]
            if row["against"] == "batch" and row["threads"] == n_thread
        ]
        x = [row["branches"] for row in rows]
        y = [row["decode_tok_s"] for row in rows]
        axes.plot(x, y, marker="o", label=f"{n_thread} threads")
    axes.set(xscale="log", xlabel="branches in a batch", ylabel="tokens per second")
    axes.set_xticks(BATCHES, [str(b) for b in BATCHES], fontsize=8)
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(folder / "batch.svg", metadata={"Date": None}, bbox_inches="tight")
    figure, axes = pyplot.subplots(figsize=(6, 4))
    rows = [row for row in result["rows"] if row["against"] == "context"]
    x = [row["prefix"] for row in rows]
    axes.plot(x, [r["decode_tok_s"] for r in rows], marker="o", label="8 branches")
    axes.plot(x, [r["prefill_tok_s"] for r in rows], marker="s", label="the prompt")
    axes.set(xscale="log", xlabel="shared prefix, tokens", ylabel="tokens per second")
    axes.set_xticks(CONTEXTS, [str(c) for c in CONTEXTS], fontsize=8)
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(folder / "context.svg", metadata={"Date": None}, bbox_inches="tight")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--plot", type=Path, help="folder for the plots")
    parser.add_argument(
        "--from-json", type=Path, help="draw an earlier result and measure nothing"
    )
    arguments = parser.parse_args(argv)
    if arguments.from_json:
        result = json.loads(arguments.from_json.read_text(encoding="utf-8"))
    else:
        result = run(arguments)
        for row in result["rows"]:
            print(row)
    if arguments.json is not None:
        common.write_json(arguments.json, result)
    if arguments.plot is not None:
        plot(result, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
