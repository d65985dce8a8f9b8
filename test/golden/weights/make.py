"""Makes llama.safetensors and gemma2.safetensors: the weighted loss and its gradients, by PyTorch and Transformers.

    python make.py

The models and their padded batches are those of ../models. Each file holds `weights` (float32, like `labels`: how much the
label of a position counts), `loss` = sum w nll / sum w over the labelled positions, and the gradients of some parameters.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))
from make import forward_inputs, load_model, trainable  # noqa: E402

PARAMETERS = {
    "llama": ["lm_head.weight", "model.norm.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"],
    # The head is the embedding.
    "gemma2": ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.k_proj.weight"],
}


def weighted_step(model, batch, weights):
    model.zero_grad()
    dtype = next(model.parameters()).dtype
    logits = model(**forward_inputs(batch, model.config, dtype)).logits
    labels = batch["labels"][:, 1:].reshape(-1)
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    each = torch.nn.functional.cross_entropy(flat, labels, ignore_index=-100, reduction="none")
    own = weights[:, 1:].reshape(-1).to(dtype) * (labels != -100)
    loss = (own * each).sum() / own.sum()
    loss.backward()
    return loss.detach().reshape(1), {name: parameter.grad for name, parameter in trainable(model).items()}


def main():
    torch.set_num_threads(1)
    for family, names in PARAMETERS.items():
        folder = HERE.parent / "models" / family
        batch = load_file(folder / "batches" / "padded.safetensors")
        generator = torch.Generator().manual_seed(7)
        # Some labels do not count at all, some count more than once.
        weights = torch.randint(0, 9, batch["labels"].shape, generator=generator).float() / 4
        loss, gradients = weighted_step(load_model(folder, torch.float32), batch, weights)
        exact, reference = weighted_step(load_model(folder, torch.float64), batch, weights)
        assert abs(loss - exact) / exact < 1e-6
        for name in names:
            assert (gradients[name] - reference[name]).norm() / reference[name].norm() < 1e-5, name
        tensors = {"weights": weights, "loss": loss, **{name: gradients[name].contiguous() for name in names}}
        save_file(tensors, HERE / f"{family}.safetensors")
        print(family, float(loss))


if __name__ == "__main__":
    main()
