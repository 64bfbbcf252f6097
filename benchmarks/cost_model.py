"""A model of what a search costs: forward passes, by the rows in them, and no more.

    seconds of a request = prompt / prefill rate + sum over later passes of cost(rows)

The curve ``rows -> cost`` and the prefill rate are measured as benchmarks.scaling does,
with greedy branches and no search around them; how many passes a request makes and how
many rows they have is counted by the engine (``n_forward_passes``,
``n_forward_tokens``). Both over plain decoding's, predicted alike, is the predicted
slowdown.

The cost of a pass is close to ``a + b * rows``, and for a straight line the sum over
passes needs the mean of their rows alone. Left out: the spread of rows where the curve
bends, the context growing past the prefix that it was measured at, rewards, and the
search's own bookkeeping.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import deal
from benchmarks.scaling import decode
from deal import _core

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
N_PREFIX, N_ROUND = 64, 8


@dataclass(frozen=True)
class Curve:
    """Measured seconds of one pass against its rows, and of the prompt.

    Attributes
    ----------
    rows : tuple of int
        Rising.
    seconds : tuple of float
        Of a pass, as many.
    prefill_tok_s : float
        Tokens of a prompt per second.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    prefill_tok_s: float

    def cost(self, n_row: float) -> float:
        """Seconds of a pass of `n_row` rows: between the measured points, and beyond
        them, on the line through the next two."""
        i = min(max(bisect_left(self.rows, n_row), 1), len(self.rows) - 1)
        x0, x1 = self.rows[i - 1], self.rows[i]
        y0, y1 = self.seconds[i - 1], self.seconds[i]
        return y0 + (y1 - y0) * (n_row - x0) / (x1 - x0)

    def seconds_per_token(self, record: Mapping[str, Any]) -> float:
        """Predicted for one request, from what it counted."""
        stats = record["stats"]
        n_prompt = stats["n_prompt_tokens"]
        seconds = n_prompt / self.prefill_tok_s
        n_pass = stats["n_forward_passes"] - 1  # the first one is the prompt's
        if n_pass > 0:
            n_row = (stats["n_forward_tokens"] - n_prompt) / n_pass
            seconds += n_pass * self.cost(n_row)
        return seconds / len(record["token_ids"])

    def line(self) -> tuple[float, float, float]:
        """Least relative squares: seconds of a pass, of a row, and the largest
        relative distance of a point from that line."""
        w = [1 / y for y in self.seconds]  # each residual over its own seconds
        n = sum(v * v for v in w)
        x = sum(v * v * r for v, r in zip(w, self.rows, strict=True)) / n
        y = sum(w) / n
        pairs = list(zip(w, self.rows, self.seconds, strict=True))
        above = sum(v * v * (r - x) * (s - y) for v, r, s in pairs)
        row = above / sum(v * v * (r - x) ** 2 for v, r, _ in pairs)
        start = y - row * x
        return start, row, max(abs(start + row * r - s) / s for _, r, s in pairs)

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values, with the line."""
        pass_seconds, row_seconds, error = self.line()
        return {
            "prefix": N_PREFIX,
            "rounds": N_ROUND,
            "rows": list(self.rows),
            "seconds": list(self.seconds),
            "prefill_tok_s": self.prefill_tok_s,
            "pass_seconds": pass_seconds,
            "row_seconds": row_seconds,
            "line_error": error,
        }


def measure_curve(lm: deal.Model, rows: Sequence[int] = ROWS) -> Curve:
    """The curve of a loaded model; rounds visit all sizes in turn, and the fastest
    counts, since what disturbs a pass only makes it longer."""
    session = _core.Session(lm._core, lm.max_length, lm.threads)
    seen: dict[int, list[tuple[float, float]]] = {n: [] for n in rows}
    for _ in range(N_ROUND):
        for n, found in seen.items():
            found.append(decode(session, lm.hparams.n_vocab, N_PREFIX, n))
    seconds = tuple(n / max(rate for rate, _ in seen[n]) for n in rows)
    prefill = max(rate for found in seen.values() for _, rate in found)
    return Curve(tuple(rows), seconds, prefill)
