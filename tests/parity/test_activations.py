"""Activations that are read and edited, against the NumPy model that does the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy_llama
import pytest
from tiny_model import TinyConfig, TinyModel, make_tiny, write_gguf, write_hf_folder

import deal

# f32 sums in another order, as for logits in test_tiny_models.py. Activations are of
# order one, the edits here too.
TOLERANCE = 5e-4

CONFIG = TinyConfig(n_layer=3, seed=4)
TOKENS = [int(t) for t in np.random.default_rng(5).integers(0, CONFIG.n_vocab, 70)]
N_PROMPT = 40


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return make_tiny(CONFIG)


@pytest.fixture(scope="module", params=["gguf", "folder"])
def lm(
    tiny: TinyModel,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> deal.Model:
    path = tmp_path_factory.mktemp("controls") / "tiny.gguf"
    if request.param == "gguf":
        write_gguf(tiny, path)
    else:
        path = path.with_suffix("")
        write_hf_folder(tiny, path)
    return deal.load(path, compute="f32", threads=2)


def read_all(tiny: TinyModel, tokens: list[int]) -> dict[tuple[str, int], np.ndarray]:
    found = {}

    def visit(site: str, layer: int, x: np.ndarray) -> np.ndarray:
        found[site, layer] = x
        return x

    numpy_llama.forward(tiny.config, tiny.weights, tokens, visit)
    return found


def close(a: np.ndarray, b: np.ndarray) -> bool:
    assert a.dtype == np.float32 and a.shape == b.shape
    return float(np.abs(a - b).max()) <= TOLERANCE


# --- reading -------------------------------------------------------------------------


def test_hidden_is_transformers_hidden_states(tiny: TinyModel, lm: deal.Model) -> None:
    """hidden_states: the embeddings, each layer's output, the last of them normed."""
    found = read_all(tiny, TOKENS)
    n = CONFIG.n_layer
    hidden_states = [found["embedding", 0]]
    hidden_states += [found["residual", i] for i in range(n - 1)]
    hidden_states.append(found["final", -1])
    layers = [*range(n), -1]
    h = lm.hidden(TOKENS, layers=layers, positions="all")
    for i in range(n - 1):
        assert close(h[i], hidden_states[i + 1])
    assert close(h[n], hidden_states[-1])
    assert close(h[n - 1], found["residual", n - 1])
    last = lm.hidden(TOKENS, layers=layers)
    assert np.array_equal(last, h[:, -1])
    mean = lm.hidden(TOKENS, layers=layers, positions="mean")
    assert np.array_equal(mean, h.mean(1, dtype=np.float64).astype(np.float32))
    some = lm.hidden(TOKENS, layers=layers, positions=[5, -1, 0, 5])
    assert np.array_equal(some, h[:, [5, -1, 0, 5]])
    assert lm.hidden(TOKENS).shape == (1, CONFIG.n_embd)


def test_head_outputs(tiny: TinyModel, lm: deal.Model) -> None:
    found = read_all(tiny, TOKENS)
    z = lm.head_outputs(TOKENS, layers=[2, 0], positions="all")
    assert close(z[0], found["heads", 2])
    assert close(z[1], found["heads", 0])
    last = lm.head_outputs([TOKENS, TOKENS[:9]], layers=[2, 0])
    assert last.shape == (2, 2, CONFIG.n_head, CONFIG.head_dim)
    assert np.array_equal(last[0], z[:, -1]) and np.array_equal(last[1], z[:, 8])


# --- editing -------------------------------------------------------------------------

RNG = np.random.default_rng(6)
VECTOR = RNG.normal(size=CONFIG.n_embd)
MATRIX = RNG.normal(size=(CONFIG.head_dim, CONFIG.head_dim)) / 4
DIAGONAL = RNG.uniform(-2, 2, CONFIG.head_dim)
SHIFT = RNG.normal(size=CONFIG.head_dim)


def fold(states: np.ndarray) -> np.ndarray:
    """Something that is not linear, row by row."""
    return states * 0.5 + np.tanh(states[:, ::-1])


def tokens_at(where: str, n_token: int, n_prompt: int) -> slice:
    return {
        "all": slice(0, n_token),
        "prompt": slice(0, n_prompt),
        "completion": slice(n_prompt, n_token),
        "last": slice(n_prompt - 1, n_prompt),
    }[where]


def as_visit(
    controls: list, n_prompt: int
) -> Callable[[str, int, np.ndarray], np.ndarray]:
    """The same edits for the NumPy model."""

    def visit(site: str, layer: int, x: np.ndarray) -> np.ndarray:
        x = x.copy()
        for c in controls:
            at = tokens_at(c.where, len(x), n_prompt)
            if isinstance(c, deal.AddResidual) and (site, layer) == (
                "residual",
                c.layer,
            ):
                x[at] += c.scale * c.vector
            if isinstance(c, deal.MapHead) and (site, layer) == ("heads", c.layer):
                z = x[at, c.head]
                if c.matrix is not None:
                    z = z * c.matrix if c.matrix.ndim == 1 else z @ c.matrix.T
                x[at, c.head] = z if c.shift is None else z + c.shift
            if isinstance(c, deal.EditFinal) and site == "final":
                if c.where in ("prompt", "completion"):
                    at = tokens_at(c.where, len(x), n_prompt - 1)
                x[at] = c.fn(x[at]) if len(x[at]) else x[at]
        return x

    return visit


SETS = {
    "residual": lambda w: [deal.AddResidual(1, VECTOR, scale=0.7, where=w)],
    "matrix": lambda w: [deal.MapHead(0, 2, MATRIX, SHIFT, where=w)],
    "diagonal": lambda w: [deal.MapHead(2, 0, DIAGONAL, where=w)],
    "shift": lambda w: [deal.MapHead(1, 3, shift=SHIFT, where=w)],
    "final": lambda w: [deal.EditFinal(fold, where=w)],
    "many": lambda w: [
        deal.EditFinal(fold),
        deal.AddResidual(0, VECTOR, where=w),
        deal.MapHead(1, 3, MATRIX),
        deal.MapHead(1, 3, shift=SHIFT),  # after the map, not before
        deal.AddResidual(2, VECTOR, scale=-1.0),
        deal.EditFinal(np.tanh, where=w),
    ],
}


@pytest.mark.parametrize("where", ["all", "prompt", "completion", "last"])
@pytest.mark.parametrize("name", SETS)
def test_edits(tiny: TinyModel, lm: deal.Model, name: str, where: str) -> None:
    controls = SETS[name](where)
    visit = as_visit(controls, N_PROMPT)
    logits = numpy_llama.forward(tiny.config, tiny.weights, TOKENS, visit)
    plain = numpy_llama.forward(tiny.config, tiny.weights, TOKENS)
    rows = numpy_llama.log_softmax(logits[N_PROMPT - 1 : -1])
    wanted = rows[np.arange(len(rows)), TOKENS[N_PROMPT:]].sum()
    with lm.controls(controls):
        score = lm.logprob(TOKENS[:N_PROMPT], TOKENS[N_PROMPT:])
        whole = lm.logits(TOKENS)  # all of it is prompt
        generated = lm.generate(TOKENS[:N_PROMPT], max_new_tokens=6, eos_token_id=[])
    assert score == pytest.approx(wanted, abs=TOLERANCE * len(rows))
    visit = as_visit(controls, len(TOKENS))
    expected = numpy_llama.forward(tiny.config, tiny.weights, TOKENS, visit)
    assert close(whole, expected)
    has_edit = where in ("all", "prompt") or name == "many"
    assert (np.abs(expected[:-1] - plain[:-1]).max() > 0.01) == has_edit
    # Greedy decoding takes the edited model's most likely token at each step.
    ids = TOKENS[:N_PROMPT]
    for token in generated.token_ids:
        visit = as_visit(controls, N_PROMPT)
        logits = numpy_llama.forward(tiny.config, tiny.weights, ids, visit)[-1]
        assert logits[token] >= logits.max() - TOLERANCE
        ids = [*ids, token]


def test_states_are_read_after_the_edits(tiny: TinyModel, lm: deal.Model) -> None:
    controls = SETS["many"]("all")
    found = {}
    edit = as_visit(controls, len(TOKENS))

    def visit(site: str, layer: int, x: np.ndarray) -> np.ndarray:
        found[site, layer] = edit(site, layer, x)
        return found[site, layer]

    numpy_llama.forward(tiny.config, tiny.weights, TOKENS, visit)
    with lm.controls(controls):
        h = lm.hidden(TOKENS, layers=[0, 1, 2, -1], positions="all")
        z = lm.head_outputs(TOKENS, layers=[1], positions="all")
    for i in range(3):
        assert close(h[i], found["residual", i])
    assert close(h[3], found["final", -1])
    assert close(z[0], found["heads", 1])
