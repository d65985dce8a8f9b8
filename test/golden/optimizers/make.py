"""Makes small.json and codes.safetensors: ten steps of each optimizer with clipping, weight decay and a changing learning rate.

    python test/golden/optimizers/make.py

torch 2.13.0, lion-pytorch 0.2.5 (by an author of many ports of papers; torch has no Lion), bitsandbytes 0.50.2.

small.json: parameters of a model with a name of each sort, their gradients, and what becomes of them under
- torch.optim.AdamW, torch.optim.SGD with and without Nesterov's momentum, lion_pytorch.Lion;
- torch.optim.Adafactor;
- torch.optim.Muon for the matrices between activations and torch.optim.AdamW for the rest, with both adjustments of the learning
  rate. torch.optim.Muon iterates in bf16: "muon" is its own code with `Tensor.bfloat16` returning f32, "muon-bf16" its own code as it is.

codes.safetensors: bitsandbytes' AdamW8bit on the CPU. Its C code looks codes up in a table of 65536 equal steps, whose small numbers are not
the nearest ones (its CUDA kernels and the paper take the nearest). "param" comes of its Python code for types other than f32, which
takes the nearest entry; "param-table" of its C code.
"""

import json
from pathlib import Path

import bitsandbytes as bnb
import bitsandbytes.backends.cpu.ops as bnb_cpu
import torch
from lion_pytorch import Lion
from safetensors.torch import save_file

torch.set_num_threads(1)
HERE = Path(__file__).parent
STEPS = 10
CLIP = 1.0
DECAY = 0.1
RATES = [1e-2 * (1 - step / 20) for step in range(STEPS)]
SNAPSHOTS = (1, 2, STEPS)

SHAPES = {
    "model.embed_tokens.weight": (6, 5),
    "model.layers.0.self_attn.q_proj.weight": (5, 7),
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (3, 11),
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (9, 3),
    "model.norm.weight": (7,),
}
TABLES = {"model.embed_tokens.weight"}


def groups(params):
    return [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]


def muon(adjust):
    def make(named):
        hidden = [p for name, p in named.items() if p.ndim == 2 and name not in TABLES]
        rest = [p for name, p in named.items() if p.ndim != 2 or name in TABLES]
        return [
            torch.optim.Muon(hidden, lr=1.0, weight_decay=DECAY, adjust_lr_fn=adjust),
            torch.optim.AdamW(groups(rest), lr=1.0),
        ]

    return make


def run(start, gradients, make, after=SNAPSHOTS):
    named = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    optimizers = make(named)
    snapshots = {}
    for step, rate in enumerate(RATES):
        for name, param in named.items():
            param.grad = gradients[step][name].clone()
        torch.nn.utils.clip_grad_norm_(named.values(), CLIP)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        if step + 1 in after:
            snapshots[step + 1] = {name: param.detach().clone() for name, param in named.items()}
    return snapshots, {name: optimizers[0].state[param] for name, param in named.items()}


def small():
    torch.manual_seed(0)
    start = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    # Norms on both sides of the limit, and gradients of very different sizes.
    gradients = [
        {name: torch.randn(shape) * torch.logspace(-3, -0.5, shape[-1]) * (0.2 if step % 3 == 0 else 1) for name, shape in SHAPES.items()}
        for step in range(STEPS)
    ]
    kinds = {
        "adamw": lambda named: [torch.optim.AdamW(groups(named.values()), lr=1.0)],
        "lion": lambda named: [Lion(groups(named.values()), lr=1.0)],
        "sgd": lambda named: [torch.optim.SGD(groups(named.values()), lr=1.0, momentum=0.9)],
        "sgd-nesterov": lambda named: [torch.optim.SGD(groups(named.values()), lr=1.0, momentum=0.9, nesterov=True)],
        "adafactor": lambda named: [torch.optim.Adafactor(groups(named.values()), lr=1.0)],
        "muon-bf16": muon("match_rms_adamw"),
    }
    results = {name: run(start, gradients, make)[0] for name, make in kinds.items()}
    bfloat16 = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = lambda self: self.clone()
    results["muon"] = run(start, gradients, muon("match_rms_adamw"))[0]
    results["muon-original"] = run(start, gradients, muon("original"))[0]
    torch.Tensor.bfloat16 = bfloat16

    def numbers(tensors):
        return {name: [float(f"{x:.9g}") for x in value.flatten().tolist()] for name, value in tensors.items()}

    content = {
        "clip": CLIP,
        "weightDecay": DECAY,
        "rates": RATES,
        "shapes": SHAPES,
        "start": numbers(start),
        "gradients": [numbers(each) for each in gradients],
        "results": {kind: {step: numbers(each) for step, each in steps.items()} for kind, steps in results.items()},
    }
    (HERE / "small.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


def codes():
    """The first parameter has codes, and no whole number of blocks; the others are too small."""
    torch.manual_seed(1)
    shapes = {"weight": (63, 67), "small": (31, 33), "norm": (67,)}
    start = {name: torch.randn(shape).bfloat16().float() for name, shape in shapes.items()}
    base = {name: (torch.randn(shape) * torch.logspace(-4, -1, shape[-1])).bfloat16().float() for name, shape in shapes.items()}
    # The gradients of a step are the base's, moved on by 97 places each time and shrunk every third time.
    gradients = [
        {name: torch.roll(value.flatten(), 97 * step).view_as(value) * (0.25 if step % 3 == 0 else 1) for name, value in base.items()}
        for step in range(STEPS)
    ]

    def make(named):
        return [bnb.optim.AdamW8bit(groups(named.values()), lr=1.0)]

    table, _ = run(start, gradients, make)
    from_f32 = bnb_cpu._quant_blockwise_fp32_direct
    bnb_cpu._quant_blockwise_fp32_direct = lambda values, *rest: from_f32(values.double(), *rest)
    nearest, state = run(start, gradients, make)
    assert state["weight"]["state1"].dtype == torch.uint8 and state["small"]["state1"].dtype == torch.float32
    content = {f"start/{name}": value.bfloat16() for name, value in start.items()}
    content |= {f"base/{name}": value.bfloat16() for name, value in base.items()}
    content |= {f"param/{name}": value for name, value in nearest[STEPS].items()}
    content["param-table/weight"] = table[STEPS]["weight"]
    content["codes1/weight"] = state["weight"]["state1"]
    content["codes2/weight"] = state["weight"]["state2"]
    content["scales1/weight"] = state["weight"]["absmax1"]
    content["scales2/weight"] = state["weight"]["absmax2"]
    content["map1"] = state["weight"]["qmap1"]
    content["map2"] = state["weight"]["qmap2"]
    save_file({name: value.contiguous() for name, value in content.items()}, HERE / "codes.safetensors")


small()
codes()
