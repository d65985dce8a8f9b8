"""Adds to trainer.json what Transformers' Trainer makes of its micro-batches: losses, gradient norms and learning rates.

    bun test/golden/trainer/rows.ts && python test/golden/trainer/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2)

Each of `runs` is one training with accumulated micro-batches whose rows have different numbers of labels, several epochs laid end
to end, clipping that takes effect, weight decay, warm-up and a falling rate; a last evaluation of all rows.
"""

import json
import tempfile
from pathlib import Path

import torch
import transformers
from settings import InOrder, arguments, model_of
from transformers import Trainer, TrainingArguments

FILE = Path(__file__).parent / "trainer.json"


def collate(rows):
    length = max(len(row["ids"]) for row in rows)
    pad = lambda values, filler: values + [filler] * (length - len(values))
    return {
        "input_ids": torch.tensor([pad(row["ids"], 0) for row in rows]),
        "labels": torch.tensor([pad(row["labels"], -100) for row in rows]),
        "attention_mask": torch.tensor([pad([1] * len(row["ids"]), 0) for row in rows]),
    }


class Recording(InOrder, Trainer):
    """Notes the loss and the rate of each step as they are, not rounded for a log."""

    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        self.notes.append((self.state.global_step, loss.item(), self.optimizer.param_groups[0]["lr"]))
        return loss


def train(run, batches):
    model = model_of(run)
    rows = [row for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as output:
        trainer = Recording(
            model=model,
            train_dataset=rows,
            data_collator=collate,
            args=TrainingArguments(output_dir=output, **arguments(run)),
        )
        trainer.notes = []
        trainer.train()
    steps = []
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    for step, norm in enumerate(norms):
        own = [(loss, rate) for at, loss, rate in trainer.notes if at == step]
        steps.append({"loss": sum(loss for loss, _ in own), "learningRate": own[0][1], "gradientNorm": float(norm)})
    with torch.no_grad():
        batch = collate(rows)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        last = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
    return {"steps": steps, "last": last.item()}


fixture = json.loads(FILE.read_text())
for run in fixture["runs"]:
    run["expected"] = train(run["settings"], fixture["batches"])
fixture["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
FILE.write_text(json.dumps(fixture) + "\n")
