"""Makes adamw.json: ten steps of torch.optim.AdamW with clipping and a changing learning rate.

    python test/golden/adamw.py   (torch 2.13.0)
"""

import json
from pathlib import Path

import torch

torch.set_num_threads(1)
torch.manual_seed(0)

SIZE = 37
CLIP = 1.0
BETAS = (0.9, 0.999)
EPSILON = 1e-8
WEIGHT_DECAY = 0.1
RATES = [1e-2 * (1 - step / 20) for step in range(10)]

param = torch.nn.Parameter(torch.randn(SIZE))
start = param.detach().tolist()
optimizer = torch.optim.AdamW([param], lr=RATES[0], betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY)
steps = []
for rate in RATES:
    # Norms on both sides of the limit, and gradients of very different sizes.
    gradient = torch.randn(SIZE) * torch.logspace(-4, 0, SIZE) * (0.1 if len(steps) % 3 == 0 else 1)
    param.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_([param], CLIP)
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()
    steps.append({"rate": rate, "gradient": gradient.tolist(), "param": param.detach().tolist()})

state = optimizer.state[param]
result = {
    "betas": BETAS,
    "epsilon": EPSILON,
    "weightDecay": WEIGHT_DECAY,
    "clip": CLIP,
    "start": start,
    "steps": steps,
    "moment1": state["exp_avg"].tolist(),
    "moment2": state["exp_avg_sq"].tolist(),
}
Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")
