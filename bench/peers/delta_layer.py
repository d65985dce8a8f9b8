"""One layer of a Qwen3.5-0.8B that keeps a state, in Transformers: forward and backward with random weights, all of them trained. Prints one JSON line.

    python bench/peers/delta_layer.py --tokens 2048
"""

import argparse
import json
import time

import torch
import transformers
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer

parser = argparse.ArgumentParser()
parser.add_argument("--tokens", type=int, default=2048)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()
torch.set_num_threads(args.threads)
torch.manual_seed(1)
transformers.logging.set_verbosity_error()

# The numbers of bench/shapes.ts.
config = transformers.Qwen3_5TextConfig(
    hidden_size=1024,
    intermediate_size=3584,
    num_hidden_layers=1,
    layer_types=["linear_attention"],
    num_attention_heads=8,
    num_key_value_heads=2,
    linear_num_key_heads=16,
    linear_num_value_heads=16,
    vocab_size=8,
)
layer = Qwen3_5DecoderLayer(config, 0).train()
x = torch.randn(1, args.tokens, config.hidden_size, requires_grad=True)
dy = torch.randn(1, args.tokens, config.hidden_size)
cpu, wall = [], []
for _ in range(args.rounds):
    begin, cpu_begin = time.perf_counter(), time.process_time()
    layer(x, position_embeddings=None).backward(dy)
    wall.append(time.perf_counter() - begin)
    cpu.append(time.process_time() - cpu_begin)
versions = {"torch": torch.__version__, "transformers": transformers.__version__}
print(json.dumps({"seconds": min(wall), "cpuSeconds": min(cpu), "versions": versions}))
