"""Writes folders.json: what sentence-transformers and PEFT make of folders that Remat has exported.

    python test/golden/rerank/folders.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, sentence-transformers 6.2.0)

A model of which all weights were trained, an adapter merged into its base and a causal model, each as `CrossEncoder(folder)` opens it; and
the adapter alone, as PEFT's pages say.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

HERE = Path(__file__).parent

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    subprocess.run(["bun", str(HERE / "folders.ts"), name], check=True, cwd=HERE.parents[2])
    given = json.loads((folder / "texts.json").read_text())
    pairs = [(given["query"], text) for text in given["texts"]]
    found = {}
    for model in ("full", "merged", "causal"):
        # Texts by themselves: a causal model's tokenizer may pad on the left.
        found[model] = CrossEncoder(str(folder / model), device="cpu").predict(pairs, batch_size=1).tolist()
    base = AutoModelForSequenceClassification.from_pretrained(folder / "roberta", num_labels=1)
    adapted = PeftModel.from_pretrained(base, folder / "lora").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "roberta")
    with torch.no_grad():
        logits = adapted(**tokenizer(*map(list, zip(*pairs)), return_tensors="pt", padding=True)).logits
    found["lora"] = logits[:, 0].sigmoid().tolist()

(HERE / "folders.json").write_text(json.dumps(given | {"relevance": found}) + "\n")
