"""Writes tokens.json: how TRL's KTOTrainer tokenizes answers, and which mismatched ones it gives them, in batches of three.

    python test/golden/kto/tokens.py
    (transformers 5.23.0, trl 1.16.0)
"""

import json
from pathlib import Path
from types import SimpleNamespace

import transformers
import trl
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoTokenizer
from trl import KTOTrainer

HERE = Path(__file__).parent
TOKENIZERS = {
    "bundled": HERE.parents[2] / "recipes/base/model",
    "qwen": HERE.parent / "tokenizers/qwen",
}
GROUP = 3
ANSWERS = [
    {"prompt": "What is the sea?", "completion": " A body of salt water.", "label": True},
    {"prompt": "Say it: ", "completion": "Grüße, 水, 🙂!", "label": False},
    {"prompt": "1 + 1 =\n", "completion": "2", "label": True},
    {"prompt": "1 + 1 =\n", "completion": "11", "label": False},
    {"prompt": "A longer prompt than the others have.", "completion": " Yes.", "label": True},
    {"prompt": "Why?", "completion": " No," * 12, "label": False},
    {"prompt": "Who is it?", "completion": " Nobody.", "label": False},
    {"prompt": "And who else?", "completion": " Nobody else.", "label": True},
]


class Tokenizing(KTOTrainer):
    def __init__(self, tokenizer):
        self._tokenizer, self.calculate_KL = tokenizer, True
        self.desirable_weight = self.undesirable_weight = 1.0


def tokenized(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    args = SimpleNamespace(dataset_num_proc=None, max_length=None, per_device_train_batch_size=GROUP)
    rows = Tokenizing(tokenizer)._prepare_dataset(Dataset.from_list(ANSWERS), tokenizer, args, "train")
    return [{"prompt": row["prompt_ids"], "answer": row["completion_ids"], "mismatched": row["KL_completion_ids"]} for row in rows]


PartialState()
expected = [{"tokenizer": name, "rows": tokenized(folder)} for name, folder in TOKENIZERS.items()]
versions = {"transformers": transformers.__version__, "trl": trl.__version__}
fixture = {"answers": ANSWERS, "group": GROUP, "expected": expected, "versions": versions}
(HERE / "tokens.json").write_text(json.dumps(fixture, ensure_ascii=False) + "\n")
