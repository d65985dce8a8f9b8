"""Writes rope.json: inverse frequencies and rotary tables as Transformers computes them (CPU, f32).

Run: python test/golden/rope.py    (torch 2.13, transformers 5.23)
Floats are stored as the u32 bit pattern, so that the comparison can be exact.
"""

import json
import pathlib

import numpy as np
import torch
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

torch.set_num_threads(1)

BASE = dict(hidden_size=256, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, vocab_size=32)
LLAMA3 = dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)


def factors(count):
    """Of a short sequence near 1, of a long one up to 60."""
    return dict(short_factor=[1 + 0.013 * i for i in range(count)], long_factor=[1.07 + 60 * (i / count) ** 2 for i in range(count)])


CASES = {
    "llama-default": dict(model_type="llama", rope_theta=10000.0, max_position_embeddings=2048),
    "llama-linear": dict(model_type="llama", rope_theta=10000.0, max_position_embeddings=4096, rope_scaling=dict(type="linear", factor=3.0)),
    "llama3-old-keys": dict(model_type="llama", rope_theta=500000.0, max_position_embeddings=131072, rope_scaling=LLAMA3),
    "llama3-rope-parameters": dict(model_type="llama", max_position_embeddings=131072, rope_parameters=dict(LLAMA3, rope_theta=500000.0)),
    "llama3-short": dict(model_type="llama", head_dim=80, rope_theta=30000.0, max_position_embeddings=512,
                         rope_scaling=dict(rope_type="llama3", factor=2.5, low_freq_factor=1.5, high_freq_factor=6.0, original_max_position_embeddings=64)),
    "smollm2": dict(model_type="llama", rope_theta=100000, max_position_embeddings=8192),
    "mistral": dict(model_type="mistral", rope_theta=1000000.0, head_dim=96, max_position_embeddings=32768),
    "qwen2": dict(model_type="qwen2", rope_theta=1000000.0, max_position_embeddings=32768),
    "qwen2-yarn": dict(model_type="qwen2", rope_theta=1000000.0, max_position_embeddings=32768,
                       rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=32768)),
    "qwen3-dynamic": dict(model_type="qwen3", head_dim=128, rope_theta=1000000, max_position_embeddings=4096, rope_scaling=dict(rope_type="dynamic", factor=2.0)),
    "phi3": dict(model_type="phi3", rope_theta=10000.0, max_position_embeddings=4096, pad_token_id=0),
    # The positions make a sequence of 4096 tokens: a short one where the original context is as long, a long one elsewhere.
    "phi3-short": dict(model_type="phi3", rope_theta=10000.0, max_position_embeddings=131072, original_max_position_embeddings=4096,
                       pad_token_id=0, rope_scaling=dict(type="longrope", **factors(32))),
    "phi3-long": dict(model_type="phi3", rope_theta=10000.0, max_position_embeddings=131072, original_max_position_embeddings=2048,
                      pad_token_id=0, partial_rotary_factor=0.75, rope_scaling=dict(type="longrope", **factors(24))),
    "phi3-attention-factor": dict(model_type="phi3", max_position_embeddings=8192, original_max_position_embeddings=4095, pad_token_id=0,
                                  rope_parameters=dict(rope_type="longrope", rope_theta=5000.0, partial_rotary_factor=0.5, attention_factor=1.25,
                                                       original_max_position_embeddings=4095,
                                                       **factors(16))),
    "llama-longrope": dict(model_type="llama", rope_theta=10000.0, max_position_embeddings=16384,
                           rope_scaling=dict(type="longrope", factor=8.0, original_max_position_embeddings=2048, **factors(32))),
    "internlm3-dynamic": dict(model_type="internlm3", head_dim=128, rope_theta=50000000, max_position_embeddings=32768,
                              rope_scaling=dict(rope_type="dynamic", factor=6.0)),
}
CLASSES = dict(llama=LlamaRotaryEmbedding, mistral=MistralRotaryEmbedding, qwen2=Qwen2RotaryEmbedding, qwen3=Qwen3RotaryEmbedding, phi3=Phi3RotaryEmbedding, internlm3=LlamaRotaryEmbedding)
POSITIONS = [0, 1, 2, 3, 17, 100, 511, 1023, 2047, 4095]


def bits(tensor):
    return tensor.detach().contiguous().numpy().astype(np.float32).view(np.uint32).flatten().tolist()


def main():
    out = []
    for name, extra in CASES.items():
        raw = {**BASE, **extra}
        config = AutoConfig.for_model(**json.loads(json.dumps(raw)))
        rope = CLASSES[raw["model_type"]](config)
        cos, sin = rope(torch.zeros(1, dtype=torch.float32), torch.tensor([POSITIONS]))
        half = cos.shape[-1] // 2
        out.append(dict(name=name, config=raw, positions=POSITIONS, attention_factor=rope.attention_scaling,
                        inverse=bits(rope.inv_freq), cos=bits(cos[0, :, :half]), sin=bits(sin[0, :, :half])))
    text = "[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in out) + "\n]\n"
    pathlib.Path(__file__).with_name("rope.json").write_text(text)


main()
