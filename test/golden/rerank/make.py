"""Adds to rerank.json what sentence-transformers' CrossEncoderTrainer makes of its micro-batches, and writes heads at the start and weights at the end.

    bun test/golden/rerank/rows.ts && python test/golden/rerank/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, sentence-transformers 6.2.0, scikit-learn)

A run is one training of 20 steps in accumulated micro-batches of four queries. A tokenizer of words that are numbers makes the given ids of query
and text, with types where the model has some. MultipleNegativesRankingLoss has negatives of other queries switched off, no activation and a scale
of 1. The trainer is told that the loss knows nothing of accumulation, or it would add the means of micro-batches up.

metrics.json has lists of scores and labels with their reciprocal rank and nDCG@10, by CrossEncoderRerankingEvaluator and scikit-learn.
"""

import json
import sys
import tempfile
from pathlib import Path

import sentence_transformers
import torch
import transformers
from datasets import Dataset
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, ListNetLoss, MultipleNegativesRankingLoss
from sklearn.metrics import ndcg_score
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "trainer"))

from judges import adapted, judge_of
from settings import InOrder, arguments

FILE = HERE / "rerank.json"
EPOCHS = 5
WORDS = 64


def tokenizer_of(run, pad):
    vocabulary = {"[PAD]": pad} | {str(i): i for i in range(2, WORDS) if i != pad}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if run["model"] == "bert" else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", padding_side="right", model_max_length=20, model_input_names=names
    )


class NoOthers(MultipleNegativesRankingLoss):
    def get_in_batch_negatives(self, anchors, candidates):
        return []


def model_of(run, folder):
    judge, head = judge_of(run, 1)
    judge.save_pretrained(folder)
    tokenizer = tokenizer_of(run, judge.config.pad_token_id)
    tokenizer.save_pretrained(folder)
    body = Transformer(folder, transformer_task="sequence-classification", model_kwargs={"attn_implementation": "eager"})
    # A saved one would be read as the kind that such models usually have.
    body.processor = tokenizer
    for module in body.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inner = body.model if run["method"] == "full" else adapted(body.model, run)
    return CrossEncoder(modules=[body], device="cpu"), inner, head


class Recording(InOrder, CrossEncoderTrainer):
    def get_batch_sampler(self, dataset, batch_size, drop_last, **_):
        return torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(dataset), batch_size, drop_last)

    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        self.notes.append((self.state.global_step, loss.item()))
        return loss


def text(ids):
    return " ".join(str(i) for i in ids)


def row_of(loss, row):
    query, texts = text(row["query"]), [text(ids) for ids in row["texts"]]
    if loss == "bce":
        return {"query": query, "text": texts[0], "label": float(row["labels"][0])}
    if loss == "softmax":
        return {"anchor": query, "positive": texts[0], **{f"negative_{i}": each for i, each in enumerate(texts[1:], 1)}}
    return {"query": query, "docs": texts, "labels": [float(label) for label in row["labels"]]}


def loss_of(run, model):
    if run["rerankLoss"] == "bce":
        return BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(float(run["positiveWeight"])))
    if run["rerankLoss"] == "softmax":
        return NoOthers(model, scale=1, activation_fn=None)
    return ListNetLoss(model)


def train(run, batches):
    rows = [row for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as output:
        model, inner, head = model_of(run, folder)
        given = {key: value for key, value in arguments(run).items() if key != "remove_unused_columns"}
        trainer = Recording(
            model=model,
            args=CrossEncoderTrainingArguments(output_dir=output, **given),
            train_dataset=Dataset.from_list([row_of(run["rerankLoss"], row) for row in rows]),
            loss=loss_of(run, model),
        )
        trainer.notes = []
        trainer.model_accepts_loss_kwargs = False
        trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    steps = []
    for step, norm in enumerate(norms):
        own = [loss for at, loss in trainer.notes if at == step]
        assert len(own) == run["gradientAccumulation"]
        steps.append({"loss": sum(own), "gradientNorm": float(norm)})
    pairs = [(text(row["query"]), text(ids)) for row in rows[: len(rows) // EPOCHS] for ids in row["texts"]]
    scores = model.predict(pairs, batch_size=1, activation_fn=torch.nn.Identity()).tolist()
    weights = head | {
        name.replace(".modules_to_save.default", "").replace(".default", ""): value.detach().float().contiguous()
        for name, value in inner.named_parameters()
        # Of a whole model one block is enough: the others are in its losses.
        if value.requires_grad and (run["method"] == "lora" or not any(part in name for part in (".layers.1.", ".layer.1.", ".layer.2.")))
    }
    save_file(weights, HERE / f"{run['model']}.safetensors")
    (HERE / f"{run['model']}.safetensors").chmod(0o644)
    return {"steps": steps, "scores": scores}


def metrics():
    torch.manual_seed(5)
    evaluator = CrossEncoderRerankingEvaluator([], at_k=10_000, write_csv=False)
    cases = []
    for i in range(40):
        count = int(torch.randint(2, 30, (1,)))
        labels = torch.randint(0, 2 if i % 2 == 0 else 4, (count,)).tolist()
        labels[0], labels[1] = 0, 1
        scores = torch.randn(count)
        if i % 4 > 1:
            # Equal scores, whose first place is not the evaluator's business.
            scores = (2 * scores).round()
        scores = scores.tolist()
        case = {"labels": labels, "scores": scores, "ndcg@10": float(ndcg_score([labels], [scores], k=10))}
        if len(set(scores)) == count:
            case["mrr"] = evaluator.compute_metrics(labels, scores)[0] if i % 2 == 0 else 1 / (1 + min(rank for rank, at in enumerate(sorted(range(count), key=lambda at: -scores[at])) if labels[at] > 0))
        cases.append(case)
    return cases


fixture = json.loads(FILE.read_text())
for run in fixture["runs"]:
    run["expected"] = train(run["settings"], fixture["batches"][run["settings"]["rerankLoss"]])
fixture["versions"] = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "sentence-transformers": sentence_transformers.__version__,
}
FILE.write_text(json.dumps(fixture) + "\n")
(HERE / "metrics.json").write_text(json.dumps(metrics()) + "\n")
