"""Adds to options.json what Transformers' Trainer makes of its micro-batches with a cross entropy over the logits of a few tokens.

    bun test/golden/classify/rows.ts && python test/golden/classify/options.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2)

rows.ts writes classify.json and encoders.json anew too, without their results: `git checkout` them, or run make.py as well.

A run is one training of 20 steps of a `...ForCausalLM`, whole or with an adapter of PEFT, with accumulated micro-batches of two texts, several
epochs laid end to end, warm-up, clipping that takes effect, weight decay and a falling rate; then the logits of the first epoch's texts. The loss is
written out here: the logits of the whole vocabulary behind a text's last token, of which those of the options are taken.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Trainer, TrainingArguments

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "trainer"))

from settings import InOrder, arguments, model_of

FILE = HERE / "options.json"
EPOCHS = 5
PAD = 0
fixture = json.loads(FILE.read_text())
OPTIONS = torch.tensor(fixture["options"])


def collate(rows):
    length = max(len(row["ids"]) for row in rows)
    pad = lambda values, filler: torch.tensor([value + [filler] * (length - len(value)) for value in values])
    return {
        "input_ids": pad([row["ids"] for row in rows], PAD),
        "attention_mask": pad([[1] * len(row["ids"]) for row in rows], 0),
        "labels": torch.tensor([int(row["target"][0]) for row in rows]),
    }


def option_logits(model, input_ids, attention_mask):
    logits = model(input_ids=input_ids, attention_mask=attention_mask).logits.float()
    last = attention_mask.sum(-1) - 1
    return logits[torch.arange(len(last)), last][:, OPTIONS]


class Picking(InOrder, Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        logits = option_logits(model, inputs["input_ids"], inputs["attention_mask"])
        return torch.nn.functional.cross_entropy(logits, inputs["labels"], label_smoothing=self.smoothing)

    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        self.notes.append((self.state.global_step, loss.item()))
        return loss


def train(run, name):
    model = model_of(run)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = [row for batch in fixture["batches"] for row in batch]
    with tempfile.TemporaryDirectory() as output:
        args = TrainingArguments(output_dir=output, label_names=["labels"], **arguments(run))
        trainer = Picking(model=model, train_dataset=rows, data_collator=collate, args=args)
        trainer.notes, trainer.smoothing = [], run["labelSmoothing"]
        trainer.model_accepts_loss_kwargs = False
        trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    steps = []
    for step, norm in enumerate(norms):
        own = [loss for at, loss in trainer.notes if at == step]
        assert len(own) == run["gradientAccumulation"]
        steps.append({"loss": sum(own), "gradientNorm": float(norm)})
    model.eval()
    with torch.no_grad():
        logits = []
        for row in rows[: len(rows) // EPOCHS]:
            batch = collate([row])
            logits.append(option_logits(model, batch["input_ids"], batch["attention_mask"])[0].tolist())
    weights = {
        name.replace(".default", ""): value.detach().float().contiguous()
        for name, value in model.named_parameters()
        if value.requires_grad and (run["method"] == "lora" or ".layers.1." not in name)
    }
    save_file(weights, HERE / f"{name}.safetensors")
    (HERE / f"{name}.safetensors").chmod(0o644)
    return {"steps": steps, "logits": logits}


if __name__ == "__main__":
    for run in fixture["runs"]:
        run["expected"] = train(run["settings"], run["name"])
    FILE.write_text(json.dumps(fixture) + "\n")
