"""Writes encode.json: what sentence-transformers makes of texts with folders that the support file makes.

    python test/golden/embed/encode.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, sentence-transformers 6.2.0)

Plain folders of encoders and of a causal model, a folder of sentence-transformers, and what runs of embed leave. The options are those of `encode`. Adapters alone are
loaded by PEFT, on the model without a head.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).parent

CASES = [
    ("bert", {}),
    ("bert", {"prompt": "say ", "normalize_embeddings": True, "truncate_dim": 7}),
    ("roberta", {}),
    ("modern", {}),
    ("causal", {}),
    ("sentence", {}),
    ("sentence", {"prompt_name": "query", "normalize_embeddings": True}),
    ("sentence", {"prompt": "", "truncate_dim": 16}),
    ("full", {}),
    ("bert-merged", {}),
    ("causal-merged", {}),
    ("dense", {}),
    ("dense-full", {}),
    ("dense-merged", {"truncate_dim": 5, "normalize_embeddings": True}),
]

# Adapters, with the poolings that their folders say.
ADAPTERS = [("bert-lora", "bert", "mean"), ("causal-lora", "chatty", "lasttoken")]

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    subprocess.run(["bun", str(HERE / "folders.ts"), name], check=True, cwd=HERE.parents[2])
    texts = json.loads((folder / "texts.json").read_text())
    cases = []
    for model, options in CASES:
        loaded = SentenceTransformer(str(folder / model), device="cpu")
        embeddings = loaded.encode(texts, batch_size=3, **options)
        cases.append({"model": model, "options": options, "embeddings": embeddings.tolist()})
    for adapter, base, pooling in ADAPTERS:
        adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(folder / base), folder / adapter).eval()
        assert adapted.active_peft_config.task_type == "FEATURE_EXTRACTION"
        assert not (missing := [name for name, value in adapted.named_parameters() if "lora_B" in name and not value.any()]), missing
        tokenizer = AutoTokenizer.from_pretrained(folder / base)
        most = json.loads((folder / adapter / "sentence_bert_config.json").read_text())["max_seq_length"]
        found = []
        for text in texts:
            with torch.no_grad():
                read = tokenizer(text, return_tensors="pt", truncation=True, max_length=most)
                states = adapted(**read).last_hidden_state[0]
            vector = states.mean(0) if pooling == "mean" else states[-1]
            found.append((vector / vector.norm()).tolist())
        cases.append({"model": adapter, "options": {}, "embeddings": found})

(HERE / "encode.json").write_text(json.dumps({"texts": texts, "cases": cases}) + "\n")
