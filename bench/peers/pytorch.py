"""The work of bench/step.ts in PyTorch: Transformers' model with random weights in a published model's exact shapes, PEFT
LoRA r = 16 on all linear layers (or all weights), gradient checkpointing, clipping, AdamW. Prints one JSON line with the same keys.

    python bench/peers/pytorch.py --shape smollm2-135m --tokens 512 --steps 4

What somebody who cares for speed would say: `--dtype bf16 --lora-dtype bf16 --strategy off --compile`, all in bf16, without checkpointing,
compiled; or `--autocast`, f32 weights whose products are bf16.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time


def seconds_since_start():
    """Seconds since this process started, imports and all. Linux: field 22 of /proc/self/stat is the start in clock ticks."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rsplit(")", 1)[1].split()[19])
            return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except OSError:
        return time.process_time()


START = time.perf_counter() - seconds_since_start()

parser = argparse.ArgumentParser()
parser.add_argument("--shape", default="smollm2-135m")
parser.add_argument("--tokens", type=int, default=512)
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
parser.add_argument("--autocast", action="store_true", help="products in bf16, whatever the weights are")
parser.add_argument("--lora-dtype", choices=["f32", "bf16"], default="f32", help="f32: as PEFT makes adapters of bf16 models by itself")
parser.add_argument("--compile", action="store_true", help="torch.compile: the first step takes minutes")
parser.add_argument("--strategy", choices=["per-segment", "off"], default="per-segment", help="gradient checkpointing on or off")
parser.add_argument("--tuning", choices=["lora", "full"], default="lora")
parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
parser.add_argument("--layers", type=int)
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
args = parser.parse_args()

os.environ["OMP_NUM_THREADS"] = str(args.threads)
os.environ["MKL_NUM_THREADS"] = str(args.threads)
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Nothing is looked up in the network.
os.environ["HF_HUB_OFFLINE"] = "1"

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(1)
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]


def qwen2(hidden_size, intermediate_size, layers, heads):
    return transformers.Qwen2Config(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        vocab_size=151936,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        tie_word_embeddings=True,
    )


# The numbers of bench/shapes.ts.
SHAPES = {
    "smollm2-135m": lambda: transformers.LlamaConfig(
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
    "qwen2.5-0.5b": lambda: qwen2(896, 4864, layers=24, heads=14),
    "qwen2.5-1.5b": lambda: qwen2(1536, 8960, layers=28, heads=12),
    "qwen3.5-0.8b": lambda: transformers.Qwen3_5TextConfig(
        hidden_size=1024,
        intermediate_size=3584,
        num_hidden_layers=24 if args.layers is None else args.layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        linear_num_key_heads=16,
        linear_num_value_heads=16,
        vocab_size=248320,
        max_position_embeddings=262144,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    ),
    "lfm2-350m": lambda: transformers.Lfm2Config(
        hidden_size=1024,
        intermediate_size=6656,
        block_multiple_of=256,
        block_ffn_dim_multiplier=1.0,
        block_auto_adjust_ff_dim=True,
        num_hidden_layers=16,
        full_attn_idxs=[2, 5, 8, 10, 12, 14],
        num_attention_heads=16,
        num_key_value_heads=8,
        conv_L_cache=3,
        conv_bias=False,
        vocab_size=65536,
        max_position_embeddings=128000,
        norm_eps=1e-5,
        rope_theta=1000000.0,
    ),
    "gemma-4-e2b-10l": lambda: transformers.Gemma4TextConfig(
        hidden_size=1536,
        intermediate_size=6144,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        global_head_dim=512,
        hidden_size_per_layer_input=256,
        num_kv_shared_layers=5,
        use_double_wide_mlp=True,
        sliding_window=512,
        layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 2,
        final_logit_softcapping=30.0,
    ),
}
if args.shape not in SHAPES:
    sys.exit(f"--shape: one of {', '.join(SHAPES)}")
config = SHAPES[args.shape]()
if args.layers is not None:
    config.num_hidden_layers = args.layers
config.use_cache = False

# Weights of deviation 0.02, made directly in their type, as if read from a file.
with torch.device("meta"):
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=args.attention)
model.to_empty(device=args.device)
model.tie_weights()
block = (0.02 * torch.randn(1 << 16)).to(args.device, dtype)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(1)
        else:
            flat = parameter.view(-1)
            for at in range(0, flat.numel(), block.numel()):
                flat[at : at + block.numel()] = block[: flat.numel() - at]
            parameter._is_hf_initialized = True
    # Buffers (rotary frequencies, scales of embeddings) are computed from the configuration.
    for module in model.modules():
        if module._buffers:
            model._init_weights(module)

if args.tuning == "lora":
    model = peft.get_peft_model(
        model,
        peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
        autocast_adapter_dtype=args.lora_dtype == "f32",
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to({"f32": torch.float32, "bf16": torch.bfloat16}[args.lora_dtype])
if args.strategy == "per-segment":
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model.train()
trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trainable, lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)

step_model = torch.compile(model) if args.compile else model

ids = torch.randint(0, config.vocab_size, (1, args.tokens)).to(args.device)
times = []
cpu_times = []
first = 0.0
loss = 0.0
for step in range(args.steps):
    begin = time.perf_counter()
    cpu_begin = time.process_time()
    with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.autocast):
        output = step_model(input_ids=ids, labels=ids)
    output.loss.backward()
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss = output.loss.item()
    del output
    times.append(time.perf_counter() - begin)
    cpu_times.append(time.process_time() - cpu_begin)
    if step == 0:
        first = time.perf_counter() - START
median = statistics.median(times[1:] or times)
card = torch.cuda.mem_get_info() if args.device == "cuda" else (0, 0)
print(
    json.dumps(
        {
            "system": "pytorch",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
            "shape": args.shape,
            "tokens": args.tokens,
            "dtype": args.dtype,
            "tuning": args.tuning,
            "strategy": args.strategy,
            "autocast": args.autocast,
            "loraDtype": args.lora_dtype,
            "compile": args.compile,
            "threads": torch.get_num_threads(),
            "loss": loss,
            "firstStepSeconds": first,
            "stepSeconds": median,
            "tokensPerSecond": args.tokens / median,
            "stepCpuSeconds": statistics.median(cpu_times[1:] or cpu_times),
            # What the allocator took, and all that is taken on the card, CUDA's context too; on the CPU nothing keeps count of it.
            **(
                {"peakDeviceMemory": torch.cuda.max_memory_reserved(), "cardMemory": card[1] - card[0]}
                if args.device == "cuda"
                else {}
            ),
            # Kibibytes on Linux, bytes on macOS.
            "peakRss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        }
    )
)
