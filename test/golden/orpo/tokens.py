"""Writes tokens.json: how TRL's ORPOTrainer tokenizes pairs of texts, for some tokenizers, uncut and cut at a length.

    python test/golden/orpo/tokens.py
    (transformers 5.23.0, trl 1.16.0)
"""

import json
from pathlib import Path

import transformers
import trl
from accelerate import PartialState
from transformers import AutoTokenizer
from trl.experimental.orpo import ORPOTrainer

HERE = Path(__file__).parent
TOKENIZERS = {
    "bundled": HERE.parents[2] / "recipes/base/model",
    "llama3": HERE.parent / "tokenizers/llama3",
    "qwen": HERE.parent / "tokenizers/qwen",
    "gemma2": HERE.parent / "tokenizers/gemma2",
}
PAIRS = [
    {"prompt": "What is the sea?", "chosen": " A body of salt water.", "rejected": " I do not know."},
    # The last word of the prompt goes on in one answer, and tokens may reach across.
    {"prompt": "The word is under", "chosen": "standing, which is rare.", "rejected": " a stone"},
    {"prompt": "Say it: ", "chosen": "Grüße, 水, 🙂!", "rejected": "no"},
    {"prompt": "1 + 1 =\n", "chosen": "2", "rejected": "11"},
    {"prompt": "A longer prompt, of which not much more than a beginning is kept where texts are cut.", "chosen": " Yes.", "rejected": " No, " * 40},
]
LENGTHS = [400, 95]


class Tokenizing(ORPOTrainer):
    def __init__(self, tokenizer, length):
        self.processing_class, self.max_length, self.is_encoder_decoder = tokenizer, length, False


PartialState()


def tokenized(folder, length):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [Tokenizing(tokenizer, length).tokenize_row(pair) for pair in PAIRS]
    return [
        {side: {"ids": row[f"{side}_input_ids"], "labels": row[f"{side}_labels"]} for side in ("chosen", "rejected")} for row in rows
    ]


expected = [
    {"tokenizer": name, "length": length, "pairs": tokenized(folder, length)} for name, folder in TOKENIZERS.items() for length in LENGTHS
]
versions = {"transformers": transformers.__version__, "trl": trl.__version__}
(HERE / "tokens.json").write_text(json.dumps({"pairs": PAIRS, "expected": expected, "versions": versions}, ensure_ascii=False) + "\n")
