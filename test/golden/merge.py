"""Writes merge.safetensors: some weights of the fixtures' models with their adapters merged by PEFT, in float32.

Run: python test/golden/merge.py    (torch 2.13, transformers 5.23, peft 0.21)
"""

import pathlib
import sys

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "models"))
import internlm2  # noqa: E402, F401

PICKED = (
    "layers.0.self_attn.q_proj",
    "layers.0.self_attn.qkv_proj",
    "layers.1.mlp.down_proj",
    "layers.1.mlp.gate_up_proj",
    "layers.1.self_attn.o_proj",
    "layers.0.attention.wqkv",
    "layers.1.attention.wo",
    "layers.1.feed_forward.w2",
    "h.0.attn.c_attn",
    "h.1.mlp.c_fc",
    "h.1.mlp.c_proj",
)


def main():
    out = {}
    for family in ("llama", "mistral", "qwen2", "smollm2", "smollm3", "seed-oss", "qwen3-bare", "gemma", "gemma2", "gemma3", "gemma3-vision", "gemma4", "gemma4-multimodal", "phi3", "phi4-mini", "internlm2", "internlm3", "gpt2"):
        folder = HERE / "models" / family
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        merged = PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload()
        for name, weight in merged.state_dict().items():
            if "vision_tower" not in name and any(f"{picked}.weight" in name for picked in PICKED):
                out[f"{family}/{name}"] = weight.contiguous().clone()
    save_file(out, HERE / "merge.safetensors", metadata={"format": "pt"})


main()
