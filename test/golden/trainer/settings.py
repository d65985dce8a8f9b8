"""A run's model and its arguments for Transformers' Trainer and those of TRL: for the make.py here and the runs.py of orpo."""

from pathlib import Path

import torch
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import AutoConfig, AutoModelForCausalLM

torch.set_num_threads(1)

MODELS = Path(__file__).parents[1] / "models"


class InOrder:
    """Takes the rows in their order. Stands before a trainer."""

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


def model_of(run):
    torch.manual_seed(0)
    folder = MODELS / run["model"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    embedding = model.get_input_embeddings()
    if hasattr(embedding, "embed_scale"):
        # Gemma's factor is rounded to the type that the checkpoint has, as it is where a model is loaded in that type.
        embedding.embed_scale = embedding.embed_scale.to(AutoConfig.from_pretrained(folder).dtype).float()
    return PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True) if run["method"] == "lora" else model


def arguments(run):
    return dict(
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
    )
