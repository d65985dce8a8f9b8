"""Writes blocks.json: for each of ggml's types, blocks and the numbers that the gguf package (0.19.0), llama.cpp's own, reads of them. Base64, little-endian.

Blocks are random bytes, but for the scales, which are f16 of all sizes; each code, each minimum and each bit of a scale comes up.

Run: python test/golden/gguf/blocks.py
"""

import base64
import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize

generator = np.random.default_rng(16)
# Where the blocks have numbers in f16.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
}
data = {}
for name, scales in SCALES.items():
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    count = 24 if elements == 32 else 4
    blocks = generator.integers(0, 256, (count, size), dtype=np.uint8)
    for at in scales:
        values = generator.standard_normal(count) * 10.0 ** generator.integers(-7, 3, count)
        blocks[:, at : at + 2] = values.astype("<f2").view(np.uint8).reshape(count, 2)
    if name == "MXFP4":
        blocks[:4, 0] = [0, 1, 2, 254]
        # The exponent of no number.
        blocks[blocks[:, 0] == 255, 0] = 127
    with np.errstate(over="ignore"):
        values = dequantize(blocks, kind).astype("<f4")
    data[name.lower()] = [base64.b64encode(array.tobytes()).decode() for array in (blocks, values)]
(Path(__file__).parent / "blocks.json").write_text(json.dumps(data, indent=1) + "\n")
