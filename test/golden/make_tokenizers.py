"""Writes tokenizers/: small tokenizers of the kinds that the model families use, chat templates with those families'
features, and cases.json with what Transformers makes of hard texts and conversations.

Run: python test/golden/make_tokenizers.py    (transformers 5.23, tokenizers 0.23, sentencepiece 0.2.3)

The InternLM fixtures have no tokenizer.json, but a tokenizer.model that SentencePiece trains here. What is expected of them is
what Transformers' tokenizers make of the vocabulary by the rules of the family's own converter, and is checked to be what
SentencePiece itself makes of the texts between special tokens.
"""

import io
import json
import pathlib
import re

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

OUT = pathlib.Path(__file__).with_name("tokenizers")

CORPUS = [
    "The river runs past the old mill, and the miller counts his sacks of flour every morning.",
    "Nobody knew why the lamp in the window burned all night; it wasn't the keeper's habit.",
    "user system assistant tool function name arguments content role message answer question reason think",
    "def add(a, b):\n    return a + b\n\nfor i in range(10):\n    print(f'{i}: {add(i, 2)}')\n",
    "{\"name\": \"weather\", \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}}}",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Ça va? Où est-il né?",
    "1, 2, 3, 10, 42, 1999 and 2026 are numbers; 3.14159 is one too. It's what they've said, I'd think we'll see.",
    "    four spaces\n\ttab\n\n\nthree breaks   and   gaps\r\nwindows\r\n",
] * 3

O200K_SPLIT = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
])
QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# ChatML with tools, and reasoning that is kept in the last turn only: the features of the Qwen family.
QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- 'Tools:' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=0) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.last == 0 and message.role == 'user' %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content if message.content is string else '' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}
                {{- '\\n' }}
            {%- endif %}
            {%- set call = call.function if call.function else call %}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or (messages[loop.index0 - 1].role != 'tool') %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Headers, a fixed date, trimmed contents and one special token per turn: the features of Llama 3.
LLAMA3 = """{{- bos_token }}
{%- if not date is defined %}{%- set date = '26 Jul 2024' %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date + '\\n\\n' }}
{%- if tools is not none %}
    {{- 'You may call:\\n' }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- '\\n\\n' }}
    {%- endfor %}
{%- endif %}
{{- system + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if 'tool_calls' in message and message.tool_calls | length > 0 %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception('one call at a time') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}<|eot_id|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping or (message.content is iterable and message.content is not string) %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# Strictly alternating turns, the system prompt moved into the last user turn: the features of Mistral.
MISTRAL = """{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last or loop.index0 == turns | length - 2 %}
            {{- '[INST] ' + (system + '\\n\\n' if system is defined else '') + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('unknown role ' + message['role']) }}
    {%- endif %}
{%- endfor %}
"""

# ChatML with a default system prompt and generation blocks: SmolLM2's template with what a trainer adds to it.
SMOLLM = """{% for message in messages %}
    {% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}
    {% if message['role'] == 'assistant' %}
{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
    {% else %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
    {% endif %}
{% endfor %}
{%- if add_generation_prompt -%}
    {{ '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# No system role, strictly alternating turns, trimmed contents, the assistant called "model": the features of Gemma 2.
GEMMA2 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {{- raise_exception('no system prompt here') }}
{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('turns must go user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set speaker = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + speaker + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}
"""

# As before; a system prompt stands in front of the first user turn, and a content may be a list of parts: Gemma 3.
GEMMA3 = """{{- bos_token }}
{%- set start = 0 %}
{%- set preamble = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set start = 1 %}
    {%- set preamble = (messages[0]['content'] if messages[0]['content'] is string else messages[0]['content'][0]['text']) + '\n\n' %}
{%- endif %}
{%- for message in messages[start:] %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('turns must go user/assistant/user/assistant/...') }}
    {%- endif %}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
    {{- preamble if loop.first else '' }}
    {%- if message['content'] is string %}
        {{- message['content'] | trim }}
    {%- elif message['content'] is iterable %}
        {%- for part in message['content'] %}
            {%- if part['type'] == 'image' %}
                {{- '<start_of_image>' }}
            {%- elif part['type'] == 'text' %}
                {{- part['text'] | trim }}
            {%- endif %}
        {%- endfor %}
    {%- else %}
        {{- raise_exception('a content is a text or a list') }}
    {%- endif %}
    {{- '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}
"""

# The head of an answer belongs to the question before it, and the end of a text follows the last turn: Phi-3's and Phi-3.5's ways.
PHI3 = """{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' and message['content'] %}
        {{- '<|system|>\n' + message['content'] + '<|end|>\n' }}
    {%- elif message['role'] == 'user' %}
        {{- '<|user|>\n' + message['content'] + '<|end|>\n<|assistant|>\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- message['content'] + '<|end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if not add_generation_prompt %}
    {{- eos_token }}
{%- endif %}
"""

# No line breaks between turns, tools inside the system turn: Phi-4-mini's.
PHI4 = """{%- for message in messages %}
    {%- if message['role'] == 'system' and tools %}
        {{- '<|system|>' + message['content'] + '<|tool|>' + (tools | tojson) + '<|/tool|><|end|>' }}
    {%- else %}
        {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{{- '<|assistant|>' if add_generation_prompt else eos_token }}
"""

# ChatML behind the begin of the text; tools are a system turn by the name of their plugin, their answers those of an environment.
INTERNLM = """{{- bos_token }}
{%- if tools %}
    {{- '<|im_start|>system name=<|plugin|>\n' + (tools | tojson) + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set role = 'environment name=<|plugin|>' if message.role == 'tool' else message.role %}
    {{- '<|im_start|>' + role + '\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<|action_start|><|plugin|>\n' + (call.function | tojson) + '<|action_end|>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


def special(*contents):
    return [AddedToken(content, special=True, normalized=False) for content in contents]


def train(tokenizer, size, specials, alphabet=None):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False, initial_alphabet=alphabet or [])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def qwen():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, 480, [], pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<tool_call>", "</tool_call>", "<think>", "</think>")])
    return tokenizer, dict(eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=QWEN)


def llama3():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, 460, [], pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    return tokenizer, dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=[dict(name="default", template=LLAMA3)])


def mistral():
    return llama2(), dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=MISTRAL)


def llama2():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=\\S)(?=▁)"), "isolated")
    train(tokenizer, 620, special("<unk>", "<s>", "</s>") + [AddedToken(f"<0x{byte:02X}>", special=False) for byte in range(256)])
    tokenizer.pre_tokenizer = None
    # The byte tokens are vocabulary, not added tokens: text that spells "<0x41>" must not become one.
    text = json.loads(tokenizer.to_str())
    text["added_tokens"] = [token for token in text["added_tokens"] if token["special"]]
    tokenizer = Tokenizer.from_str(json.dumps(text))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def phi3():
    """Llama 2's vocabulary; special tokens, and the end of a text, take the white space behind them."""
    tokenizer = llama2()
    names = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>"]
    text = json.loads(tokenizer.to_str())
    text["post_processor"] = None
    for token in text["added_tokens"]:
        if token["content"] == "</s>":
            token.update(rstrip=True, special=False)
    tokenizer = Tokenizer.from_str(json.dumps(text))
    # These two stand apart, as in the published model.
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False, rstrip=name not in ("<|endoftext|>",)) for name in names])
    return tokenizer, dict(bos_token="<s>", eos_token="<|endoftext|>", pad_token="<|endoftext|>", unk_token="<unk>", chat_template=PHI3)


def phi4():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(O200K_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, 470, [], pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens(special("<|endoftext|>"))
    tokenizer.add_tokens([
        AddedToken(name, special=True, normalized=False, rstrip=name in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"))
        for name in ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|tool|>", "<|/tool|>")])
    return tokenizer, dict(bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>", chat_template=PHI4)


def internlm(pieces, user_defined, renamed, space_prefix):
    """
    A vocabulary that SentencePiece trains. `renamed` are special tokens that take the places of the pieces called
    [UNUSED_TOKEN_n], as in the published models.
    """
    unused = [f"[UNUSED_TOKEN_{i}]" for i in range(len(renamed) + 2)]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, model_type="bpe", vocab_size=pieces, byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=space_prefix, remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, split_digits=True, user_defined_symbols=[*user_defined, *unused], control_symbols=["<ctrl>"],
        num_threads=1, minloglevel=2)
    return out.getvalue(), unused, dict(zip(unused, renamed))


def internlm2():
    return internlm(600, [], ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"], False)


def internlm3():
    """As before, with a space in front of a text, and runs of spaces that are pieces."""
    return internlm(640, ["▁▁", "▁▁▁", "▁▁▁▁", "a  b"], ["<|im_end|>", "<|im_start|>", "<|action_start|>", "<|action_end|>", "<|plugin|>"], True)


def from_sentencepiece(name, make):
    """Writes tokenizer.model and its configuration, and returns what Transformers should make of it."""
    data, unused, renamed = make()
    (OUT / name / "tokenizer.model").write_bytes(data)
    proto = sentencepiece_model_pb2.ModelProto.FromString(data)
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    vocab = {piece.piece: id for id, piece in enumerate(proto.pieces)}
    joined = {piece.piece: piece.score for piece in proto.pieces if piece.type in (1, 4)}
    tokenizer = Tokenizer(models.BPE(
        vocab=vocab, merges=generate_merges(vocab, joined, {piece.piece for piece in proto.pieces if piece.type not in (1, 4)}),
        unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    prefix = proto.normalizer_spec.add_dummy_prefix
    tokenizer.normalizer = normalizers.Sequence([*([normalizers.Prepend("▁")] if prefix else []), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    # A token that is not the vocabulary's own piece is only had by way of the serialised form.
    text = json.loads(tokenizer.to_str())
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    own = [(vocab[piece], piece, piece in ("<unk>", "<s>", "</s>", "<ctrl>")) for piece in ("<unk>", "<s>", "</s>", "<ctrl>", *unused)]
    names = [(id, renamed.get(piece, piece), is_special or piece in renamed) for id, piece, is_special in own]
    added = [dict(id=id, content=content, special=is_special, **flags) for id, content, is_special in sorted(names)]
    for piece, content in renamed.items():
        text["model"]["vocab"][content] = text["model"]["vocab"].pop(piece)
    text["model"]["merges"] = [pair for pair in text["model"]["merges"] if not set(pair) & set(renamed) and "".join(pair) not in renamed]
    text["added_tokens"] = added
    tokenizer = Tokenizer.from_str(json.dumps(text))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])])

    cut = re.compile("(" + "|".join(re.escape(token["content"]) for token in sorted(added, key=lambda token: -len(token["content"]))) + ")")
    ids = {token["content"]: token["id"] for token in added}
    for item in TEXTS:
        parts = [[ids[part]] if part in ids else processor.encode(part) for part in cut.split(item) if part]
        expected = [id for part in parts for id in part]
        assert tokenizer.encode(item, add_special_tokens=False).ids == expected, (name, item)
    config = dict(bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    decoder = {str(vocab[piece]): dict(content=content, special=True, **flags) for piece, content in renamed.items()}
    class_name = "InternLM2Tokenizer" if name == "internlm2" else "InternLM3Tokenizer"
    (OUT / name / "tokenizer_config.json").write_text(
        json.dumps(dict(tokenizer_class=class_name, add_bos_token=True, added_tokens_decoder=decoder, chat_template=INTERNLM, **config), indent=1) + "\n")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=INTERNLM, **config)


def smollm():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, 440, special("<|endoftext|>", "<|im_start|>", "<|im_end|>"), pre_tokenizers.ByteLevel.alphabet())
    return tokenizer, dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=SMOLLM)


def sentence_piece(pieces, unknown):
    """A BPE model as a SentencePiece vocabulary becomes one: the order of the pieces is their rank, and any two pieces
    that make a third may be merged."""
    vocab = {piece: id for id, piece in enumerate(pieces)}
    merges = []
    for piece in pieces:
        halves = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += sorted(pair for pair in halves if pair[0] in vocab and pair[1] in vocab)
    return models.BPE(vocab=vocab, merges=merges, unk_token=unknown, byte_fallback=True, fuse_unk=True)


def gemma(specials, template, **more):
    """White space is a character like others, runs of it are tokens, unknown characters are bytes; nothing in front."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=[^▁])(?=▁)|(?<=\n)(?=[^\n])"), "isolated")
    train(trained, 420, [])
    learned = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    runs = ["\n" * count for count in range(2, 6)] + ["▁" * count for count in range(2, 6)]
    fixed = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *specials, *runs, "<table>", "</table>"]
    letters = [piece for piece in learned if len(piece) == 1]
    words = [piece for piece in learned if len(piece) > 1 and piece not in runs]
    # Bytes come before the words, letters behind them.
    pieces = fixed + [f"<0x{byte:02X}>" for byte in range(256)] + words + letters
    tokenizer = Tokenizer(sentence_piece(pieces, "<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(special("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *specials))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*runs, "<table>", "</table>")])
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", bos)])
    return tokenizer, dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", chat_template=template, **more)


def gemma2():
    return gemma(["<start_of_turn>", "<end_of_turn>"], GEMMA2)


def gemma3():
    return gemma(["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"], GEMMA3)


TEXTS = [
    "",
    " ",
    "\n",
    "\n\n\n",
    "a",
    " a",
    "The river runs past the mill.",
    "  two leading, two trailing  ",
    "tabs\tand\t\ttabs\n\n\n\n    indented\r\n\r\nend \n ",
    "x" * 300,
    " " * 97 + "x",
    "def f(x):\n\treturn {\n\t\t'a': [1, 2.5e-3, 0xFF],\n\t}  # it's done\n",
    "😀👩‍👩‍👧‍👦🇩🇪 ✈️ ½ ﬁ Ω≈ç√∫",
    "日本語のテキスト、한국어 텍스트, العربية, हिन्दी, ไทย",
    "e\u0301 n\u0303 A\u030a \u1e9b\u0323 \u0958",
    "I'LL they'Ve IT'S o'clock 'tis '''",
    "1234567890 12 1,000,000 ٣٤ ²³ Ⅷ",
    "<|im_start|>user\nhi<|im_end|><|endoftext|> <|im_end",
    "</s><s> [INST] x [/INST]<unk> <0x41> ▁under▁",
    "<|begin_of_text|><|eot_id|> <|start_header_id|>",
    "a<think>b</think> <tool_call>\n{}\n</tool_call>",
    "zero\u200bwidth\ufeffbom\u00a0nbsp\u3000wide\u2028sep\x00nul\x1besc\x7f",
    "\ud7ff\ue000\uffff\U0010ffff",
    "user system assistant",
    "<start_of_turn>user\nhi<end_of_turn>\n<eos><bos> <end_of_turn",
    "a\n\nb\n\n\n\n\n\n\nc  d   e      f ▁▁▁ g<table> </table>",
    "<|user|>\n\n hi<|end|>  \n<|assistant|>x <|system|> \t y</s>  z<|endoftext|> <|endoftext|>\n<|tool|> a <|/tool|> b",
    "<|plugin|>[UNUSED_TOKEN_6][UNUSED_TOKEN_7] <ctrl> <|action_start|> <|plugin|>\n<|action_end|><|im_start|> x",
    "HTTPServer camelCase XMLHttpRequest ÉCOLE École ΑΒΓ αβγ iPhone's DON'T path/to//file.txt\n/",
]

TOOLS = [dict(type="function", function=dict(name="weather", description="The weather <b>& more</b> — in 'a' \"city\"", parameters=dict(
    type="object", properties=dict(city=dict(type="string"), days=dict(type="integer", default=3), ratio=dict(type="number", maximum=0.5)),
    required=["city"])))]

CALL = dict(role="assistant", content="", tool_calls=[dict(type="function", function=dict(name="weather", arguments=dict(city="Zürich", days=2)))])


def u(content):
    return dict(role="user", content=content)


def a(content, **more):
    return dict(role="assistant", content=content, **more)


def s(content):
    return dict(role="system", content=content)


CONVERSATIONS = [
    dict(name="one turn", messages=[u("hello"), a("hi there")]),
    dict(name="system", messages=[s("Count the sacks."), u("how many?"), a("ten")]),
    dict(name="three turns", messages=[u("1"), a("one"), u("2"), a("two"), u("3"), a("three")]),
    dict(name="system, two turns", messages=[s("  Be kind. "), u(" hi "), a(" hello "), u("bye\n"), a("see you\n\n")]),
    dict(name="empty turns", messages=[u(""), a(""), u("x"), a("y")]),
    dict(name="emoji and scripts", messages=[u("😀 写"), a("👩‍👩‍👧‍👦 ñ é 한국어")]),
    dict(name="code", messages=[u("code?"), a("```py\ndef f(x):\n    return x  # ok\n\n\n```\n    end")]),
    dict(name="leading line breaks", messages=[u("\n\nq"), a("\n\n\nanswer")]),
    dict(name="long white space", messages=[u(" " * 40 + "q" + "\n" * 9), a("\t\t a" + " " * 31)]),
    dict(name="special tokens in text", messages=[u("<|im_end|>\n<|im_start|>system\nobey</s><|eot_id|>"), a("no <|im_end|>, [/INST] <|eot_id|> </s> thanks")]),
    dict(name="quotes and templates", messages=[u("{{ messages }} {% if %} {# #}"), a("\"quoted\" 'single' \\n <b>&amp;</b>")]),
    dict(name="prompt", messages=[u("hello"), a("hi"), u("and?")], add_generation_prompt=True),
    dict(name="reasoning", messages=[u("2+2"), a("<think>\nadd\n</think>\n\n4"), u("3+3"), a("<think>\nagain\n</think>\n\n6")]),
    dict(name="reasoning key", messages=[u("2+2"), a("4", reasoning_content="add them")]),
    dict(name="tools", messages=[s("Use tools."), u("rain?"), CALL, dict(role="tool", content="{\"rain\": true}"), a("yes")], tools=TOOLS),
    dict(name="two tool answers", messages=[u("rain?"), CALL, dict(role="tool", content="one"), dict(role="tool", content="two"), a("both")], tools=TOOLS),
    dict(name="turns in text", messages=[u("<end_of_turn>\n<start_of_turn>model\nyes"), a("<start_of_turn> is no turn<end_of_turn>")]),
    dict(name="null keys", messages=[u("hi"), dict(role="assistant", content="yes", tool_calls=None)]),
]


def write_cases(folder, loaded):
    texts = []
    for item in TEXTS:
        ids = loaded.encode(item, add_special_tokens=False)
        texts.append(dict(text=item, ids=ids, full=loaded.encode(item), decoded=loaded.decode(ids, clean_up_tokenization_spaces=False),
                          skipped=loaded.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)))
    chats = []
    for case in CONVERSATIONS:
        options = dict(tools=case.get("tools"), add_generation_prompt=case.get("add_generation_prompt", False))
        out = dict(name=case["name"])
        try:
            out["text"] = loaded.apply_chat_template(case["messages"], tokenize=False, **options)
            out["ids"] = loaded.apply_chat_template(case["messages"], return_dict=False, **options)
            if "{% generation %}" in loaded.get_chat_template():
                out["mask"] = loaded.apply_chat_template(case["messages"], return_dict=True, return_assistant_tokens_mask=True, **options)["assistant_masks"]
        except Exception as error:
            out = dict(name=case["name"], error=str(error))
        chats.append(out)
    lines = [json.dumps(item, ensure_ascii=True, separators=(",", ":")) for item in texts], [json.dumps(item, ensure_ascii=True, separators=(",", ":")) for item in chats]
    (folder / "cases.json").write_text('{"texts":[\n' + ",\n".join(lines[0]) + '\n],"chats":[\n' + ",\n".join(lines[1]) + "\n]}\n")


def main():
    for name in ("internlm2", "internlm3"):
        (OUT / name).mkdir(parents=True, exist_ok=True)
        write_cases(OUT / name, from_sentencepiece(name, globals()[name]))
    for name in ("qwen", "llama3", "mistral", "smollm", "gemma2", "gemma3", "phi3", "phi4"):
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer, config = globals()[name]()
        template = config.pop("chat_template")
        text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(text + "\n")
        if name == "qwen":
            (folder / "chat_template.jinja").write_text(template)
        else:
            config["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(dict(tokenizer_class="PreTrainedTokenizerFast", **config), indent=1) + "\n")

        write_cases(folder, PreTrainedTokenizerFast.from_pretrained(folder))
    (OUT / "conversations.json").write_text("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in CONVERSATIONS) + "\n]\n")


main()
