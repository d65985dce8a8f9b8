"""Runs of sentence-transformers' trainer over given micro-batches, for make.py and losses.py.

A tokenizer of words that are numbers makes the given ids of texts. The trainer is told that the loss knows nothing of accumulation, or it would add the
means of micro-batches up.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.models import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "trainer"))

from settings import MODELS, InOrder, arguments

WORDS = 64
PREFIXES = {"bert": "bert.", "smollm2": "model.", "modernbert": "model.", "llama": "model."}
KEYS = ("anchor", "positive", "negative")


def tokenizer_of():
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1} | {str(i): i for i in range(2, WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", padding_side="right", model_max_length=20)


def model_of(run, folder):
    torch.manual_seed(1)
    given = MODELS / run["model"]
    transformers.AutoModel.from_pretrained(given, dtype=torch.float32).save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    body = Transformer(folder, model_kwargs={"attn_implementation": "eager"})
    # A saved one would be read as the kind that such models usually have.
    body.processor = tokenizer_of()
    inner = body.auto_model
    for module in inner.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if run["method"] == "lora":
        adapter = json.loads((given / "adapter/adapter_config.json").read_text())
        prefix = PREFIXES[run["model"]]
        # The layers of the given ones are put into the model itself.
        config = LoraConfig(r=adapter["r"], lora_alpha=adapter["lora_alpha"], target_modules=adapter["target_modules"])
        get_peft_model(inner, config)
        names = {name.replace(".default", ""): value for name, value in inner.named_parameters()}
        for name, value in load_file(given / "adapter/adapter_model.safetensors").items():
            names[name.removeprefix("base_model.model.").removeprefix(prefix)].data = value.float().clone()
    return SentenceTransformer(modules=[body, Pooling(inner.config.hidden_size, pooling_mode={"last": "lasttoken"}.get(run["pooling"], run["pooling"])), Normalize()], device="cpu")


class Recording(InOrder, SentenceTransformerTrainer):
    def get_batch_sampler(self, dataset, batch_size, drop_last, **_):
        return torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(dataset), batch_size, drop_last)

    def training_step(self, *args, **more):
        loss = super().training_step(*args, **more)
        self.notes.append((self.state.global_step, loss.item()))
        return loss


def text(ids):
    return " ".join(str(i) for i in ids)


def train(run, rows, loss_of, name, kept=None):
    """Trains 20 steps over rows, a dictionary each. `kept` chooses the weights that are written, by name; null: all that the fixtures have."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as output:
        model = model_of(run, folder)
        given = {key: value for key, value in arguments(run).items() if key != "remove_unused_columns"}
        trainer = Recording(
            model=model,
            args=SentenceTransformerTrainingArguments(output_dir=output, **given),
            train_dataset=Dataset.from_list(rows),
            loss=loss_of(model),
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
    prefix = PREFIXES[run["model"]]
    wrapped = "base_model.model." if run["method"] == "lora" else ""
    # Of a whole model one block is enough: the others are in its losses.
    others = ("layers.1.", "layer.1.", "layer.2.")
    is_wanted = kept or (lambda name: run["method"] == "lora" or not any(part in name for part in others))
    weights = {
        f"{wrapped}{prefix}{name.replace('.default', '')}": value.detach().float().contiguous()
        for name, value in model[0].auto_model.named_parameters()
        if value.requires_grad and "pooler." not in name and is_wanted(name)
    }
    save_file(weights, HERE / f"{name}.safetensors")
    (HERE / f"{name}.safetensors").chmod(0o644)
    return model, steps
