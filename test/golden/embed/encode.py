"""Writes encode.json: what sentence-transformers makes of texts with folders that the support file makes.

    python test/golden/embed/encode.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, sentence-transformers 6.2.0)

Plain folders of encoders and of a causal model, a folder of sentence-transformers, and what runs of embed leave. The options are those of `encode`.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from sentence_transformers import SentenceTransformer

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
]

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    subprocess.run(["bun", str(HERE / "folders.ts"), name], check=True, cwd=HERE.parents[2])
    texts = json.loads((folder / "texts.json").read_text())
    cases = []
    for model, options in CASES:
        loaded = SentenceTransformer(str(folder / model), device="cpu")
        embeddings = loaded.encode(texts, batch_size=3, **options)
        cases.append({"model": model, "options": options, "embeddings": embeddings.tolist()})

(HERE / "encode.json").write_text(json.dumps({"texts": texts, "cases": cases}) + "\n")
