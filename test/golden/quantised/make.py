"""Makes the fixtures of this folder with bitsandbytes, PyTorch, Transformers and PEFT.

    python make.py

- codes.safetensors: `weights` f32[64, 128], among them zeros, tiny numbers and middles between two codes, and what bitsandbytes makes
  of it in NF4 with blocks of 64: `codes` (one in a byte), `absmax`, and `values`, dequantised.
- llama/: a tiny checkpoint whose linear layers have whole blocks in their rows (all but down_proj, which stays as it is), a
  batch, a LoRA adapter, and what a model in float32 computes with NF4 weights: each linear layer's weight is replaced by what
  bitsandbytes dequantises. expected.safetensors has logits, loss and the gradient of every adapter; adamw.json the losses before each of ten
  AdamW steps and after the last.
"""

import shutil
import sys
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))
import make as models  # noqa: E402

BLOCK = 64
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    **models.COMMON,
}


def quantised(weight):
    packed, state = quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
    pairs = packed.flatten()
    codes = torch.stack([pairs >> 4, pairs & 15], dim=1).reshape(weight.shape)
    return codes, state.absmax.reshape(weight.shape[0], -1), dequantize_4bit(packed, state)


def make_codes():
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(64, 128, generator=generator) * 0.05
    weights[0, :64] = 0
    weights[1] *= 1e-30
    # Middles between two codes, of a block whose largest magnitude is a power of two.
    table = get_4bit_type("nf4", device="cpu")
    weights[2, :15] = (table[1:] + table[:-1]) / 2 / 4
    weights[2, 15] = 0.25
    weights[2, 16:64] = 0
    codes, absmax, values = quantised(weights)
    save_file({"weights": weights, "codes": codes, "absmax": absmax.contiguous(), "values": values}, HERE / "codes.safetensors")


def load_quantised(folder, dtype):
    """The model with its adapter; what is frozen in the blocks is what NF4 makes of it."""
    model = models.load_adapted(folder, torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_proj.base_layer.weight") and parameter.shape[1] % BLOCK == 0:
                parameter.copy_(quantised(parameter)[2])
    return model.to(dtype)


def make_model():
    folder = HERE / "llama"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    models.write_json(folder / "config.json", CONFIG)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(11)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
    models.randomise(model, generator)
    models.save_checkpoint(model, folder, torch.bfloat16, None)
    batch = models.make_batches(model.config, generator)["padded"]
    save_file(batch, folder / "batch.safetensors")
    models.save_adapter(folder, models.ALL_LINEAR, generator)
    expected = models.step(load_quantised(folder, torch.float32), batch)
    exact = models.step(load_quantised(folder, torch.float64), batch)
    for name, value in expected.items():
        assert (value - exact[name]).norm() / exact[name].norm() < 1e-5, name
    save_file({name: value.contiguous() for name, value in expected.items()}, folder / "expected.safetensors")
    plain = models.step(models.load_adapted(folder, torch.float32), batch)
    losses = models.adamw_losses(load_quantised(folder, torch.float32), batch, models.LEARNING_RATE["lora"])
    wide = models.adamw_losses(load_quantised(folder, torch.float64), batch, models.LEARNING_RATE["lora"])
    assert max(abs(a - b) / b for a, b in zip(losses, wide)) < 1e-5, (losses, wide)
    adamw = {key: models.ADAMW[key] for key in ("betas", "eps", "weight_decay")}
    # `unquantised`: the loss with the weights as they are, which a test must be able to tell apart.
    settings = {"learning_rate": models.LEARNING_RATE["lora"], **adamw, "losses": losses, "unquantised": plain["loss"].item()}
    models.write_json(folder / "adamw.json", settings)
    print(losses)


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_codes()
    make_model()
