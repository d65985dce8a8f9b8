"""Logits of adapters that Remat wrote, as PEFT computes them.

    bun test/support/peft.ts            # writes <family>/adapter/ beside this file
    pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
    python test/golden/peft/make.py     # writes <folder>/logits.safetensors; a pattern such as "written-*/adapter" picks some
"""

import json
import sys

from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

here = Path(__file__).parent
sys.path.insert(0, str(here.parent / "models"))
import internlm2  # noqa: E402, F401

torch.set_num_threads(1)
versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}

# The folders whose adapter we wrote: the base model that it names is the family.
for folder in sorted(path.parent for path in here.glob(sys.argv[1] if len(sys.argv) > 1 else "*/adapter")):
    family = here.parent / "models" / json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = transformers.AutoModelForCausalLM.from_pretrained(family, dtype=torch.float32, attn_implementation="eager")
    stored = json.loads((family / "config.json").read_text())
    for module in model.modules():
        # As it is for a model in the checkpoint's dtype.
        if hasattr(module, "embed_scale"):
            module.embed_scale = module.embed_scale.to(getattr(torch, stored["torch_dtype"])).float()
    adapted = peft.PeftModel.from_pretrained(model, folder / "adapter").eval()
    # PEFT would save the base model's head and embedding along where they are adapted.
    loaded = {key: value for key, value in peft.get_peft_model_state_dict(adapted).items() if not key.endswith(".base_layer.weight")}
    written = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert loaded.keys() == written.keys(), loaded.keys() ^ written.keys()
    assert all(torch.equal(loaded[key], written[key]) for key in written)

    ids = load_file(family / "batches" / "rows.safetensors")["input_ids"]
    with torch.no_grad():
        logits = adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            base = adapted(input_ids=ids).logits
    assert (logits - base).norm() > 0.05 * base.norm(), "the adapter changes nothing"
    save_file({"logits": logits.flatten(0, 1).contiguous()}, folder / "logits.safetensors", metadata={"format": "pt", **versions})
