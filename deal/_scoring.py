"""Reading what a model makes of given texts: the methods of `Model` that score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deal._request import Prompt, is_batch
from deal._states import Positions, head_taps, read_states, read_tails, residual_taps
from deal.controls import in_force


class Scoring:
    """Part of :class:`deal.Model`."""

    hparams: Any
    tokenizer: Any
    _session: Any
    _encode: Any

    def logits(self, ids: Prompt) -> np.ndarray:
        """Logits after every token of a sequence.

        Parameters
        ----------
        ids : str or token ids

        Returns
        -------
        ndarray of float32, shape (n_tokens, n_vocab)
        """
        with self._session() as session:
            return session.logits(self._encode(ids)[0], in_force(self).core)

    def logprob(
        self, prompt: Prompt | Sequence[Prompt], completions: Prompt | Sequence[Any]
    ) -> Any:
        """Log-probability of completions of a prompt, or of each of several.

        All texts are scored together: what any of them share, from their start on, is
        evaluated once. A score does not depend on what it is scored with.

        Parameters
        ----------
        prompt : str, token ids, or a list of either
        completions : str, token ids, or a list of either
            For a list of prompts: a list of as many entries, each of them what goes
            with one prompt.

        Returns
        -------
        float, or list of float
            Natural log, summed over each completion's tokens. A completion's text is
            tokenized together with the prompt where that leaves the prompt's tokens as
            they are. For a list of prompts: a list of those.
        """
        if not is_batch(prompt):
            return self._logprobs([prompt], [completions])[0]
        if isinstance(completions, (str, bytes)) or len(completions) != len(prompt):
            raise ValueError(
                f"completions: expected a list of {len(prompt)}, one entry a prompt"
            )
        return self._logprobs(list(prompt), list(completions))

    def loglikelihood(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        done: Callable[[int, float, bool], Any] | None = None,
    ) -> list[tuple[float, bool]]:
        """Log-probability of token ids after others, and whether greedy decoding
        writes just these.

        As for :meth:`logprob` all pairs are scored together, shared beginnings once.

        Parameters
        ----------
        pairs : list of (context, continuation)
            Token ids; a context has at least one, and both together at most
            ``max_length + 1``, as nothing is asked of the last.
        done : callable, optional
            ``done(i, logprob, is_greedy)`` is called for every pair as soon as its
            result is known, in the order of scoring. What it raises ends the call.

        Returns
        -------
        list of (float, bool)
            Natural log, summed over the continuation's tokens; whether each of them is
            the likeliest at its place, equal logits by the lower id. An empty
            continuation has (0.0, True).

        Raises
        ------
        ValueError
            For an empty context or an id outside the vocabulary.
        ContextLengthError
            For a pair that is too long.
        """
        contexts = [self._encode(context)[0] for context, _ in pairs]
        sequences = [
            ids + (self._encode(added)[0] if len(added) else [])
            for ids, (_, added) in zip(contexts, pairs, strict=True)
        ]
        core = in_force(self).core
        with self._session() as session:
            return session.likelihoods(
                sequences, [len(ids) for ids in contexts], core, done
            )

    def hidden(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        layers: Sequence[int] = (-1,),
        positions: Positions = "last",
    ) -> Any:
        """Hidden states of a text, or of each of several.

        Prefixes that texts share are evaluated once. With controls in force, states are
        read after the edits.

        Parameters
        ----------
        texts : str, token ids, or a list of either
        layers : list of int, default=(-1,)
            0 to n_layer - 1: the residual stream after that layer. -1: the final normed
            state, the input of the head. In terms of transformers' ``hidden_states``:
            layer i is ``hidden_states[i + 1]`` and -1 is ``hidden_states[-1]``, with
            the one difference that layer n_layer - 1 is the stream before the final
            norm, which transformers does not return.
        positions : {"last", "all", "mean"} or list of int, default="last"
            Tokens to read: the last, all, their mean, or those at some indices, which
            may count from the end.

        Returns
        -------
        ndarray of float32, shape (n_texts, n_layers, n_embd)
            ``positions="all"``: a list of arrays (n_layers, n_tokens, n_embd), one a
            text, without padding. A list of positions: (n_texts, n_layers, n_positions,
            n_embd). One text instead of a list: without the first axis.
        """
        taps = residual_taps(layers, self.hparams.n_layer)
        return self._states(texts, taps, positions)

    def head_outputs(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        layers: Sequence[int],
        positions: Positions = "last",
    ) -> Any:
        """Outputs of the attention heads, before their projection.

        Parameters
        ----------
        texts, positions
            As for :meth:`hidden`.
        layers : list of int
            0 to n_layer - 1.

        Returns
        -------
        ndarray of float32, shape (n_texts, n_layers, n_head, head_dim)
            With "all" and a list of positions as for :meth:`hidden`: the position comes
            after the layer.
        """
        found = self._states(texts, head_taps(layers, self.hparams.n_layer), positions)
        shape = self.hparams.n_head, self.hparams.head_dim
        if isinstance(found, list):
            return [array.reshape(*array.shape[:-1], *shape) for array in found]
        return found.reshape(*found.shape[:-1], *shape)

    def _logprobs(self, prompts: list[Any], completions: list[Any]) -> list[Any]:
        sequences, n_prompts, counts = [], [], []
        for prompt, given in zip(prompts, completions, strict=True):
            ids, text = self._encode(prompt)
            several = is_batch(given)
            for completion in given if several else [given]:
                sequences.append(ids + self._encode_completion(ids, text, completion))
                n_prompts.append(len(ids))
            counts.append(len(given) if several else None)
        core = in_force(self).core
        with self._session() as session:
            rows = session.logprobs(sequences, n_prompts, core)
        sums = iter([float(sum(row)) for row in rows])
        return [
            next(sums) if n is None else [next(sums) for _ in range(n)] for n in counts
        ]

    def _states(self, texts: Any, taps: Any, positions: Positions) -> Any:
        if not is_batch(texts):
            return read_states(self, [self._encode(texts)[0]], taps, positions)[0]
        sequences = [self._encode(text)[0] for text in texts]
        states = read_states(self, sequences, taps, positions)
        return states if positions == "all" else np.stack(states)

    def _completion_states(
        self, prompts: Sequence[Any], completions: Sequence[Any], layers: Sequence[int]
    ) -> list[np.ndarray]:
        """Those of a prompt's last token and of its completion's tokens, for each:
        (n_tokens + 1, n_layers, n_embd). An end token at the end is left out. Where the
        prompt has no token, the completion's first one stands in for its last."""
        sequences, starts = [], []
        for prompt, completion in zip(prompts, completions, strict=True):
            if prompt == "" and not self.tokenizer.encode(prompt):
                ids, n_prompt = self._encode(completion)[0], 0
            else:
                ids, n_prompt = self._encode_pair(prompt, completion)
            sequences.append(ids)
            starts.append(n_prompt - 1)
        rows = read_tails(self, sequences, [max(start, 0) for start in starts], layers)
        return [
            np.concatenate([row[:1], row]) if start < 0 else row
            for start, row in zip(starts, rows, strict=True)
        ]

    def _encode_pair(self, prompt: Prompt, completion: Prompt) -> tuple[list[int], int]:
        """Ids of both, but an end token at the end, and how many are the prompt's."""
        ids, text = self._encode(prompt)
        added = self._encode_completion(ids, text, completion)
        if added and added[-1] in self.tokenizer.eos_token_ids:
            added = added[:-1]
        return ids + added, len(ids)

    def _encode_completion(
        self, ids: list[int], text: str, completion: Prompt
    ) -> list[int]:
        if not isinstance(completion, str):
            return self._encode(completion)[0] if len(completion) else []
        joint = self.tokenizer.encode(text + completion)
        if joint[: len(ids)] == ids:
            return joint[len(ids) :]
        return self.tokenizer.encode(completion, add_special_tokens=False)
