"""Adapters of some modules only, as PEFT makes them: by layer, by pattern, with ranks and scales of their own.

    pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
    python test/golden/peft/subsets.py

Each folder gets the adapter with random matrices, the logits of the rows batch, the mean loss of its labels and the
gradients of the adapter's matrices. The base model is test/golden/models/smollm2, which has three layers.
"""

import json
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

here = Path(__file__).parent
family = here.parent / "models" / "smollm2"
torch.set_num_threads(1)
versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}

SUBSETS = {
    # The last two layers, as remat train --last-layers 2 trains them.
    "last-layers": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "layers_to_transform": [1, 2],
    },
    # Layers that do not follow each other, with a layer between them that only passes gradients on.
    "some-layers": {
        "r": 2,
        "lora_alpha": 6,
        "use_rslora": True,
        "target_modules": ["k_proj", "up_proj"],
        "layers_to_transform": [0, 2],
        "layers_pattern": "layers",
    },
    # Modules, ranks and scales by regular expressions.
    "patterns": {
        "r": 3,
        "lora_alpha": 4,
        "use_rslora": True,
        "target_modules": r".*\.layers\.(0\.self_attn\.[qv]_proj|[12]\.mlp\.(gate|down)_proj)",
        "rank_pattern": {r"^model\.layers\.0\..*": 2, r"layers\.\d\.mlp\.down_proj": 5},
        "alpha_pattern": {r"mlp\.(gate|up)_proj": 7, r"self_attn\..*_proj": 3},
    },
    "all-linear": {"r": 2, "lora_alpha": 3, "target_modules": "all-linear", "exclude_modules": r".*\.1\.mlp\..*"},
}

for name, settings in SUBSETS.items():
    folder = here / name
    folder.mkdir(exist_ok=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(family, dtype=torch.float32, attn_implementation="eager")
    config = peft.LoraConfig(task_type="CAUSAL_LM", bias="none", lora_dropout=0.0, **settings)
    adapted = peft.get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(31)
    with torch.no_grad():
        for parameter_name, parameter in sorted(adapted.named_parameters()):
            if parameter.requires_grad:
                assert "lora_" in parameter_name
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    # The path is this machine's, and the order of a set another one each time.
    written = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": None}
    if isinstance(written["target_modules"], list):
        written["target_modules"].sort()
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2) + "\n")
    (folder / "README.md").unlink()

    batch = load_file(family / "batches" / "rows.safetensors")
    output = adapted(input_ids=batch["input_ids"], labels=batch["labels"])
    output.loss.backward()
    expected = {"logits": output.logits.detach().flatten(0, 1).contiguous(), "loss": output.loss.detach().reshape(1)}
    for parameter_name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            expected[parameter_name.replace(".default", "")] = parameter.grad.contiguous()
    save_file(expected, folder / "expected.safetensors", metadata={"format": "pt", **versions})
