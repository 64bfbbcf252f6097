"""DeAL over llama.cpp as a capable user would write it: the search to be compared with.

The decisions are those of ``deal.Search(mode="naive")``. All candidates of a decision
are rolled out in lockstep, one `llama_decode` for each position; they share the cells
of what comes before them through sequence ids; what the first of these passes tells
about the winner is kept for the next decision. Flash attention is on or off, whichever
a probe finds faster.

    python -m benchmarks.llama_deal --serve --model FILE.gguf --threads 2

reads one request a line: ``{"prompt": ids, "ends": ids, "concepts": {word: forms},
"max_new_tokens": n, "search": {top_k, lookahead, reward_weight, num_beams}}``, and
answers with tokens, text, score and seconds. With ``"token_ids"`` it answers with the
decision that it takes after each beginning of them instead: int8 engines differ in the
last digits, and one decision that is a tie makes another text, so that this, not the
text, tells whether two searches are the same. benchmarks.search asks both.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coverage import coverage
from benchmarks.worker import open_answers

N_CTX, N_BATCH, N_SEQUENCE = 4096, 512, 64
PROBE = (64, 5, 16)  # prefix, branches and steps of the choice of attention


class LlamaSequences:
    """One llama.cpp context: rows of several sequences that share their cells."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp

        self._c = c = llama_cpp
        self.version = llama_cpp.__version__
        c.llama_backend_init()
        self._quiet = c.llama_log_callback(lambda *_: None)
        c.llama_log_set(self._quiet, None)
        self._model = c.llama_model_load_from_file(
            str(path).encode(), c.llama_model_default_params()
        )
        self._vocab = c.llama_model_get_vocab(self._model)
        self._n_vocab = c.llama_vocab_n_tokens(self._vocab)
        self._batch = c.llama_batch_init(N_BATCH, 0, 1)
        self._pieces: dict[int, bytes] = {}
        self._threads = threads
        self.n_decoded = self.n_pass = 0
        self.probed = {kind: self._probe(kind) for kind in (0, 1)}
        self.flash = min(self.probed, key=self.probed.__getitem__)
        self._open(self.flash)

    def _open(self, flash: int) -> None:
        params = self._c.llama_context_default_params()
        params.n_ctx = N_CTX
        params.n_batch = params.n_ubatch = N_BATCH
        params.n_seq_max = N_SEQUENCE
        params.n_threads = params.n_threads_batch = self._threads
        params.kv_unified = True
        params.flash_attn_type = flash
        self._context = self._c.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp made no context")
        self._memory = self._c.llama_get_memory(self._context)

    def _probe(self, flash: int) -> float:
        """Median seconds of a small lockstep rollout."""
        self._open(flash)
        n_prefix, n_branch, n_step = PROBE
        seconds = []
        for _ in range(4):
            self.clear()
            self.run([(1000 + i, i, 0, False) for i in range(n_prefix)])
            for s in range(1, n_branch):
                self.copy(0, s)
            start = time.perf_counter()
            for i in range(n_step):
                rows = [(2000 + s, n_prefix + i, s, True) for s in range(n_branch)]
                self.run(rows).argmax(-1)
            seconds.append(time.perf_counter() - start)
        self._c.llama_free(self._context)
        return statistics.median(seconds[1:])

    def run(self, rows: Sequence[tuple[int, int, int, bool]]) -> np.ndarray:
        """Evaluate rows of (token, position, sequence, whether logits are wanted).

        Returns
        -------
        ndarray
            Logits (n_wanted, n_vocab) f32, valid until the next call.
        """
        batch, first = self._batch, 0
        n_wanted = sum(row[3] for row in rows)
        while first < len(rows):
            part = rows[first : first + N_BATCH]
            batch.n_tokens = len(part)
            for i, (token, position, sequence, wants) in enumerate(part):
                batch.token[i] = token
                batch.pos[i] = position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = wants
            if self._c.llama_decode(self._context, batch) != 0:
                raise RuntimeError("llama_decode failed")
            self.n_pass += 1
            first += len(part)
        self.n_decoded += len(rows)
        pointer = self._c.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(n_wanted, self._n_vocab))

    def clear(self) -> None:
        self._c.llama_memory_clear(self._memory, True)

    def copy(self, source: int, target: int) -> None:
        """`target`, empty before, shares all cells of `source`."""
        self._c.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def cut(self, sequence: int, position: int = 0) -> None:
        """Drop what `sequence` holds from `position` on."""
        self._c.llama_memory_seq_rm(self._memory, sequence, position, -1)

    def piece(self, token: int) -> bytes:
        """Bytes of one token; none for a special one."""
        if token not in self._pieces:
            buffer = ctypes.create_string_buffer(256)
            n = self._c.llama_token_to_piece(self._vocab, token, buffer, 256, 0, False)
            self._pieces[token] = buffer.raw[: max(n, 0)]
        return self._pieces[token]


# --- the search -----------------------------------------------------------------------


@dataclass
class Hypothesis:
    """Tokens after the prompt; `logits` are those after the last, where known."""

    tokens: list[int]
    text: bytes
    logprob: float
    is_final: bool = False
    score: float = 0.0
    reward: float = 0.0
    origin: int = 0  # the live hypothesis that it extends
    n_own: int = 0  # tokens up to the candidate
    sequence: int = -1
    logits: np.ndarray | None = field(default=None, repr=False)


def top_candidates(logits: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The `k` likeliest tokens with their log-probs; equal ones by their ids."""
    best = np.argpartition(logits, -k)[-k:]
    best = best[np.lexsort((best, -logits[best]))]
    peak = float(logits.max())
    log_z = peak + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
    return [(int(t), float(logits[t]) - log_z) for t in best]


class NaiveSearch:
    """The paper's loop over one prompt, with `num_beams` hypotheses."""

    def __init__(
        self,
        sequences: Any,
        ends: Sequence[int],
        reward: Callable[[str], float],
        max_new_tokens: int,
        search: Mapping[str, Any],
    ) -> None:
        self._lm = sequences
        self._ends = frozenset(ends)
        self._reward = reward
        self._n_max = max_new_tokens
        self._k, self._l = search["top_k"], search["lookahead"]
        self._weight, self._n_beam = search["reward_weight"], search["num_beams"]

    def run(self, prompt: Sequence[int]) -> Hypothesis:
        """The best finished hypothesis."""
        lm = self._lm
        lm.clear()
        n = len(prompt)
        logits = lm.run([(t, i, 0, i == n - 1) for i, t in enumerate(prompt)])
        live = [Hypothesis([], b"", 0.0, sequence=0, logits=logits[0].copy())]
        pool: list[Hypothesis] = []
        while True:
            candidates = self._ranked(live, n)
            final = [c for c in candidates[: self._n_beam] if c.is_final]
            pool = sorted([*pool, *final], key=lambda c: -c.score)[: self._n_beam]
            winners = [c for c in candidates if not c.is_final][: self._n_beam]
            if not winners:
                return pool[0]
            if len(pool) == self._n_beam and winners[0].score <= pool[-1].score:
                return pool[0]
            live = self._keep(live, candidates, winners, n)

    def decide(self, prompt: Sequence[int], prefix: Sequence[int]) -> int:
        """The token that a single hypothesis `prefix` is continued with."""
        lm, ids = self._lm, [*prompt, *prefix]
        lm.clear()
        n = len(ids)
        logits = lm.run([(t, i, 0, i == n - 1) for i, t in enumerate(ids)])
        text = b"".join(lm.piece(t) for t in prefix)
        live = Hypothesis(list(prefix), text, 0.0, sequence=0, logits=logits[0].copy())
        return self._ranked([live], len(prompt))[0].tokens[len(prefix)]

    def _ranked(self, live: Sequence[Hypothesis], n_prompt: int) -> list[Hypothesis]:
        """All candidates, rolled out and scored, best first."""
        candidates = self._expand(live)
        self._roll_out(candidates, n_prompt)
        for c in candidates:
            c.reward = self._reward(c.text.decode("utf-8", "replace"))
            c.score = c.logprob + self._weight * c.reward
        candidates.sort(key=lambda c: (-c.score, c.tokens[c.n_own - 1], c.origin))
        return candidates

    def _push(self, hypothesis: Hypothesis, token: int) -> bool:
        """Append a token; whether the hypothesis ends with it."""
        hypothesis.tokens.append(token)
        if token in self._ends:
            return True
        hypothesis.text += self._lm.piece(token)
        return len(hypothesis.tokens) == self._n_max

    def _expand(self, live: Sequence[Hypothesis]) -> list[Hypothesis]:
        candidates = []
        for i, parent in enumerate(live):
            for token, logprob in top_candidates(parent.logits, self._k):
                c = Hypothesis(
                    list(parent.tokens), parent.text, parent.logprob + logprob, origin=i
                )
                c.is_final = self._push(c, token)
                c.n_own = len(c.tokens)
                candidates.append(c)
        return candidates

    def _roll_out(self, candidates: Sequence[Hypothesis], n_prompt: int) -> None:
        """Greedy continuations of all that did not end, one batch a position."""
        lm = self._lm
        running = [c for c in candidates if not c.is_final]
        for i, c in enumerate(running):
            c.sequence = self._n_beam + i
            lm.copy(c.origin, c.sequence)
        for i_step in range(max(self._l, 1)):  # one tells at least what comes next
            if not running:
                return
            rows = [
                (c.tokens[-1], n_prompt + len(c.tokens) - 1, c.sequence, True)
                for c in running
            ]
            logits = lm.run(rows)
            if i_step == 0:
                kept = logits.copy()
                for i, c in enumerate(running):
                    c.logits = kept[i]
            if self._l == 0:
                return
            tokens = logits.argmax(-1).tolist()
            ended = [self._push(c, t) for c, t in zip(running, tokens, strict=True)]
            running = [c for c, e in zip(running, ended, strict=True) if not e]

    def _keep(
        self,
        live: Sequence[Hypothesis],
        candidates: Sequence[Hypothesis],
        winners: Sequence[Hypothesis],
        n_prompt: int,
    ) -> list[Hypothesis]:
        """The winners as live hypotheses; their cells in the first sequences."""
        lm, kept = self._lm, []
        for i in range(len(live)):
            lm.cut(i)
        for i, w in enumerate(winners):
            lm.cut(w.sequence, n_prompt + w.n_own)
            lm.copy(w.sequence, i)
            tokens = w.tokens[: w.n_own]
            text = b"".join(lm.piece(t) for t in tokens)
            kept.append(
                Hypothesis(tokens, text, w.logprob, sequence=i, logits=w.logits)
            )
        for c in candidates:
            if c.sequence >= 0:
                lm.cut(c.sequence)
        return kept


def answer_to(lm: LlamaSequences, request: Mapping[str, Any]) -> dict[str, Any]:
    """Runs one request, and times it."""
    reward = coverage(request["concepts"])
    search = NaiveSearch(
        lm, request["ends"], reward, request["max_new_tokens"], request["search"]
    )
    if "token_ids" in request:
        ids = request["token_ids"]
        tokens = [search.decide(request["prompt"], ids[:i]) for i in range(len(ids))]
        return {"decisions": tokens}
    before = (lm.n_decoded, lm.n_pass)
    start = time.perf_counter()
    best = search.run(request["prompt"])
    seconds = time.perf_counter() - start
    return {
        "token_ids": best.tokens,
        "text": best.text.decode("utf-8", "replace"),
        "logprob": best.logprob,
        "reward": best.reward,
        "score": best.score,
        "seconds": seconds,
        "n_forward_tokens": lm.n_decoded - before[0],
        "n_forward_passes": lm.n_pass - before[1],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.llama_deal", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--serve", action="store_true", required=True)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    answer = open_answers()
    try:
        lm = LlamaSequences(arguments.model, arguments.threads)
    except ImportError:
        answer(None)
        return 0
    attention = "on" if lm.flash else "off"
    answer(
        {
            "version": lm.version,
            "settings": f"{arguments.threads} threads, n_batch={N_BATCH}, shared cells,"
            f" flash attention {attention}",
            "probed_seconds": {"flash off": lm.probed[0], "flash on": lm.probed[1]},
        }
    )
    for line in sys.stdin:
        answer(answer_to(lm, json.loads(line)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
