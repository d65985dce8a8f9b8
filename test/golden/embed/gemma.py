"""Writes gemma/: a tiny EmbeddingGemma with random weights, and what Transformers makes of it.

    python test/golden/embed/gemma.py
    (torch 2.13.0, transformers 5.23.0, safetensors 0.8.0)

A Gemma 3 whose tokens see both sides, with windows in two of three layers, the mean of its hidden states, and two layers behind it. Batches are padded, and packed: of a packed
row each example is run by itself. `loss` is the sum of embeddings times the given numbers, of which every parameter has its gradient.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel
from transformers.models.gemma3.configuration_gemma3 import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextModel

torch.set_num_threads(1)
torch.manual_seed(4)
HERE = Path(__file__).parent / "gemma"

CONFIG = dict(
    architectures=["Gemma3TextModel"],
    model_type="gemma3_text",
    vocab_size=64,
    hidden_size=18,
    intermediate_size=22,
    num_hidden_layers=3,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=6,
    max_position_embeddings=64,
    sliding_window=6,
    sliding_window_pattern=3,
    query_pre_attn_scalar=6,
    rms_norm_eps=1e-6,
    hidden_activation="gelu_pytorch_tanh",
    rope_theta=1000000,
    rope_local_base_freq=10000,
    use_bidirectional_attention=True,
    attention_bias=False,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=1,
    torch_dtype="float32",
)
(HERE / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
model = Gemma3TextModel(Gemma3TextConfig.from_dict(dict(CONFIG)))
with torch.no_grad():
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
save_file({name: value.contiguous() for name, value in model.state_dict().items()}, HERE / "model.safetensors", {"format": "pt"})
dense = [("2_Dense", 18, 26), ("3_Dense", 26, 14)]
layers = []
modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
modules.append({"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
(HERE / "1_Pooling").mkdir(exist_ok=True)
(HERE / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 18, "pooling_mode_mean_tokens": True}) + "\n")
for i, (name, inputs, outputs) in enumerate(dense):
    layer = torch.nn.Linear(inputs, outputs, bias=False)
    (HERE / name).mkdir(exist_ok=True)
    settings = {"in_features": inputs, "out_features": outputs, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    (HERE / name / "config.json").write_text(json.dumps(settings) + "\n")
    save_file({"linear.weight": layer.weight.detach().contiguous()}, HERE / name / "model.safetensors", {"format": "pt"})
    modules.append({"idx": i + 2, "name": str(i + 2), "path": name, "type": "sentence_transformers.models.Dense"})
    layers.append((name, layer))
(HERE / "modules.json").write_text(json.dumps(modules, indent=2) + "\n")

model = AutoModel.from_pretrained(HERE, dtype=torch.float32, attn_implementation="eager").eval()
assert model.config.sliding_window == 4 and model.config.use_bidirectional_attention
texts = [torch.randint(3, 64, (length,)) for length in (17, 9, 4)]
weights = torch.randn(3, 14)


def pooled(states, mask):
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    for _, layer in layers:
        mean = layer(mean)
    return mean


def padded():
    ids = torch.zeros(3, 17, dtype=torch.long)
    mask = torch.zeros(3, 17)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return pooled(model(input_ids=ids, attention_mask=mask.long()).last_hidden_state, mask)


def alone():
    each = [pooled(model(input_ids=text[None]).last_hidden_state, torch.ones(1, len(text))) for text in texts]
    return torch.cat(each)


expected = {"weights": weights}
for name, run in (("padded", padded), ("packed", alone)):
    model.zero_grad()
    for _, layer in layers:
        layer.zero_grad()
    embeddings = run()
    (embeddings * weights).sum().backward()
    expected[f"{name}.embeddings"] = embeddings.detach()
    for parameter, value in model.named_parameters():
        expected[f"{name}.gradient.{parameter}"] = value.grad
    for module, layer in layers:
        expected[f"{name}.gradient.{module}.linear.weight"] = layer.weight.grad
save_file({name: value.contiguous() for name, value in expected.items()}, HERE / "expected.safetensors")
(HERE / "texts.json").write_text(json.dumps([text.tolist() for text in texts]) + "\n")
for path in HERE.rglob("*.safetensors"):
    path.chmod(0o644)
