"""Chat templates: transformers' text, a sandbox that holds, and errors with names."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import chat_cases
import numpy as np
import pytest
import tiny_vocab
import tokenizer_families as families

import deal
from deal import _chat_template, _core
from deal._chat_template import ChatTemplate
from deal.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "parity" / "data" / "chat.json"
TEXTS = json.loads(GOLDEN.read_text(encoding="utf-8"))["texts"]
USER = [{"role": "user", "content": "hi"}]


def render(source: str, messages: Any = USER, adds: bool = False, **kwargs: Any) -> str:
    template = ChatTemplate(source, chat_cases.TOKENS)
    return template.render(messages, add_generation_prompt=adds, **kwargs)


# --- the text ------------------------------------------------------------------------


@pytest.mark.parametrize("template", chat_cases.TEMPLATES)
def test_the_text_of_transformers(template: str) -> None:
    n = 0
    for case, expected in zip(chat_cases.cases(), TEXTS, strict=True):
        name, chat, variables, adds = case
        if name != template:
            continue
        text = render(
            chat_cases.TEMPLATES[name],
            chat_cases.CHATS[chat],
            adds,
            **chat_cases.VARIABLES[variables],
        )
        assert text == expected, case
        n += 1
    assert n >= 6


def test_texts_worked_out_by_hand() -> None:
    turns = chat_cases.CHATS["turns"][:3]
    assert render(chat_cases.ZEPHYR, turns[:2], True) == (
        "<|user|>\nHi,\n\n<b>bold</b> & an \u00e9clair.</s>\n"
        "<|assistant|>\nAsk away.</s>\n<|assistant|>\n"
    )
    assert render(chat_cases.MISTRAL, turns) == (
        "<s>[INST] Hi,\n\n<b>bold</b> & an \u00e9clair. [/INST] Ask away.</s>"
        "[INST]   What is {{ 1 + 1 }}? {% raw %}  [/INST]"
    )
    assert render(chat_cases.CHATML, USER, True) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_smollm2_has_this_template(smollm2_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(_core.Gguf(smollm2_path).metadata)
    assert tokenizer.chat_template == chat_cases.SMOLLM2
    text = tokenizer.apply_chat_template(USER)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
        "Hugging Face<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer.apply_chat_template(USER, tokenize=True)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert ids.count(1) == 3 and tokenizer.decode(ids).startswith("system\nYou are")


@pytest.mark.parametrize(
    "source, expected",
    [
        ("{{ bos_token + eos_token + unk_token }}{{ pad_token }}", "<s></s><unk>"),
        ("{{ tools is none }} {{ documents is none }}", "True True"),
        ("{{ add_generation_prompt }}", "False"),
        ("{{ {'a': '<\u00e9>'} | tojson }}", '{"a": "<\u00e9>"}'),
        ("{{ '\u00e9' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}"
         "{% endfor %}", "012"),
        ("{% for i in [1, 2, 3] if i != 2 %}{{ i }}{{ loop.last }}{% endfor %}",
         "1False3True"),
        ("{% for i in [] %}x{% else %}none{% endfor %}", "none"),
        ("{% for i in [1, [2, [3]]] recursive %}{{ loop(i) if i is iterable else i }}"
         "{% endfor %}", "123"),
        ("{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}"
         "{{ m(1) }}{% call m(5) %}!{% endcall %}", "1252!"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}"
         "{{ x }}", "21"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
        ("{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ 3 * 1.5 }}", "ababab10244.5"),
    ],
)  # fmt: skip
def test_what_a_template_may_use(source: str, expected: str) -> None:
    assert render(source) == expected


def test_the_date() -> None:
    before = datetime.now().strftime("%Y-%m-%d")
    text = render("{{ strftime_now('%Y-%m-%d') }}")
    assert text in (before, datetime.now().strftime("%Y-%m-%d"))


def test_data_becomes_plain() -> None:
    """Types of other libraries arrive as JSON's; None is as if the key were missing."""
    message = {"role": "user", "content": np.str_("hi"), "n": np.int64(3), "gone": None}
    source = (
        "{{ messages[0] | tojson }}{{ messages[0].gone is defined }}{{ x | tojson }}"
    )
    text = render(source, [message], x=(1, np.float32(0.5)))
    assert text == '{"role": "user", "content": "hi", "n": 3}False[1, 0.5]'
    assert message["gone"] is None


# --- the sandbox ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ ('' | attr('__class__')).__mro__ }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__globals__.json }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{% set m = raise_exception.__code__ %}{{ m.co_code }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{% set f = '{0.__class__.__mro__}'.format %}{{ f('') }}",
        "{{ ['{0.__class__.__mro__}'] | map('format', '') | join }}"
        "{{ '{0.__class__.__mro__}'.format_map({'0': 1}) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages.clear() }}",
        "{% set messages[0].role = 'x' %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_no_way_out(source: str) -> None:
    messages = [dict(USER[0])]
    with pytest.raises(deal.TokenizerError, match="chat template: "):
        render(source, messages)
    assert messages == USER


@pytest.mark.parametrize(
    "source, what",
    [
        ("{% for i in range(10**9) %}x{% endfor %}", "OverflowError: Range too big"),
        ("{{ range(10**30) }}", "Range too big|too large"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
         "{% endfor %}", "at most 30000 passes"),
        ("{% set r = range(9999) | list %}{% for i in r %}{% for j in r %}"
         "{% endfor %}{% endfor %}", "at most 30000 passes"),
        ("{% set r = range(99999) %}{% for i in r %}{% for j in r if j < 0 %}"
         "{% endfor %}{% endfor %}", "at most 30000 passes"),
        ("{% set r = range(999) %}{% for i in r recursive %}"
         "{{ loop(r) if loop.depth < 4 }}{% endfor %}", "at most 30000 passes"),
        ("{% macro f(n) %}{{ f(n - 1) + f(n - 1) if n > 0 }}{% endmacro %}{{ f(99) }}",
         "at most 30000 passes"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'a' * 10**10 }}", "got 10000000000"),
        ("{{ 10**10 * [messages] }}", "got 10000000000"),
        ("{{ 9 ** (9 ** 9) }}", "at most 10000000 items or bits"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError|nested|stack"),
    ],
)  # fmt: skip
def test_there_is_an_end(
    source: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_chat_template, "_N_STEP_MAX", 30_000)
    with pytest.raises(deal.TokenizerError, match=what):
        render(source)


def test_steps_are_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_chat_template, "_N_STEP_MAX", 30_000)
    template = ChatTemplate("{% for i in range(30000) %}{% endfor %}.", {})
    for _ in range(3):
        assert template.render(USER, add_generation_prompt=False) == "."


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, what",
    [
        ("{{ raise_exception('No system messages!') }}", "^chat template: No system"),
        ("{{ nothing.at_all }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("a\n{% for x in %}", "line 2: "),
        ("{% if true %}", "line 1: Unexpected end of template"),
        ("{{ x | no_such_filter }}", "line 1: No filter named 'no_such_filter'"),
        ("{% generation %}", "line 1: "),
        ("{% break %}{{", "line 1: "),
    ],
)
def test_template_errors(source: str, what: str) -> None:
    with pytest.raises(deal.TokenizerError, match=what):
        render(source)


def test_a_template_that_refuses() -> None:
    twice = [*USER, *USER]
    with pytest.raises(deal.TokenizerError, match="Roles must alternate"):
        render(chat_cases.LLAMA2, twice)
    with pytest.raises(deal.TokenizerError, match="Only user and assistant"):
        render(chat_cases.MISTRAL, [{"role": "critic", "content": "boo"}])


@pytest.mark.parametrize(
    "messages, error, what",
    [
        ("hi", TypeError, "messages: expected a list of dicts .* got str"),
        (USER[0], TypeError, "messages: expected a list of dicts .* got dict"),
        (None, TypeError, "got NoneType"),
        (iter(USER), TypeError, "messages: expected a list"),
        ([], ValueError, "messages: expected at least one message, got none"),
        (["hi"], TypeError, r"messages\[0\]: expected a dict, got str"),
        ([*USER, {"role": "user"}], ValueError, r"messages\[1\]: .*got \['role'\]"),
        ([{"content": "x"}], ValueError, r"messages\[0\]: expected the keys 'role'"),
        ([{"role": "user", "content": None}], ValueError, r"\['content'\].* got None"),
        ([{"role": 1, "content": "x"}], TypeError, r"\['role'\]: .* a str, got int"),
        ([{"role": "user", "content": b"x"}], TypeError, r"\['content'\].* got bytes"),
        ([{"role": "user", "content": "x", "y": {1j}}], TypeError, "got set"),
    ],
)  # fmt: skip
def test_bad_messages(messages: Any, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        render("x", messages)


def test_variables_are_data() -> None:
    with pytest.raises(TypeError, match="expected str, numbers, lists .* got object"):
        render("x", tool=object())
    with pytest.raises(TypeError, match="got function"):
        render("x", tools=[test_variables_are_data])


def test_template_of_a_tokenizer() -> None:
    v = tiny_vocab.vocabulary("byte")
    metadata = families.byte_metadata(v.pieces, v.merges, "gpt-2", v.types)
    tokenizer = Tokenizer.from_gguf(metadata)
    with pytest.raises(deal.TokenizerError, match="chat template: the model has none"):
        tokenizer.apply_chat_template(USER)
    with pytest.raises(
        TypeError, match="chat_template: expected a str or None, got int"
    ):
        tokenizer.chat_template = 5  # type: ignore[assignment]
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    assert tokenizer.apply_chat_template(USER) == "<|endoftext|>hi"
    ids = tokenizer.apply_chat_template(USER, tokenize=True)
    assert ids == [0, *tokenizer.encode("hi")]
    tokenizer.chat_template = "{{ tools | length }}"
    assert tokenizer.apply_chat_template(USER, tools=[{}, {}]) == "2"
    tokenizer.chat_template = None
    with pytest.raises(deal.TokenizerError, match="has none"):
        tokenizer.apply_chat_template(USER)
