"""Logits of an adapter that Remat wrote, as PEFT computes them.

    bun test/support/peft.ts            # writes adapter/ beside this file
    pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
    python test/golden/peft/make.py     # writes logits.safetensors
"""

from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

here = Path(__file__).parent
family = here.parent / "models" / "qwen3"

torch.set_num_threads(1)
model = transformers.AutoModelForCausalLM.from_pretrained(family, dtype=torch.float32, attn_implementation="eager")
adapted = peft.PeftModel.from_pretrained(model, here / "adapter").eval()
loaded = peft.get_peft_model_state_dict(adapted)
written = load_file(here / "adapter" / "adapter_model.safetensors")
assert loaded.keys() == written.keys(), loaded.keys() ^ written.keys()
assert all(torch.equal(loaded[name], written[name]) for name in written)

ids = load_file(family / "batches" / "rows.safetensors")["input_ids"]
with torch.no_grad():
    logits = adapted(input_ids=ids).logits
    with adapted.disable_adapter():
        base = adapted(input_ids=ids).logits
assert (logits - base).norm() > 0.05 * base.norm(), "the adapter changes nothing"
versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
save_file({"logits": logits.flatten(0, 1).contiguous()}, here / "logits.safetensors", metadata={"format": "pt", **versions})
