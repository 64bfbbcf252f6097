"""The C core as Python objects; see csrc/python/module.c. Internal, but for what the
package hands out.

Names that begin with an underscore are of this stub alone. Where a list, tuple or dict
stands here, the core takes no other sequence or mapping. Constants are those of the C
headers: deal/settings.py and its neighbours translate names into them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, final

import numpy as np
from _typeshed import ReadableBuffer, StrOrBytesPath
from numpy.typing import ArrayLike, NDArray
from typing_extensions import CapsuleType, Self

_Ids: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]  # flat, (n,)
_Floats: TypeAlias = Sequence[float] | NDArray[np.floating[Any]]  # flat, (n,)
# (steps, best step, loss, held-out loss, converged)
_Report: TypeAlias = tuple[int, int, float, float, bool]
_Buffer: TypeAlias = ReadableBuffer | NDArray[Any]  # contiguous
_OnStep: TypeAlias = Callable[[int, float, float], object]  # step, loss, held-out loss

# Items of lists, which are invariant: a list[list[int]] is as good as any.
_IdsT = TypeVar("_IdsT", bound=_Ids)
_WordsT = TypeVar("_WordsT", bound=Sequence[str])
_SourceT = TypeVar("_SourceT", bound=StrOrBytesPath | _Buffer)

# ---- Models --------------------------------------------------------------------------

_Hparams: TypeAlias = dict[str, Any]  # every field of deal_hparams; flags as 0, 1

@final
class Gguf:
    def __new__(cls, path: StrOrBytesPath) -> Self: ...
    # str, int, float, bool, list of str, or ndarray of numbers
    @property
    def metadata(self) -> dict[str, Any]: ...
    # (name, type name, shape), fastest dimension last
    @property
    def tensors(self) -> list[tuple[str, str, tuple[int, ...]]]: ...

@final
class Model:  # made by from_gguf and from_tensors alone
    @classmethod
    def from_gguf(cls, path: StrOrBytesPath, compute: int, /) -> Self: ...
    # tensors: (name, type, shape, i_file, offset, size)
    @classmethod
    def from_tensors(
        cls,
        hparams: _Hparams,
        tensors: list[tuple[str, int, tuple[int, ...], int, int, int]],
        files: list[_SourceT],
        compute: int,
        /,
    ) -> Self: ...
    def kv_page_size(self, kv_type: int, /) -> int: ...
    @property
    def hparams(self) -> _Hparams: ...
    @property
    def owned_size(self) -> int: ...

@final
class Controls:
    # edits: (site, where, layer, head, matrix, vector, control); taps: (site, layer)
    def __new__(
        cls,
        model: Model,
        edits: list[
            tuple[
                int,
                int,
                int,
                int,
                ArrayLike | None,
                ArrayLike | None,
                CapsuleType | Callable[[NDArray[np.float32]], ArrayLike] | None,
            ]
        ],
        taps: list[tuple[int, int]],
    ) -> Self: ...

@final
class Session:
    def __new__(
        cls,
        model: Model,
        max_length: int,
        threads: int,
        kv_type: int = 0,
        kv_budget: int = 0,
    ) -> Self: ...
    # (n_ids - first, n_vocab)
    def logits(
        self, ids: _Ids, controls: Controls | None = None, first: int = 0, /
    ) -> NDArray[np.float32]: ...
    def logprobs(
        self,
        sequences: list[_IdsT],
        n_prompts: list[int],
        controls: Controls | None = None,
        /,
    ) -> list[list[float]]: ...
    def likelihoods(
        self,
        sequences: list[_IdsT],
        n_prompts: list[int],
        controls: Controls | None = None,
        done: Callable[[int, float, bool], object] | None = None,
        /,
    ) -> list[tuple[float, bool]]: ...
    # one (n_slot, tap_len) for each sequence
    def states(
        self, sequences: list[_IdsT], slots: list[_Ids] | None, controls: Controls, /
    ) -> list[NDArray[np.float32]]: ...
    @property
    def size(self) -> int: ...
    @property
    def kv_size(self) -> int: ...
    @property
    def n_live(self) -> int: ...
    @property
    def n_forward_tokens(self) -> int: ...
    @property
    def n_forward_passes(self) -> int: ...

@final
class CallbackLM:
    # evaluate(past, nodes, tokens, wanted), int32 (n_row, n_past) and (n_row, n_new),
    # gives float32 (n_wanted, n_vocab)
    def __new__(
        cls,
        evaluate: Callable[
            [
                NDArray[np.int32],
                NDArray[np.int32],
                NDArray[np.int32],
                NDArray[np.int32],
            ],
            ArrayLike,
        ],
        n_vocab: int,
        max_length: int,
        n_row_max: int,
        n_logits_max: int,
        n_node_max: int = 0,
    ) -> Self: ...
    def set_node_max(self, n: int, /) -> None: ...
    @property
    def n_live(self) -> int: ...
    @property
    def n_logits(self) -> int: ...
    @property
    def n_node_cap(self) -> int: ...

_LM: TypeAlias = Session | CallbackLM | BatchLM

@final
class Reader:
    def __new__(
        cls, session: Session, controls: Controls | None = None, n_keep: int = 2048
    ) -> Self: ...
    def logprobs(
        self, sequences: list[_IdsT], n_prompts: list[int], /
    ) -> list[float]: ...
    # (n, tap_len)
    def states(
        self, sequences: list[_IdsT], begins: list[int], n_prompts: list[int], /
    ) -> NDArray[np.float32]: ...
    def close(self) -> None: ...
    @property
    def n_kept(self) -> int: ...

def branches(
    session: Session, prefix: _Ids, first: _Ids, n_step: int, /
) -> tuple[list[list[int]], float, float]: ...
def probe(threads: int, /) -> tuple[float, float]: ...

class _BuildInfo(TypedDict):
    version: str
    kernels: str
    blas: str

def build_info() -> _BuildInfo: ...

# ---- Texts ---------------------------------------------------------------------------

@final
class Vocab:
    def __new__(
        cls,
        pieces: list[bytes],
        kinds: bytes,
        byte_rule: int,
        strips_leading_space: int,
    ) -> Self: ...
    def __len__(self) -> int: ...
    def piece(self, id: int, /) -> bytes: ...
    def kind(self, id: int, /) -> int: ...
    def decode(self, ids: _Ids, continues: bool = False) -> str: ...
    def detokenizer(self, continues: bool = False) -> Detokenizer: ...

@final
class Detokenizer:  # made by Vocab.detokenizer alone
    def push(self, id: int, /) -> str: ...
    def pending(self) -> str: ...

# ---- The search ----------------------------------------------------------------------

class _Result(TypedDict):
    token_ids: list[int]
    text: str
    logprob: float
    reward: float
    rewards: list[float]
    score: float
    finish_reason: Literal["length", "stop", "dead_end"]

class _Stats(TypedDict):
    n_skipped: int
    n_reused_tokens: int
    n_pruned: int
    n_settled: int
    n_draft_tokens: int
    n_draft_accepted: int
    n_ahead_tokens: int
    n_in_vain: int
    n_prompt_tokens: int
    n_forward_tokens: int
    n_forward_passes: int
    n_steps: int
    n_rollouts: int
    n_rollout_tokens: int
    n_reward_calls: int
    n_reward_texts: int
    seconds_prefill: float
    seconds_forward: float
    seconds_reward: float
    seconds_total: float
    n_rollout_model_tokens: int
    n_rollout_model_passes: int
    seconds_rollout_model: float
    n_recalled_tokens: int

class _TraceRow(TypedDict):
    step: int
    beam: int
    next_beam: int
    n_committed: int
    token_id: int
    logprob: float
    reward: float
    rewards: list[float]
    score: float
    low: float
    high: float
    is_finished: bool
    is_chosen: bool
    is_skipped: bool
    rollout: list[int]

@final
class Formula:
    # terms: (kind, i, n, x)
    def __new__(
        cls,
        terms: tuple[tuple[int, int, int, float], ...],
        numbers: _Floats,
        n_reward: int,
    ) -> Self: ...
    def value(self, scores: _Floats, position: int, /) -> float: ...
    def range(
        self, low: _Floats, high: _Floats, position: int, /
    ) -> tuple[float, float]: ...

@final
class Recall:
    def __new__(
        cls, session: Session, controls: Controls | None, n_top: int, n_node_max: int
    ) -> Self: ...

@final
class BatchLM:
    def leave(self) -> None: ...

@final
class Batch:
    def __new__(
        cls, session: Session, rollout_session: Session | None = None
    ) -> Self: ...
    def join(self) -> tuple[BatchLM, BatchLM | None]: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...

@final
class Search:
    # params: every field of deal_search_params
    def __new__(
        cls,
        session: _LM,
        vocab: Vocab,
        prompt: _Ids,
        prompt_text: str,
        end_tokens: _Ids,
        stop: tuple[bytes, ...],
        rewards: tuple[CapsuleType, ...],
        weights: tuple[float, ...],
        params: dict[str, int | float],
        controls: Controls | None = None,
        rollout_session: _LM | None = None,
        rollout_controls: Controls | None = None,
        formula: Formula | None = None,
        recall: Recall | None = None,
        rollout_recall: Recall | None = None,
        constraint: CapsuleType | None = None,
    ) -> Self: ...
    def step(self) -> bool: ...
    def run(self) -> bool: ...
    # ends a search of one hypothesis with what it has
    def stop(self) -> None: ...
    def tokens(self) -> list[int]: ...
    def text(self) -> str: ...
    def results(self) -> list[_Result]: ...
    def stats(self) -> _Stats: ...
    def trace(self) -> list[_TraceRow]: ...

# ---- Rewards and constraints: capsules -----------------------------------------------

@final
class RewardState:
    def __new__(
        cls,
        capsule: CapsuleType,
        prompt: str,
        n_new_max: int = 2147483647,
        token_size_max: int = 2147483647,
    ) -> Self: ...
    def advance(self, bytes: bytes, token: int = -1) -> None: ...
    def observe(self, states: _Buffer, /) -> None: ...
    def score(self, is_finished: bool = False) -> float: ...
    def bounds(self, n_tokens_left: int, /) -> tuple[float, float]: ...
    def fork(self) -> Self: ...

# (name, low, high, is_incremental, is_pure, n_hidden)
def reward_info(
    capsule: CapsuleType, /
) -> tuple[str, float, float, bool, bool, int]: ...
def reward_seconds(
    capsule: CapsuleType, texts: Sequence[str], token_size: int, n_times: int, /
) -> float: ...
def check_scores(
    name: str, result: object, n: int, low: float, high: float, /
) -> list[float]: ...
def python_reward(
    name: str,
    fn: Callable[[str, list[str]], Any],
    low: float,
    high: float,
    bounds: Callable[[str, list[str], list[int]], Sequence[tuple[float, float]]]
    | None = None,
    is_pure: bool = True,
    /,
) -> CapsuleType: ...
def keywords(
    concepts: list[_WordsT],
    forbidden: list[_WordsT] = [],
    mode: int = 0,
    /,
) -> CapsuleType: ...
def length(unit: int, min: int, max: int, /) -> CapsuleType: ...
def repetition(measure: int, n: int, allowed: int, /) -> CapsuleType: ...
def format(
    starts_with: str | bytes | None = None,
    ends_with: str | bytes | None = None,
    bullets: int = -1,
    paragraphs: int = -1,
    placeholders: int = -1,
    highlights: int = -1,
    letter_case: int = 0,
    postscript: int = 0,
    no_commas: bool = False,
    quoted: bool = False,
    title: bool = False,
    is_all: bool = False,
) -> CapsuleType: ...
def lexicon(
    entries: Sequence[str],
    weights: _Floats,
    negators: Sequence[str],
    window: int,
    negation: float,
    per: int,
    alpha: float,
    /,
) -> CapsuleType: ...

# (kind, n_slot, words min and max, characters min and max, within words, folded,
#  signed, least word size, stop words, terms)
_Ngrams: TypeAlias = tuple[
    int,
    int,
    int,
    int,
    int,
    int,
    bool,
    bool,
    bool,
    int,
    Sequence[str],
    Sequence[str],
]

def ngram_model(
    what: _Ngrams,
    weight: _Buffer,
    idf: _Buffer | None,
    intercept: float,
    tf: int,
    is_normed: bool,
    /,
) -> CapsuleType: ...

# (weight, idf, intercept, report), arrays (1, n_slot)
def ngram_fit(
    what: _Ngrams,
    texts: Sequence[str],
    labels: _Floats,
    costs: _Floats,
    n_train: int,
    has_idf: bool,
    tf: int,
    is_normed: bool,
    l2: float,
    steps: int,
    tolerance: float,
    patience: int,
    on_step: _OnStep | None,
    /,
) -> tuple[NDArray[np.float32], NDArray[np.float32], float, _Report]: ...
def head(
    weight: _Buffer,
    bias: float,
    layers: _Ids,
    n_embd: int,
    pooling: int,
    hidden_weight: _Buffer,
    hidden_bias: _Buffer,
    activation: int,
    /,
) -> CapsuleType: ...
def head_decide(capsule: CapsuleType, x: _Buffer, n: int, /) -> bytes: ...

# (weight, bias, hidden weight, hidden bias, report)
def head_fit(
    x: _Buffer,
    n_in: int,
    target: _Buffer | None,
    cost: _Buffer | None,
    n_train: int,
    n_hidden: int,
    activation: int,
    l2: float,
    steps: int,
    tolerance: float,
    patience: int,
    seed: int,
    on_step: _OnStep | None,
    /,
) -> tuple[bytes, float, bytes, bytes, _Report]: ...

# (loss, gradient)
def head_fit_loss(
    x: _Buffer,
    n_in: int,
    target: _Buffer | None,
    cost: _Buffer | None,
    n_train: int,
    n_hidden: int,
    activation: int,
    l2: float,
    point: _Buffer,
    /,
) -> tuple[float, bytes]: ...

class _Matcher(Protocol):
    # is_error, get_error and compute_ff_tokens may be missing
    def deep_copy(self) -> Any: ...
    def consume_token(self, id: int, /) -> bool: ...
    def compute_bitmask(self) -> bytes: ...
    def is_accepting(self) -> bool: ...

def matcher_constraint(
    name: str, matcher: _Matcher, n_vocab: int, /
) -> CapsuleType: ...
