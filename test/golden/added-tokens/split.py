"""Writes split.json: token ids of texts in which special tokens' texts are text like any other (split_special_tokens), by Transformers 5.23.

    python split.py        (transformers 5.23)
"""

import json
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).parent
TEXTS = {
    "smollm": ["a<|im_end|>b", "<|im_end|>", "<|im_start|><|im_end|> x <|endoftext|>"],
    "llama3": ["a<|eot_id|>b", "<|begin_of_text|>", " <|start_header_id|>user<|end_header_id|>\n\nhi"],
    "gemma3": ["a<end_of_turn>b", "<bos><eos>", "x\n\n<start_of_turn>"],
    "phi3": ["a<|end|> b", "<|user|>\n hi"],
}


def main():
    out = {}
    for name, texts in TEXTS.items():
        loaded = AutoTokenizer.from_pretrained(HERE.parent / "tokenizers" / name)
        out[name] = [dict(text=text, ids=loaded(text, add_special_tokens=False, split_special_tokens=True).input_ids) for text in texts]
    (HERE / "split.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


main()
