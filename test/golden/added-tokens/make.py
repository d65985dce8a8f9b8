"""Writes cases.json: what Transformers 5.23 makes of tokens that only tokenizer_config.json (or special_tokens_map.json) lists.

Each case is the tokenizer of ../tokenizers/smollm with other files: `remove` takes tokens from tokenizer.json's added_tokens,
`plain` makes them not special there, `config` overrides keys of tokenizer_config.json, `map` is special_tokens_map.json.

    python make.py        (transformers 5.23)
"""

import json
import shutil
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).parent
BASE = HERE.parent / "tokenizers" / "smollm"
TEXTS = ["hi <|im_end|> x", "<|im_start|>the<a> the <b> c<|new|>", "<pad>  <a>  <b>"]
TEMPLATE = "{{ image_token }}|{{ other_token }}|{{ eos_token }}|{{ extra_special_tokens }}"


def token(content, **flags):
    return dict(dict(content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True), **flags)


CASES = [
    dict(name="a token of the vocabulary keeps its id", remove=["<|im_end|>"], config=dict(added_tokens_decoder={"2": token("<|im_end|>")})),
    dict(name="a token that eos_token alone names", remove=["<|im_end|>"], config=dict(eos_token="<|im_end|>")),
    dict(name="a token that nothing names", remove=["<|im_end|>"], config=dict(eos_token="<|endoftext|>", bos_token=None, pad_token=None)),
    dict(name="new tokens in the order of their listed ids", config=dict(added_tokens_decoder={
        "999": token("<b>", lstrip=True, rstrip=True), "600": token("<a>", special=False)})),
    dict(name="flags of the configuration win", config=dict(added_tokens_decoder={"2": token("<|im_end|>", lstrip=True, rstrip=True)})),
    dict(name="special by the configuration", plain=["<|im_end|>"], config=dict(added_tokens_decoder={"2": token("<|im_end|>")})),
    dict(name="a plain token that is eos stays plain", plain=["<|im_end|>"], config={}),
    dict(name="extra_special_tokens, a list", config=dict(extra_special_tokens=["<a>", "<b>"])),
    dict(name="extra_special_tokens, named", config=dict(extra_special_tokens=dict(image_token="<a>", other_token=token("<b>", lstrip=True, __type="AddedToken")))),
    dict(name="additional_special_tokens", config=dict(additional_special_tokens=["<a>", token("<b>", rstrip=True, __type="AddedToken")])),
    dict(name="named tokens before extra ones", config=dict(pad_token="<pad>", extra_special_tokens=["<a>"])),
    dict(name="special_tokens_map.json", config={}, map=dict(additional_special_tokens=["<a>"], pad_token="<pad>")),
]


def main():
    out = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            text = json.loads((BASE / "tokenizer.json").read_text())
            text["added_tokens"] = [
                {**entry, "special": entry["content"] not in case.get("plain", [])}
                for entry in text["added_tokens"] if entry["content"] not in case.get("remove", [])]
            (folder / "tokenizer.json").write_text(json.dumps(text))
            config = json.loads((BASE / "tokenizer_config.json").read_text())
            (folder / "tokenizer_config.json").write_text(json.dumps({**config, **case["config"]}))
            if "map" in case:
                (folder / "special_tokens_map.json").write_text(json.dumps(case["map"]))
            loaded = AutoTokenizer.from_pretrained(folder)
            ids = [loaded.encode(text, add_special_tokens=False) for text in TEXTS]
            rendered = loaded.apply_chat_template([dict(role="user", content="x")], chat_template=TEMPLATE, tokenize=False)
            out.append({**case, "ids": ids, "decoded": [loaded.decode(i, skip_special_tokens=True) for i in ids], "rendered": rendered})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in out)
    (HERE / "cases.json").write_text(f'{{"texts":{json.dumps(TEXTS)},"template":{json.dumps(TEMPLATE)},"cases":[\n{lines}\n]}}\n')


main()
