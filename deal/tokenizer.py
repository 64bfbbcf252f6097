"""Text to token ids and back.

Encoding is the libraries' work, ``tokenizers`` and ``sentencepiece``, which are
imported when a tokenizer is made. Decoding is the C core's, from a table of pieces, and
gives the library's own text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from deal._chat_template import ChatTemplate
from deal._errors import ModelFormatError, TokenizerError
from deal._gguf_vocab import CONTROL, GgufVocab, read_value
from deal._pieces import PieceTable

__all__ = ["Tokenizer"]

# Pieces that end a turn or a text in the models we know; a GGUF file names only some.
_END_PIECES = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
)
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class _Backend(Protocol):
    prefix: list[int]
    suffix: list[int]

    def encode(self, text: str, add_special_tokens: bool) -> list[int]: ...
    def decode_all(self, ids: list[int]) -> str: ...
    def token_id(self, token: str) -> int | None: ...
    def token(self, i_token: int) -> str | None: ...
    def tokens(self) -> Mapping[int, str]: ...
    def table(self) -> PieceTable: ...


@dataclass
class _Specials:
    """Special tokens and the chat template, as a file gives them."""

    bos: int | None = None
    eos: int | None = None
    unk: int | None = None
    pad: int | None = None
    ends: tuple[int, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    chat_template: str | None = None


class Tokenizer:
    """The tokenizer of one model; made by :meth:`from_gguf` or :meth:`from_pretrained`.

    Attributes
    ----------
    vocab : deal._core.Vocab
        The piece table in C.
    vocab_size : int
        Number of ids; at least as many as the library knows tokens.
    bos_token_id, eos_token_id, unk_token_id, pad_token_id : int or None
    eos_token_ids : tuple of int
        Every token that ends a text or a turn, `eos_token_id` first.
    add_bos : bool
        Whether ``encode`` puts the begin token before a text.
    chat_template : str or None
        jinja2 source.
    """

    def __init__(
        self, backend: _Backend, specials: _Specials, n_vocab: int | None
    ) -> None:
        table = backend.table()
        if n_vocab is not None and len(table) > n_vocab:
            raise ModelFormatError(
                f"tokenizer: expected at most {n_vocab} tokens (rows of the "
                f"embedding), "
                f"got {len(table)}"
            )
        table.pad(n_vocab or 0)
        self._backend = backend
        self._texts = specials.texts
        self.vocab = table.vocab()
        self.vocab_size = len(table)
        self.bos_token_id = specials.bos
        self.eos_token_id = specials.eos
        self.unk_token_id = specials.unk
        self.pad_token_id = specials.pad
        ends = [i for i in (specials.eos, *specials.ends) if i is not None]
        self.eos_token_ids = tuple(dict.fromkeys(ends))
        self.add_bos = specials.bos is not None and backend.encode("", True)[:1] == [
            specials.bos
        ]
        self.chat_template = specials.chat_template

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Build the tokenizer that a GGUF file describes.

        Parameters
        ----------
        metadata : mapping
            The file's keys; arrays of numbers as NumPy arrays or lists.

        Raises
        ------
        ModelFormatError
            Where a key is missing, ill-typed, of a wrong size or has duplicates.
        NotImplementedError
            For another tokenizer model or pre-tokenizer; names it.
        """
        model = read_value(metadata, "tokenizer.ggml.model", str)
        if model not in ("gpt2", "llama"):
            raise NotImplementedError(
                f"tokenizer.ggml.model: expected 'gpt2' or 'llama', got {model!r}"
            )
        vocab = GgufVocab.read(metadata)
        specials = _gguf_specials(vocab, model == "llama")
        backend: _Backend
        if model == "llama":
            from deal._sentencepiece_backend import SentencePieceBackend

            backend = SentencePieceBackend.from_gguf(vocab)
        else:
            from deal._tokenizers_backend import TokenizersBackend

            backend = TokenizersBackend.from_gguf(vocab)
        # Files of before these keys: as the converters of their time had it.
        pre = metadata.get("tokenizer.ggml.pre")
        adds_bos = model == "llama" or pre in ("llama-bpe", "llama3", "llama-v3")
        _add_ends(
            backend,
            specials,
            vocab.flag("add_bos_token", adds_bos),
            vocab.flag("add_eos_token", False),
        )
        return cls(backend, specials, None)

    @classmethod
    def from_pretrained(
        cls, folder: str | PathLike[str], n_vocab: int | None = None
    ) -> Tokenizer:
        """Read the tokenizer of a Hugging Face folder.

        Parameters
        ----------
        folder : path
            With ``tokenizer.json``, or else ``tokenizer.model``; read besides, where
            there: ``tokenizer_config.json``, ``special_tokens_map.json``,
            ``added_tokens.json``, ``chat_template.jinja``, ``generation_config.json``.
        n_vocab : int, optional
            Rows of the model's embedding; the ids that the tokenizer lacks decode to
            nothing.

        Raises
        ------
        FileNotFoundError
            Where the folder has neither file.
        ModelFormatError
            Where a file does not parse or has more than `n_vocab` tokens.
        NotImplementedError
            For a decoder that is not known; names it.
        """
        return _from_files(cls, str(folder), _Folder(Path(folder)), n_vocab)

    @classmethod
    def from_files(
        cls, name: str, files: Mapping[str, bytes], n_vocab: int | None = None
    ) -> Tokenizer:
        """The same from files in memory.

        Parameters
        ----------
        name : str
            What the files belong to, for messages.
        files : mapping of str to bytes
            By their names in a folder; see :meth:`from_pretrained`.
        n_vocab : int, optional
            Rows of the model's embedding.
        """
        return _from_files(cls, name, files, n_vocab)

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, eos={self.eos_token_ids})"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Ids of `text`; special tokens written out in it become their ids.

        Parameters
        ----------
        text : str
        add_special_tokens : bool, default=True
            Add what the model wants around a text, such as the begin token.

        Returns
        -------
        list of int
        """
        if not isinstance(text, str):
            raise TypeError(f"text: expected a str, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text: expected valid Unicode, got a lone surrogate at {error.start}"
            ) from None
        return self._backend.encode(text, add_special_tokens)

    def decode(self, ids: Sequence[int] | Any, skip_special_tokens: bool = True) -> str:
        """Text of `ids`.

        Parameters
        ----------
        ids : sequence or ndarray of int
        skip_special_tokens : bool, default=True
            Leave out special tokens.

        Returns
        -------
        str
            Bytes that are not UTF-8 show as U+FFFD.

        Raises
        ------
        ValueError
            For an id outside the vocabulary.
        """
        text = self.vocab.decode(ids)
        if skip_special_tokens:
            return text
        return self._backend.decode_all([int(i) for i in ids])

    def tokens(self) -> list[str | None]:
        """Every token as the vocabulary writes it; None for an id that has none."""
        found = self._backend.tokens()
        return [found.get(i) for i in range(self.vocab_size)]

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tokenize: bool = False,
        **kwargs: Any,
    ) -> str | list[int]:
        """The prompt that the model's chat template writes.

        Parameters
        ----------
        messages : sequence of mappings
            ``{"role": ..., "content": ...}``, both str.
        add_generation_prompt : bool, default=True
            End with what opens the assistant's next message.
        tokenize : bool, default=False
            Return ids; the template itself writes the begin token.
        **kwargs
            Further variables: ``tools``, ``documents``, and what the template knows.

        Returns
        -------
        str or list of int

        Raises
        ------
        TokenizerError
            Without a template, or with the template's own message where it refuses.
        """
        if self.chat_template is None:
            raise TokenizerError(
                "chat template: the model has none; write the prompt yourself and call "
                "generate(prompt), or set tokenizer.chat_template to a jinja2 template"
            )
        text = self._template.render(
            messages, add_generation_prompt=add_generation_prompt, **kwargs
        )
        return self.encode(text, add_special_tokens=False) if tokenize else text

    @property
    def chat_template(self) -> str | None:
        """jinja2 source of the chat template, None where the model has none."""
        return self._chat_template

    @chat_template.setter
    def chat_template(self, source: str | None) -> None:
        if source is not None and not isinstance(source, str):
            raise TypeError(
                f"chat_template: expected a str or None, got {type(source).__name__}"
            )
        self._chat_template = source
        self.__dict__.pop("_template", None)

    @property
    def has_system_role(self) -> bool:
        """Whether the chat template writes what system messages say."""
        return self.chat_template is not None and self._template.has_system_role

    @cached_property
    def _template(self) -> ChatTemplate:
        assert self._chat_template is not None
        return ChatTemplate(self._chat_template, self._texts)


def _gguf_specials(vocab: GgufVocab, is_llama: bool) -> _Specials:
    """Special tokens by the file's keys, and the end pieces that it has no key for."""

    def read(name: str, default: int) -> int | None:
        found = vocab.token_id(name)
        has_default = default < len(vocab.tokens) and vocab.types[default] == CONTROL
        return default if found is None and is_llama and has_default else found

    known = {piece for piece in _END_PIECES}
    ends = [vocab.token_id("eot_token_id"), vocab.token_id("eom_token_id")]
    ends += [
        i
        for i, (token, kind) in enumerate(zip(vocab.tokens, vocab.types, strict=True))
        if kind == CONTROL and token in known
    ]
    specials = _Specials(
        bos=read("bos_token_id", 1),
        eos=read("eos_token_id", 2),
        unk=vocab.token_id("unknown_token_id"),
        pad=vocab.token_id("padding_token_id"),
        ends=tuple(i for i in ends if i is not None),
        chat_template=read_value(vocab.metadata, "tokenizer.chat_template", str),
    )
    ids = (specials.bos, specials.eos, specials.unk, specials.pad)
    specials.texts = {
        name: vocab.tokens[i]
        for name, i in zip(_SPECIAL_NAMES, ids, strict=True)
        if i is not None
    }
    return specials


def _add_ends(
    backend: _Backend, specials: _Specials, adds_bos: bool, adds_eos: bool
) -> None:
    if adds_bos and specials.bos is not None:
        backend.prefix = [specials.bos]
    if adds_eos and specials.eos is not None:
        backend.suffix = [specials.eos]


# --- Hugging Face folders -------------------------------------------------------------


class _Folder(Mapping[str, bytes]):
    """The files of a folder by their names, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self._folder.iterdir() if path.is_file())

    def __len__(self) -> int:
        return sum(1 for _ in self)


_Files = Mapping[str, bytes]


def _read_json(files: _Files, name: str) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    data = files.get(name)
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except ValueError as error:  # JSON or UTF-8
        raise ModelFormatError(f"{name}: {error}") from error
    if not isinstance(value, dict):
        raise ModelFormatError(
            f"{name}: expected an object, got {type(value).__name__}"
        )
    return value


def _token_text(value: Any) -> str | None:
    """A special token's text: a string, or an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _added_tokens(files: _Files, config: dict[str, Any]) -> dict[str, tuple[int, bool]]:
    """Tokens beyond a .model file's: id, and whether it is special."""
    added: dict[str, tuple[int, bool]] = {}
    special = {
        _token_text(value) for key, value in config.items() if key.endswith("_token")
    }
    for text, i in _read_json(files, "added_tokens.json").items():
        if isinstance(i, int) and i >= 0:
            added[text] = (i, text in special)
    decoder = config.get("added_tokens_decoder")
    for key, value in (decoder if isinstance(decoder, dict) else {}).items():
        text = _token_text(value)
        if text is not None and key.isdigit():
            is_special = isinstance(value, dict) and bool(value.get("special"))
            added[text] = (int(key), is_special)
    return added


def _read_template(files: _Files, config: dict[str, Any]) -> str | None:
    data = files.get("chat_template.jinja")
    if data is not None:
        return data.decode()
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {
            t.get("name"): t.get("template") for t in template if isinstance(t, dict)
        }
        template = named.get("default")
    if template is None:
        template = _read_json(files, "chat_template.json").get("chat_template")
    return template if isinstance(template, str) else None


def _read_ends(files: _Files) -> list[int]:
    """End tokens that the generation settings list, or else the model's."""
    for name in ("generation_config.json", "config.json"):
        value = _read_json(files, name).get("eos_token_id")
        ends = value if isinstance(value, list) else [value]
        ends = [i for i in ends if isinstance(i, int) and not isinstance(i, bool)]
        if ends:
            return ends
    return []


def _make_backend(folder: str, files: _Files, config: dict[str, Any]) -> _Backend:
    if (data := files.get("tokenizer.json")) is not None:
        from deal._tokenizers_backend import TokenizersBackend

        return TokenizersBackend.from_json(data, "tokenizer.json")
    if (data := files.get("tokenizer.model")) is not None:
        from deal._sentencepiece_backend import SentencePieceBackend

        added = _added_tokens(files, config)
        return SentencePieceBackend(data, "tokenizer.model", added)
    raise FileNotFoundError(
        f"{folder}: expected tokenizer.json or tokenizer.model, found neither"
    )


def _from_files(
    cls: type[Tokenizer], folder: str, files: _Files, n_vocab: int | None
) -> Tokenizer:
    config = _read_json(files, "special_tokens_map.json")
    config |= _read_json(files, "tokenizer_config.json")
    backend = _make_backend(folder, files, config)
    is_json = "tokenizer.json" in files
    texts = {key: _token_text(value) for key, value in config.items()}
    texts = {
        key: text for key, text in texts.items() if text and key.endswith("_token")
    }
    if not is_json:  # what LlamaTokenizer takes a .model file to have
        defaults = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        texts = defaults | texts
    ids = {
        name: backend.token_id(texts[name]) for name in _SPECIAL_NAMES if name in texts
    }
    specials = _Specials(
        *(ids.get(name) for name in _SPECIAL_NAMES),
        texts={name: text for name, text in texts.items() if text is not None},
        chat_template=_read_template(files, config),
    )
    _set_ends(specials, files, backend)
    _set_additions(backend, specials, config, is_json)
    tokenizer = cls(backend, specials, n_vocab)
    for i in tokenizer.eos_token_ids:
        if not 0 <= i < tokenizer.vocab_size:
            raise ModelFormatError(
                f"{folder}: eos_token_id: expected 0 to "
                f"{tokenizer.vocab_size - 1}, "
                f"got {i}"
            )
    return tokenizer


def _set_ends(specials: _Specials, files: _Files, backend: _Backend) -> None:
    ends = _read_ends(files)
    if not ends:
        found = (backend.token_id(piece) for piece in _END_PIECES)
        ends = [i for i in found if i is not None]
    if specials.eos is None and ends:
        specials.eos = ends[0]
        if (text := backend.token(ends[0])) is not None:
            specials.texts.setdefault("eos_token", text)
    specials.ends = tuple(ends)


def _set_additions(
    backend: Any, specials: _Specials, config: dict[str, Any], is_json: bool
) -> None:
    """What encode adds: as the settings say, else as tokenizer.json does by itself."""
    adds_bos, adds_eos = config.get("add_bos_token"), config.get("add_eos_token")
    if is_json:
        around = backend.encode("", True)
        has_bos = specials.bos is not None and around[:1] == [specials.bos]
        has_eos = specials.eos is not None and around[-1:] == [specials.eos]
        adds_bos = has_bos if adds_bos is None else bool(adds_bos)
        adds_eos = has_eos if adds_eos is None else bool(adds_eos)
        if (adds_bos, adds_eos) == (has_bos, has_eos):
            return
        backend.uses_post_processor = False
    _add_ends(backend, specials, adds_bos is not False, bool(adds_eos))
