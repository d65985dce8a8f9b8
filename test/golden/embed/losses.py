"""Adds to losses.json what sentence-transformers' trainer makes of its micro-batches with other losses, and writes some weights at the end.

    bun test/golden/embed/rows.ts && python test/golden/embed/losses.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, sentence-transformers 6.2.0)

A run is one training of 20 steps. With a cached loss the trainer's batch is all rows of a step, and the loss's own mini-batch is a micro-batch.
"""

import json

import sentence_transformers
import torch
import transformers
from runs import HERE, KEYS, text, train
from sentence_transformers import losses

FILE = HERE / "losses.json"


def loss_of(run, model):
    scale = run.get("embedScale", 20)
    kind = run.get("embedLoss", "contrast")
    if kind == "contrast" and run.get("gradCache"):
        loss = losses.CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=run["batchSize"])
    elif kind == "contrast" and run.get("symmetric"):
        loss = losses.MultipleNegativesSymmetricRankingLoss(model, scale=scale)
    elif kind == "contrast":
        loss = losses.MultipleNegativesRankingLoss(model, scale=scale)
    elif kind == "triplet":
        metric = losses.TripletDistanceMetric.COSINE
        loss = losses.TripletLoss(model, distance_metric=metric, triplet_margin=run["tripletMargin"])
    elif kind == "cosent":
        loss = losses.CoSENTLoss(model, scale=scale)
    else:
        loss = losses.CosineSimilarityLoss(model)
    return losses.MatryoshkaLoss(model, loss, matryoshka_dims=run["matryoshka"]) if "matryoshka" in run else loss


def rows_of(run, fixture):
    if run.get("embedLoss") in ("cosent", "cosine"):
        pairs = [pair for batch in fixture["pairs"] for pair in batch]
        return [{"sentence1": text(a), "sentence2": text(b), "score": score} for a, b, score in pairs]
    return [dict(zip(KEYS, map(text, example))) for batch in fixture["batches"] for example in batch]


fixture = json.loads(FILE.read_text()) | {"batches": json.loads((HERE / "embed.json").read_text())["batches"]}
for run in fixture["runs"]:
    settings = run["settings"]
    given = dict(settings)
    if settings.get("gradCache"):
        given["batchSize"] *= given["gradientAccumulation"]
        given["gradientAccumulation"] = 1
    # One block is enough: the others are in its losses.
    kept = lambda name: "layer.0.attention" in name or "layers.0." in name
    _, run["steps"] = train(given, rows_of(settings, fixture), lambda model: loss_of(settings, model), f"loss-{run['name']}", kept)
del fixture["batches"]
fixture["versions"] = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "sentence-transformers": sentence_transformers.__version__,
}
FILE.write_text(json.dumps(fixture) + "\n")
