"""What lm-evaluation-harness asks for by ``generate_until``, in batches."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deal import _batches
from deal._lm_eval_options import GenerateOptions
from deal.generation import Generation
from deal.settings import Sampling

if TYPE_CHECKING:
    from deal.lm_eval import DealLM
    from deal.model import Model


@dataclass(frozen=True)
class Question:
    """A prompt, asked once for all requests that must have the same answer.

    Attributes
    ----------
    context : str
    options : GenerateOptions
    sampling : Sampling or None
        With a seed of its own.
    search : dict
        Keywords of ``Model.generate`` for a search or for beams.
    doc : Any
        The data set's row, for rewards.
    indices : list of int
        Of the requests, by rising index.
    """

    context: str
    options: GenerateOptions
    sampling: Sampling | None
    search: dict[str, Any]
    doc: Any
    indices: list[int]


class Plan:
    """Requests put together: what is the same is asked once, and what asks for the same
    rewards goes into one batch.

    Parameters
    ----------
    model : deal.Model
        The one that writes, for rewards that read it.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._groups: dict[Any, list[Question]] = {}
        self._settled: dict[str, Question] = {}  # without draws and rewards
        self._n_asked: Counter[str] = Counter()
        self._rewards: dict[str, Any] = {}  # of the formulas that read no row
        self._n = 0

    def add(self, request: Any, options: GenerateOptions) -> None:
        """One request of the harness, in its order."""
        context, given = request.args
        key = json.dumps([context, given], default=str)
        i, self._n = self._n, self._n + 1
        known = self._settled.get(key)
        if known is not None:
            known.indices.append(i)
            return
        sampling = options.sampling
        if sampling is not None:  # another draw for every text and every repetition
            seed = _seed(sampling.seed, context, self._n_asked[key])
            sampling = replace(sampling, seed=seed)
        self._n_asked[key] += 1
        doc = getattr(request, "doc", None)
        search = self._search(options, doc)
        question = Question(context, options, sampling, search, doc, [i])
        if options.sampling is None and options.spec is None:
            self._settled[key] = question
        # A formula may name another head for every row.
        text = None if options.spec is None else options.spec.text
        group = text, _batches.layers_of(search.get("rewards"))
        self._groups.setdefault(group, []).append(question)

    def run(self, lm: DealLM, done: Callable[[int, str], Any]) -> None:
        """Asks, and tells `done` the index and the text of every request."""
        size = lm.n_at_a_time
        for questions in self._groups.values():
            requests = [lm.request_of(question) for question in questions]

            def tell(
                i: int, found: list[Generation], questions: list[Question] = questions
            ) -> None:
                for index in questions[i].indices:
                    done(index, found[0].text)

            _batches.generate_all(lm.lm, requests, size, tell)

    def _search(self, options: GenerateOptions, doc: Any) -> dict[str, Any]:
        spec = options.spec
        if spec is None:
            return dict(options.beams)
        if not spec.uses_doc and spec.text not in self._rewards:
            self._rewards[spec.text] = spec.build(model=self._model)
        reward = (
            spec.build(doc, self._model) if spec.uses_doc else self._rewards[spec.text]
        )
        return {"rewards": reward, "search": options.search}


def _seed(seed: int, context: str, i_repeat: int) -> int:
    text = f"{seed} {i_repeat} {context}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
