"""Makes the model fixtures of this folder with PyTorch, Transformers and PEFT.

    python make.py [--out FOLDER] [FAMILY ...]

For each family: a tiny random checkpoint, three batches, a LoRA adapter, and what Transformers computes from them in
float32 with eager attention: logits, loss, the gradient of every trainable parameter, the losses of ten AdamW steps.
README.md in this folder describes the files. Every value is checked here against the same computation in float64, so
that a test bound of 1e-4 leaves room for the rounding of the two sides.
"""

import argparse
import json
import math
import re
import shutil
import struct
from pathlib import Path

import internlm2
import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMaskedLM

VL_LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GLM_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]
DELTA_LINEAR = [*ALL_LINEAR, "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]
LFM_LINEAR = ["q_proj", "k_proj", "v_proj", "out_proj", "in_proj", "w1", "w2", "w3"]
RANK, ALPHA = 4, 6
# foreach=False: the plain loop over parameters, whose result does not depend on how tensors are grouped.
LEARNING_RATE = {"full": 2e-3, "lora": 1e-2}
ADAMW = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "foreach": False}
STEPS = 10
CLIP = 0.05
VERSIONS = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"

COMMON = {
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "max_position_embeddings": 64,
    "use_cache": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# `seed` is one with which ten AdamW steps do not amplify rounding; `dtype` is the checkpoint's; `shard` splits it at that many bytes; `targets` are the adapter's modules; `names` are pairs of prefixes: a tensor whose
# name begins with the first is stored with the second.
FAMILIES = {
    "llama": {
        "seed": 1000,
        "dtype": torch.float32,
        "shard": 60_000,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 36,
            "intermediate_size": 47,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "vocab_size": 97,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500.0,
            # With a head of 12 the six wavelengths fall on both sides of and between the two thresholds.
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "eos_token_id": [2, 3],
        },
    },
    "llama-linear": {
        "seed": 1001,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 40,
            "intermediate_size": 47,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 103,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "linear", "factor": 2.5},
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
    },
    # Layers 2 and 4 have no rotary positions, and a window.
    "smollm3": {
        "seed": 1020,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["SmolLM3ForCausalLM"],
            "model_type": "smollm3",
            "hidden_size": 36,
            "intermediate_size": 41,
            "num_hidden_layers": 5,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "vocab_size": 101,
            "rms_norm_eps": 1e-5,
            "rope_theta": 3000.0,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
            "no_rope_layer_interval": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "attention_bias": False,
            "mlp_bias": False,
            "pad_token_id": 4,
            "torch_dtype": "float32",
        },
    },
    # Layers 1 and 5 see the whole text, by the usual pattern.
    "cwm": {
        "seed": 1030,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["CwmForCausalLM"],
            "model_type": "cwm",
            "hidden_size": 26,
            "intermediate_size": 29,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "vocab_size": 59,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            "sliding_window": 4,
            "mlp_bias": True,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        },
    },
    "seed-oss": {
        "seed": 1031,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["SeedOssForCausalLM"],
            "model_type": "seed_oss",
            "hidden_size": 27,
            "intermediate_size": 31,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 10,
            "vocab_size": 61,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "attention_bias": True,
            "attention_out_bias": True,
            "mlp_bias": False,
            "residual_dropout": 0.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        },
    },
    # Factors that bfloat16 does not hold.
    "granite": {
        "seed": 1034,
        "dtype": torch.bfloat16,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["GraniteForCausalLM"],
            "model_type": "granite",
            "hidden_size": 28,
            "intermediate_size": 31,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 59,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "embedding_multiplier": 5.3,
            "attention_multiplier": 0.17,
            "residual_multiplier": 0.43,
            "logits_scaling": 3.7,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
    },
    # Norms behind the branches, and one of all query heads together.
    "olmo2": {
        "seed": 1080,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Olmo2ForCausalLM"],
            "model_type": "olmo2",
            "hidden_size": 24,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "vocab_size": 47,
            "rms_norm_eps": 1e-6,
            "rope_theta": 500.0,
            "attention_bias": True,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        },
    },
    # Layers 1 to 3 have a window, and rotary positions that are not stretched.
    "olmo3": {
        "seed": 1081,
        "dtype": torch.bfloat16,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Olmo3ForCausalLM"],
            "model_type": "olmo3",
            "hidden_size": 20,
            "intermediate_size": 23,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": 43,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000.0,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.2},
            "sliding_window": 4,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
    },
    # Layer 4 sees the whole text, without rotary positions.
    "exaone4": {
        "seed": 1582,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Exaone4ForCausalLM"],
            "model_type": "exaone4",
            "hidden_size": 20,
            "intermediate_size": 23,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 43,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
            "sliding_window": 4,
            "sliding_window_pattern": 4,
            "tie_word_embeddings": True,
            "dtype": "float32",
        },
    },
    "hunyuan": {
        "seed": 1083,
        "dtype": torch.bfloat16,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["HunYuanDenseV1ForCausalLM"],
            "model_type": "hunyuan_v1_dense",
            "hidden_size": 22,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "vocab_size": 47,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100.0,
            "rope_scaling": {"alpha": 50.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "type": "dynamic"},
            "attention_bias": True,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
    },
    "ernie45": {
        "seed": 1084,
        "dtype": torch.bfloat16,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Ernie4_5ForCausalLM"],
            "model_type": "ernie4_5",
            "hidden_size": 22,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 10,
            "vocab_size": 47,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000.0,
            "use_bias": True,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
    },
    # Six of a head's twelve features are rotated, neighbours with each other.
    "glm": {
        "seed": 1085,
        "dtype": torch.bfloat16,
        "targets": GLM_LINEAR,
        "config": {
            "architectures": ["GlmForCausalLM"],
            "model_type": "glm",
            "hidden_size": 22,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "vocab_size": 47,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000.0,
            "attention_bias": True,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
    },
    "glm4": {
        "seed": 1186,
        "dtype": torch.float32,
        "targets": GLM_LINEAR,
        "config": {
            "architectures": ["Glm4ForCausalLM"],
            "model_type": "glm4",
            "hidden_size": 22,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "vocab_size": 47,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
            "attention_bias": True,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            "dtype": "float32",
        },
    },
    # Layer 4 sees the whole text, without rotary positions.
    "cohere2": {
        "seed": 1087,
        "dtype": torch.bfloat16,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Cohere2ForCausalLM"],
            "model_type": "cohere2",
            "hidden_size": 20,
            "intermediate_size": 29,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 47,
            "layer_norm_eps": 1e-5,
            "logit_scale": 0.3,
            "rope_theta": 1000.0,
            "sliding_window": 4,
            "sliding_window_pattern": 4,
            "pad_token_id": 0,
            "torch_dtype": "bfloat16",
        },
    },
    "granite4": {
        "seed": 1088,
        "dtype": torch.bfloat16,
        "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "input_linear", "output_linear"],
        "config": {
            "architectures": ["GraniteMoeHybridForCausalLM"],
            "model_type": "granitemoehybrid",
            "hidden_size": 24,
            "intermediate_size": 64,
            "shared_intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 47,
            "rms_norm_eps": 1e-5,
            "position_embedding_type": "rope",
            "rope_theta": 1000.0,
            "embedding_multiplier": 5.3,
            "attention_multiplier": 0.17,
            "residual_multiplier": 0.43,
            "logits_scaling": 3.7,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "layer_types": ["attention", "attention"],
            "mamba_n_heads": 4,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
    },
    # Attention and MLP side by side, a bias on the logits.
    "phi": {
        "seed": 1100,
        "dtype": torch.float16,
        "targets": ["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"],
        "config": {
            "architectures": ["PhiForCausalLM"],
            "model_type": "phi",
            "hidden_size": 24,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vocab_size": 47,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "rope_theta": 1000.0,
            "torch_dtype": "float16",
        },
    },
    # Matrices that are stored transposed; the hub's names, without those of the model in front.
    "gpt2": {
        "seed": 1110,
        "dtype": torch.float32,
        "targets": ["c_attn", "c_proj", "c_fc"],
        "names": (("transformer.", ""),),
        "config": {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": 24,
            "n_inner": 29,
            "n_layer": 2,
            "n_head": 3,
            "n_positions": 64,
            "vocab_size": 47,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "torch_dtype": "float32",
        },
    },
    "opt": {
        "seed": 1111,
        "dtype": torch.float16,
        "targets": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
        "config": {
            "architectures": ["OPTForCausalLM"],
            "model_type": "opt",
            "hidden_size": 24,
            "ffn_dim": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "vocab_size": 47,
            "word_embed_proj_dim": 24,
            "do_layer_norm_before": True,
            "activation_function": "relu",
            "dropout": 0.0,
            "pad_token_id": 1,
            "torch_dtype": "float16",
        },
    },
    # Pythia's keys and names.
    "gpt-neox": {
        "seed": 1101,
        "dtype": torch.float16,
        "targets": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
        "names": (("lm_head.", "embed_out."),),
        "config": {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "hidden_size": 24,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "vocab_size": 47,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.5,
            "rotary_emb_base": 1000,
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
        },
    },
    # One branch behind the other, as Transformers 5 writes it.
    "gpt-neox-serial": {
        "seed": 1102,
        "dtype": torch.float32,
        "targets": ["query_key_value"],
        "config": {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "hidden_size": 20,
            "intermediate_size": 23,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "vocab_size": 41,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.3},
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "dtype": "float32",
        },
    },
    "stablelm": {
        "seed": 1103,
        "dtype": torch.float16,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["StableLmForCausalLM"],
            "model_type": "stablelm",
            "hidden_size": 24,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "vocab_size": 47,
            "layer_norm_eps": 1e-5,
            "use_qkv_bias": True,
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
        },
    },
    "starcoder2": {
        "seed": 1104,
        "dtype": torch.bfloat16,
        "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"],
        "config": {
            "architectures": ["Starcoder2ForCausalLM"],
            "model_type": "starcoder2",
            "hidden_size": 24,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "vocab_size": 47,
            "hidden_act": "gelu_pytorch_tanh",
            "norm_epsilon": 1e-5,
            "rope_theta": 1000.0,
            "sliding_window": 5,
            "use_bias": True,
            "torch_dtype": "bfloat16",
        },
    },
    # Norms whose weights are offsets from 1.
    "nemotron": {
        "seed": 1105,
        "dtype": torch.bfloat16,
        "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
        "config": {
            "architectures": ["NemotronForCausalLM"],
            "model_type": "nemotron",
            "hidden_size": 24,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 47,
            "hidden_act": "relu2",
            "norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "rope_theta": 1000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
    },
    # Layers with a state, and one that attends, by the usual pattern; text and images, as published. What the gated norms take is almost 0 at
    # times: with a small epsilon they would amplify rounding.
    "qwen3.5": {
        "seed": 1087,
        "dtype": torch.bfloat16,
        "targets": r".*language_model.*\.(" + "|".join(DELTA_LINEAR) + ")",
        "config": {
            "architectures": ["Qwen3_5ForConditionalGeneration"],
            "model_type": "qwen3_5",
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "image_token_id": 50,
            "video_token_id": 51,
            "vision_start_token_id": 49,
            "vision_end_token_id": 48,
            "text_config": {
                "model_type": "qwen3_5_text",
                "hidden_size": 30,
                "intermediate_size": 23,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "linear_conv_kernel_dim": 4,
                "linear_key_head_dim": 9,
                "linear_num_key_heads": 1,
                "linear_num_value_heads": 3,
                "linear_value_head_dim": 11,
                "full_attention_interval": 3,
                "mtp_num_hidden_layers": 1,
                "vocab_size": 53,
                "max_position_embeddings": 64,
                "rms_norm_eps": 2e-2,
                "tie_word_embeddings": True,
                "eos_token_id": 2,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_interleaved": True,
                    "mrope_section": [1, 1, 0],
                    "partial_rotary_factor": 0.25,
                },
            },
            "vision_config": {
                "model_type": "qwen3_5",
                "depth": 1,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_heads": 2,
                "patch_size": 2,
                "out_hidden_size": 30,
                "num_position_embeddings": 4,
            },
        },
    },
    # As published: text and images, all experts of a block in one tensor, and one expert that takes every token.
    "qwen3.5-moe": {
        "seed": 1137,
        "dtype": torch.bfloat16,
        "targets": r".*language_model.*\.(" + "|".join([*DELTA_LINEAR, "shared_expert_gate"]) + ")",
        "config": {
            "architectures": ["Qwen3_5MoeForConditionalGeneration"],
            "model_type": "qwen3_5_moe",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "image_token_id": 50,
            "video_token_id": 51,
            "vision_start_token_id": 49,
            "vision_end_token_id": 48,
            "text_config": {
                "model_type": "qwen3_5_moe_text",
                "hidden_size": 26,
                "moe_intermediate_size": 13,
                "shared_expert_intermediate_size": 11,
                "num_experts": 5,
                "num_experts_per_tok": 2,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "linear_conv_kernel_dim": 4,
                "linear_key_head_dim": 9,
                "linear_num_key_heads": 1,
                "linear_num_value_heads": 2,
                "linear_value_head_dim": 11,
                "full_attention_interval": 3,
                "vocab_size": 53,
                "max_position_embeddings": 64,
                "rms_norm_eps": 2e-2,
                "tie_word_embeddings": False,
                "eos_token_id": 2,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_interleaved": True,
                    "mrope_section": [1, 1, 0],
                    "partial_rotary_factor": 0.25,
                },
            },
            "vision_config": {
                "model_type": "qwen3_5_moe",
                "depth": 1,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_heads": 2,
                "patch_size": 2,
                "out_hidden_size": 26,
                "num_position_embeddings": 4,
            },
        },
    },
    # One matrix for queries, keys, values and gates; one layer without experts.
    "qwen3-next": {
        "seed": 1126,
        "dtype": torch.float32,
        "targets": [*ATTENTION, "in_proj_qkvz", "in_proj_ba", "out_proj", "shared_expert_gate"],
        "config": {
            "architectures": ["Qwen3NextForCausalLM"],
            "model_type": "qwen3_next",
            "hidden_size": 28,
            "intermediate_size": 21,
            "moe_intermediate_size": 10,
            "shared_expert_intermediate_size": 14,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "linear_conv_kernel_dim": 3,
            "linear_key_head_dim": 6,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_value_head_dim": 7,
            "vocab_size": 59,
            "rms_norm_eps": 1e-1,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "pad_token_id": 1,
            "bos_token_id": None,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        },
    },
    # The model of text alone: `layer_types`, biases in attention, other parts of heads rotated, a head of its own.
    "qwen3.5-text": {
        "seed": 1080,
        "dtype": torch.float32,
        "targets": DELTA_LINEAR,
        "config": {
            "architectures": ["Qwen3_5ForCausalLM"],
            "model_type": "qwen3_5_text",
            "hidden_size": 28,
            "intermediate_size": 27,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 8,
            "linear_conv_kernel_dim": 3,
            "linear_key_head_dim": 10,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_value_head_dim": 7,
            "vocab_size": 61,
            "rms_norm_eps": 1e-2,
            "attention_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]},
            "tie_word_embeddings": False,
            "dtype": "float32",
        },
    },
    # Layers that convolve, and two that attend. The published keys, and a width that is not the file's.
    "lfm2": {
        "seed": 1072,
        "dtype": torch.bfloat16,
        "targets": LFM_LINEAR,
        "config": {
            "architectures": ["Lfm2ForCausalLM"],
            "model_type": "lfm2",
            "hidden_size": 26,
            "block_ff_dim": 43,
            "block_auto_adjust_ff_dim": True,
            "block_ffn_dim_multiplier": 1.1,
            "block_multiple_of": 6,
            "conv_L_cache": 3,
            "conv_bias": False,
            "num_hidden_layers": 5,
            "full_attn_idxs": [1, 4],
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 14,
            "vocab_size": 59,
            "norm_eps": 1e-5,
            "rope_theta": 1000.0,
            "pad_token_id": 0,
            "tie_embedding": True,
            "torch_dtype": "bfloat16",
        },
    },
    # As Transformers 5 writes it, with biases, four taps and a head of its own.
    "lfm2-bias": {
        "seed": 1071,
        "dtype": torch.float32,
        "targets": LFM_LINEAR,
        "config": {
            "architectures": ["Lfm2ForCausalLM"],
            "model_type": "lfm2",
            "hidden_size": 30,
            "intermediate_size": 37,
            "block_auto_adjust_ff_dim": False,
            "conv_L_cache": 4,
            "conv_bias": True,
            "num_hidden_layers": 3,
            "layer_types": ["conv", "full_attention", "conv"],
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "vocab_size": 61,
            "norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            "dtype": "float32",
        },
    },
    # Sinks, windows in every second layer, YaRN, experts with biases and limits; all experts of a block in one tensor.
    "gpt-oss": {
        "seed": 1123,
        "dtype": torch.bfloat16,
        "targets": ATTENTION,
        "config": {
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            "hidden_size": 26,
            "intermediate_size": 15,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 10,
            "vocab_size": 67,
            "rms_norm_eps": 1e-5,
            "swiglu_limit": 1.5,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 150000.0,
                "factor": 4.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 16,
            },
            "attention_bias": True,
            "output_router_logits": False,
            "pad_token_id": 1,
            "bos_token_id": None,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        },
    },
    # As published: experts in MXFP4, the keys of Transformers 4.
    "gpt-oss-mxfp4": {
        "seed": 1124,
        "dtype": torch.bfloat16,
        "targets": ATTENTION,
        "config": {
            "architectures": ["GptOssForCausalLM"],
            "model_type": "gpt_oss",
            "hidden_size": 64,
            "intermediate_size": 32,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "experts_per_token": 2,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "vocab_size": 61,
            "rms_norm_eps": 1e-5,
            "swiglu_limit": 7.0,
            "sliding_window": 6,
            "rope_theta": 150000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
            "attention_bias": True,
            "output_router_logits": False,
            "pad_token_id": 1,
            "bos_token_id": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "quantization_config": {
                "quant_method": "mxfp4",
                "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
            },
        },
    },
    # One dense layer, then experts, chosen by sigmoids with biases.
    "lfm2-moe": {
        "seed": 1122,
        "dtype": torch.bfloat16,
        "targets": LFM_LINEAR,
        "config": {
            "architectures": ["Lfm2MoeForCausalLM"],
            "model_type": "lfm2_moe",
            "hidden_size": 26,
            "intermediate_size": 35,
            "moe_intermediate_size": 13,
            "num_dense_layers": 1,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "use_expert_bias": True,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.5,
            "conv_L_cache": 3,
            "conv_bias": False,
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 10,
            "vocab_size": 59,
            "norm_eps": 1e-5,
            "rope_theta": 1000000.0,
            "pad_token_id": 0,
            "tie_embedding": True,
            "torch_dtype": "bfloat16",
        },
    },
    "ministral": {
        "seed": 1032,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["MinistralForCausalLM"],
            "model_type": "ministral",
            "hidden_size": 26,
            "intermediate_size": 31,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 14,
            "vocab_size": 53,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000.0,
            "sliding_window": 4,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        },
    },
    # Queries grow every five tokens.
    "ministral3": {
        "seed": 1060,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Ministral3ForCausalLM"],
            "model_type": "ministral3",
            "hidden_size": 26,
            "intermediate_size": 31,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "vocab_size": 53,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 12.0,
                "original_max_position_embeddings": 5,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.7,
            },
            "pad_token_id": None,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
    },
    # Text and images under the names of the published checkpoints, a head of its own.
    "mistral3": {
        "seed": 1061,
        "dtype": torch.bfloat16,
        "targets": VL_LINEAR,
        "names": (
            ("model.language_model.", "language_model.model."),
            ("lm_head.", "language_model.lm_head."),
            ("model.", ""),
        ),
        "config": {
            "architectures": ["Mistral3ForConditionalGeneration"],
            "model_type": "mistral3",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "image_token_index": 50,
            "spatial_merge_size": 1,
            "text_config": {
                "model_type": "mistral",
                "hidden_size": 24,
                "intermediate_size": 29,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 14,
                "vocab_size": 53,
                "max_position_embeddings": 64,
                "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0,
                "sliding_window": None,
            },
            "vision_config": {
                "model_type": "pixtral",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "head_dim": 4,
                "image_size": 8,
                "patch_size": 4,
            },
        },
    },
    # "gelu" means its approximation by tanh in this family.
    "gemma": {
        "seed": 1033,
        "dtype": torch.bfloat16,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["GemmaForCausalLM"],
            "model_type": "gemma",
            "hidden_size": 28,
            "intermediate_size": 33,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": 67,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "hidden_act": "gelu",
            "torch_dtype": "bfloat16",
        },
    },
    "mistral": {
        "seed": 1002,
        "dtype": torch.float16,
        "targets": ["q_proj", "v_proj", "down_proj"],
        "config": {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "hidden_size": 39,
            "intermediate_size": 43,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 14,
            "vocab_size": 113,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 5,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
        },
    },
    "qwen2": {
        "seed": 2003,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": 42,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "vocab_size": 127,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "use_sliding_window": False,
            "sliding_window": 5,
            "max_window_layers": 2,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
    },
    "qwen3": {
        "seed": 1004,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": 37,
            "intermediate_size": 41,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": 109,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "attention_bias": False,
            "use_sliding_window": False,
            "sliding_window": None,
            "max_window_layers": 2,
            "tie_word_embeddings": False,
            "dtype": "float32",
        },
    },
    # Of seven experts three for each token, their weights normalised.
    "qwen3-moe": {
        "seed": 1120,
        "dtype": torch.bfloat16,
        "shard": 40_000,
        "targets": ATTENTION,
        "config": {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "hidden_size": 26,
            "intermediate_size": 39,
            "moe_intermediate_size": 13,
            "num_experts": 7,
            "num_experts_per_tok": 3,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 10,
            "vocab_size": 67,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "attention_bias": False,
            "use_sliding_window": False,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
    },
    # Norms of all heads together; weights of the experts as a softmax over all has them.
    "olmoe": {
        "seed": 1121,
        "dtype": torch.float32,
        "targets": ATTENTION,
        "config": {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "hidden_size": 24,
            "intermediate_size": 11,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "norm_topk_prob": False,
            "clip_qkv": None,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.01,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 59,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "pad_token_id": 1,
            "bos_token_id": None,
            "tie_word_embeddings": False,
            "dtype": "float32",
        },
    },
    # Text and images, as published: the keys of both parts side by side, names of a model of text.
    "qwen2.5-vl": {
        "seed": 1050,
        "dtype": torch.bfloat16,
        "targets": VL_LINEAR,
        "names": (("model.language_model.", "model."), ("model.visual.", "visual.")),
        "config": {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "hidden_size": 24,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": 53,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 2, 2]},
            "use_sliding_window": False,
            "sliding_window": 32,
            "max_window_layers": 2,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "image_token_id": 50,
            "video_token_id": 51,
            "vision_start_token_id": 49,
            "vision_end_token_id": 48,
            "vision_config": {
                "depth": 1,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_heads": 2,
                "patch_size": 2,
                "out_hidden_size": 24,
                "fullatt_block_indexes": [0],
            },
        },
    },
    # Text and images, as Transformers 5 saves them.
    "qwen3-vl": {
        "seed": 1051,
        "dtype": torch.float32,
        "targets": VL_LINEAR,
        "config": {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "model_type": "qwen3_vl",
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
            "image_token_id": 50,
            "video_token_id": 51,
            "vision_start_token_id": 49,
            "vision_end_token_id": 48,
            "text_config": {
                "model_type": "qwen3_vl_text",
                "hidden_size": 26,
                "intermediate_size": 27,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 12,
                "vocab_size": 53,
                "max_position_embeddings": 64,
                "rms_norm_eps": 1e-6,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_interleaved": True,
                    "mrope_section": [2, 2, 2],
                },
            },
            "vision_config": {
                "model_type": "qwen3_vl_vision",
                "depth": 1,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_heads": 2,
                "patch_size": 2,
                "out_hidden_size": 26,
                "num_position_embeddings": 4,
                "deepstack_visual_indexes": [],
            },
        },
    },
    # Saved without its head, as embedding models are: the names lack "model.".
    "qwen3-bare": {
        "seed": 1040,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "names": (("model.", ""),),
        "config": {
            "architectures": ["Qwen3Model"],
            "model_type": "qwen3",
            "hidden_size": 22,
            "intermediate_size": 27,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 12,
            "vocab_size": 53,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
    },
    "smollm2": {
        "seed": 1005,
        "dtype": torch.bfloat16,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 36,
            "intermediate_size": 38,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "vocab_size": 131,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100000,
            "rope_scaling": None,
            "rope_interleaved": False,
            "pretraining_tp": 1,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
    },
    "gemma2": {
        "seed": 1006,
        "dtype": torch.bfloat16,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            # sqrt(44) = 6.6332 is 6.625 in bfloat16.
            "hidden_size": 44,
            "intermediate_size": 37,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 14,
            "vocab_size": 117,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "query_pre_attn_scalar": 20,
            "sliding_window": 5,
            "attn_logit_softcapping": 2.5,
            "final_logit_softcapping": 4.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
    },
    "gemma3": {
        "seed": 1007,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "hidden_size": 38,
            "intermediate_size": 43,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": 113,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5000.0,
            "rope_local_base_freq": 100.0,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "query_pre_attn_scalar": 10,
            "sliding_window": 4,
            "sliding_window_pattern": 3,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
    },
    # Text and images; only the text part is run. Its configuration is nested and leaves out what is the default, and its
    # weights have the names of the published checkpoints.
    "gemma3-vision": {
        "seed": 1008,
        "dtype": torch.bfloat16,
        "targets": r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        "names": (("model.language_model.", "language_model.model."), ("model.", "")),
        "config": {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "bos_token_id": 2,
            "eos_token_id": [1, 106],
            "torch_dtype": "bfloat16",
            "mm_tokens_per_image": 4,
            "image_token_index": 90,
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 24,
                "intermediate_size": 28,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 12,
                "vocab_size": 101,
                "query_pre_attn_scalar": 12,
                "max_position_embeddings": 64,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 20000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                },
                "layer_types": ["full_attention", "sliding_attention"],
                "sliding_window": 6,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
                "vision_use_head": False,
            },
        },
    },
    # The keys of the published files. The last three of seven layers attend to keys and values of layers 2 (full) and 3 (window).
    "gemma4": {
        "seed": 1070,
        "dtype": torch.float32,
        "targets": [*ALL_LINEAR, "per_layer_input_gate", "per_layer_projection", "per_layer_model_projection"],
        "config": {
            "architectures": ["Gemma4ForCausalLM"],
            "model_type": "gemma4_text",
            "hidden_size": 37,
            "intermediate_size": 29,
            "num_hidden_layers": 7,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "global_head_dim": 12,
            "vocab_size": 101,
            "vocab_size_per_layer_input": 103,
            "hidden_size_per_layer_input": 14,
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
            "sliding_window": 4,
            "layer_types": [
                "sliding_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
                "sliding_attention",
                "full_attention",
            ],
            "rope_parameters": {
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 300.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
            "final_logit_softcapping": 6.0,
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": [1, 50],
        },
    },
    # Text, images and sound; only the text part is run. Keys that Transformers 5 writes: heads by layer. Values of full layers are their keys.
    "gemma4-multimodal": {
        "seed": 1071,
        "dtype": torch.bfloat16,
        "targets": r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        "config": {
            "architectures": ["Gemma4ForConditionalGeneration"],
            "model_type": "gemma4",
            "bos_token_id": 2,
            "eos_token_id": [1, 50],
            "pad_token_id": 0,
            "dtype": "bfloat16",
            "image_token_id": 97,
            "video_token_id": 98,
            "audio_token_id": 99,
            "boi_token_id": 95,
            "eoi_token_id": 96,
            "boa_token_id": 93,
            "eoa_token_index": 94,
            "text_config": {
                "model_type": "gemma4_text",
                "hidden_size": 26,
                "intermediate_size": 31,
                "num_hidden_layers": 5,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 6,
                "per_layer_config": {"0": {"head_dim": 10, "num_key_value_heads": 1}, "4": {"head_dim": 10, "num_key_value_heads": 1}},
                "attention_k_eq_v": True,
                "vocab_size": 89,
                "vocab_size_per_layer_input": 89,
                "hidden_size_per_layer_input": 11,
                "num_kv_shared_layers": 2,
                "sliding_window": 6,
                "max_position_embeddings": 64,
                "layer_types": [
                    "full_attention",
                    "sliding_attention",
                    "sliding_attention",
                    "sliding_attention",
                    "full_attention",
                ],
                "rope_parameters": {
                    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 700.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
                },
            },
            "vision_config": {
                "model_type": "gemma4_vision",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 4,
                "patch_size": 2,
                "position_embedding_size": 4,
            },
            "audio_config": {
                "model_type": "gemma4_audio",
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "output_proj_dims": 8,
                "subsampling_conv_channels": [2, 2],
            },
        },
    },
    # Experts beside the MLP, as in 26B-A4B: values of full layers are their keys, blocks are told nothing.
    "gemma4-moe": {
        "seed": 1072,
        "dtype": torch.bfloat16,
        "targets": [*ALL_LINEAR, "proj"],
        "config": {
            "architectures": ["Gemma4ForCausalLM"],
            "model_type": "gemma4_text",
            "hidden_size": 22,
            "intermediate_size": 27,
            "moe_intermediate_size": 9,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_global_key_value_heads": 1,
            "head_dim": 6,
            "global_head_dim": 10,
            "attention_k_eq_v": True,
            "enable_moe_block": True,
            "num_experts": 5,
            "top_k_experts": 2,
            "vocab_size": 71,
            "vocab_size_per_layer_input": 71,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 300.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
            "final_logit_softcapping": 6.0,
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 1,
        },
    },
    "phi3": {
        "seed": 1009,
        "dtype": torch.bfloat16,
        "targets": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
        "config": {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "hidden_size": 36,
            "intermediate_size": 41,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "vocab_size": 107,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "sliding_window": 5,
            "original_max_position_embeddings": 64,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "eos_token_id": 3,
            "pad_token_id": 3,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
    },
    # Of the batches' examples, those of 13 and 17 tokens are long ones, those of 1 to 11 short ones.
    "phi4-mini": {
        "seed": 1010,
        "dtype": torch.float32,
        "targets": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
        "config": {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "hidden_size": 48,
            "intermediate_size": 29,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "vocab_size": 103,
            "rms_norm_eps": 1e-5,
            "rope_theta": 100.0,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1, 1.05, 1.1, 1.2, 1.3, 1.5],
                "long_factor": [1, 1.4, 2.1, 3.5, 4.2, 5.5],
            },
            "original_max_position_embeddings": 12,
            "sliding_window": 262144,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
    },
    "internlm2": {
        "seed": 1011,
        "dtype": torch.float16,
        "targets": ["wqkv", "wo", "w1", "w2", "w3"],
        "config": {
            "architectures": ["InternLM2ForCausalLM"],
            "model_type": "internlm2",
            "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
            "bias": True,
            "hidden_size": 40,
            "intermediate_size": 39,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 119,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1000000,
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
        },
    },
    "internlm3": {
        "seed": 1012,
        "dtype": torch.float32,
        "targets": ALL_LINEAR,
        "config": {
            "architectures": ["InternLM3ForCausalLM"],
            "model_type": "internlm3",
            "bias": True,
            "qkv_bias": True,
            "hidden_size": 38,
            "intermediate_size": 35,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 14,
            "vocab_size": 113,
            "rms_norm_eps": 1e-5,
            "rope_theta": 50000000,
            "rope_scaling": {"factor": 6.0, "rope_type": "dynamic"},
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        },
    },
}


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "dropout": 0.0, "attention_dropout": 0.0}
BERT_BLOCKS = r".*encoder\.layer.*\.(query|key|value|dense)"

# Families whose tokens attend to both sides, with the head that predicts masked tokens. `same` are names of parameters that have
# another name in the checkpoint too.
ENCODERS = {
    "bert": {
        "seed": 1070,
        "dtype": torch.float32,
        "targets": BERT_BLOCKS,
        "same": ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
        "config": {
            "architectures": ["BertForMaskedLM"],
            "model_type": "bert",
            "hidden_size": 36,
            "intermediate_size": 47,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "vocab_size": 97,
            "max_position_embeddings": 31,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
            "torch_dtype": "float32",
        },
    },
    # The first position is row 2 of its table.
    "roberta": {
        "seed": 1071,
        "dtype": torch.float32,
        "targets": ["query", "value"],
        "same": ["lm_head.decoder.weight", "lm_head.decoder.bias"],
        "config": {
            "architectures": ["RobertaForMaskedLM"],
            "model_type": "roberta",
            "hidden_size": 28,
            "intermediate_size": 33,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "hidden_act": "gelu_new",
            "vocab_size": 71,
            "max_position_embeddings": 33,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "torch_dtype": "float32",
        },
    },
    "xlm-roberta": {
        "seed": 1072,
        "dtype": torch.bfloat16,
        "targets": ["key", "query", "value"],
        "same": ["lm_head.decoder.weight", "lm_head.decoder.bias"],
        "config": {
            "architectures": ["XLMRobertaForMaskedLM"],
            "model_type": "xlm-roberta",
            "hidden_size": 26,
            "intermediate_size": 31,
            "num_hidden_layers": 2,
            "num_attention_heads": 1,
            "vocab_size": 61,
            "max_position_embeddings": 33,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "torch_dtype": "bfloat16",
        },
    },
    "distilbert": {
        "seed": 1073,
        "dtype": torch.float32,
        "targets": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
        "same": ["vocab_projector.weight"],
        "config": {
            "architectures": ["DistilBertForMaskedLM"],
            "model_type": "distilbert",
            "dim": 30,
            "hidden_dim": 41,
            "n_layers": 3,
            "n_heads": 3,
            "vocab_size": 67,
            "max_position_embeddings": 29,
            "pad_token_id": 0,
            "torch_dtype": "float32",
        },
    },
    # Layers 2, 3 and 5 see three tokens to both sides.
    "modernbert": {
        "seed": 1074,
        "dtype": torch.float32,
        "targets": ["Wqkv", "Wo", "Wi"],
        "same": ["decoder.weight"],
        "config": {
            "architectures": ["ModernBertForMaskedLM"],
            "model_type": "modernbert",
            "hidden_size": 28,
            "intermediate_size": 33,
            "num_hidden_layers": 5,
            "num_attention_heads": 2,
            "vocab_size": 61,
            "max_position_embeddings": 64,
            "local_attention": 7,
            "global_rope_theta": 800.0,
            "local_rope_theta": 50.0,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "torch_dtype": "float32",
        },
    },
}


def write_safetensors(path, tensors, metadata):
    """Like safetensors' own writer, but with the keys in a fixed order, so that two runs give equal bytes."""
    names = {torch.float32: "F32", torch.int64: "I64"}
    header = {"__metadata__": metadata}
    offset, data = 0, []
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        raw = tensor.numpy().tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
        data.append(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def is_vision(name):
    return any(part in name for part in ("vision_tower", "multi_modal_projector", "visual", "audio_tower", "embed_vision", "embed_audio"))


def auto_class(folder):
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] in ENCODERS:
        return AutoModelForMaskedLM
    return AutoModelForImageTextToText if config["model_type"] in ("qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_5_moe", "mistral3", "gemma4") else AutoModelForCausalLM


def randomise(model, generator):
    """Weights wide enough that softmax, SiLU and the norms leave their linear range; norms and biases off 1 and 0."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if is_vision(name):
                continue
            is_norm = name.lower().endswith("norm.weight") or re.search(r"\bln_\w+\.weight$", name)
            if is_norm or ("layernorm" in name and name.endswith(".weight")):
                # Weights of Gemma (but Gemma 4) and Nemotron are offsets from 1, and Qwen3.5's but those of its gated norms.
                kind = model.config.model_type
                is_offset = ("gemma" in kind and "gemma4" not in kind) or kind == "nemotron" or (("qwen3_5" in kind or kind == "qwen3_next") and "linear_attn" not in name)
                # Gemma 4's scores have no other factor than the weights of norms, and its branches nothing else that makes them small.
                is_small = "gemma4" in kind and ("_norm" in name or ".post_" in name)
                parameter.copy_((0 if is_offset else 0.5 if is_small else 1) + 0.2 * noise)
            elif name.endswith(("router.scale", "per_expert_scale")):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith(("A_log", "dt_bias")):
                parameter.copy_(0.5 * noise - 1)
            elif name.endswith(".sinks"):
                parameter.copy_(noise)
            elif name.endswith((".bias", "_bias")):
                parameter.copy_(0.3 * noise)
            elif any(part in name for part in ("embed_tokens", "embed_positions", "embeddings", "lm_head", "tok_embeddings", "output", ".wte.", ".wpe.")):
                parameter.copy_(0.3 * noise)
            else:
                # Of experts, which are one tensor here, the last axis is the one that is summed over.
                summed = -2 if model.config.model_type == "gpt_oss" else -1
                parameter.copy_(noise * 1.2 / math.sqrt(parameter.shape[summed if ".experts." in name else 1]))
        for name, buffer in model.named_buffers():
            if name.endswith("expert_bias"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("layer_scalar"):
                buffer.copy_(1 + 0.2 * torch.randn(buffer.shape, generator=generator))


def one_by_one(tensors):
    """Names and matrices of experts as files have them, for the two tensors that Transformers holds in memory."""
    is_transposed = any(name.endswith(".experts.gate_up_proj_bias") for name in tensors)
    is_lfm = any(".feed_forward.experts." in name for name in tensors)
    gate_name, up_name, down_name = ("w1", "w3", "w2") if is_lfm else ("gate_proj", "up_proj", "down_proj")
    for name, value in tensors.items():
        module, _, last = name.rpartition(".")
        if not module.endswith(".experts") or last.endswith("_bias"):
            yield name, value
            continue
        for i, matrix in enumerate(value.transpose(-1, -2) if is_transposed else value):
            if last == "gate_up_proj":
                gate, up = (matrix[::2], matrix[1::2]) if is_transposed else matrix.chunk(2)
                yield f"{module}.{i}.{gate_name}.weight", gate
                yield f"{module}.{i}.{up_name}.weight", up
            else:
                yield f"{module}.{i}.{down_name}.weight", matrix


MXFP4_VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def mxfp4(name, value):
    """Blocks and scales of a transposed matrix of each expert: in blocks of 32, codes of the nearest numbers with one exponent."""
    blocks = value.float().transpose(-1, -2).unflatten(-1, (-1, 32))
    exponent = torch.floor(torch.log2(blocks.abs().amax(-1))) - 2
    scaled = blocks / torch.exp2(exponent)[..., None]
    codes = (scaled[..., None] - MXFP4_VALUES).abs().argmin(-1).to(torch.uint8)
    yield f"{name}_blocks", codes[..., ::2] | (codes[..., 1::2] << 4)
    yield f"{name}_scales", (exponent + 127).to(torch.uint8)


def file_tensors(model):
    """Names and tensors as files have them."""
    if model.config.model_type in ("qwen3_5_moe", "gemma4_text"):
        yield from model.state_dict().items()
        return
    if model.config.model_type != "gpt_oss":
        yield from one_by_one(model.state_dict())
        return
    packed = getattr(model.config, "quantization_config", None) is not None
    for name, value in model.state_dict().items():
        if packed and name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            yield from mxfp4(name, value)
        else:
            yield name, value


def save_checkpoint(model, folder, dtype, shard, names=(), same=()):
    tensors = {name: (value if value.dtype == torch.uint8 else value.to(dtype)).contiguous() for name, value in file_tensors(model)}
    for name in same:
        del tensors[name]
    if model.config.tie_word_embeddings and not same:
        del tensors["lm_head.weight"]

    def stored(name):
        return next((new + name[len(old) :] for old, new in names if name.startswith(old)), name)

    tensors = {stored(name): value for name, value in tensors.items()}
    if not shard:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    shards, size = [{}], 0
    for name, value in tensors.items():
        if shards[-1] and size + value.nbytes > shard:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    weight_map = {}
    for i, part in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in part})
    total = sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def make_batches(config, generator):
    # An id that means padding is no token of a text: PyTorch gives its embedding no gradient.
    first = 0 if config.pad_token_id is None else config.pad_token_id + 1

    def ids(*shape):
        return torch.randint(first, config.vocab_size, shape, generator=generator)

    # Right-padded rows; a masked prompt, a hole in the labels, and a label on the first token, which nothing predicts.
    length, lengths = 17, [17, 11, 6]
    input_ids = ids(3, length)
    labels = input_ids.clone()
    mask = torch.zeros(3, length, dtype=torch.int64)
    for row, n in enumerate(lengths):
        mask[row, :n] = 1
        input_ids[row, n:] = 0
        labels[row, n:] = -100
    labels[0, :5] = -100
    labels[0, 9:11] = -100
    labels[1, 1:3] = -100
    padded = {"input_ids": input_ids, "labels": labels, "attention_mask": mask}

    # Full rows, no mask, every token labelled.
    input_ids = ids(2, 13)
    rows = {"input_ids": input_ids, "labels": input_ids.clone()}

    # Three examples in one row. The first token of an example has no label: the token before it is another example's.
    lengths = [9, 1, 13]
    input_ids = ids(1, sum(lengths))
    labels = input_ids.clone()
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    labels[0, starts] = -100
    labels[0, starts[2] : starts[2] + 4] = -100
    position_ids = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
    batches = {"padded": padded, "rows": rows, "packed": packed}
    if getattr(config, "type_vocab_size", 1) > 1:
        for batch in batches.values():
            batch["token_type_ids"] = torch.randint(0, 2, batch["input_ids"].shape, generator=generator)
    return batches


def explicit_mask(batch, config, dtype, window=None):
    """0 where a token sees another, else a large negative number: causal but in encoders, within one example, within the window."""
    rows, length = batch["input_ids"].shape
    index = torch.arange(length)
    distance = index[:, None] - index[None, :]
    is_encoder = config.model_type in ENCODERS
    seen = ((distance >= 0) | is_encoder).expand(rows, length, length)
    if is_encoder and "attention_mask" in batch:
        seen = seen & (batch["attention_mask"][:, None, :] == 1)
    if "position_ids" in batch:
        example = (batch["position_ids"] == 0).cumsum(1)
        seen = seen & (example[:, :, None] == example[:, None, :])
    if window is not None:
        seen = seen & (distance.abs() <= window if is_encoder else distance < window)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -1e30)[:, None]


def forward_inputs(batch, config, dtype):
    """Transformers makes the masks itself, except for the packed row and for the check in float64."""
    inputs = {"input_ids": batch["input_ids"]}
    if config.model_type not in ENCODERS:
        inputs["use_cache"] = False
    if "token_type_ids" in batch:
        inputs["token_type_ids"] = batch["token_type_ids"]
    if "position_ids" in batch:
        first = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta") else 0
        inputs["position_ids"] = batch["position_ids"] + first
    if config.model_type == "opt" and "position_ids" not in batch:
        # It counts positions by a mask of padding, where they are not given.
        inputs["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand(batch["input_ids"].shape)
    if "position_ids" in batch or dtype == torch.float64:
        window = getattr(config, "sliding_window", None)
        if config.model_type in ("gpt_oss", "gemma2", "gemma3_text", "smollm3", "cwm", "ministral", "olmo3", "exaone4", "cohere2", "modernbert", "gemma4_text"):
            # One mask for each kind of layer.
            inputs["attention_mask"] = {
                "full_attention": explicit_mask(batch, config, dtype),
                "sliding_attention": explicit_mask(batch, config, dtype, window),
            }
        else:
            inputs["attention_mask"] = explicit_mask(batch, config, dtype, window if config.model_type in ("mistral", "phi3", "starcoder2") else None)
    elif "attention_mask" in batch:
        inputs["attention_mask"] = batch["attention_mask"]
    return inputs


def loss_of(model, batch):
    """Mean over the labelled tokens of -log p(label), labels shifted by one but in encoders. Returns (loss, logits)."""
    dtype = next(model.parameters()).dtype
    config = model.config.get_text_config()
    # LongRoPE's factors depend on an example's length; Transformers takes those of a batch's longest row for all rows. LFM2's
    # convolutions go on from one example of a packed row into the next, and so do Qwen3.5's, and its states.
    alone = config.model_type in ("lfm2", "lfm2_moe", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next") or (
        config.model_type not in ENCODERS and (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "longrope"
    )
    logits = logits_alone(model, batch) if alone else model(**forward_inputs(batch, config, dtype)).logits
    shift = 0 if config.model_type in ENCODERS else 1
    labels = batch["labels"][:, shift:].reshape(-1)
    flat = logits[:, : logits.shape[1] - shift].reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, labels, ignore_index=-100), logits


def logits_alone(model, batch):
    """Each example of the batch by itself; zeros at padding."""
    rows = []
    for row, ids in enumerate(batch["input_ids"]):
        positions = batch["position_ids"][row] if "position_ids" in batch else torch.arange(len(ids))
        length = int(batch["attention_mask"][row].sum()) if "attention_mask" in batch else len(ids)
        starts = (positions[:length] == 0).nonzero().flatten().tolist() + [length]
        parts = [model(input_ids=ids[None, start:end], use_cache=False).logits[0] for start, end in zip(starts, starts[1:])]
        rows.append(torch.nn.functional.pad(torch.cat(parts), (0, 0, 0, len(ids) - length)))
    return torch.stack(rows)


def trainable(model):
    # An XLM-RoBERTa has its head before its embedding, which is the same matrix.
    return {
        name.replace(".default.weight", ".weight").replace("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def step(model, batch):
    model.zero_grad()
    loss, logits = loss_of(model, batch)
    loss.backward()
    # Nothing is promised of the logits of a padding token.
    if "attention_mask" in batch:
        logits = logits * batch["attention_mask"][:, :, None]
    gradients = {name: value.contiguous().clone() for name, value in one_by_one({name: p.grad for name, p in trainable(model).items()})}
    for name in gradients:
        # Keys that are not rotated, of an encoder or an OPT.
        zero = ("key.bias", "k_lin.bias") if model.config.model_type in ENCODERS else "k_proj.bias"
        if model.config.model_type in (*ENCODERS, "opt") and name.endswith(zero):
            # What all keys have in common adds the same to all scores of a query, which softmax does not see: PyTorch's is rounding.
            assert gradients[name].norm() < 1e-6, name
            gradients[name].zero_()
    return {"loss": loss.detach().reshape(1), "logits": logits.detach(), **gradients}


def adamw_losses(model, batch, learning_rate, clip=None):
    """The loss before each of the ten updates, and after the last."""
    parameters = list(trainable(model).values())
    # Vectors (norms, biases) do not decay, as in Transformers' Trainer.
    decay, plain = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
    groups = [{"params": decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, **ADAMW)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, _ = loss_of(model, batch)
        losses.append(loss.item())
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
    losses.append(loss_of(model, batch)[0].item())
    return losses


def experts_eager(folder):
    """Expert by expert: the other ways need rows of whole 16 bytes."""
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    return {"experts_implementation": "eager"} if "num_experts" in config or "num_local_experts" in config else {}


def load_model(folder, dtype):
    model, loading = auto_class(folder).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **experts_eager(folder)
    )
    same = ENCODERS.get(model.config.model_type, {}).get("same", [])
    assert not loading["unexpected_keys"] and set(loading["missing_keys"]) <= {"lm_head.weight", *same}, loading
    for name, parameter in model.named_parameters():
        if is_vision(name):
            parameter.requires_grad_(False)
    for module in model.modules():
        # As it is for a model in the checkpoint's dtype.
        if hasattr(module, "embed_scale"):
            module.embed_scale = module.embed_scale.to(checkpoint_dtype(folder)).float()
        if dtype == torch.float64 and type(module).__name__ == "Gemma4RMSNorm":
            # Which else would compute in float32.
            module.forward = lambda x, norm=module: norm._norm(x) * (norm.weight if norm.with_scale else 1)
    return model.to(dtype).train()


def checkpoint_dtype(folder):
    config = json.loads((folder / "config.json").read_text())
    return getattr(torch, config.get("dtype", config.get("torch_dtype")))


def load_adapted(folder, dtype):
    model = peft.PeftModel.from_pretrained(load_model(folder, torch.float32), folder / "adapter", is_trainable=True)
    return model.to(dtype).train()


def save_adapter(folder, targets, generator):
    base = load_model(folder, torch.float32)
    config = LoraConfig(
        task_type=None if base.config.model_type in ENCODERS else "CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets, bias="none"
    )
    model = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 / math.sqrt(min(parameter.shape[1], 16)))
    path = folder / "adapter"
    path.mkdir()
    state = get_peft_model_state_dict(model)
    save_file({name: state[name].contiguous() for name in sorted(state)}, path / "adapter_model.safetensors", metadata={"format": "pt"})
    saved = config.to_dict()
    saved["inference_mode"] = True
    saved["base_model_name_or_path"] = None
    written = {key: sorted(value) if isinstance(value, set) else value for key, value in sorted(saved.items())}
    # default=str: PEFT holds enumerations in its configuration.
    (path / "adapter_config.json").write_text(json.dumps(written, indent=2, default=lambda v: getattr(v, "value", str(v))) + "\n")


def relative(a, b):
    scale = b.double().norm().item()
    return (a.double() - b.double()).norm().item() / scale if scale > 0 else a.double().norm().item()


def check_packing(model, batch, expected):
    """The packed row must equal its examples run one by one."""
    position = batch["position_ids"][0]
    starts = (position == 0).nonzero().flatten().tolist() + [len(position)]
    with torch.no_grad():
        for start, end in zip(starts, starts[1:]):
            example = {name: batch[name][:, start:end] for name in ("input_ids", "token_type_ids") if name in batch}
            alone = model(**forward_inputs(example, model.config.get_text_config(), torch.float32)).logits
            assert relative(expected["logits"][:, start:end], alone) < 1e-5


def make_family(name, spec, root):
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "batches").mkdir(parents=True)
    (folder / "expected").mkdir()
    write_json(folder / "config.json", {**(NO_DROPOUT if name in ENCODERS else COMMON), **spec["config"]})
    generator = torch.Generator().manual_seed(spec["seed"])

    torch.manual_seed(spec["seed"])
    model = auto_class(folder).from_config(AutoConfig.from_pretrained(folder, **experts_eager(folder)), attn_implementation="eager")
    randomise(model, generator)
    save_checkpoint(model, folder, spec["dtype"], spec.get("shard"), spec.get("names", ()), spec.get("same", ()))
    batches = make_batches(model.config.get_text_config(), generator)
    metadata = {"made_by": "make.py", "versions": VERSIONS}
    for batch_name, batch in batches.items():
        write_safetensors(folder / "batches" / f"{batch_name}.safetensors", batch, metadata)
    save_adapter(folder, spec["targets"], generator)

    settings = {key: ADAMW[key] for key in ("betas", "eps", "weight_decay")}
    adamw = {"learning_rate": LEARNING_RATE, **settings, "clip": CLIP, "steps": STEPS, "batch": "padded"}
    worst, summary = 0.0, {"versions": VERSIONS, "adamw": adamw, "losses": {}}
    for method, load in (("full", load_model), ("lora", load_adapted)):
        model, exact = load(folder, torch.float32), load(folder, torch.float64)
        if name == "internlm2" and method == "full":
            internlm2.check(load(folder, torch.float64), batches)
        for batch_name, batch in batches.items():
            got, reference = step(model, batch), step(exact, batch)
            assert got.keys() == reference.keys()
            for key in got:
                error = relative(got[key], reference[key])
                assert error < 1e-5, f"{name} {method} {batch_name} {key}: float32 and float64 differ by {error}"
                worst = max(worst, error)
            if batch_name == "packed":
                check_packing(model, batch, got)
            if method == "full" and batch_name == "rows":
                got = {key: got[key] for key in ("loss", "logits")}
            write_safetensors(folder / "expected" / f"{method}-{batch_name}.safetensors", {key: value.float() for key, value in got.items()}, metadata)
        for suffix, clip in (("", None), ("-clipped", CLIP)):
            losses = adamw_losses(load(folder, torch.float32), batches["padded"], LEARNING_RATE[method], clip)
            reference = adamw_losses(load(folder, torch.float64), batches["padded"], LEARNING_RATE[method], clip)
            error = max(abs(a - b) / abs(b) for a, b in zip(losses, reference))
            assert error < 1e-5, f"{name} {method}{suffix}: AdamW losses in float32 and float64 differ by {error}"
            summary["losses"][method + suffix] = losses
        plain, clipped = summary["losses"][method], summary["losses"][f"{method}-clipped"]
        assert max(abs(a - b) for a, b in zip(plain, clipped)) > 1e-3, f"{name} {method}: clipping changes nothing"
    write_json(folder / "expected" / "adamw.json", summary)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{name:14} {size / 1000:7.1f} kB, float32 against float64 at most {worst:.1e}, losses {summary['losses']['full'][0]:.3f} -> "
          f"{summary['losses']['full'][-1]:.3f}, LoRA {summary['losses']['lora'][0]:.3f} -> {summary['losses']['lora'][-1]:.3f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("families", nargs="*", help="default: all")
    arguments = parser.parse_args()
    root = arguments.out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    for name, spec in {**FAMILIES, **ENCODERS}.items():
        if not arguments.families or name in arguments.families:
            make_family(name, spec, root)


if __name__ == "__main__":
    main()
