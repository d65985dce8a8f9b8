"""Adds to reward.json and encoders.json what TRL's RewardTrainer makes of orpo.json's micro-batches, and writes heads at the start and weights at the end.

    bun test/golden/reward/rows.ts && python test/golden/reward/make.py
    (torch 2.13.0, transformers 5.23.0, peft 0.21.2, trl 1.16.0)

A run is one training of 20 steps of a `...ForSequenceClassification` with one number for a text. Losses and metrics of a step are the means over its
micro-batches. The Trainer is told that the loss knows nothing of accumulation, or it would add the means of micro-batches up.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "trainer"))

from judges import ENCODERS, adapted, judge_of
from settings import MODELS, InOrder, arguments

TOKENIZER = HERE.parents[2] / "recipes/base/model"
FILES = [HERE / "reward.json", HERE / "encoders.json"]
EPOCHS = 5
NAMES = {"accuracy": "rewards/accuracies", "margin": "rewards/margins"}


def model_of(run, pad):
    if run["model"] in ENCODERS:
        model, head = judge_of(run, 1)
        return (model if run["method"] == "full" else adapted(model, run)), head
    torch.manual_seed(4)
    folder = MODELS / run["model"]
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", num_labels=1, pad_token_id=pad
    )
    embedding = model.get_input_embeddings()
    if hasattr(embedding, "embed_scale"):
        embedding.embed_scale = embedding.embed_scale.to(AutoConfig.from_pretrained(folder).dtype).float()
    model.score.weight.data = 0.3 * torch.randn(1, model.config.hidden_size)
    head = model.score.weight.detach().clone()
    if run["method"] == "full":
        return model, {"start": head}
    adapter = json.loads((folder / "adapter/adapter_config.json").read_text())
    config = LoraConfig(task_type="SEQ_CLS", r=adapter["r"], lora_alpha=adapter["lora_alpha"], target_modules=adapter["target_modules"])
    model = get_peft_model(model, config)
    names = {name.replace(".default", ""): value for name, value in model.named_parameters()}
    for name, value in load_file(folder / "adapter/adapter_model.safetensors").items():
        names[name].data = value.float().clone()
    return model, {"start": head}


class Recording(InOrder, RewardTrainer):
    """Takes the pairs as they are tokenized; notes losses and metrics of micro-batches."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if isinstance(result, tuple) else result
        kind = "train" if self.model.training else "eval"
        kept = {ours: self._metrics[kind][theirs][-1] for theirs, ours in NAMES.items()}
        self.notes.append((kind, self.state.global_step, {"loss": loss.item(), **kept}))
        return result


def mean(notes):
    return {name: sum(note[name] for note in notes) / len(notes) for name in notes[0]}


def trained(run, batches):
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    model, head = model_of(run, tokenizer.eos_token_id)
    # Encoders have smaller vocabularies.
    known = (lambda id: 5 + (id - 5) % 45) if run["model"] in ENCODERS else (lambda id: id)
    rows = [{f"{side}_ids": [known(id) for id in pair[side]["ids"]] for side in ("chosen", "rejected")} for batch in batches for pair in batch]
    with tempfile.TemporaryDirectory() as output:
        args = RewardConfig(
            output_dir=output,
            **arguments(run),
            per_device_eval_batch_size=run["batchSize"],
            center_rewards_coefficient=run["rewardCentring"] or None,
            max_length=64,
            bf16=False,
            gradient_checkpointing=False,
            disable_dropout=True,
            pad_token=tokenizer.eos_token,
        )
        trainer = Recording(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[: len(rows) // EPOCHS]),
            args=args,
        )
        trainer.notes = []
        trainer.model_accepts_loss_kwargs = False
        trainer.train()
        norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
        trainer.evaluate()
    steps = []
    for step, norm in enumerate(norms):
        notes = [note for kind, at, note in trainer.notes if kind == "train" and at == step]
        assert len(notes) == run["gradientAccumulation"]
        steps.append({**mean(notes), "gradientNorm": float(norm)})
    weights = head | {
        name.replace(".modules_to_save.default", "").replace(".default", ""): value.detach().float().contiguous()
        for name, value in model.named_parameters()
        # Of a whole model one block is enough: the others are in its losses.
        if value.requires_grad and (run["method"] == "lora" or not any(part in name for part in (".layers.1.", ".layer.1.", ".layer.2.")))
    }
    save_file(weights, HERE / f"{run['model']}.safetensors")
    (HERE / f"{run['model']}.safetensors").chmod(0o644)
    return {"steps": steps, "evaluation": mean([note for kind, _, note in trainer.notes if kind == "eval"]), "padId": tokenizer.eos_token_id}


batches = json.loads((HERE.parent / "orpo/orpo.json").read_text())["batches"]
for file in FILES:
    fixture = json.loads(file.read_text())
    for run in fixture["runs"]:
        found = trained(run["settings"], batches)
        fixture["padId"] = found.pop("padId")
        run["expected"] = found
    fixture["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    file.write_text(json.dumps(fixture) + "\n")
