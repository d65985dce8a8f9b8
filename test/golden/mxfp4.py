"""Makes mxfp4.safetensors: blocks and scales of MXFP4, and the numbers that Transformers makes of them.

    python mxfp4.py

Every code comes under every scale but the greatest, which stands for no number. Made with torch 2.13.0, transformers 5.23.0.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

HIDDEN = 64
ROWS = 130

generator = torch.Generator().manual_seed(7)
# One expert of 2 x 65 rows of gate and up by turns, two blocks a row: a scale for each block.
scales = torch.arange(2 * ROWS).clamp(max=254).to(torch.uint8).reshape(1, ROWS, HIDDEN // 32)
codes = torch.stack([torch.randperm(32, generator=generator) % 16 for _ in range(2 * ROWS)]).to(torch.uint8)
blocks = (codes[:, ::2] | (codes[:, 1::2] << 4)).reshape(1, ROWS, HIDDEN // 32, 16)
# [1, hidden, rows], transposed as the model has them.
values = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16).contiguous()
tensors = {"gate_up_proj_blocks": blocks, "gate_up_proj_scales": scales, "gate_up_proj": values}
save_file(tensors, Path(__file__).parent / "mxfp4.safetensors")
