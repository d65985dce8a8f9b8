"""InternLM2 with the names of its checkpoints, on top of Transformers' Llama: the published modelling code is not part of
Transformers. `import internlm2` makes it known to the Auto classes.

In an InternLM2, queries, keys and values come from one matrix `wqkv`. Its rows are in groups, one for each key head: those of
the group's query heads, of the key head and of the value head. Everything else is a Llama by other names, and `as_llama`
makes it one: `check` compares the two.
"""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb, eager_attention_forward


class InternLM2Config(LlamaConfig):
    model_type = "internlm2"
    bias: bool = True


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.hidden_size // self.heads
        self.num_key_value_groups = self.heads // self.kv_heads
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.wqkv = nn.Linear(config.hidden_size, rows, bias=config.bias)
        self.wo = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=config.bias)

    def forward(self, x, mask, angles):
        shape = x.shape[:-1]
        groups = self.wqkv(x).view(*shape, self.kv_heads, self.num_key_value_groups + 2, self.head_dim)
        queries = groups[..., :-2, :].reshape(*shape, self.heads, self.head_dim)
        q, k, v = (part.transpose(1, 2) for part in (queries, groups[..., -2, :], groups[..., -1, :]))
        q, k = apply_rotary_pos_emb(q, k, *angles)
        result, _ = eager_attention_forward(self, q, k, v, mask, scaling=self.head_dim**-0.5)
        return self.wo(result.reshape(*shape, -1))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, mask, angles):
        x = x + self.attention(self.attention_norm(x), mask, angles)
        return x + self.feed_forward(self.ffn_norm(x))


class Body(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)


class InternLM2ForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = InternLM2Config

    def __init__(self, config):
        super().__init__(config)
        self.model = Body(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.tok_embeddings

    def get_output_embeddings(self):
        return self.output

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, use_cache=False, **_):
        x = self.model.tok_embeddings(input_ids)
        if position_ids is None:
            position_ids = torch.arange(x.shape[1])[None]
        mask = create_causal_mask(
            config=self.config, inputs_embeds=x, attention_mask=attention_mask, past_key_values=None, position_ids=position_ids
        )
        angles = self.model.rotary_emb(x, position_ids)
        for layer in self.model.layers:
            x = layer(x, mask, angles)
        return CausalLMOutputWithPast(logits=self.output(self.model.norm(x)))


NAMES = {
    "tok_embeddings": "embed_tokens",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def as_llama(model):
    """A Llama of Transformers with the same weights. Its one flag of biases is for all four projections of attention."""
    config = LlamaConfig(**{**model.config.to_dict(), "model_type": "llama", "attention_bias": model.config.bias})
    config._attn_implementation = "eager"
    dim, per_key = config.head_dim, config.num_attention_heads // config.num_key_value_heads
    state = {}
    for name, value in model.state_dict().items():
        if ".wqkv." in name:
            groups = value.view(config.num_key_value_heads, per_key + 2, dim, *value.shape[1:])
            for part, rows in (("q", groups[:, :per_key]), ("k", groups[:, per_key]), ("v", groups[:, per_key + 1])):
                state[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = rows.reshape(-1, *value.shape[1:])
            continue
        for old, new in NAMES.items():
            name = name.replace(old, new)
        state[name.replace("output.", "lm_head.")] = value
    llama = LlamaForCausalLM(config).to(next(model.parameters()).dtype)
    llama.load_state_dict(state)
    return llama


def check(model, batches):
    """In float64, this model's logits are those of the Llama with the same weights."""
    model = model.double().eval()
    llama = as_llama(model).eval()
    with torch.no_grad():
        for batch in batches.values():
            if "position_ids" in batch:
                continue
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask") if key in batch}
            ours, theirs = model(**inputs).logits, llama(**inputs).logits
            seen = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            assert (ours[seen] - theirs[seen]).abs().max() < 1e-12 * theirs.abs().max()


AutoConfig.register("internlm2", InternLM2Config)
AutoModelForCausalLM.register(InternLM2Config, InternLM2ForCausalLM)
