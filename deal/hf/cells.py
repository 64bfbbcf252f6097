"""A torch model's forward pass for the engine's trie, and cells of the trie's nodes.

Every node of the trie has a cell: its keys and values in every layer. A row of a call
is a context of cells, gathered into a ``DynamicCache`` with padding on the left, and
the tokens that follow it; what the model adds to the cache becomes their cells.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, LogitsProcessorList

from deal import _core
from deal._errors import KVBudgetError

_LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer")  # whose cells stand for tokens
_LOGITS_SIZE = 256 << 20  # most bytes of logits kept with nodes


def check_model(model: Any) -> None:
    """NotImplementedError or ValueError where a model cannot be searched.

    Its cache must be one of keys and values by token, and its results not drawn.
    """
    what = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise NotImplementedError(f"{what}: expected a decoder alone, got two parts")
    if model.training:
        raise ValueError(
            f"{what}: expected a model in evaluation mode, as dropout makes every "
            "forward pass another; call model.eval()"
        )
    layers = getattr(DynamicCache(config=model.config), "layers", [])
    others = {type(x).__name__ for x in layers} - set(_LAYERS)
    if others or getattr(model, "_is_stateful", False):
        raise NotImplementedError(
            f"{what}: expected a cache of keys and values by token, got "
            f"{', '.join(sorted(others)) or 'a state'}"
        )


class TorchCells:
    """Cells of a trie's nodes, and the forward pass that makes them.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    n_vocab, max_length : int
    n_row : int
        Most rows of one forward pass.
    budget : int or None
        Most bytes of keys and values; the search makes do with them where it can.
    prompt : LongTensor, shape (1, n_prompt)
        With its padding, for logits processors.
    n_pad : int
        Padding at its start.
    processors : LogitsProcessorList
        Applied to the logits of every node: the search sees what they make of them.

    Attributes
    ----------
    trie : deal._core.CallbackLM
        A trie over this pass; the two hold each other until :meth:`close`.
    """

    def __init__(
        self,
        model: Any,
        n_vocab: int,
        max_length: int,
        n_row: int,
        budget: int | None,
        prompt: torch.Tensor,
        n_pad: int,
        processors: LogitsProcessorList,
    ) -> None:
        self._model = model
        self._budget = budget
        self._padding = prompt[0, :n_pad].tolist()
        self._processors = processors
        self._device = model.get_input_embeddings().weight.device
        self._layers: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        self._capacity = 0
        self._tokens = np.zeros(0, np.int32)
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._has_positions = "position_ids" in parameters
        self._has_keep = "logits_to_keep" in parameters
        n_logits = max(64, _LOGITS_SIZE // (4 * n_vocab))
        self.trie = _core.CallbackLM(self, n_vocab, max_length, n_row, n_logits)

    def close(self) -> None:
        """Free the cells, also where the traceback of an error still holds this."""
        self._layers = []
        self._model = self.trie = None

    @property
    def size(self) -> int:
        """Bytes of keys and values held."""
        tensors = [x for pair in self._layers if pair is not None for x in pair]
        return sum(x.numel() * x.element_size() for x in tensors)

    @torch.no_grad()
    def __call__(
        self,
        past: np.ndarray,
        nodes: np.ndarray,
        tokens: np.ndarray,
        wanted: np.ndarray,
    ) -> np.ndarray:
        """Evaluate rows; see csrc/model/callback_lm.h.

        Parameters
        ----------
        past : ndarray of int32, shape (n_row, n_past)
        nodes, tokens, wanted : ndarray of int32, shape (n_row, n_new)

        Returns
        -------
        ndarray of float32, shape (n_wanted, n_vocab)
        """
        n_past, n_new = past.shape[1], nodes.shape[1]
        is_past, is_new = past >= 0, nodes >= 0
        self._reserve(int(nodes.max()) + 1)
        self._tokens[nodes[is_new]] = tokens[is_new]
        cache = self._gather(past)
        columns = wanted.any(0)
        n_keep = n_new - int(columns.argmax()) if columns.any() else 1
        inputs: dict[str, Any] = {
            "input_ids": self._tensor(tokens),
            "attention_mask": self._tensor(np.concatenate([is_past, is_new], axis=1)),
            self._cache_name: cache,
            "use_cache": True,
            "return_dict": True,
        }
        if self._has_positions:
            # Right of a row's last token nothing counts, but the position must exist.
            steps = np.minimum(np.arange(n_new), is_new.sum(1, keepdims=True) - 1)
            inputs["position_ids"] = self._tensor(is_past.sum(1, keepdims=True) + steps)
        if self._has_keep:
            inputs["logits_to_keep"] = n_keep
        logits = self._model(**inputs).logits[:, -n_keep:]
        self._store(cache, nodes, n_past)
        is_wanted = torch.from_numpy(wanted[:, n_new - n_keep :] != 0)
        rows = logits[is_wanted.to(logits.device)].float()
        rows = self._process(past, nodes, wanted, rows)
        return np.ascontiguousarray(rows.cpu().numpy())

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self._device)

    def _reserve(self, n_node: int) -> None:
        """Room for so many cells; twice as much as before where it does not fit."""
        if n_node <= self._capacity:
            return
        capacity = max(n_node, 2 * self._capacity)
        if (most := self._most()) is not None:
            capacity = min(capacity, most)  # to which the trie keeps
        self._capacity = capacity
        self._tokens = np.resize(self._tokens, capacity)
        self._layers = [
            None if pair is None else (self._grown(pair[0]), self._grown(pair[1]))
            for pair in self._layers
        ]

    def _most(self) -> int | None:
        """Cells that the budget has room for, one of which, the root's, stays empty;
        None for any number."""
        if self._budget is None or not self._layers:
            return None
        tensors = [x for pair in self._layers if pair is not None for x in pair]
        return self._budget // sum(x[0].numel() * x.element_size() for x in tensors)

    def _grown(self, cells: torch.Tensor) -> torch.Tensor:
        grown = cells.new_zeros((self._capacity, *cells.shape[1:]))
        grown[: len(cells)] = cells
        return grown

    def _gather(self, past: np.ndarray) -> DynamicCache:
        """Cells of every row's context, (n_row, n_head, n_past, head_dim) a layer."""
        cache = DynamicCache()
        if past.shape[1] == 0:
            return cache
        index = self._tensor(np.maximum(past, 0))
        for i, pair in enumerate(self._layers):
            if pair is not None:
                keys, values = (x[index.to(x.device)].transpose(1, 2) for x in pair)
                cache.update(keys, values, i)
        return cache

    def _store(self, cache: DynamicCache, nodes: np.ndarray, n_past: int) -> None:
        """Cells of the new nodes, out of the cache that the model has filled."""
        layers = [
            (x.keys, x.values) if getattr(x, "keys", None) is not None else None
            for x in cache.layers
        ]
        lengths = {pair[0].shape[2] for pair in layers if pair is not None}
        if lengths != {n_past + nodes.shape[1]}:
            raise NotImplementedError(
                f"{type(self._model).__name__}: expected a forward pass that adds the "
                "keys and values of every token to a DynamicCache, "
                f"{n_past + nodes.shape[1]} in all, got {sorted(lengths) or 'none'}"
            )
        if not self._layers:
            self._layers = [
                None
                if pair is None
                else tuple(
                    x.new_zeros((self._capacity, x.shape[1], x.shape[3])) for x in pair
                )
                for pair in layers
            ]
            self._check_budget()
        is_new = torch.from_numpy(nodes >= 0)
        index = torch.from_numpy(nodes[nodes >= 0].astype(np.int64))
        for cells, made in zip(self._layers, layers, strict=True):
            for to, x in zip(cells or (), made or (), strict=True):
                new = x[:, :, n_past:].transpose(1, 2)
                to[index.to(x.device)] = new[is_new.to(x.device)]

    def _check_budget(self) -> None:
        """Holds the trie to the budget, now that the size of a cell is known."""
        most = self._most()
        if most is None:
            return
        if self._capacity > most:
            raise KVBudgetError(
                f"kv_budget: expected room for the prompt's {self._capacity - 1} "
                f"tokens, got {self._budget} bytes, room for {most - 1}"
            )
        self.trie.set_node_max(most)

    def _process(
        self,
        past: np.ndarray,
        nodes: np.ndarray,
        wanted: np.ndarray,
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """What the logits processors make of each row, told the tokens before it."""
        if not self._processors:
            return rows
        out = []
        for at, (r, j) in enumerate(zip(*np.nonzero(wanted), strict=True)):
            before = np.concatenate([past[r][past[r] >= 0], nodes[r, : j + 1]])
            ids = [*self._padding, *self._tokens[before].tolist()]
            tokens = torch.tensor([ids], device=rows.device)
            out.append(self._processors(tokens, rows[at : at + 1]))
        return torch.cat(out) if out else rows
