"""A run's model with a head that judges whole texts: for the make.py of classify and of rerank."""

import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from settings import MODELS

ENCODERS = ("bert", "roberta", "distilbert", "modernbert")
PAD = 0


def judge_of(run, outputs, **own):
    """The model, with a head drawn at random, and that head by the names that the run's fixture has."""
    torch.manual_seed(1)
    folder = MODELS / run["model"]
    # An encoder has its own token of padding, from which a RoBERTa counts positions.
    if run["model"] not in ENCODERS:
        own["pad_token_id"] = PAD
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", num_labels=outputs, **own
    )
    embedding = model.get_input_embeddings()
    if hasattr(embedding, "embed_scale"):
        embedding.embed_scale = embedding.embed_scale.to(AutoConfig.from_pretrained(folder).dtype).float()
    if run["model"] not in ENCODERS:
        model.score.weight.data = 0.3 * torch.randn(outputs, model.config.hidden_size)
        return model, {"start": model.score.weight.detach().clone()}
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    parts = {name: value for name, value in model.named_parameters() if "classifier" in name or "pooler" in name}
    for value in parts.values():
        value.data = 0.3 * torch.randn(value.shape)
    return model, {f"start.{name}": value.detach().clone() for name, value in parts.items()}


def adapted(model, run):
    """The same with the adapter of the model's fixture. The layers are put into the model itself."""
    folder = MODELS / run["model"]
    adapter = json.loads((folder / "adapter/adapter_config.json").read_text())
    config = LoraConfig(task_type="SEQ_CLS", r=adapter["r"], lora_alpha=adapter["lora_alpha"], target_modules=adapter["target_modules"])
    model = get_peft_model(model, config)
    start = load_file(folder / "adapter/adapter_model.safetensors")
    names = {name.replace(".default", ""): value for name, value in model.named_parameters()}
    for name, value in start.items():
        names[name].data = value.float().clone()
    return model
