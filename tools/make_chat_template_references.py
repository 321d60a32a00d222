#!/usr/bin/env python3
"""Makes tests/data/lm/chat_templates.json: templates, variables, and what Jinja renders.

    python3 -m venv /opt/peers/lm && /opt/peers/lm/bin/pip install jinja2
    /opt/peers/lm/bin/python tools/make_chat_template_references.py

Jinja is set up as transformers sets it up. The templates are written for these tests in the style of the models named:
same prompt format, same language features. "smollm2" is the one that the model's GGUF file carries.
"""

import json
from datetime import datetime
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "lm" / "chat_templates.json"
NOW = datetime(2026, 3, 7, 9, 5, 3)


class Generation(jinja2.ext.Extension):
    """{% generation %}: the text it marks, unchanged."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                    extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda fmt: NOW.strftime(fmt)

TEMPLATES = {
    "chatml": """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "smollm2": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama3": """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
    "llama3.1": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message, apart, so that tools can go beside it #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\\n\\n"}}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "You have these functions. Answer with JSON.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- if tools_in_user_message and not tools is none %}
    {#- The first user message carries the tools #}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- "Given these functions, answer with a call.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {%- if builtin_tools is defined and tool_call.name in builtin_tools %}
            {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
            {{- "<|python_tag|>" + tool_call.name + ".call(" }}
            {%- for arg_name, arg_val in tool_call.arguments | items %}
                {{- arg_name + '="' + arg_val + '"' }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- endif %}
                {%- endfor %}
            {{- ")" }}
        {%- else  %}
            {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
        {%- endif %}
        {%- if builtin_tools is defined %}
            {{- "<|eom_id|>" }}
        {%- else %}
            {{- "<|eot_id|>" }}
        {%- endif %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral-v0.1": """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}""",
    "mistral-v0.3": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{#- User and assistant take turns; tool calls and results do not count. #}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
            {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {%- if not message.tool_call_id is defined or message.tool_call_id|length != 9 %}
            {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
        {%- endif %}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
""",
    "mistral-tekken": """{%- set today = strftime_now("%Y-%m-%d") %}
{%- set default_system_message = "You are a helpful assistant. Today is " + today + "." %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}
        {%- set system_message = messages[0]['content'] %}
    {%- else %}
        {%- set system_message = messages[0]['content'][0]['text'] %}
    {%- endif %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = default_system_message %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}
{%- for message in loop_messages %}
    {%- if message['role'] == 'user' %}
        {%- if message['content'] is string %}
            {{- '[INST]' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST]' }}
            {%- for block in message['content'] %}
                {%- if block['type'] == 'text' %}
                    {{- block['text'] }}
                {%- elif block['type'] in ['image', 'image_url'] %}
                    {{- '[IMG]' }}
                {%- else %}
                    {{- raise_exception('Only text and image blocks are supported in message content!') }}
                {%- endif %}
            {%- endfor %}
            {{- '[/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user, system and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}""",
    "qwen2": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "qwen2.5": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\nYou may call one or more functions.\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n\\nReturn a JSON object within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "qwen3": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "gemma2": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "gemma3": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
""",
    "phi3": """{% for message in messages %}
{% if message['role'] == 'system' %}
{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}
{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}
{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>\\n' }}{% else %}
{{ eos_token }}{% endif %}
""",
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<\uff5cUser\uff5c>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['tool_calls'] is defined %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not ns.is_first %}{{'<\uff5cAssistant\uff5c><\uff5ctool\u2581calls\u2581begin\uff5c>' + tool['type'] + tool['function']['name'] + '\\n' + '```json' + '\\n' + (tool['function']['arguments'] | tojson) + '\\n' + '```'}}{%- set ns.is_first = true -%}{%- else %}{{'\\n' + tool['function']['name']}}{%- endif %}{%- endfor %}{{'<\uff5ctool\u2581calls\u2581end\uff5c>'}}{%- endif %}{%- if message['role'] == 'assistant' and message['tool_calls'] is not defined %}{%- set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<\uff5cAssistant\uff5c>' + content + '<\uff5cend\u2581of\u2581sentence\uff5c>'}}{%- endif %}{%- if message['role'] == 'tool' %}{{'<tool>' + message['content'] + '</tool>'}}{%- endif %}{%- endfor -%}{% if add_generation_prompt %}{{'<\uff5cAssistant\uff5c><think>\\n'}}{% endif %}""",
    "macros": """{%- macro content_of(message, marker='') -%}
    {%- if message.content is string -%}
        {{- marker ~ message.content | trim -}}
    {%- else -%}
        {%- for part in message.content if part.type == 'text' -%}
            {{- marker ~ part.text -}}
            {%- if not loop.last %}{{ '|' }}{% endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro schema(p, level=0) -%}
    {%- if p.type == 'object' and p.properties -%}
        {{- '{' -}}
        {%- for name, value in p.properties | dictsort -%}
            {{- name ~ ('' if name in p.required else '?') ~ ': ' ~ schema(value, level + 1) -}}
            {%- if not loop.last %}{{ ', ' }}{% endif -%}
        {%- endfor -%}
        {{- '}' -}}
    {%- elif p.type == 'array' -%}
        {{- schema(p['items'], level + 1) ~ '[]' -}}
    {%- elif p.enum is defined -%}
        {{- p.enum | map('tojson') | join(' | ') -}}
    {%- else -%}
        {{- p.type -}}
    {%- endif -%}
{%- endmacro -%}
{%- for tool in tools or [] %}
// {{ tool.function.description | default('no description', true) }}
type {{ tool.function.name }} = {{ schema(tool.function.parameters) }};
{% endfor -%}
{%- for message in messages %}
{% generation %}<{{ message.role | upper }}>{{ content_of(message, marker='> ') }}{% endgeneration %}
{% endfor %}
""",
}

TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather \u2014 at a place",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "a \"city\""},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "array", "items": {"type": "integer"}},
    }, "required": ["place"]}}}
TOOL2 = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}, "return": {"type": "string"}}}
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "K\u00f6ln", "days": [1, 2.5, None, True]}}}

USER = {"role": "user", "content": "  What is 2+2?\n"}
CHATS = {
    "one": [USER],
    "turns": [USER, {"role": "assistant", "content": " 4. "}, {"role": "user", "content": "And <b>3 & 3</b>? \u00fc \U0001f600"}],
    "system": [{"role": "system", "content": "Be brief.\n"}, USER, {"role": "assistant", "content": "4"}, {"role": "user", "content": "Why?"}],
    "thinking": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"}, {"role": "user", "content": "sure?"},
                 {"role": "assistant", "content": "<think>\nyes\n</think>\n\nYes."}],
    "reasoning": [USER, {"role": "assistant", "content": "4", "reasoning_content": "\nadd\n"}],
    "call": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
             {"role": "tool", "content": "{\"t\": 21}", "tool_call_id": "abcdef123"},
             {"role": "assistant", "content": "21 degrees."}, {"role": "user", "content": "Thanks"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}, {"type": "text", "text": "this"}]}],
    "wrong": [USER, USER],
}
# With tools or without, more variables, add_generation_prompt.
VARIANTS = [(False, {}, True), (True, {}, True), (False, {}, False), (False, {"enable_thinking": False}, True),
            (True, {"tools_in_user_message": False}, True)]

# Features one by one: (template, variables).
V = {"n": None, "t": True, "i": 7, "f": 2.5, "s": "Hello World", "e": "", "l": [3, 1, 2], "d": {"b": 1, "a": {"c": [1, 2]}, "items": 5},
     "u": "\u00e4\u00d6\u00df \u0436\u0416 \u6f22\u5b57", "w": " \t a  b c \n", "recs": [{"n": "x", "v": 2, "k": {"z": 1}}, {"n": "Y", "v": 1}, {"n": "a", "v": None}]}
SNIPPETS = """
{{ n }} {{ t }} {{ i }} {{ f }} {{ s }} {{ l }} {{ d }} {{ missing }}
{{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1/3 }} {{ 6/3 }} {{ 1.0 }} {{ -0.0 }} {{ 1e-7 }} {{ 123456789.125 }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1 - -1 }} {{ +3 }}
{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 'a' ~ 1 ~ none ~ true ~ 2.0 }} {{ 'a' + 'b' * 3 }} {{ [1] + [2, 3] }} {{ [0] * 3 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ none == none }} {{ 2 >= 2 != 3 }}
{{ 'ell' in s }} {{ 3 in l }} {{ 'b' in d }} {{ 9 not in l }} {{ not t }} {{ t and i }} {{ e or 'x' }} {{ n or missing or 0 }} {{ not 1 == 2 }}
{{ 'yes' if t else 'no' }} {{ 'yes' if e }}| {{ ('a' if e else 'b') ~ 'c' }} {{ 1 if n else 2 if t else 3 }}
{{ -3|abs }} {{ 'A' ~ 'b'|upper }} {{ ('A' ~ 'b')|upper }} {{ -i|string|length }} {{ 2 * 3|string }} {{ not e|length }}
{{ s[0] }} {{ s[-1] }} {{ s[1:4] }} {{ s[::-1] }} {{ s[::2] }} {{ s[-3:] }} {{ s[100:] }} {{ s[:-20] }} {{ l[1:] }} {{ l[-2::-1] }} {{ l[5] }} {{ u[1] }} {{ u[3:5] }} {{ u|length }} {{ l.0 }} {{ l[::-1] }}
{{ d.b }} {{ d['b'] }} {{ d.a.c[1] }} {{ d['items'] }} {{ d.items()|list }} {{ d.keys()|list }} {{ d.values()|list }} {{ d.get('b') }} {{ d.get('q') }} {{ d.get('q', 5) }} {{ d.missing is defined }} {{ d|length }}
{{ (1, 2) }} {{ (1,) }} {{ () }} {{ {'a': 1, "b": [none, 'it\\'s', "q\\"", 'l\\n']} }} {{ {} }} {{ [] }} {{ [true, [1.5]] }} {{ {1: 2} }}
{{ 'a\\tb\\\\n\\x41\\u00e9\\101' }} {{ "d'q" }} {{ 'a' 'b' "c" }}
{{ l|sort }} {{ l|sort(reverse=true) }} {{ ['b', 'A', 'c']|sort }} {{ ['b', 'A', 'c']|sort(case_sensitive=true) }} {{ recs|sort(attribute='n')|map(attribute='n')|join }} {{ l|min }} {{ l|max }} {{ l|sum }} {{ [1, 2.5]|sum }} {{ ['x', 'X', 'y']|unique|list }} {{ l|reverse|list }} {{ s|reverse }}
{{ recs|map(attribute='n')|join(', ') }} {{ recs|selectattr('v')|map(attribute='v')|list }} {{ recs|selectattr('v', 'equalto', 1)|list|length }} {{ recs|rejectattr('v', 'none')|list|length }} {{ recs|map(attribute='k.z', default='-')|list }} {{ [1, 2, 3, 4]|select('odd')|list }} {{ [1, 2, 3, 4]|reject('gt', 2)|list }} {{ ['a', 'b']|map('upper')|list }} {{ [0, 1, '']|select|list }} {{ recs|join('/', attribute='n') }}
{{ d|dictsort }} {{ {'B': 1, 'a': 2}|dictsort }} {{ {'B': 1, 'a': 0}|dictsort(by='value') }} {{ {'B': 1, 'a': 2}|dictsort(true, reverse=true) }} {{ d|items|list }}
{{ d|tojson }} {{ 'a<b>&"\\'\\u00e9\\n\\x7f'|tojson }} {{ [1, 2.0, none, true, 1e20]|tojson }} {{ u|tojson(ensure_ascii=true) }} {{ {'b': 1, 'a': [1, {}]}|tojson(sort_keys=true) }} {{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}
{{ d|tojson(indent=2) }} {{ []|tojson(indent=2) }} {{ {}|tojson(indent=4) }}
{{ w|trim }}| {{ w.strip() }}| {{ w.lstrip() }}| {{ w.rstrip() }}| {{ 'xxaxx'.strip('x') }} {{ 'xyaxy'|trim('xy') }} {{ '\\u00a0a\\u3000'.strip() }}|
{{ w.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b c '.split(none, 1) }} {{ ' a  b c '.rsplit(maxsplit=1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a\\nb\\r\\nc'.splitlines() }} {{ 'a\\nb\\n'.splitlines(true) }}
{{ s.startswith('He') }} {{ s.endswith('x') }} {{ s.startswith(('x', 'H')) }} {{ s.upper() }} {{ s.lower() }} {{ "they're bill's-x (ab)".title() }} {{ "they're bill's-x (ab) [cd"|title }} {{ 'hELLO wORLD'.capitalize() }} {{ 'hELLO'|capitalize }} {{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 1) }} {{ 'abc'.replace('', '-') }} {{ s|replace('o', '0') }} {{ u.upper() }} {{ u|lower }} {{ u.title() }}
{{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('q') }} {{ s.count('l') }} {{ '-'.join(['a', 'b']) }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'a'.ljust(3) }}| {{ 'a'.rjust(3, '.') }} {{ 'ab'.center(5, '*') }} {{ 'ab'.center(6, '*') }} {{ '-5'.zfill(4) }} {{ u.find('\\u0416') }} {{ 'aXb'.swapcase() }}
{{ missing|default('d') }} {{ e|default('d') }} {{ e|default('d', true) }} {{ n|d('x') }} {{ missing|d }}|
{{ l|first }} {{ l|last }} {{ s|first }} {{ []|first }}| {{ l|length }} {{ s|count }} {{ 'abc'|list }} {{ d|list }} {{ l|join('-') }} {{ 'a b  c'|wordcount }}
{{ '42'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ '3.9'|int }} {{ 3.9|int }} {{ -3.9|int }} {{ 'ff'|int(base=16) }} {{ '2.5'|float }} {{ 'x'|float }} {{ 5|float }} {{ true|int }} {{ none|string }} {{ 1.5|string }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.567|round(2) }} {{ 2.51|round(1, 'floor') }} {{ 2.51|round(1, 'ceil') }} {{ 7|round }} {{ 1234.5|round(-2) }}
{{ 'a\\nb\\n\\nc'|indent }} {{ 'a\\nb\\n\\nc'|indent(2, true) }} {{ 'a\\n\\nb'|indent(2, blank=true) }} {{ 'a\\nb'|indent('> ') }} {{ '<a href="x">&'|escape }} {{ 'x'|safe }} {{ [1, 2, 3]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 0)|list }}
{{ n is none }} {{ n is not none }} {{ missing is defined }} {{ missing is undefined }} {{ s is string }} {{ d is mapping }} {{ l is sequence }} {{ s is sequence }} {{ d is iterable }} {{ i is number }} {{ t is number }} {{ t is integer }} {{ i is integer }} {{ f is float }} {{ t is boolean }} {{ t is true }} {{ t is false }} {{ i is iterable }} {{ 1 is true }}
{{ 4 is even }} {{ 4 is odd }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }} {{ 4 is in [4] }} {{ 4 is not in [4] }} {{ 4 is eq 4 }} {{ 4 is equalto 5 }} {{ 4 is gt 3 }} {{ 4 is lt(3) }} {{ 'a' is lower }} {{ 'A' is upper }} {{ range is callable }} {{ 'trim' is filter }} {{ 'odd' is test }} {{ t is sameas true }} {{ s is defined and s is string or false }}
{{ range(3)|list }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ dict(a=1, b=2) }} {{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %A') }}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }};{% else %}none{% endfor %}{% for x in [] %}a{% else %}empty{% endfor %}
{% for x in l if x > 1 %}{{ x }}{{ loop.length }}{{ loop.index }} {% endfor %}{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for c in 'ab\\u00e9' %}{{ c }},{% endfor %}{% for k in d %}{{ k }}{% endfor %}
{% for x in [1, 2, 3, 4, 5] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}{% for i in [1, 2] %}{% for j in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% set a = 1 %}{% for x in [1, 2] %}{% set a = a + 1 %}{{ a }}{% endfor %}{{ a }}{% if true %}{% set a = 9 %}{% endif %}{{ a }}{% set b, c = 1, 2 %}{{ b }}{{ c }}{% set z = 1, 2 %}{{ z }}{% set ns = namespace(x=1, y='q') %}{% for k in [1, 2] %}{% set ns.x = ns.x + k %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.q is defined }}
{% set block %}a {{ i }} b{% endset %}[{{ block }}]{% set block | upper | trim %} hello {% endset %}[{{ block }}]{% filter upper %}x{{ s }}{% endfilter %}{% filter replace('a', 'b') | upper %}aXa{% endfilter %}{% with x = 1, y = 2 %}{{ x + y }}{% endwith %}{{ x }}
{% macro f(a, b=2, c='z') %}<{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}>{% endmacro %}{{ f(1) }}{{ f(1, c=3) }}{{ f(1, 2, 3) }}{{ f() }}{% macro g(x) %}{{ caller() }}{{ x }}{% endmacro %}{% call g(5) %}body{% endcall %}{% macro fact(n) %}{{ 1 if n < 2 else n * fact(n - 1)|int }}{% endmacro %}{{ fact(5) }}{% macro h() %}{{ i }}{{ q }}{% endmacro %}{% set q = 3 %}{{ h() }}
{% macro k(items) %}{% call(x) g2(items) %}[{{ x }}]{% endcall %}{% endmacro %}{% macro g2(items) %}{% for x in items %}{{ caller(x) }}{% endfor %}{% endmacro %}{{ k([1, 2]) }}
{% if n %}1{% elif e %}2{% elif t %}3{% else %}4{% endif %}{% if missing %}x{% else %}y{% endif %}{% if l and not e %}z{% endif %}
a  {{- 1 -}}  b  {{ 2 }}  c {%- if t -%}  d  {%- endif -%}  e {# c #} f {#- c -#} g
{% raw %}{{ x }} {% if %}{% endraw %} after {%- raw -%}  {{ y }}  {%- endraw -%}  end
{{ {'a': {'b': 1}}.a.b }} {{ {'a': {'b': {}}} }} {{ '}}' }} {{ '%}' }} {{ "{{" }}
{{ 1 }}{{ 2 }}{# {{ x }} #}{{ 3 }} { % } } {{ '{' }} {a}
{{ missing.x }}
{{ n.x }}
{{ n.x.y }}
{{ missing() }}
{{ 1 + 'a' }}
{{ raise_exception('stop: ' ~ i) }}
{{ 'a' + 1 }}
{{ 1 / 0 }}
{{ l.append(4) }}
{{ 1 < 'a' }}
{{ none + 1 }}
{{ i() }}
{{ 5|length }}
{{ d|tojson|length }} {{ d.a|tojson }} {{ l|string|length }} {{ [missing]|length }} {{ missing|length }} {{ missing|list }} {{ 'x' in missing }} {{ missing == other }} {{ missing ~ 'a' }}
{% for x in 5 %}{% endfor %}
{% set s.x = 1 %}
{% for a, b in [1] %}{% endfor %}
{% for x in [1, [2, [3]]] %}{{ x }}{% endfor %}{{ __class__ }}{{ s.__class__ }}
{{ range(100001) }}
{{ a b }}
{% if %}{% endif %}
{{ 'a }}
{% for x in %}{% endfor %}
{% endif %}
{% if t %}
{{ x|nofilter }}
{{ x is notest }}
{% unknown %}
{{ (1 }}
{{ [1, }}
{{ f(a=1, 2) }}
{# open
{{ }}
""".strip("\n").split("\n")

# Whitespace: each spans lines.
LINES = [
    "{% if true %}\n  a\n{% endif %}\nb\n",
    "x\n    {% if true %}\n    a\n    {% endif %}\n  b\n\n",
    "x {% if true %} y {% endif %} z\n",
    "  {%+ if true %}\n a\n  {%- endif %}\n b",
    "  {% if true +%}\n a {%- endif +%}\n b",
    "a\n  {# comment #}\nb\n  {#- comment -#}\n  c",
    "a\n  {{ 1 }}\n  b\n{{- 2 }}\n{{ 3 -}}\n  c\n",
    "{% for x in [1, 2] %}\n  - {{ x }}\n{% endfor %}\nend",
    "{%- for x in [1, 2] -%}\n  - {{ x }}\n{%- endfor -%}\nend\n\n",
    "a\r\n{% if true %}\r\nb\r{% endif %}\r\nc\r\n",
    "{% set x = 1 %}\n\n{{ x }}\n",
    "  {% raw %}  {{ a }}\n  {% endraw %}\n  b",
    "{%- set x %}\n  in\n{% endset -%}\n[{{ x }}]",
    "\t{% if true %}\t{% endif %}\t\n{% if true %}  {% endif %}  x",
    "{% if true %}\n\n{% endif %}\n\n\nend",
    "{{ 1 }}\n{{ 2 }}\n\n{{ 3 }}\n",
    "{% macro m() %}\n  a\n{% endmacro %}\n{{ m() }}|",
    "{#\n multi\n line #}\nx",
    "{% if true -%}\n  a\n  {#- c #}\n{%- endif %}\n",
    "\u00e4\n  {% if true %}\n\u00f6 {{ '\u00fc' }}\n  {% endif %}",
]


def render(template, variables):
    try:
        return {"expected": env.from_string(template).render(**variables)}
    except Exception as e:  # any Python error of the template
        return {"error": str(e)}


def main():
    cases = []

    for name, template in TEMPLATES.items():
        for chat, messages in CHATS.items():
            for tools, extra, add_generation_prompt in VARIANTS:
                if tools and ("tools" not in template or chat not in ("one", "call")):
                    continue
                if extra and (chat not in ("one", "thinking") or next(iter(extra)) not in template):
                    continue
                if not add_generation_prompt and chat not in ("turns", "reasoning"):
                    continue
                variables = {"messages": messages, "tools": [TOOL, TOOL2] if tools else None, "documents": None,
                             "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": add_generation_prompt,
                             **extra}
                cases.append({"name": f"{name}/{chat}", "model": name, "chat": chat, "tools": tools, "extra": extra,
                              "add_generation_prompt": add_generation_prompt, **render(template, variables)})
    for i, template in enumerate(SNIPPETS):
        cases.append({"name": f"snippet {i}", "template": template, **render(template, V)})
    for i, template in enumerate(LINES):
        cases.append({"name": f"lines {i}", "template": template, **render(template, V)})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"templates": TEMPLATES, "chats": CHATS, "tools": [TOOL, TOOL2], "variables": V, "cases": cases},
                              ensure_ascii=False, separators=(",", ":")).replace('{"name":', '\n{"name":') + "\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "of them errors,", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
