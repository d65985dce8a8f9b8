"""Adds to distil.json what PyTorch makes of its micro-batches, and writes the weights at the end.

    bun test/golden/distil/rows.ts && python test/golden/distil/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2)

A run is one training of 20 steps by Transformers' Trainer with the loss written out: of each labelled token the cross entropy, and the divergence
from a teacher's likeliest tokens, all others taken together, at a temperature. The Trainer divides by the labels of the whole step.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import Trainer, TrainingArguments

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "trainer"))

from settings import InOrder, arguments, model_of

FILE = HERE / "distil.json"
LEAST = 1e-6


def collate(rows):
    length = max(len(row["ids"]) for row in rows)
    pad = lambda values, filler: values + [filler] * (length - len(values))
    top = max(len(each) for row in rows for each in row["teacher"])
    none = [[0, 0.0]] * top
    teacher = torch.tensor([pad([each or none for each in row["teacher"]], none) for row in rows])
    return {
        "input_ids": torch.tensor([pad(row["ids"], 0) for row in rows]),
        "attention_mask": torch.tensor([pad([1] * len(row["ids"]), 0) for row in rows]),
        "labels": torch.tensor([pad(row["labels"], -100) for row in rows]),
        "teacher": teacher,
    }


class Distilling(InOrder, Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        run = self.run
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
        labels = inputs["labels"][:, 1:]
        known = labels != -100
        own = torch.nn.functional.cross_entropy(logits[known], labels[known], reduction="sum")
        teacher = inputs["teacher"][:, :-1][known]
        log_p = teacher[..., 1]
        log_q = (logits[known] / run["distilTemperature"]).log_softmax(-1).gather(1, teacher[..., 0].long())
        p_rest = (1 - log_p.exp().sum(-1)).clamp(min=LEAST)
        q_rest = (1 - log_q.exp().sum(-1)).clamp(min=LEAST)
        divergence = (log_p.exp() * (log_p - log_q)).sum(-1) + p_rest * (p_rest / q_rest).log()
        share = run["distilShare"]
        loss = (1 - share) * own + share * run["distilTemperature"] ** 2 * divergence.sum()
        return loss / num_items_in_batch

    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        self.notes.append((self.state.global_step, loss.item()))
        return loss


def train(run, batches):
    model = model_of(run)
    rows = [row for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as output:
        args = TrainingArguments(output_dir=output, label_names=["labels"], **arguments(run))
        trainer = Distilling(model=model, train_dataset=rows, data_collator=collate, args=args)
        trainer.notes = []
        trainer.run = run
        trainer.model_accepts_loss_kwargs = True
        trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    steps = []
    for step, norm in enumerate(norms):
        own = [loss for at, loss in trainer.notes if at == step]
        assert len(own) == run["gradientAccumulation"]
        steps.append({"loss": sum(own), "gradientNorm": float(norm)})
    weights = {
        name.replace(".default", ""): value.detach().float().contiguous()
        for name, value in model.named_parameters()
        # Of a whole model one block is enough: the others are in its losses.
        if value.requires_grad and (run["method"] == "lora" or ".layers.1." not in name)
    }
    save_file(weights, HERE / f"{run['model']}.safetensors")
    (HERE / f"{run['model']}.safetensors").chmod(0o644)
    return {"steps": steps}


fixture = json.loads(FILE.read_text())
for run in fixture["runs"]:
    run["expected"] = train(run["settings"], fixture["batches"])
fixture["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
FILE.write_text(json.dumps(fixture) + "\n")
