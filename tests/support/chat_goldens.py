#!/usr/bin/env python3
"""chat_goldens.py OUT.json: what jinja2, set up as transformers sets it, makes of templates with the constructs that models' templates use.
Needs the package jinja2 (3.1.6 made the file that is here). The templates are our own."""
import datetime
import json
import sys

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = {
    # A role a line, and a prompt in the end.
    "lines": """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    # A default system message, tools as JSON, calls of several kinds, replies of tools side by side.
    "tools": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You answer.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\nCall: {\\"name\\": <name>}<|im_end|>\\n" }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<call>{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments | tojson }}{{- '}</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<reply>\\n' }}{{- message.content }}{{- '\\n</reply>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
""",
    # What was thought is kept behind the last question alone; the list is gone through from its end.
    "thoughts": """{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<reply>') and message.content.endswith('</reply>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- set thought = '' %}
    {%- if message.reasoning_content is string %}
        {%- set thought = message.reasoning_content %}
    {%- elif '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if loop.index0 > ns.last and (loop.last or (not loop.last and thought)) %}
        {{- '<|' ~ message.role ~ '|>\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
    {%- else %}
        {{- '<|' ~ message.role ~ '|>\\n' + content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    # The system message goes into the first question; roles must alternate.
    "turns": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    # Dates, headers, filters of content.
    "headers": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "1 Jan 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- a comment that takes
    two lines #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start|>system<|end|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start|>assistant<|end|>\\n\\n' -}}
        {%- for name, value in call.arguments | items %}
            {{- name + '="' ~ value ~ '"' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- endif %}
        {%- endfor %}
        {{- "<|eot|>" }}
    {%- else %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
""",
    # Names of roles changed, no system message.
    "renamed": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    # Macros that call themselves, and what is given by name.
    "macros": """{%- macro shape(spec, depth=0, required=false) -%}
    {%- if spec.type == "array" -%}
        {%- if spec['items'] is defined -%}
            {{- shape(spec['items'], depth + 1) + "[]" -}}
        {%- else -%}any[]{%- endif -%}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string and spec.type is not mapping -%}
        {{- spec.type | join(" | ") -}}
    {%- elif spec.type == "object" -%}
        {{- "{" }}
        {%- for key, value in spec.properties.items() %}
            {{- "\\n" ~ "  " * (depth + 1) ~ key }}{{ "" if key in (spec.required or []) else "?" }}{{ ": " ~ shape(value, depth=depth + 1) }}
            {%- if not loop.last %},{% endif %}
        {%- endfor %}
        {{- "\\n" ~ "  " * depth ~ "}" }}
    {%- else -%}
        {{- spec.type | default("any") -}}
        {%- if spec.enum %}{{ " (" ~ spec.enum | map("tojson") | join(", ") ~ ")" }}{%- endif %}
        {%- if spec.default is defined %} = {{ spec.default | tojson if spec.default is not string else spec.default }}{%- endif %}
    {%- endif -%}
{%- endmacro -%}
{% for tool in tools or [] %}
{%- set function = tool.function %}
## {{ function.name | upper }}
{{ function.description | indent(2, first=true) }}
{{ shape(function.parameters) }}
{% else %}
no tools
{% endfor %}
{%- for message in messages %}{{ message.role | title }}: {{ message.content | default("-", true) }}
{% endfor %}""",
    # White space: signs, blanks of a line, raw, comments, blocks that are set.
    "space": """  {# gone #}
line
   {% if true %}
   kept
   {%+ if true +%}
 plus
   {% endif %}
   {% endif %}
{% raw %}{{ raw }} {% not a tag %}{% endraw %}|
{%- raw -%}  a  {%- endraw -%}  b
  {{- ' c ' -}}  d
{% set block %}
 x {{ 1 + 1 }}
{% endset %}[{{ block }}]{% set small | upper | trim %} y {% endset %}[{{ small }}]
{%- filter replace('a', 'b') %} banana {% endfilter %}
{% with a = 1, b = [1, 2] %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% generation %}made{% endgeneration %}
{%- for x in [1, 2, 3, 4, 5] if x != 2 %}{% if x == 5 %}{% break %}{% endif %}{% if x == 3 %}{% continue %}{% endif %}{{ x }}/{{ loop.length }},{% endfor %}
""",
    # Values as Python has them.
    "values": """{{ [1, 2.0, 'a', "it's", true, none, {'k': [1e16, 0.1]}, (1,), ()] }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 'ab' * 2 }} {{ 1 + 2 * 3 - 4 }} {{ -2 ** 2 }}
{{ 'abc'[1] }}{{ 'abc'[-1] }}{{ 'abcdef'[1:4] }}{{ 'abcdef'[::-2] }}{{ [1, 2, 3][5] is defined }}{{ 'Zürich'[1:3] }}{{ 'Zürich' | length }}
{{ 1 == 1.0 }}{{ true == 1 }}{{ 'a' < 'b' < 'c' }}{{ 2 not in [1, 3] }}{{ 'b' in 'abc' }}{{ 'k' in {'k': 0} }}{{ none == false }}
{{ nothing }}|{{ nothing is undefined }}|{{ nothing | default('d') }}|{{ '' | default('e', true) }}|{{ messages.nothing is defined }}
{{ 'x' if false }}|{{ 'x' if false else 'y' }}|{{ not 1 or 0 }}|{{ 0 or [] or 'z' }}|{{ 'a' and 'b' }}
{{ 'hello World-wide (web)' | title }}|{{ 'hello World-wide' .title() }}|{{ 'hELLO' | capitalize }}|{{ 'É' | lower }}|{{ 'Straße' | lower }}
{{ '  a b  c ' .split() }}|{{ 'a,b,,c'.split(',') }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ ' a b c '.split(none, 1) }}|{{ ' a b c '.rsplit(none, 1) }}|{{ ' a b '.rsplit(none, 1) }}|{{ ' a b '.split(none, 5) }}
{{ 'aXbX'.replace('X', '--') }}|{{ 'abc'.replace('', '.') }}|{{ 'xxaxx'.strip('x') }}|{{ 'a\\nb\\r\\nc'.splitlines() }}|{{ 'abcab'.find('ca') }}|{{ 'abab'.count('ab') }}
{{ 'a-b'.startswith(('x', 'a')) }}|{{ ', '.join(['p', 'q']) }}|{{ 'prefix-x'.removeprefix('prefix-') }}|{{ '12'.isdigit() }}
{{ {'b': 1, 'a': {'c': 'é"\\\\\\n'}} | tojson }}|{{ [1, {}, []] | tojson(indent=2) }}|{{ {'b': 1, 'a': 'é'} | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}
{{ [3, 1, 2] | sort | join('-') }}|{{ ['b', 'A', 'c'] | sort }}|{{ ['b', 'A'] | sort(reverse=true, case_sensitive=true) }}|{{ [1, 1, 2] | unique | list }}|{{ {'b': 1, 'a': 2} | dictsort }}
{{ messages | map(attribute='role') | list }}|{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ messages | rejectattr('role', 'in', ['user']) | map(attribute='role') | first }}|{{ [1, 2, 3] | select('odd') | list }}|{{ [0, 1] | reject | list }}
{{ [1, 2, 3] | sum }}|{{ [1, 5, 2] | max }}|{{ ['b', 'a'] | min }}|{{ '3.7' | int }}|{{ 'x' | int(9) }}|{{ '1.5' | float }}|{{ 2.5 | round }}|{{ -3 | abs }}|{{ 'abc' | reverse }}|{{ [1, 2] | last }}
{{ 4 is even }}{{ 4 is divisibleby 2 }}{{ 'a' is string }}{{ {} is mapping }}{{ [] is sequence }}{{ 1 is number }}{{ 1.0 is float }}{{ true is boolean }}{{ 1 is integer }}{{ true is true }}{{ none is none }}{{ 1 is not none }}{{ 2 is in [1, 2] }}{{ 'x' is eq 'x' }}{{ range is callable }}
{{ range(3) | list }}{{ range(5, 1, -2) | list }}{{ dict(a=1) }}{{ '%d' if false else '100%' }}{{ "a" "b" }}{{ 'tab\\tq\\'\\x41\\u00e9' }}{{ [1, 2] + [3] }}{{ [[1, 2], [3, 4]] | map('first') | list }}
{%- for a, b in [[1, 2], [3, 4]] %}{{ a ~ b }}{{ loop.index }}{{ loop.revindex }}{{ loop.first }}{{ loop.previtem is defined }}{{ loop.nextitem }}{% endfor %}
{%- set ns = namespace(total=0, seen=[]) %}{% for m in messages %}{% set ns.total = ns.total + loop.index %}{% set ns.seen = ns.seen + [m.role] %}{% set outer = 1 %}{% endfor %}{{ ns.total }}{{ ns.seen }}{{ outer is defined }}
{%- for m in [] %}never{% else %}empty{% endfor %}{{ {'items': 1}['items'] }}{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.items() | list }}{{ {'a': 1} | items | list }}{{ '<a&"b\\'>' | e }}{{ none | selectattr('x') | list }}""",
    # Channels, lists of strings, a first message that may be missing.
    "channels": """{%- set model_identity = model_identity | default("You are a model.") %}
{%- set developer = namespace(text="") %}
{%- if messages and messages[0].role in ["developer", "system"] %}{% set developer.text = messages[0].content %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}
{{- "<|start|>system<|message|>" + model_identity + "\\nCurrent date: " + strftime_now("%Y-%m-%d") + "\\n" }}
{%- for channel in ["analysis", "commentary", "final"] %}{{ ", " if not loop.first }}{{ channel }}{% endfor -%}
{{ "<|end|>" }}
{%- if developer.text %}{{ "<|start|>developer<|message|># Instructions\\n\\n" ~ developer.text ~ "<|end|>" }}{% endif %}
{%- for message in loop_messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if "tool_calls" in message and message.tool_calls -%}
            {{- "<|start|>assistant to=functions." ~ message.tool_calls[0].function.name ~ "<|channel|>commentary json<|message|>" ~ message.tool_calls[0].function.arguments | tojson ~ "<|call|>" }}
        {%- elif loop.last and not add_generation_prompt %}
            {{- "<|start|>assistant<|channel|>final<|message|>" + (message.content or "") + "<|return|>" }}
        {%- else %}
            {{- "<|start|>assistant<|channel|>final<|message|>" + (message.content or "") + "<|end|>" }}
        {%- endif -%}
    {%- elif message.role == 'tool' -%}
        {{- "<|start|>functions." + (message.name if message.name is defined else "x") + " to=assistant<|message|>" + message.content | tojson + "<|end|>" }}
    {%- else -%}
        {{- "<|start|>user<|message|>" + message.content + "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{{ '<|start|>assistant' if add_generation_prompt else '' }}""",
}

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Weather of <a> \"city\"\nnow", "parameters": {
    "type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "enum": ["Zürich", "Oslo"]},
        "days": {"type": "array", "items": {"type": "integer", "default": 3}},
        "unit": {"type": ["string", "null"]},
        "place": {"type": "object", "properties": {"x": {"type": "number"}}}}}}}]
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo", "n": 3, "f": 1.5, "ok": True, "no": None}}}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


CONVERSATIONS = {
    "one": {"messages": [user("Hello"), assistant("Hi there!")]},
    "system": {"messages": [{"role": "system", "content": " Be \"kind\". "}, user("  Spaces? \n"), assistant("Yes — é 漢字 🙂\n\nMore."), user("Next"), assistant("Done.")]},
    "thought": {"messages": [user("1+1?"), assistant("<think>\nhm\n</think>\n\n2"), user("2+2?"), assistant("<think>\nx\n</think>\n\n4")]},
    "tools": {"messages": [user("Weather?"), assistant(None, tool_calls=[CALL]), {"role": "tool", "name": "weather", "content": "{\"t\": 3}"},
                           {"role": "tool", "content": "4"}, assistant("3 and 4.")], "tools": TOOLS},
    "twice": {"messages": [user("a"), user("b")]},
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


class Refused(Exception):
    pass


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def refuse(message):
    raise Refused(message)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda form: datetime.datetime(2024, 7, 26).strftime(form)
    return env


def rendered(template, conversation):
    given = {"tools": None, "documents": None, "add_generation_prompt": False, **TOKENS, **conversation}
    try:
        return {"text": environment().from_string(template).render(**given)}
    except Refused as refusal:
        return {"refusal": str(refusal)}
    except Exception:  # whatever it is, ours has to refuse too
        return {"error": True}


def main():
    cases = [{"template": name, "conversation": which, **rendered(template, conversation)}
             for name, template in TEMPLATES.items() for which, conversation in CONVERSATIONS.items()]
    with open(sys.argv[1], "w") as out:
        json.dump({"templates": TEMPLATES, "conversations": CONVERSATIONS, "tokens": TOKENS, "cases": cases}, out, ensure_ascii=False, indent=1)
        out.write("\n")
    print(len(cases), "cases:", sum("text" in case for case in cases), "texts,", sum("refusal" in case for case in cases), "refusals,",
          sum("error" in case for case in cases), "errors")


main()
