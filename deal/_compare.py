"""Generations side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from deal._html import is_changed, page_part, safe, shown
from deal._trace import path
from deal.generation import Generation
from deal.rewards._extras import needed

_N_TEXT_MAX = 2000  # characters of a text in a terminal


@dataclass(frozen=True)
class Comparison:
    """Made by :func:`compare`; ``print()`` and notebooks show the table.

    Attributes
    ----------
    names : tuple of str
    generations : tuple of Generation
    """

    names: tuple[str, ...]
    generations: tuple[Generation, ...]

    def reward_names(self) -> list[str]:
        """The rewards of any of them, in the order they come."""
        return list(dict.fromkeys(name for r in self.generations for name in r.rewards))

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each generation; ``rewards`` become a column each.

        Returns
        -------
        list of dict
            ``name, text, n_tokens, logprob, reward, <reward name>..., score,
            finish_reason, n_changed, n_forward_tokens, seconds``. A reward that a
            generation was not asked for is None, and so is ``n_changed``, the number of
            decisions against the model's first choice, without a trace.
        """
        names = self.reward_names()
        columns = [_column(name) for name in names]
        result = []
        for name, r in zip(self.names, self.generations, strict=True):
            row: dict[str, Any] = {"name": name, "text": r.text}
            row |= {"n_tokens": len(r.token_ids), "logprob": r.logprob}
            row["reward"] = r.reward
            scores = (r.rewards.get(each) for each in names)
            row |= dict(zip(columns, scores, strict=True))
            row |= {"score": r.score, "finish_reason": r.finish_reason}
            row["n_changed"] = n_changed(r)
            row["n_forward_tokens"] = r.stats.n_forward_tokens
            row["seconds"] = r.stats.seconds_total
            result.append(row)
        return result

    def frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``, with the names as index.

        Raises
        ------
        ImportError
            Without pandas, which the extra ``notebook`` brings.
        """
        pandas = needed("pandas", "notebook", "Comparison.frame")
        return pandas.DataFrame(self.rows()).set_index("name")

    def _lines(self) -> list[tuple[str, list[str]]]:
        """What the table shows below the texts: a title and a cell for each."""
        rows = self.rows()
        titles = [key for key in rows[0] if key not in ("name", "text")]
        return [(title, [_cell(row[title]) for row in rows]) for title in titles]

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(show_lines=True)
        table.add_column("")
        for name in self.names:
            table.add_column(Text(shown(name)), ratio=1)
        cut = [shown(_shortened(r.text)) for r in self.generations]
        table.add_row("text", *map(Text, cut))
        for title, cells in self._lines():
            table.add_row(Text(title), *map(Text, cells))
        console = Console(highlight=False)
        with console.capture() as capture:
            console.print(table)
        return capture.get().rstrip("\n")

    def _repr_html_(self) -> str:
        cell = 'style="vertical-align:top;text-align:left;padding:4px 10px"'
        heads = "".join(f"<th {cell}>{safe(name)}</th>" for name in self.names)
        texts = "".join(f"<td {cell}>{page_part(r)}</td>" for r in self.generations)
        lines = "".join(
            f"<tr><th {cell}>{safe(title)}</th>"
            + "".join(f"<td {cell}>{escape(each)}</td>" for each in cells)
            + "</tr>"
            for title, cells in self._lines()
        )
        return (
            f'<div style="overflow-x:auto"><table><thead><tr><th></th>{heads}</tr>'
            f"</thead><tbody><tr><th {cell}>text</th>{texts}</tr>{lines}</tbody>"
            "</table></div>"
        )


def compare(generations: Sequence[Any] | Mapping[str, Any]) -> Comparison:
    """Set generations side by side.

    Parameters
    ----------
    generations : sequence of Generation, of (str, Generation), or mapping
        Names are the mapping's keys or the pairs' first items; else "1", "2" and so on.

    Returns
    -------
    Comparison
        ``print()`` shows a table, a notebook the tinted texts above the numbers, and
        ``.frame()`` is a pandas frame.

    Raises
    ------
    TypeError
        For something that is no generation.
    ValueError
        For none at all, or a name that comes twice.

    Examples
    --------
    >>> plain = lm.generate(prompt, max_new_tokens=40)
    >>> found = lm.generate(prompt, rewards=rewards, search=search, max_new_tokens=40)
    >>> print(deal.compare({"greedy": plain, "DeAL": found}))
    """
    if isinstance(generations, Mapping):
        pairs = list(generations.items())
    elif isinstance(generations, (Generation, str, bytes)):
        raise TypeError(
            f"generations: expected several, got {type(generations).__name__}"
        )
    else:
        pairs = [
            each if isinstance(each, tuple) and len(each) == 2 else (str(i), each)
            for i, each in enumerate(generations, 1)
        ]
    if not pairs:
        raise ValueError("generations: expected at least one, got none")
    for name, r in pairs:
        if not isinstance(name, str):
            raise TypeError(f"name: expected str, got {name!r}")
        if not isinstance(r, Generation):
            raise TypeError(
                f"generations[{name!r}]: expected a Generation, got {type(r).__name__}"
            )
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"names: {twice[0]!r} comes twice")
    return Comparison(tuple(names), tuple(r for _, r in pairs))


def n_changed(generation: Generation) -> int | None:
    """Decisions on the way to the text that took another token than the model's first;
    None where no trace tells."""
    steps = path(generation)
    return sum(map(is_changed, steps)) if steps else None


_TAKEN = (
    "name text n_tokens logprob reward score finish_reason n_changed n_forward_tokens "
    "seconds"
).split()


def _column(name: str) -> str:
    """A reward's column, where its name is taken by another column."""
    return f"reward {name}" if name in _TAKEN else name


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _shortened(text: str) -> str:
    return text if len(text) <= _N_TEXT_MAX else text[: _N_TEXT_MAX - 1] + "…"
