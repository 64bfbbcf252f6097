"""How far int8 compute and f16 KV cells are from f32 on the same file, and the memory
that each takes.

    python -m benchmarks.fidelity --json OUT

KL divergence, in nats a token, of the next-token distribution from that of the f32
path, over at least 2,000 tokens of text that the model wrote (the sequences of
tests/parity). The same figure is taken for llama.cpp on the same file where
``llama-cpp-python`` is installed; where it is not, the result says so.

Memory is the peak resident size of a fresh process that loads the model and evaluates
one prompt of 512 tokens, beside the size of the file and that of its weights in f32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import deal
from benchmarks import common

SEQUENCES = common.ROOT / "tests" / "parity" / "data" / "smollm2.json"
N_MEMORY_TOKENS = 512

Logits = Callable[[Sequence[int]], np.ndarray]


def read_sequences() -> list[list[int]]:
    """Token ids of the sequences, 2,531 tokens in all."""
    return json.loads(SEQUENCES.read_text(encoding="utf-8"))["sequences"]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Natural log-probabilities (n_tokens, n_vocab) f32; log Z is summed in f64."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_z = np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64))
    return shifted - log_z.astype(np.float32)


def compare(
    reference: Logits, others: Mapping[str, Logits], n_tokens_max: int | None = None
) -> list[dict[str, Any]]:
    """Mean KL(reference || other) over every position of the sequences.

    Parameters
    ----------
    reference : callable
        Token ids of one sequence to logits (n_tokens, n_vocab).
    others : mapping
        Names of engines to the same.
    n_tokens_max : int, optional
        No further sequence once there are as many tokens.

    Returns
    -------
    list of dict
        ``engine``, ``kl`` in nats a token, ``same_top_1`` in [0, 1], ``n_tokens``.
    """
    kl, n_same = dict.fromkeys(others, 0.0), dict.fromkeys(others, 0)
    n_tokens = 0
    for ids in tqdm(read_sequences(), desc="divergence", leave=False):
        p = log_softmax(reference(ids))
        for name, other in others.items():
            q = log_softmax(other(ids))
            kl[name] += float((np.exp(p) * (p - q)).sum(dtype=np.float64))
            n_same[name] += int((p.argmax(-1) == q.argmax(-1)).sum())
        n_tokens += len(ids)
        if n_tokens_max is not None and n_tokens >= n_tokens_max:
            break
    return [
        {
            "engine": name,
            "kl": kl[name] / n_tokens,
            "same_top_1": n_same[name] / n_tokens,
            "n_tokens": n_tokens,
        }
        for name in others
    ]


def divergence(reference: Logits, other: Logits) -> dict[str, Any]:
    """The same for one engine, without its name."""
    [row] = compare(reference, {"": other})
    return {name: value for name, value in row.items() if name != "engine"}


def llama_cpp_logits(path: Path) -> tuple[str, Logits] | None:
    """llama.cpp's version and logits; None where it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        return None
    model = llama_cpp.Llama(str(path), n_ctx=1024, logits_all=True, verbose=False)

    def logits(ids: Sequence[int]) -> np.ndarray:
        model.reset()
        model.eval(list(ids))
        return np.array(model.scores[: len(ids)])

    return llama_cpp.__version__, logits


def memory_of(model: str, compute: str, kv_type: str = "f32") -> dict[str, Any]:
    """Peak resident bytes of a process that loads and evaluates, and of one that only
    imports; bytes of its KV cells after the prompt of 512 tokens."""
    program = (
        "import sys, deal; from benchmarks.common import peak_memory\n"
        "before = peak_memory()\n"
        "lm = deal.load(sys.argv[1], compute=sys.argv[2], kv_type=sys.argv[3])\n"
        "loaded = peak_memory()\n"
        f"lm.logprob([1], [[i % 1000 for i in range({N_MEMORY_TOKENS - 1})]])\n"
        "print(before, loaded, peak_memory(), lm.kv_size)"
    )
    command = [sys.executable, "-c", program, model, compute, kv_type]
    done = subprocess.run(
        command, cwd=common.ROOT, capture_output=True, text=True, check=True
    )
    names = ("peak_import", "peak_loaded", "peak", "kv_cells")
    return dict(zip(names, map(int, done.stdout.split()), strict=True))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the result document."""
    f32 = deal.load(arguments.model, compute="f32")
    int8 = deal.load(arguments.model, compute="int8")
    f32_half = deal.load(arguments.model, compute="f32", kv_type="f16")
    int8_half = deal.load(arguments.model, compute="int8", kv_type="f16")
    ours = {
        "deal int8": int8.logits,
        "deal int8, f16 KV": int8_half.logits,
        "deal f32, f16 KV": f32_half.logits,
    }
    rows = compare(f32.logits, ours, arguments.tokens)
    peer = llama_cpp_logits(f32.path)
    if peer is None:
        rows.append({"engine": "llama.cpp", "missing": "not installed"})
    else:
        [row] = compare(f32.logits, {"llama.cpp": peer[1]}, arguments.tokens)
        rows.append(row | {"version": peer[0]})
    h = f32.hparams
    n_attention = 2 * h.n_embd * h.head_dim * (h.n_head + h.n_head_kv)
    n_layer = n_attention + 3 * h.n_embd * h.n_ff
    n_embedding = h.n_vocab * h.n_embd * (1 if h.is_tied else 2)
    return {
        "benchmark": "fidelity",
        "environment": common.environment(),
        "settings": {"model": arguments.model, "model_file": f32.path.name},
        "rows": rows,
        "memory": {
            "file": f32.path.stat().st_size,
            "weights_f32": 4 * (n_embedding + h.n_layer * n_layer),
            "int8": memory_of(arguments.model, "int8"),
            "int8_f16_kv": memory_of(arguments.model, "int8", "f16"),
            "f32": memory_of(arguments.model, "f32"),
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fidelity", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument(
        "--tokens", type=int, help="stop after that many; default: all the sequences"
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args(argv)
    result = run(arguments)
    for row in result["rows"]:
        print(row)
    print({name: value for name, value in result["memory"].items()})
    if arguments.json is not None:
        common.write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
