"""Values of formulas over rewards in plain Python; the terms are search/formula.h's."""

from __future__ import annotations

from collections.abc import Sequence

Term = tuple[int, int, int, float]  # kind, i, n and x


def formula_value(
    formula: Sequence[Term],
    numbers: Sequence[float],
    scores: Sequence[float],
    position: float,
) -> float:
    """What a formula, in postfix order, makes of the scores."""
    stack: list[float] = []
    for kind, i, n, x in formula:
        if kind == 0:
            stack.append(scores[i])
        elif kind == 1:
            stack.append(x)
        elif kind == 2:
            stack.append(numbers[i + int(min(position, n - 1))])
        elif kind == 7:
            stack.append(float(stack.pop() >= x))
        else:
            b, a = stack.pop(), stack.pop()
            stack.append([a + b, a * b, min(a, b), max(a, b)][kind - 3])
    [value] = stack
    return value
