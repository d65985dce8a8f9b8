"""Adds to mlm.json what Transformers' Trainer makes of its micro-batches, and writes the weights at the end.

    bun test/golden/mlm/rows.ts && python test/golden/mlm/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2)

A run is one training of 20 steps of a `...ForMaskedLM` with accumulated micro-batches of four texts, in which the given tokens are hidden, warm-up,
clipping that takes effect, weight decay and a falling rate. The Trainer divides by the labels of the whole step.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "trainer"))

from settings import MODELS, InOrder, arguments

FILE = HERE / "mlm.json"


def model_of(run):
    torch.manual_seed(0)
    folder = MODELS / run["model"]
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True) if run["method"] == "lora" else model


def collate(pad):
    def of(rows):
        length = max(len(row["ids"]) for row in rows)
        padded = lambda values, filler: values + [filler] * (length - len(values))
        return {
            "input_ids": torch.tensor([padded(row["ids"], pad) for row in rows]),
            "attention_mask": torch.tensor([padded([1] * len(row["ids"]), 0) for row in rows]),
            "labels": torch.tensor([padded(row["labels"], -100) for row in rows]),
        }

    return of


class Recording(InOrder, Trainer):
    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        self.notes.append((self.state.global_step, loss.item()))
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # The sum over the labels of all micro-batches of a step, which Transformers' own losses divide by where a model's forward passes it on.
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        logits = outputs.logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten(), ignore_index=-100, reduction="sum")
        return loss / num_items_in_batch


def train(run, batches):
    model = model_of(run)
    rows = [row for batch in batches for row in batch]
    pad = model.config.pad_token_id
    with tempfile.TemporaryDirectory() as output:
        args = TrainingArguments(output_dir=output, label_names=["labels"], **arguments(run))
        trainer = Recording(model=model, train_dataset=rows, data_collator=collate(pad if pad is not None else 0), args=args)
        trainer.notes = []
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
        if value.requires_grad and (run["method"] == "lora" or not any(part in name for part in (".layers.1.", ".layer.1.", ".layer.2.")))
    }
    save_file(weights, HERE / f"{run['model']}.safetensors")
    (HERE / f"{run['model']}.safetensors").chmod(0o644)
    return {"steps": steps}


fixture = json.loads(FILE.read_text())
for run in fixture["runs"]:
    run["expected"] = train(run["settings"], fixture["batches"])
fixture["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
FILE.write_text(json.dumps(fixture) + "\n")
