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
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

torch.set_num_threads(1)

HERE = Path(__file__).parent
FILE = HERE / "trainer.json"
MODELS = HERE.parent / "models"


def collate(rows):
    length = max(len(row["ids"]) for row in rows)
    pad = lambda values, filler: values + [filler] * (length - len(values))
    return {
        "input_ids": torch.tensor([pad(row["ids"], 0) for row in rows]),
        "labels": torch.tensor([pad(row["labels"], -100) for row in rows]),
        "attention_mask": torch.tensor([pad([1] * len(row["ids"]), 0) for row in rows]),
    }


class Recording(Trainer):
    """Takes the rows in their order, and notes the loss and the rate of each step as they are, not rounded for a log."""

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)

    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        self.notes.append((self.state.global_step, loss.item(), self.optimizer.param_groups[0]["lr"]))
        return loss


def train(run, batches):
    torch.manual_seed(0)
    folder = MODELS / run["model"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    if run["method"] == "lora":
        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    rows = [row for batch in batches for row in batch]
    with tempfile.TemporaryDirectory() as output:
        trainer = Recording(
            model=model,
            train_dataset=rows,
            data_collator=collate,
            args=TrainingArguments(
                output_dir=output,
                per_device_train_batch_size=run["batchSize"],
                gradient_accumulation_steps=run["gradientAccumulation"],
                num_train_epochs=1,
                learning_rate=run["learningRate"],
                lr_scheduler_type=run["schedule"],
                warmup_steps=run["warmup"],
                weight_decay=run["weightDecay"],
                max_grad_norm=run["clip"],
                adam_beta1=run["beta1"],
                adam_beta2=run["beta2"],
                adam_epsilon=run["epsilon"],
                optim="adamw_torch",
                logging_steps=1,
                report_to="none",
                use_cpu=True,
                save_strategy="no",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
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
