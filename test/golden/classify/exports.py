"""Writes exports.json: what PEFT and Transformers make of folders that Remat has exported.

    python test/golden/classify/exports.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2)

An adapter of LoRA with its head, the same merged, and a model of which all weights were trained, each loaded as their pages say; the
probabilities of texts, which their own tokenizer reads. Labels come from `config.json` where it has them.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

HERE = Path(__file__).parent


def probabilities(model, tokenizer, texts, problem):
    model.eval()
    assert model.config.problem_type in (problem, None)
    padded = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**padded).logits
    return (logits.sigmoid() if problem == "multi_label_classification" else logits.softmax(-1)).tolist()


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    subprocess.run(["bun", str(HERE / "exports.ts"), name], check=True, cwd=HERE.parents[2])
    texts = json.loads((folder / "texts.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.padding_side = "right"
    classifier = json.loads((folder / "lora/classifier.json").read_text())
    base = AutoModelForSequenceClassification.from_pretrained(
        folder / "model", num_labels=len(classifier["id2label"]), pad_token_id=classifier["pad_token_id"]
    )
    tokenizer.pad_token_id = classifier["pad_token_id"]
    adapted = PeftModel.from_pretrained(base, folder / "lora")
    assert adapted.active_peft_config.task_type == "SEQ_CLS"
    found = {"lora": probabilities(adapted, tokenizer, texts, "single_label_classification")}
    for exported, problem in (("merged", "single_label_classification"), ("full", "multi_label_classification")):
        model, info = AutoModelForSequenceClassification.from_pretrained(folder / exported, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        found[exported] = probabilities(model, tokenizer, texts, problem)
        found[f"{exported} labels"] = [model.config.id2label[id] for id in sorted(model.config.id2label)]

(HERE / "exports.json").write_text(json.dumps({"texts": texts, **found}) + "\n")
