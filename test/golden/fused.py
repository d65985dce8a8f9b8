"""What Transformers 5 writes where it saves a mixture of experts in its own layout, with all experts of a block in one tensor: fused.json has, by
fixture of models/ and by tensor of experts, the shape and the SHA-256 of the bytes.

    pip install torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
    python test/golden/fused.py
"""

import hashlib
import json
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

here = Path(__file__).parent
FAMILIES = ["lfm2-moe", "olmoe", "qwen3-moe", "qwen3-next"]


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


saved = {}
for family in FAMILIES:
    model = transformers.AutoModelForCausalLM.from_pretrained(here / "models" / family, dtype="auto")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_original_format=False)
        tensors = load_file(Path(folder) / "model.safetensors")
    saved[family] = {
        name: {"shape": list(tensor.shape), "sha256": digest(tensor)}
        for name, tensor in sorted(tensors.items())
        if name.endswith(("gate_up_proj", "down_proj"))
    }
(here / "fused.json").write_text(json.dumps({"transformers": transformers.__version__, "saved": saved}, indent=2) + "\n")
