"""Writes metrics.json: what sentence-transformers' evaluators say of random vectors.

    python test/golden/embed/metrics.py
    (torch 2.13.0, sentence-transformers 6.2.0)

Examples of anchor, positive and perhaps a negative, by the numbers of their vectors: some anchors have two positives, some texts stand in several examples. Whole
numbers have exact cosines but for rounding, and some that are equal would have any order: vectors are drawn until none are.
"""

import json
from pathlib import Path

import numpy as np
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator

HERE = Path(__file__).parent
WIDTH = 3
random = np.random.default_rng(5)
vectors = random.normal(size=(60, WIDTH)).round(3)

examples = []
for i in range(24):
    anchor = i if i % 6 else 0
    positive = 24 + i
    examples.append({"ids": [anchor, positive] + ([48 + i // 3] if i % 2 else [])})
examples.append({"ids": [1, 30]})


class Vectors:
    """Stands for a model whose texts are numbers of vectors."""

    similarity_fn_name = "cosine"
    truncate_dim = None

    def __init__(self):
        from sentence_transformers.util import cos_sim, pairwise_cos_sim

        self.similarity, self.similarity_pairwise = cos_sim, pairwise_cos_sim
        self.model_card_data = type("Card", (), {"set_evaluation_metrics": lambda *_: None})()

    def encode(self, texts, convert_to_tensor=False, **_):
        import torch

        found = vectors[[int(text) for text in texts]].astype(np.float32)
        return torch.from_numpy(found) if convert_to_tensor else found

    encode_query = encode_document = encode


name = str
queries = {name(e["ids"][0]): name(e["ids"][0]) for e in examples}
corpus = {name(id): name(id) for e in examples for id in e["ids"][1:]}
relevant = {}
for e in examples:
    relevant.setdefault(name(e["ids"][0]), set()).add(name(e["ids"][1]))
size = len(corpus)
evaluator = InformationRetrievalEvaluator(
    queries, corpus, relevant, mrr_at_k=[size], precision_recall_at_k=[1, 5, 10], accuracy_at_k=[1], ndcg_at_k=[1], map_at_k=[1], write_csv=False
)
found = evaluator(Vectors())
retrieval = {f"recall@{k}": float(found[f"cosine_recall@{k}"]) for k in (1, 5, 10)} | {"mrr": float(found[f"cosine_mrr@{size}"])}

pairs = [{"ids": [int(a), int(b)], "score": int(s) / 4} for a, b, s in zip(range(0, 30), range(30, 60), random.integers(0, 5, size=30))]
similarity = EmbeddingSimilarityEvaluator(
    [name(p["ids"][0]) for p in pairs], [name(p["ids"][1]) for p in pairs], [p["score"] for p in pairs], write_csv=False
)
spearman = float(similarity(Vectors())["spearman_cosine"])
fixture = {"width": WIDTH, "vectors": vectors.tolist(), "examples": examples, "retrieval": retrieval, "pairs": pairs, "spearman": spearman}
(HERE / "metrics.json").write_text(json.dumps(fixture) + "\n")
