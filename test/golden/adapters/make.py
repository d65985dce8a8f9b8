"""Adapters of every kind, as PEFT makes them: DoRA, IA3, whole modules, biases, head and embedding, patterns.

    pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
    python test/golden/adapters/make.py [CASE ...]

Each folder gets the adapter as PEFT saves it by default (random matrices), and

- expected.safetensors: logits of the base model's rows batch, mean loss of its labels, the gradient of every trained parameter under
  its name in the adapter's file;
- merged.safetensors: some weights of the model with the adapter merged, in float32;
- adamw.json: the loss before each of ten AdamW steps on that batch, and after the last.

All in float32 with eager attention. Every value is checked against the same computation in float64.
"""

import json
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

here = Path(__file__).parent
sys.path.insert(0, str(here.parent / "models"))
import internlm2  # noqa: E402, F401

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
ADAMW = {"lr": 5e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "foreach": False}
STEPS = 10

# `base` is a folder of test/golden/models; `merged` are the weights that are kept of the merged model.
CASES = {
    "dora": {
        "base": "qwen2",
        "merged": ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"],
        "r": 3, "lora_alpha": 5, "use_dora": True, "target_modules": "all-linear",
    },
    # Several scales and ranks, on bfloat16 weights.
    "dora-patterns": {
        "base": "smollm2",
        "merged": ["model.layers.0.self_attn.q_proj.weight", "model.layers.2.mlp.down_proj.weight"],
        "r": 2, "lora_alpha": 3, "use_dora": True, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "down_proj"],
        "layers_to_transform": [0, 2],
        "rank_pattern": {"down_proj": 4, r"layers\.0\.self_attn\.q_proj": 3}, "alpha_pattern": {"v_proj": 7},
    },
    "dora-phi3": {
        "base": "phi3",
        "merged": ["model.layers.0.self_attn.qkv_proj.weight", "model.layers.1.mlp.gate_up_proj.weight"],
        "r": 2, "lora_alpha": 3, "use_dora": True, "target_modules": ["qkv_proj", "gate_up_proj", "down_proj"],
    },
    "bias-all": {
        "base": "qwen2",
        "merged": ["model.layers.0.self_attn.q_proj.bias", "model.layers.1.self_attn.v_proj.bias", "model.layers.1.self_attn.q_proj.weight"],
        "r": 2, "lora_alpha": 4, "bias": "all", "target_modules": ["q_proj", "up_proj"],
    },
    "bias-lora-only": {
        "base": "internlm3",
        "merged": ["model.layers.0.self_attn.q_proj.bias", "model.layers.1.mlp.up_proj.bias"],
        "r": 2, "lora_alpha": 4, "bias": "lora_only", "use_dora": True, "target_modules": ["q_proj", "up_proj"],
    },
    "saved": {
        "base": "llama",
        "merged": ["lm_head.weight", "model.embed_tokens.weight", "model.layers.1.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"],
        "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens", "input_layernorm"],
    },
    # The base model's head is its embedding; the trained copies are none of each other.
    "saved-tied": {
        "base": "qwen2",
        "merged": ["lm_head.weight", "model.embed_tokens.weight"],
        "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"],
    },
    # A layer of the blocks with its bias, and the last norm.
    "saved-head-tied": {
        "base": "llama-linear",
        "merged": ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.down_proj.weight"],
        "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "model.norm", "0.mlp.down_proj"],
    },
    "head": {
        "base": "llama",
        "merged": ["lm_head.weight", "model.layers.1.self_attn.q_proj.weight"],
        "r": 3, "lora_alpha": 4, "target_modules": ["q_proj", "lm_head"],
    },
    "head-tied": {
        "base": "gemma2",
        "r": 3, "lora_alpha": 4, "target_modules": ["q_proj", "lm_head"],
    },
    "embedding": {
        "base": "mistral",
        "merged": ["lm_head.weight", "model.embed_tokens.weight"],
        "r": 3, "lora_alpha": 4, "target_modules": ["v_proj", "lm_head", "embed_tokens"],
    },
    # The embedding is multiplied by a factor, what an adapter adds to it too.
    "embedding-scaled": {
        "base": "gemma3",
        "r": 3, "lora_alpha": 4, "target_modules": ["v_proj", "embed_tokens"],
    },
    # Parameters of all experts together, with ranks of their own, beside modules.
    "experts": {
        "base": "qwen3-moe",
        "merged": [
            "model.layers.0.mlp.experts.0.gate_proj.weight", "model.layers.0.mlp.experts.3.up_proj.weight",
            "model.layers.1.mlp.experts.6.down_proj.weight", "model.layers.0.self_attn.q_proj.weight",
        ],
        "r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        "rank_pattern": {"experts.down_proj": 2}, "alpha_pattern": {"experts.gate_up_proj": 4},
    },
    # Some of one block, no module.
    "experts-olmoe": {
        "base": "olmoe",
        "merged": ["model.layers.1.mlp.experts.4.up_proj.weight", "model.layers.0.mlp.experts.4.up_proj.weight"],
        "r": 2, "lora_alpha": 3, "use_rslora": True, "target_modules": [],
        "target_parameters": ["model.layers.1.mlp.experts.gate_up_proj"],
    },
    "experts-lfm2": {
        "base": "lfm2-moe", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"],
    },
    # Experts with biases, whose matrices are stored transposed, gate and up by turns.
    "experts-gpt-oss": {
        "base": "gpt-oss",
        "merged": [
            "model.layers.0.mlp.experts.0.gate_proj.weight", "model.layers.1.mlp.experts.3.up_proj.weight",
            "model.layers.2.mlp.experts.4.down_proj.weight",
        ],
        "r": 3, "lora_alpha": 5, "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        "rank_pattern": {"experts.down_proj": 2},
    },
    # Experts beside an MLP, with GELU.
    "experts-gemma4": {
        "base": "gemma4-moe", "r": 2, "lora_alpha": 3, "target_modules": ["o_proj", "proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
    },
    # On experts that are stored in MXFP4.
    "experts-gpt-oss-mxfp4": {
        "base": "gpt-oss-mxfp4", "r": 2, "lora_alpha": 3, "target_modules": [], "target_parameters": ["layers.1.mlp.experts.gate_up_proj"],
    },
    # The modules that PEFT has for Qwen2, with biases that are scaled.
    "ia3": {
        "kind": "IA3", "base": "qwen2",
        "merged": ["model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.v_proj.bias", "model.layers.1.mlp.down_proj.weight"],
    },
    # The modules that PEFT has for Llama, on bfloat16 weights, beside a head that is trained whole.
    "ia3-saved": {
        "kind": "IA3", "base": "smollm2", "modules_to_save": ["lm_head"],
    },
    "ia3-phi3": {
        "kind": "IA3", "base": "phi3",
        "merged": ["model.layers.0.self_attn.qkv_proj.weight", "model.layers.1.mlp.gate_up_proj.weight"],
        "target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], "feedforward_modules": ["o_proj", "down_proj"],
    },
    "ia3-internlm2": {
        "kind": "IA3", "base": "internlm2", "target_modules": ["wqkv", "w2"], "feedforward_modules": ["w2"],
    },
    # Modules of one name whose inputs or outputs are scaled, by block; biases of both.
    "ia3-patterns": {
        "kind": "IA3", "base": "internlm3",
        "merged": ["model.layers.0.mlp.up_proj.bias", "model.layers.1.mlp.up_proj.bias", "model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"],
        "target_modules": r".*\.(k|up|down)_proj", "feedforward_modules": r".*(\.1\.mlp\.up|down)_proj",
    },
}


def load(base, dtype=torch.float32):
    folder = here.parent / "models" / base
    stored = json.loads((folder / "config.json").read_text())
    has_experts = "num_experts" in stored or "num_local_experts" in stored
    eager = {"attn_implementation": "eager", **({"experts_implementation": "eager"} if has_experts else {})}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **eager)
    for module in model.modules():
        # As it is for a model in the checkpoint's dtype.
        if hasattr(module, "embed_scale"):
            module.embed_scale = module.embed_scale.to(getattr(torch, stored.get("torch_dtype", stored.get("dtype")))).float()
    return model.to(dtype)


def forward(model, batch):
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    return logits, loss


def trained(model):
    """Trained parameters by their name in the file."""
    return {
        name.replace(".default", "").replace(".modules_to_save", "").replace("magnitude_vector.weight", "magnitude_vector"): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.requires_grad
    }


def compute(model, batch):
    model.zero_grad()
    logits, loss = forward(model, batch)
    loss.backward()
    gradients = {name: parameter.grad.detach().clone() for name, parameter in trained(model).items()}
    return {"logits": logits.detach().flatten(0, 1), "loss": loss.detach().reshape(1), **gradients}


def adamw(model, batch):
    parameters = list(trained(model).values())
    # Vectors do not decay, nor do factors.
    decayed = [p for name, p in trained(model).items() if p.ndim > 1 and "ia3_" not in name]
    groups = [
        {"params": decayed},
        {"params": [p for p in parameters if not any(p is other for other in decayed)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], **ADAMW)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        _, loss = forward(model, batch)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    losses.append(forward(model, batch)[1].item())
    return losses


def distance(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def weight(state, name):
    """A weight by its name on the hub, where each matrix of an expert is one."""
    if name in state:
        return state[name]
    experts, number, matrix, _ = name.rsplit(".", 3)
    if f"{experts}.gate_up_proj_bias" in state:
        both, down = (state[f"{experts}.{part}"][int(number)].T for part in ("gate_up_proj", "down_proj"))
        return {"gate_proj": both[::2], "up_proj": both[1::2], "down_proj": down}[matrix]
    if matrix == "down_proj":
        return state[f"{experts}.down_proj"][int(number)]
    gate, up = state[f"{experts}.gate_up_proj"][int(number)].chunk(2)
    return {"gate_proj": gate, "up_proj": up}[matrix]


for name in sys.argv[1:] or CASES:
    settings = dict(CASES[name])
    kind = settings.pop("kind", "LORA")
    base = settings.pop("base")
    kept = settings.pop("merged", [])
    folder = here / name
    folder.mkdir(exist_ok=True)
    config = {"IA3": peft.IA3Config, "LORA": peft.LoraConfig}[kind](task_type="CAUSAL_LM", **settings)
    adapted = peft.get_peft_model(load(base), config)
    generator = torch.Generator().manual_seed(41)
    with torch.no_grad():
        for parameter_name, parameter in sorted(adapted.named_parameters(remove_duplicate=False)):
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "magnitude" in parameter_name:
                parameter.mul_(1 + 0.2 * noise)
            elif "ia3_" in parameter_name:
                parameter.mul_(1 + 0.4 * noise)
            elif "lora_" in parameter_name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.add_(0.1 * noise)
    # A name makes PEFT look on the hub for the vocabulary's size.
    adapted.peft_config["default"].base_model_name_or_path = None
    adapted.save_pretrained(folder)
    written = json.loads((folder / "adapter_config.json").read_text())
    # PEFT puts the path of the machine that it runs on there.
    written["base_model_name_or_path"] = None
    for key in ("target_modules", "target_parameters", "modules_to_save", "feedforward_modules"):
        # The order of a set is another one each time.
        if isinstance(written.get(key), list):
            written[key].sort()
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2) + "\n")
    (folder / "README.md").unlink()

    batch = load_file(here.parent / "models" / base / "batches" / "rows.safetensors")
    again = peft.PeftModel.from_pretrained(load(base), folder, is_trainable=True)
    values = compute(again, batch)
    exact = compute(peft.PeftModel.from_pretrained(load(base), folder, is_trainable=True).double(), batch)
    for key, value in values.items():
        assert distance(value, exact[key]) < 1e-5, (name, key, distance(value, exact[key]))
    base_logits = forward(load(base), batch)[0].detach().flatten(0, 1)
    assert distance(values["logits"], base_logits) > 0.02, "the adapter changes nothing"
    stored = load_file(folder / "adapter_model.safetensors")
    gradients = values.keys() - {"logits", "loss"}
    assert gradients <= stored.keys(), gradients - stored.keys()
    save_file({key: value.contiguous() for key, value in values.items()}, folder / "expected.safetensors", metadata={"format": "pt", **versions})

    losses = adamw(again, batch)
    exact_losses = adamw(peft.PeftModel.from_pretrained(load(base), folder, is_trainable=True).double(), batch)
    assert all(abs(a - b) < 1e-5 * abs(b) for a, b in zip(losses, exact_losses)), (losses, exact_losses)
    (folder / "adamw.json").write_text(json.dumps({"base": base, "adamw": {k: v for k, v in ADAMW.items() if k != "foreach"}, "losses": losses}, indent=2) + "\n")

    if kept:
        merged = peft.PeftModel.from_pretrained(load(base), folder).merge_and_unload().state_dict()
        save_file({key: weight(merged, key).contiguous().clone() for key in kept}, folder / "merged.safetensors", metadata={"format": "pt", **versions})
    print(name, len(gradients), losses[0], losses[-1])
