"""Adds to embed.json what sentence-transformers' trainer makes of its micro-batches, and writes the weights at the end.

    bun test/golden/embed/rows.ts && python test/golden/embed/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, sentence-transformers 6.2.0)

A run is one training of 20 steps with MultipleNegativesRankingLoss over examples of anchor, positive and one hard negative, in accumulated
micro-batches of four.
"""

import json

import sentence_transformers
import torch
import transformers
from runs import HERE, KEYS, text, train
from sentence_transformers.losses import MultipleNegativesRankingLoss

FILE = HERE / "embed.json"
EPOCHS = 5


def expected(run, batches):
    rows = [dict(zip(KEYS, map(text, example))) for batch in batches for example in batch]
    model, steps = train(run, rows, lambda model: MultipleNegativesRankingLoss(model, scale=run["embedScale"]), run["model"])
    first = [row[key] for row in rows[: len(rows) // EPOCHS] for key in KEYS]
    return {"steps": steps, "embeddings": model.encode(first, batch_size=1).tolist()}


fixture = json.loads(FILE.read_text())
for run in fixture["runs"]:
    run["expected"] = expected(run["settings"], fixture["batches"])
fixture["versions"] = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "sentence-transformers": sentence_transformers.__version__,
}
FILE.write_text(json.dumps(fixture) + "\n")
