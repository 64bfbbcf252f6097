"""``deal demo``: plain greedy decoding beside DeAL on a handful of word sets.

The task is CommonGen's (Lin et al., Findings of EMNLP 2020): one sentence that uses all
of the given words. The word sets here are our own. Coverage is counted by a regular
expression, apart from the native reward that steers the search.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from deal.generation import Generation
    from deal.model import Model
    from deal.settings import Search

__all__ = ["WORD_SETS", "Run", "compare", "find_forms", "prompt_for", "run_demo"]

PROMPT = "Write one short sentence that uses all of these words: {words}."

# Each concept with the inflections that count as using it.
WORD_SETS: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "dog": ("dog", "dogs"),
        "ball": ("ball", "balls"),
        "throw": ("throw", "throws", "threw", "thrown", "throwing"),
        "park": ("park", "parks", "parked", "parking"),
    },
    {
        "woman": ("woman", "women"),
        "bake": ("bake", "bakes", "baked", "baking"),
        "bread": ("bread", "breads"),
        "kitchen": ("kitchen", "kitchens"),
    },
    {
        "kite": ("kite", "kites"),
        "fly": ("fly", "flies", "flew", "flown", "flying"),
        "beach": ("beach", "beaches"),
    },
    {
        "crowd": ("crowd", "crowds", "crowded"),
        "guitar": ("guitar", "guitars"),
        "play": ("play", "plays", "played", "playing"),
        "stage": ("stage", "stages"),
    },
    {
        "boat": ("boat", "boats"),
        "fisherman": ("fisherman", "fishermen"),
        "net": ("net", "nets"),
        "pull": ("pull", "pulls", "pulled", "pulling"),
        "river": ("river", "rivers"),
    },
    {
        "child": ("child", "children"),
        "hill": ("hill", "hills"),
        "sled": ("sled", "sleds", "sledding"),
        "snow": ("snow", "snows", "snowed", "snowing"),
    },
)


@dataclass(frozen=True)
class Run:
    """One decoding of one word set.

    Attributes
    ----------
    text : str
    covered : dict of str to bool
        Each concept, and whether `text` uses one of its forms.
    n_tokens : int
        Generated, end token included.
    logprob : float
        Natural log, summed over the generated tokens, under the plain model.
    seconds : float
        Wall time of the call, prompt included.
    finish_reason : str
    stats : dict of str to float
        The engine's own counts; see `deal.Stats`.
    """

    text: str
    covered: dict[str, bool]
    n_tokens: int
    logprob: float
    seconds: float
    finish_reason: str
    stats: dict[str, float]

    @property
    def n_covered(self) -> int:
        """Concepts that are covered."""
        return sum(self.covered.values())

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second of wall time."""
        return self.n_tokens / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        extra = {
            "logprob_per_token": self.logprob / max(1, self.n_tokens),
            "tokens_per_second": self.tokens_per_second,
        }
        return asdict(self) | extra


def prompt_for(concepts: Iterable[str]) -> str:
    """The instruction for one word set."""
    return PROMPT.format(words=", ".join(concepts))


def find_forms(
    text: str, concepts: Mapping[str, Sequence[str]]
) -> dict[str, list[tuple[int, int]]]:
    """Where `text` uses each concept, as whole words, in any case.

    Parameters
    ----------
    text : str
    concepts : mapping of str to sequence of str
        Concept -> accepted forms.

    Returns
    -------
    dict of str to list of (int, int)
        Concept -> spans in `text`, empty where it is not used.
    """
    spans = {}
    for concept, forms in concepts.items():
        any_form = "|".join(re.escape(form) for form in forms)
        pattern = re.compile(rf"(?<!\w)(?:{any_form})(?!\w)", re.IGNORECASE)
        spans[concept] = [match.span() for match in pattern.finditer(text)]
    return spans


def compare(
    lm: Model,
    concepts: Mapping[str, Sequence[str]],
    search: Search,
    max_new_tokens: int,
    on_piece: Callable[[], None] = lambda: None,
) -> Iterator[Run]:
    """Decode one word set greedily, then with DeAL and the keyword reward.

    Parameters
    ----------
    lm : Model
    concepts : mapping of str to sequence of str
        Concept -> accepted forms.
    search : Search
    max_new_tokens : int
    on_piece : callable, optional
        Called after each piece of text, to show progress.

    Yields
    ------
    Run
        Plain greedy first, then DeAL.
    """
    from deal.rewards import Keywords

    messages = [{"role": "user", "content": prompt_for(concepts)}]
    keywords = Keywords([list(forms) for forms in concepts.values()])
    steered: dict[str, Any] = {"rewards": keywords, "search": search}
    for settings in ({}, steered):
        start = time.perf_counter()
        stream = lm.stream(messages, max_new_tokens=max_new_tokens, **settings)
        for _ in stream:
            on_piece()
        seconds = time.perf_counter() - start
        assert stream.generation is not None  # set once the last piece is out
        yield _as_run(stream.generation, concepts, seconds)


def warm_up(lm: Model) -> None:
    """Touch all weights, so that no measured run reads them from disk."""
    lm.chat([{"role": "user", "content": prompt_for(WORD_SETS[0])}], max_new_tokens=4)


def slowdown(plain: Run, steered: Run) -> float:
    """Wall time per generated token, over plain decoding's."""
    return plain.tokens_per_second / steered.tokens_per_second


def summarise(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    """Figures over all word sets.

    Returns
    -------
    dict
        ``plain`` and ``deal``, each with ``coverage_soft`` (mean share of words used),
        ``coverage_hard`` (share of sets with all words used), ``logprob_per_token``
        (over all tokens), ``tokens_per_second`` (total over total), ``n_tokens``; and
        ``slowdown_median`` (over sets) and ``slowdown_total`` (ratio of total time per
        token).
    """

    def over(runs: Sequence[Run]) -> dict[str, float]:
        n_tokens = sum(run.n_tokens for run in runs)
        shares = [run.n_covered / len(run.covered) for run in runs]
        return {
            "coverage_soft": statistics.fmean(shares),
            "coverage_hard": statistics.fmean(float(share == 1) for share in shares),
            "logprob_per_token": sum(run.logprob for run in runs) / max(1, n_tokens),
            "tokens_per_second": n_tokens / sum(run.seconds for run in runs),
            "n_tokens": n_tokens,
            "seconds": sum(run.seconds for run in runs),
        }

    plain, steered = (over(runs) for runs in zip(*pairs, strict=True))
    return {
        "plain": plain,
        "deal": steered,
        "slowdown_median": statistics.median(slowdown(*pair) for pair in pairs),
        "slowdown_total": plain["tokens_per_second"] / steered["tokens_per_second"],
    }


def run_demo(
    lm: Model, search: Search, *, n: int, max_new_tokens: int, as_json: bool
) -> None:
    """Run the first `n` word sets and print them.

    Parameters
    ----------
    lm : Model
    search : Search
    n : int
        In [1, ``len(WORD_SETS)``].
    max_new_tokens : int
    as_json : bool
        Print one JSON document on stdout, and nothing else there.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    sets = WORD_SETS[:n]
    pairs: list[tuple[Run, Run]] = []
    stderr = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    hidden = not stderr.is_terminal
    with Progress(*columns, console=stderr, transient=True, disable=hidden) as progress:
        task = progress.add_task("warming up", total=2 * len(sets) * max_new_tokens)
        warm_up(lm)
        for i_set, concepts in enumerate(sets):
            runs: list[Run] = []
            label = f"word set {i_set + 1} of {len(sets)}"
            progress.update(task, description=label)
            for run in compare(
                lm, concepts, search, max_new_tokens, lambda: progress.advance(task)
            ):
                runs.append(run)
                # A text that ends early makes up for the tokens it did not need.
                done = (2 * i_set + len(runs)) * max_new_tokens
                progress.update(task, completed=done)
            pairs.append((runs[0], runs[1]))
    if as_json:
        json.dump(
            _document(lm, search, sets, pairs, max_new_tokens), sys.stdout, indent=2
        )
        sys.stdout.write("\n")
        return
    console = Console()
    console.print(_table(sets, pairs))
    console.print(_totals(pairs))
    console.print(
        f"{lm.path.name}, {lm.compute}, {lm.threads} threads; DeAL: "
        f"top_k={search.top_k}, lookahead={search.lookahead}, "
        f"reward_weight={search.reward_weight:g}, mode={search.mode}. Highlighted: "
        f"the given words. Slowdown: wall time per token over greedy's.",
        style="dim",
        highlight=False,
    )


def _as_run(
    result: Generation, concepts: Mapping[str, Sequence[str]], seconds: float
) -> Run:
    spans = find_forms(result.text, concepts)
    return Run(
        text=result.text,
        covered={concept: bool(found) for concept, found in spans.items()},
        n_tokens=len(result.token_ids),
        logprob=result.logprob,
        seconds=seconds,
        finish_reason=result.finish_reason,
        stats=asdict(result.stats),
    )


def _document(
    lm: Model,
    search: Search,
    sets: Sequence[Mapping[str, Sequence[str]]],
    pairs: Sequence[tuple[Run, Run]],
    max_new_tokens: int,
) -> dict[str, Any]:
    items = [
        {
            "words": list(concepts),
            "prompt": prompt_for(concepts),
            "plain": plain.as_dict(),
            "deal": steered.as_dict(),
            "slowdown": slowdown(plain, steered),
        }
        for concepts, (plain, steered) in zip(sets, pairs, strict=True)
    ]
    settings = {
        "model": str(lm.path),
        "compute": lm.compute,
        "threads": lm.threads,
        "max_new_tokens": max_new_tokens,
        "search": asdict(search),
    }
    return {"settings": settings, "items": items, "summary": summarise(pairs)}


def _table(
    sets: Sequence[Mapping[str, Sequence[str]]], pairs: Sequence[tuple[Run, Run]]
) -> Table:
    from rich.table import Table

    table = Table(show_lines=True, expand=True, title="Use all of these words")
    table.add_column("words", ratio=2)
    table.add_column("plain greedy", ratio=5)
    table.add_column("DeAL, keyword reward", ratio=5)
    for concepts, (plain, steered) in zip(sets, pairs, strict=True):
        table.add_row(
            "\n".join(concepts),
            _cell(plain, concepts, ""),
            _cell(steered, concepts, f", {slowdown(plain, steered):.1f}x slower"),
        )
    return table


def _cell(run: Run, concepts: Mapping[str, Sequence[str]], suffix: str) -> Text:
    from rich.text import Text

    text = Text(run.text.strip())
    for spans in find_forms(text.plain, concepts).values():
        for start, end in spans:
            text.stylize("bold green", start, end)
    n_words = len(run.covered)
    style = "green" if run.n_covered == n_words else "yellow"
    text.append(f"\n{run.n_covered}/{n_words} words", style=style)
    if missing := [word for word, is_used in run.covered.items() if not is_used]:
        text.append(f" (not: {', '.join(missing)})", style=style)
    text.append(
        f"\nlog-prob {run.logprob:.1f}, {run.n_tokens} tokens, "
        f"{run.tokens_per_second:.1f} tokens/s{suffix}",
        style="dim",
    )
    return text


def _totals(pairs: Sequence[tuple[Run, Run]]) -> Table:
    from rich.table import Table

    summary = summarise(pairs)
    table = Table(title=f"Over {len(pairs)} word sets", expand=True)
    table.add_column("decoding")
    for name in (
        "words used",
        "all words used",
        "log-prob/token",
        "tokens/s",
        "slowdown",
    ):
        table.add_column(name, justify="right")
    for key, name in (("plain", "plain greedy"), ("deal", "DeAL")):
        index = 0 if key == "plain" else 1
        runs = [pair[index] for pair in pairs]
        row = summary[key]
        n_used, n_words = (
            sum(run.n_covered for run in runs),
            sum(len(run.covered) for run in runs),
        )
        n_full = sum(run.n_covered == len(run.covered) for run in runs)
        ratio = 1.0 if key == "plain" else summary["slowdown_total"]
        table.add_row(
            name,
            f"{n_used}/{n_words}",
            f"{n_full}/{len(runs)}",
            f"{row['logprob_per_token']:.2f}",
            f"{row['tokens_per_second']:.1f}",
            f"{ratio:.1f}x",
        )
    return table
