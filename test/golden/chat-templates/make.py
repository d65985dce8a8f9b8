"""Writes cases.json: what Transformers 5.23 renders with templates in the styles of well-known families, and what they leave out.

The templates below are our own: each has the habits of its family (where tools and system prompts go, how calls, results and reasoning
are written, what is dropped of earlier turns), in other words and shorter. `lost` says which fields of a conversation have no
effect on the text: each is given other words in turn, and the rendering stays as it was.

    python make.py        (transformers 5.23)
"""

import copy
import hashlib
import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from tokenizers import Tokenizer, models

HERE = Path(__file__).parent

TEMPLATES = {
    # Tools in the system turn or in the first user turn, one call as a JSON object, results from `ipython`.
    "llama": (
        "{{- bos_token }}\n"
        "{%- set in_user = tools_in_user_message if tools_in_user_message is defined else true %}\n"
        "{%- if messages and messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}\n"
        "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
        "{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{% endif %}\n"
        "{%- if tools is not none and not in_user %}{% for t in tools %}{{- t | tojson(indent=2) }}{{- '\\n' }}{% endfor %}{% endif %}\n"
        "{{- system ~ '<|eot_id|>' }}\n"
        "{%- if in_user and tools is not none %}\n"
        "  {%- if messages | length == 0 %}{{- raise_exception('no first user message') }}{% endif %}\n"
        "  {%- set first = messages[0]['content'] | trim %}{% set messages = messages[1:] %}\n"
        "  {{- '<|start_header_id|>user<|end_header_id|>\\n\\nAnswer with a call if one fits.\\n\\n' }}\n"
        "  {%- for t in tools %}{{- t | tojson(indent=2) }}{{- '\\n\\n' }}{% endfor %}{{- first ~ '<|eot_id|>' }}\n"
        "{%- endif %}\n"
        "{%- for m in messages %}\n"
        "  {%- if m.tool_calls is defined and m.tool_calls %}\n"
        "    {%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{% endif %}\n"
        "    {%- set c = m.tool_calls[0].function %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{\"name\": \"' ~ c.name ~ '\", \"parameters\": ' ~ (c.arguments | tojson) ~ '}<|eot_id|>' }}\n"
        "  {%- elif m.role in ['tool', 'ipython'] %}\n"
        "    {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}{% if m.content is mapping or m.content is iterable and m.content is not string %}{{- m.content | tojson }}{% else %}{{- m.content }}{% endif %}{{- '<|eot_id|>' }}\n"
        "  {%- else %}{{- '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' ~ (m.content | trim) ~ '<|eot_id|>' }}{% endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}\n"
    ),
    # Results of several calls share a user turn; a default system prompt.
    "qwen2.5": (
        "{%- if tools %}{{- '<|im_start|>system\\n' }}{% if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}{% else %}{{- 'Be helpful.' }}{% endif %}\n"
        "  {{- '\\n\\n<tools>' }}{% for t in tools %}{{- '\\n' }}{{- t | tojson }}{% endfor %}{{- '\\n</tools><|im_end|>\\n' }}\n"
        "{%- elif messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}{% else %}{{- '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}{% endif %}\n"
        "{%- for message in messages %}\n"
        "  {%- if message.role == 'user' or message.role == 'system' and not loop.first or message.role == 'assistant' and not message.tool_calls %}\n"
        "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
        "  {%- elif message.role == 'assistant' %}\n"
        "    {{- '<|im_start|>' + message.role }}{% if message.content %}{{- '\\n' + message.content }}{% endif %}\n"
        "    {%- for c in message.tool_calls %}{% if c.function is defined %}{% set c = c.function %}{% endif %}{{- '\\n<tool_call>\\n{\"name\": \"' }}{{- c.name }}{{- '\", \"arguments\": ' }}{{- c.arguments | tojson }}{{- '}\\n</tool_call>' }}{% endfor %}\n"
        "    {{- '<|im_end|>\\n' }}\n"
        "  {%- elif message.role == 'tool' %}\n"
        "    {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}\n"
        "    {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}\n"
        "    {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}\n"
        "  {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}\n"
    ),
    # Reasoning is kept behind the last question only, and empty where there is none; it may be switched off.
    "qwen3": (
        "{%- if tools %}{{- '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}{{- '<tools>' }}{% for t in tools %}{{- '\\n' }}{{- t | tojson }}{% endfor %}{{- '\\n</tools><|im_end|>\\n' }}\n"
        "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{% endif %}\n"
        "{%- set ns = namespace(asking=true, last=messages | length - 1) %}\n"
        "{%- for message in messages[::-1] %}{% set index = messages | length - 1 - loop.index0 %}\n"
        "  {%- if ns.asking and message.role == 'user' and message.content is string and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{% set ns.asking = false %}{% set ns.last = index %}{% endif %}\n"
        "{%- endfor %}\n"
        "{%- for message in messages %}{% set content = message.content if message.content is string else '' %}\n"
        "  {%- if message.role == 'user' or message.role == 'system' and not loop.first %}{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}\n"
        "  {%- elif message.role == 'assistant' %}{% set thought = '' %}\n"
        "    {%- if message.reasoning_content is string %}{% set thought = message.reasoning_content %}\n"
        "    {%- elif '</think>' in content %}{% set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}\n"
        "    {%- if loop.index0 > ns.last and (loop.last or thought) %}{{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}{% else %}{{- '<|im_start|>assistant\\n' + content }}{% endif %}\n"
        "    {%- if message.tool_calls %}{% for c in message.tool_calls %}{% if loop.first and content or not loop.first %}{{- '\\n' }}{% endif %}{% if c.function %}{% set c = c.function %}{% endif %}{{- '<tool_call>\\n{\"name\": \"' + c.name + '\", \"arguments\": ' }}{% if c.arguments is string %}{{- c.arguments }}{% else %}{{- c.arguments | tojson }}{% endif %}{{- '}\\n</tool_call>' }}{% endfor %}{% endif %}\n"
        "    {{- '<|im_end|>\\n' }}\n"
        "  {%- elif message.role == 'tool' %}\n"
        "    {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}{{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}\n"
        "  {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}\n"
    ),
    # System prompt and tools stand in the last user turn; content beside calls is dropped; call ids are nine characters.
    "mistral": (
        "{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}\n"
        "{%- set users = rest | selectattr('role', 'equalto', 'user') | list %}\n"
        "{{- bos_token }}\n"
        "{%- for m in rest %}\n"
        "  {%- if m.role == 'user' %}\n"
        "    {%- if tools and m == users[-1] %}{{- '[AVAILABLE_TOOLS] [' }}{% for t in tools %}{{- t | tojson }}{% if not loop.last %}{{- ', ' }}{% endif %}{% endfor %}{{- '][/AVAILABLE_TOOLS]' }}{% endif %}\n"
        "    {%- if loop.last and system is defined %}{{- '[INST] ' + system + '\\n\\n' + m.content + '[/INST]' }}{% else %}{{- '[INST] ' + m.content + '[/INST]' }}{% endif %}\n"
        "  {%- elif m.tool_calls is defined and m.tool_calls is not none %}{{- '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{{- (c.function | tojson)[:-1] }}{% if not c.id is defined or c.id | length != 9 %}{{- raise_exception('call ids have nine characters') }}{% endif %}{{- ', \"id\": \"' + c.id + '\"}' }}{% if not loop.last %}{{- ', ' }}{% else %}{{- ']' + eos_token }}{% endif %}{% endfor %}\n"
        "  {%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}\n"
        "  {%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] {\"content\": ' + m.content | string + ', \"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}\n"
        "  {%- else %}{{- raise_exception('roles are user, assistant, tool') }}{% endif %}\n"
        "{%- endfor %}\n"
    ),
    # The system prompt goes before the first user's words; no tools, no role for results.
    "gemma": (
        "{{ bos_token }}{%- if messages[0].role == 'system' %}{% set first = messages[0].content + '\\n\\n' %}{% set loop_messages = messages[1:] %}{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}"
        "{%- for m in loop_messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{% set role = 'model' if m.role == 'assistant' else m.role %}{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}"
        "{%- if m.content is string %}{{ m.content | trim }}{% else %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text | trim }}{% endif %}{% endfor %}{% endif %}{{ '<end_of_turn>\\n' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    # Turns of every role, tools and calls in a notation of their own by macros that call each other, keys in order; thoughts are cut out of answers, and an
    # empty one is begun where thinking is not asked for; a call, its results and the answer share a turn.
    "gemma4": (
        "{%- macro value(x, quoted=true) -%}"
        "  {%- if x is string -%}{{- '<|\"|>' ~ x ~ '<|\"|>' -}}"
        "  {%- elif x is boolean -%}{{- 'true' if x else 'false' -}}"
        "  {%- elif x is mapping -%}{%- set seen = namespace(any=false) -%}{{- '{' -}}"
        "    {%- for key, each in x | dictsort -%}{%- if seen.any %},{% endif -%}{%- set seen.any = true -%}{{- '<|\"|>' + key + '<|\"|>' if quoted else key -}}:{{- value(each, quoted=quoted) -}}{%- endfor -%}{{- '}' -}}"
        "  {%- elif x is sequence -%}[{%- for each in x -%}{{- value(each, quoted=quoted) -}}{{- ',' if not loop.last -}}{%- endfor -%}]"
        "  {%- else -%}{{- x -}}{%- endif -%}"
        "{%- endmacro -%}"
        "{%- macro fields(properties, required) -%}{%- set ns = namespace(first=true) -%}"
        "  {%- for name, field in properties | dictsort -%}{%- if not ns.first %},{% endif -%}{%- set ns.first = false -%}"
        "    {{- name -}}:{%- if field['description'] -%}{description:{{- value(field['description']) -}},{%- else -%} { {%- endif -%}"
        "    {%- set kind = field['type'] if field['type'] is string else field['type'][0] -%}"
        "    {%- if field['enum'] -%}enum:{{- value(field['enum']) -}},{%- endif -%}"
        "    {%- if kind | upper == 'OBJECT' and field['properties'] is defined -%}properties:{ {{- fields(field['properties'], field['required'] | default([])) -}} },{%- endif -%}"
        "    {%- if kind | upper == 'ARRAY' and field['items'] is mapping -%}items:{%- if field['items']['type'] is string -%}{{- value(field['items']['type'] | upper) -}}{%- else -%}{{- value(field['items']['type'] | map('upper') | list) -}}{%- endif -%},{%- endif -%}"
        "    type:{{- value(kind | upper) -}}{%- if name in required %},needed:true{% endif -%} }"
        "  {%- endfor -%}"
        "{%- endmacro -%}"
        "{%- macro spoken(text) -%}{%- set ns = namespace(said='') -%}"
        "  {%- for part in text.split('<channel|>') -%}{%- set ns.said = ns.said + (part.split('<|channel>')[0] if '<|channel>' in part else part) -%}{%- endfor -%}{{- ns.said | trim -}}"
        "{%- endmacro -%}"
        "{%- set ns = namespace(before=none) -%}{%- set rest = messages -%}{{ bos_token }}"
        "{%- if (enable_thinking is defined and enable_thinking) or tools or messages[0]['role'] in ['system', 'developer'] -%}{{- '<|turn>system\n' -}}"
        "  {%- if enable_thinking is defined and enable_thinking -%}{{- '<|think|>' -}}{%- endif -%}"
        "  {%- if messages[0]['role'] in ['system', 'developer'] -%}{{- messages[0]['content'] | trim -}}{%- set rest = messages[1:] -%}{%- endif -%}"
        "  {%- for tool in tools or [] %}{%- set f = tool['function'] -%}{{- '<|tool>declaration:' ~ f.name ~ '{description:' -}}{{- value(f.description) -}}"
        "    {%- if f.parameters -%},parameters:{ {{- fields(f.parameters.properties, f.parameters.required or []) | trim -}} }{%- endif -%}{{- '}<tool|>' -}}{%- endfor -%}"
        "  {{- '<turn|>\n' -}}"
        "{%- endif -%}"
        "{%- for m in rest -%}{%- set role = 'model' if m['role'] in ['assistant', 'tool'] else m['role'] -%}"
        "  {%- if not (role == 'model' and ns.before in ['tool', 'call']) -%}{{- '<|turn>' + role + '\n' -}}{%- endif -%}"
        "  {%- if m['reasoning_content'] and loop.last -%}{{- '<|channel>thought\n' + m['reasoning_content'] + '<channel|>' -}}{%- endif -%}"
        "  {%- if m['role'] == 'tool' -%}{{- '<|tool_response>response:' ~ m['name'] | default('unknown') ~ '{value:' -}}{{- value(m['content'], quoted=false) -}}{{- '}<tool_response|>' -}}"
        "  {%- elif m['content'] -%}{%- if role == 'model' -%}{{- spoken(m['content']) -}}{%- else -%}{{- m['content'] | trim -}}{%- endif -%}{%- endif -%}"
        "  {%- for call in m['tool_calls'] or [] -%}{{- '<|tool_call>call:' + call['function']['name'] + '{' -}}"
        "    {%- for key, each in call['function']['arguments'] | dictsort -%}{{- key -}}:{{- value(each, quoted=false) -}}{{- ',' if not loop.last -}}{%- endfor -%}{{- '}<tool_call|>' -}}{%- endfor -%}"
        "  {%- set ns.before = 'tool' if m['role'] == 'tool' else 'call' if m['tool_calls'] else none -%}"
        "  {%- if ns.before is none -%}{{- '<turn|>\n' -}}{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{%- if ns.before is none -%}{{- '<|turn>model\n' -}}{%- endif -%}"
        "  {%- if not enable_thinking | default(false) -%}{{- '<|channel>thought\n<channel|>' -}}{%- endif -%}"
        "{%- endif -%}"
    ),
    # Reasoning is always cut out and always begun; results are closed when something follows.
    "deepseek-r1": (
        "{% set ns = namespace(is_tool=false, system='') %}{%- for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}{% endif %}{% endfor %}{{ bos_token }}{{ ns.system }}"
        "{%- for m in messages %}{% if m.role == 'user' %}{% set ns.is_tool = false %}{{ '<|User|>' + m.content }}"
        "{%- elif m.role == 'assistant' and m.tool_calls %}{% set ns.is_tool = false %}{{ '<|Assistant|>' }}{% for c in m.tool_calls %}{{ '<|call|>' + c.function.name + '\\n```json\\n' + (c.function.arguments | tojson) + '\\n```' }}{% endfor %}{{ '<|end|>' }}"
        "{%- elif m.role == 'assistant' %}{% set content = m.content %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{% if ns.is_tool %}{{ '<|/results|>' + content + '<|end|>' }}{% set ns.is_tool = false %}{% else %}{{ '<|Assistant|>' + content + '<|end|>' }}{% endif %}"
        "{%- elif m.role == 'tool' %}{% if not ns.is_tool %}{{ '<|results|>' }}{% endif %}{% set ns.is_tool = true %}{{ '<|result|>' + m.content }}{% endif %}{% endfor %}"
        "{% if ns.is_tool %}{{ '<|/results|>' }}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
    ),
    # Generation blocks with the header inside; a mode in the system prompt; reasoning in the content only.
    "smollm3": (
        "{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}\n"
        "{%- set mode = '/think' if enable_thinking else '/no_think' %}\n"
        "{{- '<|im_start|>system\\nMode: ' + mode + '\\n' }}\n"
        "{%- if messages[0].role == 'system' %}{{- messages[0].content.rstrip() + '\\n' }}{% endif %}\n"
        "{%- if xml_tools or python_tools %}{{- 'Tools:\\n' }}{% for t in (xml_tools or python_tools) %}{{- t | string + '\\n' }}{% endfor %}{% endif %}\n"
        "{{- '<|im_end|>\\n' }}\n"
        "{%- for m in messages %}{% set content = m.content if m.content is string else '' %}\n"
        "  {%- if m.role == 'user' %}{{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' }}\n"
        "  {%- elif m.role == 'assistant' %}{% generation %}{% if mode == '/think' %}{{- '<|im_start|>assistant\\n' + content.lstrip('\\n') + '<|im_end|>\\n' }}{% else %}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n' + content.lstrip('\\n') + '<|im_end|>\\n' }}{% endif %}{% endgeneration %}\n"
        "  {%- elif m.role == 'tool' %}{{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' }}{% endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% if mode == '/no_think' %}{{- '<think>\\n\\n</think>\\n' }}{% endif %}{% endif %}\n"
    ),
    # Tools are a key of the system message; whole conversations are closed.
    "phi": (
        "{% for m in messages %}{% if m.role == 'system' and m.tools is defined and m.tools is not none %}{{ '<|system|>' + m.content + '<|tool|>' + m.tools + '<|/tool|><|end|>' }}{% else %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    # Roles in brackets, tools in a role of their own, a default system prompt, calls as a list behind a token.
    "granite": (
        "{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set loop_messages = messages[1:] %}{% else %}{% set system = 'You are Granite.' %}{% set loop_messages = messages %}{% endif %}"
        "{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' }}"
        "{%- if tools %}{{- '<|start_of_role|>available_tools<|end_of_role|>' + (tools | tojson(indent=4)) + '<|end_of_text|>\\n' }}{% endif %}"
        "{%- for m in loop_messages %}{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' }}{% if m.role == 'assistant' and m.tool_calls %}{{- '<|tool_call|>[' }}{% for c in m.tool_calls %}{{- {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}{% if not loop.last %}{{- ', ' }}{% endif %}{% endfor %}{{- ']' }}{% if m.content %}{{- m.content }}{% endif %}{% else %}{{- m.content }}{% endif %}{{- '<|end_of_text|>\\n' }}"
        "{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}{% if controls %}{{- ' ' + controls | tojson }}{% endif %}{{- '<|end_of_role|>' }}{% endif %}{% endfor %}"
    ),
}

ENDS = ["<|eot_id|>", "<|im_end|>", "</s>", "<end_of_turn>", "<turn|>", "<tool_call|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>"]
BOS, EOS = "<s>", "</s>"

TOOLS = [dict(type="function", function=dict(name="get_rain", description="Rain <b>in</b> mm", parameters=dict(type="object", properties=dict(town=dict(type="string")), required=["town"])))]

NESTED = [
    dict(type="function", function=dict(name="get_rain", description="Rain in mm", parameters=dict(
        type="object", required=["town", "who"],
        properties=dict(
            town=dict(type="string", description="The town", enum=["Ulm", "Bern"]),
            who=dict(type="object", properties=dict(b=dict(type="array", items=dict(type=["number", "null"])), a=dict(type="boolean")), required=["a"]),
            Z=dict(type="array", items=dict(type="string")),
            deep=dict(type=["array", "null"], description="More"),
        ),
    ))),
    dict(type="function", function=dict(name="now", description="The time", parameters=dict(type="object", properties={}))),
]


def u(content):
    return dict(role="user", content=content)


def a(content, **more):
    return dict(role="assistant", content=content, **more)


def s(content):
    return dict(role="system", content=content)


def call(*arguments, content="", **more):
    calls = [dict(id=f"abcdefgh{i}", type="function", function=dict(name="get_rain", arguments=each)) for i, each in enumerate(arguments)]
    return dict(role="assistant", content=content, tool_calls=calls, **more)


def result(content, i=0):
    return dict(role="tool", content=content, tool_call_id=f"abcdefgh{i}")


CONVERSATIONS = [
    dict(name="one turn", messages=[u("Who is there?"), a("Nobody at all.")]),
    dict(name="three turns", messages=[s("Be brief, and kind."), u("one?"), a("First answer."), u("two?"), a("Second answer."), u("three?"), a("b")]),
    dict(name="white space", messages=[u("  q \n"), a("\n\n indented\n  answer \n"), u("r"), a("s ")]),
    dict(name="like the prompt's tail", messages=[u("bold?"), a("<b>bold</b>"), u("again?"), a("<th>x</th>")]),
    dict(name="reasoning in the content", messages=[u("2+2?"), a("<think>\ntwo and two\n</think>\n\n4"), u("3+3?"), a("<think>\nthree and three\n</think>\n\n6")]),
    dict(name="reasoning of its own", messages=[u("2+2?"), a("four", reasoning_content="two and two")]),
    dict(name="a call", messages=[u("Rain in Ulm?"), call(dict(town="Ulm")), result("3 mm fell"), a("Three millimetres.")], tools=TOOLS),
    dict(name="a call that ends", messages=[u("Rain in Ulm?"), call(dict(town="Ulm"))], tools=TOOLS),
    dict(name="numbers alone", messages=[u("Rain?"), call(dict(lat=48.4, n=[1, 2]))], tools=TOOLS),
    dict(name="no arguments", messages=[u("Rain?"), call(dict())], tools=TOOLS),
    dict(name="words beside a call", messages=[u("Rain in Ulm?"), call(dict(town="Ulm"), content="Let me look it up."), result("3 mm fell"), a("Three millimetres.")], tools=TOOLS),
    dict(name="two calls", messages=[u("Rain in Ulm and Bern?"), call(dict(town="Ulm"), dict(town="Bern")), result("3 mm fell"), result("none fell", 1), a("Only in Ulm.")], tools=TOOLS),
    dict(name="a call, and another question", messages=[u("Rain in Ulm?"), call(dict(town="Ulm")), result("3 mm fell"), a("Three millimetres."), u("Thanks!"), a("Not at all.")], tools=TOOLS),
    dict(name="reasoning and a call", messages=[u("Rain in Ulm?"), call(dict(town="Ulm"), reasoning_content="I have a tool for that."), result("3 mm fell"), a("Three millimetres.", reasoning_content="So it rained.")], tools=TOOLS),
    dict(name="tools for nothing", messages=[u("Hello there!"), a("Good morning.")], tools=TOOLS),
    dict(name="nested arguments", messages=[u("Rain?"), call(dict(town="Ulm", who=dict(b=[1, 2.5, None], a=True), Z=[], deep=[dict(x="y")])), result("3 mm fell"), a("Three.")], tools=NESTED),
    dict(name="thinking off", messages=[u("2+2?"), a("It is four.")], args=dict(enable_thinking=False)),
]


def variants(conversation):
    """Conversations that say something else in one field each, by the field's name."""
    for i, message in enumerate(conversation["messages"]):
        for name in ("content", "reasoning_content", "tool_calls"):
            value = message.get(name)
            if not value:
                continue
            others = []
            if name == "tool_calls":
                other = copy.deepcopy(value)
                for each in other:
                    each["function"]["arguments"] = dict(each["function"]["arguments"], zq="zq")
                others = [(name, other)]
            elif "</think>" in value:
                thought, answer = value.split("</think>")
                others = [("reasoning", thought + "zq</think>" + answer), (name, value + "zq")]
            else:
                others = [(name, "zq" + value + "zq")]
            for field, other in others:
                changed = copy.deepcopy(conversation)
                changed["messages"][i][name] = other
                yield f"{i} {field}", changed
    if conversation.get("tools"):
        changed = copy.deepcopy(conversation)
        changed["tools"][0]["function"]["name"] = "other_tool"
        yield "tools", changed


def main():
    bare = Tokenizer(models.WordLevel({"<unk>": 0, BOS: 1, EOS: 2}, unk_token="<unk>"))
    loaded = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token=BOS, eos_token=EOS, unk_token="<unk>")
    out = []

    def render(template, conversation, generation=False):
        return loaded.apply_chat_template(
            conversation["messages"], tools=conversation.get("tools"), chat_template=template, tokenize=False,
            add_generation_prompt=generation, **conversation.get("args", {}))

    for family, template in TEMPLATES.items():
        for conversation in CONVERSATIONS:
            case = dict(family=family, name=conversation["name"])
            try:
                case["text"] = render(template, conversation)
            except Exception as error:
                out.append(dict(case, error=str(error)))
                continue
            case["asking"] = hashlib.sha256(render(template, conversation, True).encode()).hexdigest()[:16]
            lost = []
            for field, changed in variants(conversation):
                try:
                    if render(template, changed) == case["text"]:
                        lost.append(field)
                except Exception:
                    pass
            case["lost"] = lost
            if "{% generation %}" in template:
                marked = loaded.apply_chat_template(
                    conversation["messages"], tools=conversation.get("tools"), chat_template=template.replace("{% generation %}", "{{ '\\x01' }}").replace("{% endgeneration %}", "{{ '\\x02' }}"),
                    tokenize=False, **conversation.get("args", {}))
                case["trained"] = [part.split("\x02")[0] for part in marked.split("\x01")[1:]]
            else:
                # Each answer by the renderings that ask for it, where these are the beginning of what follows.
                answers = []
                for i, message in enumerate(conversation["messages"]):
                    if message["role"] != "assistant":
                        continue
                    try:
                        prompt = render(template, dict(conversation, messages=conversation["messages"][:i]), True)
                        through = render(template, dict(conversation, messages=conversation["messages"][: i + 1]))
                    except Exception:
                        answers.append(None)
                        continue
                    answers.append(through[len(prompt):] if through.startswith(prompt) else None)
                case["answers"] = answers
            out.append(case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in out)
    head = json.dumps(dict(ends=ENDS, bos=BOS, eos=EOS, templates=TEMPLATES, conversations=CONVERSATIONS), ensure_ascii=False)[1:-1]
    (HERE / "cases.json").write_text(f'{{{head},"cases":[\n{lines}\n]}}\n')


main()
