"""What TRL's trainers of pairs make of the micro-batches of orpo.json: for the make.py here and those of other objectives.

    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, trl 1.16.0)

A run is one training of 20 steps with accumulated micro-batches of two pairs, several epochs laid end to end, warm-up, clipping that
takes effect, weight decay and a falling rate; a last evaluation of all micro-batches of the first epoch. Losses and metrics of a step
are the means over its micro-batches, as they are, not rounded for a log. The pairs are tokenized already.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoTokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "trainer"))

from settings import InOrder, arguments, model_of

TOKENIZER = HERE.parents[2] / "recipes/base/model"
EPOCHS = 5


class Recording(InOrder):
    """Takes the pairs as they are tokenized; notes losses and metrics of micro-batches. Stands before a trainer."""

    def tokenize_row(self, feature, model=None):
        row = {"prompt_input_ids": [0], "prompt_attention_mask": [1]}
        for side in ("chosen", "rejected"):
            text = json.loads(feature[side])
            row |= {f"{side}_input_ids": text["ids"], f"{side}_labels": text["labels"]}
            row[f"{side}_attention_mask"] = [1] * len(text["ids"])
        return row

    def get_batch_loss_metrics(self, model, batch, train_eval="train"):
        loss, metrics = super().get_batch_loss_metrics(model, batch, train_eval)
        kept = {name.removeprefix("eval_"): value for name, value in metrics.items() if "logits" not in name and name.removeprefix("eval_") not in self.unknown}
        self.notes.append((train_eval, self.state.global_step, {"loss": loss.item(), **kept}))
        return loss, metrics


def mean(notes):
    return {name: sum(note[name] for note in notes) / len(notes) for name in notes[0]}


def texts_of(pair):
    """A row of a trainer whose tokenizing is replaced (see `Recording`)."""
    return {"prompt": "-", "chosen": json.dumps(pair["chosen"]), "rejected": json.dumps(pair["rejected"])}


def train(run, batches, folder_of_weights, Trainer, Config, own, unknown=(), recording=Recording, row_of=texts_of, mean=mean):
    """`own`: arguments that the trainer has for its objective; `unknown`: metrics of TRL that are left out; `mean` of micro-batches' notes."""
    model = model_of(run)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokenizer.pad_token = tokenizer.eos_token
    rows = [row_of(pair) for batch in batches for pair in batch]
    with tempfile.TemporaryDirectory() as output:
        trainer = type("Recorded", (recording, Trainer), {})(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[: len(rows) // EPOCHS]),
            args=Config(
                output_dir=output,
                **arguments(run),
                **own,
                max_length=64,
                per_device_eval_batch_size=run["batchSize"],
                bf16=False,
                gradient_checkpointing=False,
            ),
        )
        trainer.notes, trainer.unknown = [], unknown
        trainer.train()
        history = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
        trainer.evaluate()
    steps = []
    for step, entry in enumerate(history):
        notes = [note for kind, at, note in trainer.notes if kind == "train" and at == step]
        assert len(notes) == run["gradientAccumulation"]
        steps.append({**mean(notes), "gradientNorm": float(entry["grad_norm"])})
    evaluation = mean([note for kind, _, note in trainer.notes if kind == "eval"])
    weights = {
        name.replace(".default", ""): value.detach().float().contiguous()
        for name, value in model.named_parameters()
        # Of a whole model one block is enough: the others are in its losses.
        if value.requires_grad and (run["method"] == "lora" or ".layers.1." not in name)
    }
    save_file(weights, folder_of_weights / f"{run['model']}.safetensors")
    (folder_of_weights / f"{run['model']}.safetensors").chmod(0o644)
    return {"steps": steps, "evaluation": evaluation}


def write(file, fixture, batches, trained):
    """Adds to a fixture what `trained` makes of each run's settings, and writes it."""
    for run in fixture["runs"]:
        run["expected"] = trained(run["settings"], batches)
    fixture["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    file.write_text(json.dumps(fixture) + "\n")
