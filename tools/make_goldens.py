"""Golden values for tests/parity, made with torch and transformers.

    python tools/make_goldens.py tiny
    python tools/make_goldens.py architectures
    python tools/make_goldens.py stories
    python tools/make_goldens.py chat
    python tools/make_goldens.py smollm2 --model SmolLM2-135M-Instruct.Q4_1.gguf

Not part of the tests: it needs ``torch transformers gguf safetensors accelerate`` and,
where installed, uses ``llama_cpp`` for a second opinion on tokens and int8 divergence.
Everything is f32 with eager attention; sampled text is seeded.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "parity")]

import chat_cases  # noqa: E402
import numpy_llama  # noqa: E402
import stories260k  # noqa: E402
import tiny_model  # noqa: E402
from tiny_model import TinyConfig  # noqa: E402

OUT = ROOT / "tests" / "parity" / "data"
END = 2  # <|im_end|> of SmolLM2

# Long enough for 64 positions; written for this file.
TEXT = (
    "The lighthouse keeper counted the ships every evening and wrote their names in a "
    "green notebook. In 1987 the harbour froze for eleven days, and nothing came in at "
    "all; he wrote the names of clouds instead. \u201cThey also arrive,\u201d he said, "
    "\u201cand they also leave.\u201d When the ice broke, the first boat through was a "
    "small blue ferry carrying mail, oranges and one very patient dog."
)

PLAIN_PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "Water boils at",
    "My favourite recipe for bread starts with",
    "In 1969, the first",
    "List of prime numbers: 2, 3, 5, 7,",
    "Dear Ms. Alvarez,\n\nThank you for",
    "The difference between a crocodile and an alligator is",
    "Roses are red,",
)
CHAT_PROMPTS = (
    "Write one sentence with the words: dog, frisbee, catch, throw.",
    "What is the boiling point of water?",
    "Explain photosynthesis to a child.",
    "Give me three names for a black cat.",
    "Translate to French: Good morning, my friend.",
    "Write a haiku about the sea.",
    "What is 17 + 25?",
    "Who wrote Romeo and Juliet?",
    "Summarize: The meeting was moved from Monday to Thursday because the room "
    "was taken.",
    "Is it safe to eat raw potatoes? Answer briefly.",
)
SAMPLED_PROMPTS = (
    "Tell me about the history of the bicycle.",
    "Write a short story about a robot who learns to paint.",
    "How do I plan a week of healthy meals?",
    "Explain how a refrigerator works, and why it needs a compressor.",
)
CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello!"}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Capital of Peru?"},
    ],
    [
        {
            "role": "user",
            "content": "Hi,\n\nI have a <b>question</b> & an \u00e9clair.",
        },
        {"role": "assistant", "content": "Ask away."},
        {"role": "user", "content": "  What is {{ 1 + 1 }}?  "},
    ],
)

TINY_CONFIGS = {
    "plain": TinyConfig(seed=1),
    "tied_biased": TinyConfig(
        seed=2, is_tied=True, has_attn_bias=True, has_mlp_bias=True
    ),
    "linear": TinyConfig(seed=3, rope_scaling="linear", rope_factor=4.0),
    "llama3": TinyConfig(
        seed=4, rope_scaling="llama3", rope_base=500000.0, head_dim=32
    ),
    "wide_heads": TinyConfig(seed=5, head_dim=24, n_head=4, n_head_kv=4),
    "narrow_heads": TinyConfig(
        seed=6, head_dim=6, n_head=4, n_head_kv=1, norm_eps=1e-6
    ),
}
GEMMA: dict[str, Any] = {"n_head": 2, "n_head_kv": 1, "head_dim": 256, "is_tied": True}
ARCHITECTURE_CONFIGS = {
    "qwen2": TinyConfig(seed=21, arch="qwen2", n_head=6, n_head_kv=2, n_embd=96),
    "qwen2_late_windows": TinyConfig(
        seed=22, arch="qwen2", n_layer=3, n_swa=20, swa_begin=1, is_tied=True
    ),
    "qwen3": TinyConfig(
        seed=23, arch="qwen3", n_head=2, n_head_kv=1, head_dim=128, norm_eps=1e-6
    ),
    "qwen3_tied": TinyConfig(
        seed=24, arch="qwen3", head_dim=24, is_tied=True, rope_base=1000000.0
    ),
    "qwen3_late_windows": TinyConfig(
        seed=25, arch="qwen3", n_layer=3, n_swa=33, swa_begin=2
    ),
    "mistral": TinyConfig(seed=26, arch="mistral", n_swa=20),
    "mistral_long_window": TinyConfig(seed=27, arch="mistral", n_swa=70, head_dim=32),
    "mistral_no_window": TinyConfig(seed=28, arch="mistral"),
    "gemma2": TinyConfig(
        seed=31,
        arch="gemma2",
        **GEMMA,
        n_swa=20,
        swa_period=2,
        attn_softcap=50.0,
        final_softcap=30.0,
    ),
    "gemma2_narrow_caps": TinyConfig(
        seed=32,
        arch="gemma2",
        is_tied=True,
        n_layer=3,
        n_swa=70,
        swa_period=2,
        query_scalar=24,
        attn_softcap=2.0,
        final_softcap=5.0,
    ),
    "gemma3": TinyConfig(
        seed=33,
        arch="gemma3_text",
        **GEMMA,
        n_layer=7,
        n_swa=20,
        swa_period=6,
        rope_base=1000000.0,
    ),
    "gemma3_scaled": TinyConfig(
        seed=34,
        arch="gemma3_text",
        is_tied=True,
        n_layer=3,
        n_swa=33,
        swa_period=2,
        query_scalar=24,
        final_softcap=8.0,
        rope_base=1000000.0,
        rope_base_local=500.0,
        rope_scaling="linear",
        rope_factor=8.0,
    ),
}
# Those that transformers reads to the same model from GGUF; it takes qwen3's head_dim
# from its defaults, as Gemma's scale and soft caps, and no window for a llama.
READ_AS_GGUF = ("qwen2", "qwen3", "mistral_no_window", "gemma2", "gemma3")
N_TINY_TOKENS = 96
N_LONG_TOKENS = 160  # beyond the windows, and more than two blocks of attention
N_GREEDY = 48
CHOICES = ("tiny", "architectures", "stories", "chat", "smollm2")


def write_json(name: str, value: Any) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=False)
    (OUT / name).write_text(text + "\n", encoding="utf-8")
    print("wrote", OUT / name, (OUT / name).stat().st_size)


def versions() -> dict[str, str]:
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


# --- tiny models ---------------------------------------------------------------------


def transformers_model(**where: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def all_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)[None]).logits[0].numpy()


def greedy_tokens(model: Any, prompt: np.ndarray) -> tuple[list[int], float]:
    """What transformers generates, and its least margin between the best two."""
    import torch

    ids = torch.tensor(prompt)[None]
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=N_GREEDY,
        min_new_tokens=N_GREEDY,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    top = torch.stack([step[0].topk(2).values for step in out.logits])
    margin = float((top[:, 0] - top[:, 1]).min())
    return out.sequences[0, len(prompt) :].tolist(), margin


def make_tiny_goldens(file: str, configs: dict[str, TinyConfig], n_token: int) -> None:
    """Logits of random models by transformers, and how far the NumPy reference is."""
    arrays, rows = {}, {}
    for name, config in configs.items():
        tiny = tiny_model.make_tiny(config)
        rng = np.random.default_rng(config.seed)
        tokens = rng.integers(0, config.n_vocab, n_token)
        columns = np.sort(rng.choice(config.n_vocab, 48, replace=False))
        with tempfile.TemporaryDirectory() as folder:
            tiny_model.write_hf_folder(tiny, Path(folder))
            model = transformers_model(pretrained_model_name_or_path=folder)
            logits = all_logits(model, tokens)
            greedy, margin = greedy_tokens(model, tokens[:10])
            row: dict[str, Any] = {
                "config": asdict(config),
                "weights_sha256": tiny_model.weights_sha256(tiny),
                "greedy": greedy,
                "greedy_margin": margin,
            }
            if name in READ_AS_GGUF:
                alone = Path(folder) / "gguf"
                alone.mkdir()
                tiny_model.write_gguf(tiny, alone / "model.gguf")
                again = transformers_model(
                    pretrained_model_name_or_path=alone, gguf_file="model.gguf"
                )
                error = np.abs(all_logits(again, tokens) - logits).max()
                assert error < 1e-3, (name, error)
                row["gguf_max_error"] = float(error)
        ours = numpy_llama.forward(config, tiny.weights, tokens)
        row["numpy_max_error"] = float(np.abs(ours - logits).max())
        rows[name] = row
        print(f"{name}: {row}, logits' std {logits.std():.2f}")
        arrays[f"{name}_tokens"] = tokens.astype(np.int32)
        arrays[f"{name}_columns"] = columns.astype(np.int32)
        arrays[f"{name}_logits"] = logits[::2, columns]
    OUT.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT / f"{file}.npz", **arrays)
    write_json(f"{file}.json", {"versions": versions(), "models": rows})


def make_stories_golden() -> None:
    """Greedy text of stories260K by the NumPy reference."""
    folder = stories260k.stories_folder()
    assert folder is not None, "stories260K is missing; set DEAL_SHARED"
    model = stories260k.read_stories(folder)
    ids = numpy_llama.greedy(model.config, model.weights, [1], 256)
    raw = b""
    for i in ids:
        piece = model.vocabulary.pieces[i]
        is_byte = 3 <= i < 259
        raw += bytes([i - 3]) if is_byte else piece.replace("\u2581", " ").encode()
    write_json("stories260k.json", {"token_ids": ids, "text": raw.decode()[1:]})


# --- SmolLM2 -------------------------------------------------------------------------


class Smollm2:
    """The GGUF file, dequantised to f32 in transformers."""

    def __init__(self, path: Path) -> None:
        import gguf
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.path = path
        where = {
            "pretrained_model_name_or_path": str(path.parent),
            "gguf_file": path.name,
        }
        self.tokenizer = AutoTokenizer.from_pretrained(**where)
        self.model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        reader = gguf.GGUFReader(path)
        fields = {key: value.contents() for key, value in reader.fields.items()}
        self.template = fields["tokenizer.chat_template"]
        self.check_load(fields, {t.name: t for t in reader.tensors})

    def check_load(self, fields: dict[str, Any], tensors: dict[str, Any]) -> None:
        """What transformers made of the file, against the file itself."""
        import gguf

        config = self.model.config
        base = getattr(config, "rope_parameters", None) or {
            "rope_theta": config.rope_theta
        }
        assert base["rope_theta"] == fields["llama.rope.freq_base"], base
        assert base.get("rope_type", "default") == "default", base
        assert abs(config.rms_norm_eps - 1e-5) < 1e-9
        assert config.tie_word_embeddings and "output.weight" not in tensors
        assert fields["tokenizer.ggml.eos_token_id"] == END
        state = self.model.state_dict()
        for name, hf, n_head in (
            ("token_embd", "embed_tokens", 0),
            ("blk.3.attn_q", "layers.3.self_attn.q_proj", 9),
            ("blk.3.attn_k", "layers.3.self_attn.k_proj", 3),
            ("blk.29.ffn_down", "layers.29.mlp.down_proj", 0),
        ):
            tensor = tensors[name + ".weight"]
            w = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if n_head:
                w = stories260k.halves_from_adjacent(w, n_head)
            assert np.array_equal(w, state[f"model.{hf}.weight"].numpy()), name

    def logits(self, ids: list[int]) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].numpy()

    def generate(self, ids: list[int], **kwargs: Any) -> Any:
        import torch

        prompt = torch.tensor([ids])
        plain = {"temperature": None, "top_p": None, "top_k": None}
        settings = {"do_sample": False, **plain} | kwargs
        with torch.no_grad():
            return self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                eos_token_id=END,
                pad_token_id=END,
                return_dict_in_generate=True,
                **settings,
            )

    def chat(self, messages: list[dict[str, str]]) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, _ = render_jinja_template(
            [messages],
            chat_template=self.template,
            add_generation_prompt=True,
            bos_token="<|im_start|>",
            eos_token="<|im_end|>",
            unk_token="<|endoftext|>",
            pad_token="<|im_end|>",
        )
        return texts[0]


def greedy_goldens(lm: Smollm2, prompts: list[tuple[str, list[int]]]) -> list[Any]:
    rows = []
    for text, ids in prompts:
        out = lm.generate(ids, max_new_tokens=64, output_logits=True)
        tokens = out.sequences[0, len(ids) :].tolist()
        top = np.stack([step[0].topk(2).values.numpy() for step in out.logits])
        margin = [round(float(m), 4) for m in top[:, 0] - top[:, 1]]
        rows.append(
            {"prompt": text, "prompt_ids": ids, "tokens": tokens, "margin": margin}
        )
        print(
            f"greedy: {len(tokens)} tokens, least margin {min(margin):.4f}", flush=True
        )
    return rows


def beam_goldens(lm: Smollm2, prompts: list[tuple[str, list[int]]]) -> list[Any]:
    rows = []
    for text, ids in prompts:
        for length_penalty in (1.0, 0.6):
            out = lm.generate(
                ids,
                max_new_tokens=24,
                num_beams=4,
                num_return_sequences=4,
                length_penalty=length_penalty,
                early_stopping=False,
                output_scores=True,
            )
            sequences = out.sequences[:, len(ids) :].tolist()
            for tokens in sequences:  # the padding is the end token as well
                if END in tokens:
                    del tokens[tokens.index(END) + 1 :]
            rows.append(
                {
                    "prompt": text,
                    "prompt_ids": ids,
                    "length_penalty": length_penalty,
                    "tokens": sequences,
                    "scores": [float(s) for s in out.sequences_scores],
                }
            )
            print("beams:", rows[-1]["scores"], [len(s) for s in sequences], flush=True)
    return rows


def sampled_sequences(lm: Smollm2) -> list[list[int]]:
    """More than 2,000 tokens of text: answers that the model itself writes."""
    import torch

    sequences = []
    for i, question in enumerate(SAMPLED_PROMPTS):
        ids = lm.tokenizer(lm.chat([{"role": "user", "content": question}])).input_ids
        torch.manual_seed(i)
        out = lm.generate(
            ids,
            do_sample=True,
            temperature=0.9,
            top_p=0.95,
            max_new_tokens=280,
            min_new_tokens=240,
            num_return_sequences=2,
        )
        for row in out.sequences.tolist():
            end = row.index(END, len(ids)) + 1 if END in row[len(ids) :] else len(row)
            sequences.append(row[:end])
    print("sampled:", sum(map(len, sequences)), "tokens", flush=True)
    return sequences


def llama_cpp_divergence(
    lm: Smollm2, sequences: list[list[int]]
) -> dict[str, Any] | None:
    """Mean KL divergence of llama.cpp from transformers on the same file."""
    try:
        import llama_cpp
    except ImportError:
        return None
    cpp = llama_cpp.Llama(
        str(lm.path), n_ctx=1024, n_threads=2, logits_all=True, verbose=False
    )
    total, n, n_same = 0.0, 0, 0
    for ids in sequences:
        cpp.reset()
        cpp.eval(ids)
        q = numpy_llama.log_softmax(np.array(cpp.scores[: len(ids)]))
        p = numpy_llama.log_softmax(lm.logits(ids))
        total += float((np.exp(p) * (p - q)).sum())
        n_same += int((p.argmax(-1) == q.argmax(-1)).sum())
        n += len(ids)
    result = {"version": llama_cpp.__version__, "n_tokens": n}
    return result | {"mean_kl": total / n, "same_top_1": n_same / n}


def check_tokens(lm: Smollm2, texts: list[str]) -> None:
    """transformers' tokens against llama.cpp's, which reads the same vocabulary."""
    try:
        import llama_cpp
    except ImportError:
        return
    cpp = llama_cpp.Llama(str(lm.path), vocab_only=True, verbose=False)
    for text in texts:
        theirs = cpp.tokenize(text.encode(), add_bos=False, special=True)
        ours = lm.tokenizer(text).input_ids
        if theirs != ours:
            print("tokens differ:", repr(text), theirs, ours)


def make_smollm2_goldens(path: Path) -> None:
    start = time.time()
    lm = Smollm2(path)
    ids = lm.tokenizer(TEXT).input_ids[:64]
    assert len(ids) == 64
    logits = lm.logits(ids)
    top = np.argsort(-logits, axis=-1, kind="stable")[:, :20]
    columns = np.sort(
        np.random.default_rng(0).choice(logits.shape[1], 512, replace=False)
    )
    OUT.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        OUT / "smollm2.npz",
        ids=np.array(ids, np.int32),
        columns=columns.astype(np.int32),
        column_logits=logits[:, columns],
        top=top.astype(np.int32),
        top_logits=np.take_along_axis(logits, top, 1),
        log_z=logits[:, 0] - numpy_llama.log_softmax(logits)[:, 0],
    )
    texts = list(PLAIN_PROMPTS)
    texts += [lm.chat([{"role": "user", "content": q}]) for q in CHAT_PROMPTS]
    check_tokens(lm, [TEXT, *texts])
    prompts = [(text, lm.tokenizer(text).input_ids) for text in texts]
    beams = beam_goldens(lm, [prompts[i] for i in (0, 4, 10, 16)])
    greedy = greedy_goldens(lm, prompts)
    chats = [{"messages": chat, "text": lm.chat(chat)} for chat in CHATS]
    sequences = sampled_sequences(lm)
    golden = {
        "versions": versions(),
        "model": path.name,
        "end_token": END,
        "greedy": greedy,
        "beams": beams,
        "chats": chats,
        "sequences": sequences,
        "llama_cpp": llama_cpp_divergence(lm, sequences),
    }
    (OUT / "smollm2.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")
    print("llama.cpp:", golden["llama_cpp"])
    print(f"done in {time.time() - start:.0f} s")


# --- chat templates ------------------------------------------------------------------


def make_chat_goldens() -> None:
    """What apply_chat_template writes; needs transformers alone, and no torch."""
    import jinja2
    import tokenizers
    import transformers

    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, "<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, **chat_cases.TOKENS
    )
    texts = [
        tokenizer.apply_chat_template(
            chat_cases.CHATS[chat],
            chat_template=chat_cases.TEMPLATES[template],
            add_generation_prompt=adds,
            tokenize=False,
            **chat_cases.VARIABLES[variables],
        )
        for template, chat, variables, adds in chat_cases.cases()
    ]
    made_by = {"transformers": transformers.__version__, "jinja2": jinja2.__version__}
    write_json("chat.json", {"versions": made_by, "texts": texts})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=CHOICES)
    parser.add_argument("--model", type=Path, help="the SmolLM2 GGUF file")
    args = parser.parse_args()
    if args.what == "tiny":
        make_tiny_goldens("tiny", TINY_CONFIGS, N_TINY_TOKENS)
    elif args.what == "architectures":
        make_tiny_goldens("architectures", ARCHITECTURE_CONFIGS, N_LONG_TOKENS)
    elif args.what == "stories":
        make_stories_golden()
    elif args.what == "chat":
        make_chat_goldens()
    elif args.model is None:
        parser.error("smollm2 needs --model")
    else:
        make_smollm2_goldens(args.model)


if __name__ == "__main__":
    main()
