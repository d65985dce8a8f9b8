"""The work of bench/step.ts in MLX-LM, on its CPU backend: its Llama with random weights in a published model's exact shape, LoRA r = 16 on all linear layers,
gradient checkpointing, AdamW. Prints one JSON line with the same keys.

    python bench/peers/mlx-lm.py --shape smollm2-135m --tokens 512 --steps 2

It needs `mlx[cpu]` and `mlx-lm`. MLX-LM does not clip gradients.
"""

import argparse
import importlib.metadata
import json
import resource
import statistics
import sys
import time

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx_lm.models import llama
from mlx_lm.tuner.trainer import default_loss, grad_checkpoint
from mlx_lm.tuner.utils import linear_to_lora_layers

START = time.perf_counter() - time.process_time()

# The numbers of bench/shapes.ts.
SHAPES = {
    "smollm2-135m": dict(
        model_type="llama",
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        tie_word_embeddings=True,
    ),
}

parser = argparse.ArgumentParser()
parser.add_argument("--shape", default="smollm2-135m", choices=SHAPES)
parser.add_argument("--tokens", type=int, default=512)
parser.add_argument("--steps", type=int, default=2)
parser.add_argument("--layers", type=int)
parser.add_argument("--threads", type=int, default=2, help="MLX takes all that the system shows")
parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
parser.add_argument("--strategy", choices=["per-segment", "off"], default="per-segment", help="gradient checkpointing on or off")
args = parser.parse_args()

mx.random.seed(1)
sizes = SHAPES[args.shape]
if args.layers is not None:
    sizes["num_hidden_layers"] = args.layers
model = llama.Model(llama.ModelArgs(**sizes))
model.set_dtype({"f32": mx.float32, "bf16": mx.bfloat16}[args.dtype])
model.freeze()
linear_to_lora_layers(
    model,
    len(model.layers),
    {
        "rank": 16,
        "scale": 2.0,
        "dropout": 0.0,
        "keys": [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")],
    },
)
if args.strategy == "per-segment":
    grad_checkpoint(model.layers[0])
model.train()
optimizer = optim.AdamW(learning_rate=1e-4, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0)
mx.eval(model.parameters())

# One more than is learned from: the loss shifts them.
batch = mx.random.randint(0, sizes["vocab_size"], (1, args.tokens + 1))
lengths = mx.array([[0, args.tokens]])
loss_and_gradients = nn.value_and_grad(model, default_loss)
times, cpu_times = [], []
first = loss = 0.0
for step in range(args.steps):
    begin, cpu_begin = time.perf_counter(), time.process_time()
    (value, _), gradients = loss_and_gradients(model, batch, lengths)
    optimizer.update(model, gradients)
    mx.eval(model.parameters(), optimizer.state, value)
    loss = value.item()
    times.append(time.perf_counter() - begin)
    cpu_times.append(time.process_time() - cpu_begin)
    if step == 0:
        first = time.perf_counter() - START
median = statistics.median(times[1:] or times)
print(
    json.dumps(
        {
            "system": "mlx",
            "versions": {name: importlib.metadata.version(name) for name in ("mlx", "mlx-lm")},
            "shape": args.shape,
            "tokens": args.tokens,
            "loss": loss,
            "firstStepSeconds": first,
            "stepSeconds": median,
            "tokensPerSecond": args.tokens / median,
            "stepCpuSeconds": statistics.median(cpu_times[1:] or cpu_times),
            # Kibibytes on Linux, bytes on macOS.
            "peakRss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        }
    )
)
