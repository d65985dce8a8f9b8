"""Writes quants.json: numbers, and the blocks of 32 that the gguf package (0.19.0), llama.cpp's own, makes of them. All base64, little-endian.

Run: python test/golden/gguf/quants.py
"""

import base64
import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

generator = np.random.default_rng(8)
blocks = [
    generator.standard_normal((40, 32)) * 10.0 ** generator.integers(-6, 5, (40, 1)),
    np.zeros((1, 32)),
    np.full((1, 32), -3.0),
    # Two of the greatest, one of either sign; the first one counts.
    np.tile([1.0, -1.0], (1, 16)),
    np.tile([-1.0, 1.0], (1, 16)),
    # Ties between two steps.
    generator.integers(-8, 8, (20, 32)) / 2,
    np.concatenate([generator.integers(-254, 254, (20, 31)) / 2, np.full((20, 1), 127)], axis=1),
]
values = np.concatenate(blocks).astype("<f4")
data = {"values": values, **{name.lower(): quantize(values, gguf.GGMLQuantizationType[name]) for name in ("Q8_0", "Q4_0")}}
text = {name: base64.b64encode(array.tobytes()).decode() for name, array in data.items()}
(Path(__file__).parent / "quants.json").write_text(json.dumps(text, indent=1) + "\n")
