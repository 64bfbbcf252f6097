"""Chat templates in the styles that models ship, and chats to put through them.

What transformers writes for each is in ``tests/parity/data/chat.json``, made by
``python tools/make_goldens.py chat``.
"""

from __future__ import annotations

from typing import Any

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' "
    "%}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
    "Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if "
    "add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

LLAMA2 = """\
{% if messages[0]['role'] == 'system' %}
{% set system = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' %}
{% set messages = messages[1:] %}
{% else %}{% set system = '' %}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{% set content = system + message['content'] if loop.index0 == 0 else message.content %}
{% if message['role'] == 'user' -%}
{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + content | trim + ' ' + eos_token }}
{%- endif %}
{% endfor %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = '26 Jul 2024' %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string }}
{%- if tools is not none %}
    {{- '\\n\\nFunctions:\\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) + '\\n\\n' }}
    {%- endfor %}
{%- endif %}
{{- system_message + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('one tool call at a time') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}<|eot_id|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {{- message.content | tojson + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{{ bos_token }}
{%- set ns = namespace(i_last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.i_last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools and loop.index0 == ns.i_last %}
            {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message.role == 'assistant' and message.content is defined %}
        {{- ' ' + message['content'] + eos_token }}
    {%- elif message.role in ('system', 'assistant', 'tool') %}
        {%- continue %}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""

ZEPHYR = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' and message['content'] %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

RAG = """\
{{ bos_token }}
{% macro show(d) %}{{ d.title | upper }}: {{ d['text'] }}
{% endmacro %}
{% for document in documents or [] %}
    [{{ loop.index }}/{{ loop.length }}] {{ show(document) }}
{% endfor %}
{% for message in messages | rejectattr('role', 'equalto', 'tool') %}
    {% if loop.index0 > 2 %}
        {% break %}
    {% endif %}
{{ message.role.capitalize() }}: {{ message.content or '-' }} {{ mood or 'calm' }}
{% endfor %}
{{ [1, 2.5, none, true, 'a<b & "c" \\u00e9'] | tojson }} {{ {'b': 1, 'a': 2} | tojson }}
{{ {'b': [1, 2], 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}
"""

TEMPLATES = {
    "smollm2": SMOLLM2,
    "chatml": CHATML,
    "llama-2": LLAMA2,
    "llama-3": LLAMA3,
    "mistral": MISTRAL,
    "zephyr": ZEPHYR,
    "rag": RAG,
}

CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": "Hello!"}],
    "system": [
        {"role": "system", "content": " You answer in one word.\n"},
        {"role": "user", "content": "Capital of Peru?"},
    ],
    "turns": [
        {"role": "user", "content": "Hi,\n\n<b>bold</b> & an \u00e9clair."},
        {"role": "assistant", "content": "Ask away."},
        {"role": "user", "content": "  What is {{ 1 + 1 }}? {% raw %} "},
        {"role": "assistant", "content": "\u4e8c \U0001f600"},
        {"role": "user", "content": "Thanks"},
    ],
    "calls": [
        {"role": "user", "content": "Weather in Lima?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Lima"}},
                }
            ],
        },
        {"role": "tool", "content": '{"sky": "gr\u00e9y"}'},
        {"role": "assistant", "content": "Grey.", "thinking": None},
    ],
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The <sky> & more",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
            },
        },
    }
]
DOCUMENTS = [
    {"title": "first", "text": "one <1>"},
    {"title": "second", "text": "two"},
]
VARIABLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tools": {"tools": TOOLS},
    "documents": {"documents": DOCUMENTS, "mood": "merry", "date_string": "1 May 2020"},
}


def cases() -> list[tuple[str, str, str, bool]]:
    """Template, chat and variables by name, and whether the assistant is to go on.

    SmolLM2's and ChatML's templates want a content, Llama 2's an alternation.
    """
    return [
        (template, chat, variables, adds)
        for template in TEMPLATES
        for chat in CHATS
        for variables in VARIABLES
        for adds in (False, True)
        if chat != "calls" or template in ("llama-3", "mistral", "rag")
        if variables == "plain" or template in ("llama-3", "mistral", "rag")
    ]
