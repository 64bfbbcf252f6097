"""Native scorers whose functions are Python, through ctypes: any member can be set to
anything, as an extension gone wrong would.

`Scorer` is sound: the number of bytes "a" over ten, with the bounds of that. Its state
is two doubles, that number and the most bytes of a token.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import (
    POINTER,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_void_p,
)
from typing import Any

NAME = b"deal.reward.v1"


class Prompt(ctypes.Structure):
    _fields_ = [
        ("text", c_void_p),
        ("size", c_size_t),
        ("n_new_max", c_int32),
        ("token_size_max", c_int32),
    ]


class Text(ctypes.Structure):
    _fields_ = [
        ("text", c_void_p),
        ("size", c_size_t),
        ("n_tokens", c_int32),
        ("is_finished", c_int32),
    ]


State = POINTER(c_double)
Out = POINTER(c_double)
Texts = POINTER(Text)
FUNCTIONS = {
    "init": [State, POINTER(Prompt), c_void_p],
    "fork": [State, State, c_void_p],
    "drop": [State],
    "advance": [State, c_int32, c_void_p, c_size_t, c_void_p],
    "score": [State, c_int32, Out, c_void_p],
    "bounds": [State, c_int32, Out, Out, c_void_p],
    "score_texts": [c_void_p, c_size_t, Texts, c_int32, Out, c_void_p],
    "bounds_texts": [
        c_void_p, c_size_t, Texts, POINTER(c_int32), c_int32, Out, Out, c_void_p,
    ],
    "observe": [State, c_int32, POINTER(c_float), c_void_p],
}  # fmt: skip
TYPES = {
    name: ctypes.CFUNCTYPE(None if name == "drop" else c_int, c_void_p, *arguments)
    for name, arguments in FUNCTIONS.items()
}


class DealReward(ctypes.Structure):
    """`deal_reward` of the header, member for member."""

    _fields_ = [
        ("abi_version", c_uint32),
        ("struct_size", c_uint32),
        ("self", c_void_p),
        ("name", c_char_p),
        ("low", c_double),
        ("high", c_double),
        ("state_size", c_size_t),
        *((name, TYPES[name]) for name in list(TYPES)[:-1]),
        ("is_impure", c_int32),
        ("n_hidden_layers", c_int32),
        ("hidden_layers", POINTER(c_int32)),
        ("n_embd", c_int32),
        ("observe", TYPES["observe"]),
        ("is_text_alone", c_int32),
    ]


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [c_void_p, c_char_p, c_void_p]
set_name = ctypes.pythonapi.PyCapsule_SetName
set_name.argtypes = [ctypes.py_object, c_char_p]
get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
get_pointer.restype = c_void_p
get_pointer.argtypes = [ctypes.py_object, c_char_p]
DESTRUCTOR = ctypes.CFUNCTYPE(None, c_void_p)
_alive: list[Any] = []  # what capsules point to


class Scorer:
    """The sound scorer; subclasses and arguments break it.

    Parameters
    ----------
    is_texts : bool
        The form on texts.
    """

    def __init__(self, is_texts: bool = False) -> None:
        self.is_texts = is_texts
        self.n_live = 0  # states that were made and not dropped
        self.n_destroyed = 0  # capsules

    # What subclasses change, in Python's terms.

    def worth(self, n: float) -> float:
        return min(n, 10.0) / 10.0

    def range(self, n: float, n_left: int, size_max: float) -> tuple[float, float]:
        return self.worth(n), self.worth(n + n_left * size_max)

    def count(self, data: bytes) -> float:
        return data.count(b"a")

    # The functions of the header.

    def init(self, _: Any, state: Any, prompt: Any, message: Any) -> int:
        state[0], state[1] = 0.0, prompt[0].token_size_max
        self.n_live += 1
        return 0

    def fork(self, _: Any, to: Any, state: Any, message: Any) -> int:
        to[0], to[1] = state[0], state[1]
        self.n_live += 1
        return 0

    def drop(self, _: Any, state: Any) -> None:
        self.n_live -= 1

    def advance(
        self, _: Any, state: Any, token: int, data: Any, size: int, message: Any
    ) -> int:
        state[0] += self.count(ctypes.string_at(data, size))
        return 0

    def score(self, _: Any, state: Any, end: int, out: Any, message: Any) -> int:
        out[0] = self.worth(state[0])
        return 0

    def bounds(
        self, _: Any, state: Any, n_left: int, low: Any, high: Any, message: Any
    ) -> int:
        low[0], high[0] = self.range(state[0], n_left, state[1])
        return 0

    def score_texts(
        self, _: Any, prompt: Any, size: int, texts: Any, n: int, out: Any, message: Any
    ) -> int:
        for i in range(n):
            data = ctypes.string_at(texts[i].text, texts[i].size)
            out[i] = self.worth(self.count(data))
        return 0

    def bounds_texts(
        self,
        _: Any,
        prompt: Any,
        size: int,
        texts: Any,
        left: Any,
        n: int,
        low: Any,
        high: Any,
        message: Any,
    ) -> int:
        for i in range(n):
            data = ctypes.string_at(texts[i].text, texts[i].size)
            low[i], high[i] = self.range(self.count(data), left[i], 64.0)
        return 0

    def names(self) -> list[str]:
        """Functions of this form."""
        if self.is_texts:
            return ["score_texts", "bounds_texts"]
        return ["init", "fork", "drop", "advance", "score", "bounds"]

    def function(self, name: str, fn: Callable[..., Any] | None = None) -> Any:
        made = TYPES[name](fn or getattr(self, name))
        _alive.append(made)
        return made

    def struct(self, **members: Any) -> DealReward:
        """`deal_reward` with these members, the others as they should be."""
        given = {name: self.function(name) for name in self.names()}
        for name, fn in members.items():
            if name in TYPES:
                given[name] = TYPES[name]() if fn is None else self.function(name, fn)
            else:
                given[name] = fn
        head = {
            "abi_version": 1,
            "struct_size": ctypes.sizeof(DealReward),
            "name": b"scorer",
            "low": 0.0,
            "high": 1.0,
            "state_size": 0 if self.is_texts else 16,
        }
        return DealReward(**(head | given))

    def capsule(self, label: bytes | None = NAME, **members: Any) -> Any:
        struct = self.struct(**members)

        def destroy(_: Any) -> None:
            self.n_destroyed += 1
            ctypes.memset(ctypes.addressof(struct), 0xDD, ctypes.sizeof(struct))

        destructor = DESTRUCTOR(destroy)
        _alive.append((struct, destructor, label))
        return new_capsule(
            ctypes.addressof(struct), label, ctypes.cast(destructor, c_void_p)
        )
