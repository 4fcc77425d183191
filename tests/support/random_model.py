#!/usr/bin/env python3
"""random_model.py DIR [architecture=NAME] key=value...: a Hugging Face directory of random weights with a tokenizer of single characters.

NAME is one of ARCHITECTURES (llama unless given); the other keys are those of config.json (num_hidden_layers=96, hidden_size=64, ...), of
which dtype may be bfloat16 (default) or float32. The same arguments give the same bytes everywhere. Standard library only.
"""
import json
import os
import random
import string
import struct
import sys

# Bytes with a sign and the upper bits of an exponent: random ones become those of numbers from 1/128 to 1/8.
UPPER = bytes((0x80 if byte & 2 else 0) | 0x3C | (byte & 1) for byte in range(256))
BYTES = {"bfloat16": 2, "float32": 4}
NAMES = {"bfloat16": "BF16", "float32": "F32"}
# One token each. Z is kept for who wants a token that no other text has.
ALPHABET = " \n.," + string.ascii_letters + string.digits

# What differs from a Llama of two blocks; shapes are odd on purpose.
ARCHITECTURES = {
    "llama": {"class": "Llama"},
    "llama2": {"class": "Llama", "hidden_size": 56, "intermediate_size": 90, "tie_word_embeddings": False},
    "qwen3": {"class": "Qwen3", "hidden_size": 52, "head_dim": 18, "intermediate_size": 78, "qk_norm": True},
    "mixtral": {"class": "Mixtral", "hidden_size": 48, "intermediate_size": 38, "num_attention_heads": 6, "num_local_experts": 4,
                "num_experts_per_tok": 2, "tie_word_embeddings": False},
    "qwen2-moe": {"class": "Qwen2Moe", "hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5, "intermediate_size": 66,
                  "moe_intermediate_size": 18, "shared_expert_intermediate_size": 34, "num_experts": 5, "num_experts_per_tok": 2,
                  "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": False, "qkv_bias": True,
                  "tie_word_embeddings": False},
    "qwen3-moe": {"class": "Qwen3Moe", "hidden_size": 52, "head_dim": 18, "intermediate_size": 78, "moe_intermediate_size": 22,
                  "num_experts": 6, "num_experts_per_tok": 3, "decoder_sparse_step": 1, "mlp_only_layers": [1],
                  "norm_topk_prob": True, "attention_bias": False, "qk_norm": True, "tie_word_embeddings": False},
    "gemma": {"class": "Gemma", "hidden_size": 54, "head_dim": 20, "num_attention_heads": 3, "num_key_value_heads": 1,
              "intermediate_size": 90, "hidden_act": "gelu_pytorch_tanh"},
    "gemma2": {"class": "Gemma2", "hidden_size": 50, "head_dim": 16, "intermediate_size": 70, "num_hidden_layers": 3,
               "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0,
               "query_pre_attn_scalar": 24, "sliding_window": 10, "post_norms": True},
    # All kinds of layers that DeepSeek-V3 has, scaled down: the first dense, then experts in groups beside a shared one, then a layer for
    # multi-token prediction.
    "deepseek-v3": {"class": "DeepseekV3", "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 16,
                    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "q_lora_rank": 24, "kv_lora_rank": 16,
                    "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 12, "n_routed_experts": 64, "n_shared_experts": 1,
                    "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 1, "norm_topk_prob": True,
                    "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 1, "tie_word_embeddings": False},
    "qwen3-next": {"class": "Qwen3Next", "hidden_size": 52, "head_dim": 24, "intermediate_size": 78, "moe_intermediate_size": 22,
                   "shared_expert_intermediate_size": 26, "num_experts": 5, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
                   "mlp_only_layers": [], "norm_topk_prob": True, "qk_norm": True, "partial_rotary_factor": 0.25,
                   "num_hidden_layers": 3, "full_attention_interval": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 10,
                   "linear_value_head_dim": 14, "linear_conv_kernel_dim": 4, "tie_word_embeddings": False},
    "phi3": {"class": "Phi3", "hidden_size": 54, "intermediate_size": 82, "num_attention_heads": 3, "num_key_value_heads": 1,
             "original_max_position_embeddings": 4096, "fused": True, "tie_word_embeddings": False},
}


def describe(assignments):
    """(config.json, what it does not say: qk_norm, post_norms, fused)."""
    given = dict(assignment.split("=", 1) for assignment in assignments)
    architecture = dict(ARCHITECTURES[given.pop("architecture", "llama")])
    hidden = {key: architecture.pop(key, False) for key in ("qk_norm", "post_norms", "fused")}
    name = architecture.pop("class")
    config = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": len(ALPHABET), "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
              "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True, "dtype": "bfloat16",
              "architectures": [name + "ForCausalLM"],
              "model_type": "".join("_" + c.lower() if c.isupper() else c for c in name)[1:]}
    config.update(architecture)
    for key, value in given.items():
        config[key] = value if key == "dtype" else int(value)
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return config, hidden


def latent_attention(config):
    heads, rope = config["num_attention_heads"], config["qk_rope_head_dim"]
    hidden, q_rank, kv_rank = (config[key] for key in ("hidden_size", "q_lora_rank", "kv_lora_rank"))
    yield "self_attn.q_a_proj", q_rank, hidden, False
    yield "self_attn.q_b_proj", heads * (config["qk_nope_head_dim"] + rope), q_rank, False
    yield "self_attn.kv_a_proj_with_mqa", kv_rank + rope, hidden, False
    yield "self_attn.kv_b_proj", heads * (config["qk_nope_head_dim"] + config["v_head_dim"]), kv_rank, False
    yield "self_attn.o_proj", hidden, heads * config["v_head_dim"], False


def delta_sizes(config, layer):
    """(heads of values, all keys, all values) of a layer of the delta rule, None of another."""
    if "full_attention_interval" not in config or (layer + 1) % config["full_attention_interval"] == 0:
        return None
    return (config["linear_num_value_heads"], config["linear_num_key_heads"] * config["linear_key_head_dim"],
            config["linear_num_value_heads"] * config["linear_value_head_dim"])


def attention(config, fused, layer):
    hidden = config["hidden_size"]
    if "kv_lora_rank" in config:
        yield from latent_attention(config)
        return
    delta = delta_sizes(config, layer)
    if delta:
        yield "linear_attn.in_proj_qkvz", 2 * delta[1] + 2 * delta[2], hidden, False
        yield "linear_attn.out_proj", hidden, delta[2], False
        return
    q, kv = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    bias = config.get("qkv_bias", False)
    if fused:
        yield "self_attn.qkv_proj", q + 2 * kv, hidden, bias
    else:
        for name, out in (("q", 2 * q if "full_attention_interval" in config else q), ("k", kv), ("v", kv)):
            yield f"self_attn.{name}_proj", out, hidden, bias
    yield "self_attn.o_proj", hidden, q, False


def linears(config, fused, layer):
    """(name, outputs, inputs, whether it has a bias) in a block."""
    hidden = config["hidden_size"]
    yield from attention(config, fused, layer)
    if fused:
        yield "mlp.gate_up_proj", 2 * config["intermediate_size"], hidden, False
        yield "mlp.down_proj", hidden, config["intermediate_size"], False
        return
    parts = [("mlp.", ("gate_proj", "up_proj", "down_proj"), config["intermediate_size"])]
    if "num_local_experts" in config:
        parts = [(f"block_sparse_moe.experts.{i}.", ("w1", "w3", "w2"), config["intermediate_size"])
                 for i in range(config["num_local_experts"])]
    elif "num_experts" in config and layer not in config["mlp_only_layers"]:
        parts = [(f"mlp.experts.{i}.", parts[0][1], config["moe_intermediate_size"]) for i in range(config["num_experts"])]
        if "shared_expert_intermediate_size" in config:
            parts.append(("mlp.shared_expert.", parts[0][1], config["shared_expert_intermediate_size"]))
    elif "n_routed_experts" in config and layer >= config["first_k_dense_replace"]:
        parts = [(f"mlp.experts.{i}.", parts[0][1], config["moe_intermediate_size"]) for i in range(config["n_routed_experts"])]
        parts.append(("mlp.shared_experts.", parts[0][1], config["n_shared_experts"] * config["moe_intermediate_size"]))
    for module, (gate, up, down), inner in parts:
        yield module + gate, inner, hidden, False
        yield module + up, inner, hidden, False
        yield module + down, hidden, inner, False


def tensors(config, qk_norm, post_norms, fused):
    hidden = config["hidden_size"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    further = config.get("num_nextn_predict_layers", 0)
    for layer in range(config["num_hidden_layers"] + further):
        block = f"model.layers.{layer}."
        if layer >= config["num_hidden_layers"]:
            yield block + "eh_proj.weight", (hidden, 2 * hidden)
            for norm in ("enorm", "hnorm", "shared_head.norm"):
                yield f"{block}{norm}.weight", (hidden,)
        delta = delta_sizes(config, layer)
        norms = ["input", "post_attention"] + (["pre_feedforward", "post_feedforward"] if post_norms else [])
        for norm in norms:
            yield f"{block}{norm}_layernorm.weight", (hidden,)
        if "kv_lora_rank" in config:
            yield block + "self_attn.q_a_layernorm.weight", (config["q_lora_rank"],)
            yield block + "self_attn.kv_a_layernorm.weight", (config["kv_lora_rank"],)
        if delta:
            heads, keys, values = delta
            yield block + "linear_attn.conv1d.weight", (2 * keys + values, 1, config["linear_conv_kernel_dim"])
            yield block + "linear_attn.in_proj_ba.weight", (2 * heads, hidden)
            yield block + "linear_attn.A_log", (heads,)
            yield block + "linear_attn.dt_bias", (heads,)
            yield block + "linear_attn.norm.weight", (config["linear_value_head_dim"],)
        elif qk_norm:
            yield block + "self_attn.q_norm.weight", (config["head_dim"],)
            yield block + "self_attn.k_norm.weight", (config["head_dim"],)
        if "num_local_experts" in config:
            yield block + "block_sparse_moe.gate.weight", (config["num_local_experts"], hidden)
        elif "num_experts" in config and layer not in config["mlp_only_layers"]:
            yield block + "mlp.gate.weight", (config["num_experts"], hidden)
            if "shared_expert_intermediate_size" in config:
                yield block + "mlp.shared_expert_gate.weight", (1, hidden)
        elif "n_routed_experts" in config and layer >= config["first_k_dense_replace"]:
            yield block + "mlp.gate.weight", (config["n_routed_experts"], hidden)
            yield block + "mlp.gate.e_score_correction_bias", (config["n_routed_experts"],)
        for name, out, inputs, bias in linears(config, fused, layer):
            yield f"{block}{name}.weight", (out, inputs)
            if bias:
                yield f"{block}{name}.bias", (out,)


def write_weights(path, config, hidden):
    size = BYTES[config["dtype"]]
    header, offset = {}, 0
    for name, shape in tensors(config, **hidden):
        n_bytes = size
        for extent in shape:
            n_bytes *= extent
        header[name] = {"dtype": NAMES[config["dtype"]], "shape": list(shape), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    draw = random.Random(0)
    one, zero = b"\0\0\x80\x3f"[-size:], b"\0\0\0\0"[-size:]
    more = config["model_type"].startswith("gemma") or config["model_type"] == "qwen3_next"  # their norms are 1 + what is stored
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, entry in header.items():
            n = (entry["data_offsets"][1] - entry["data_offsets"][0]) // size
            if "norm" in name:
                file.write((zero if more and "linear_attn" not in name else one) * n)
                continue
            while n > 0:
                part = min(n, 1 << 20)
                values = bytearray(draw.randbytes(size * part))
                values[size - 1::size] = values[size - 1::size].translate(UPPER)
                file.write(values)
                n -= part


def main():
    directory = sys.argv[1]
    config, hidden = describe(sys.argv[2:])
    tokenizer = {"model": {"type": "BPE", "merges": [], "vocab": {letter: i for i, letter in enumerate(ALPHABET)}}}
    os.makedirs(directory, exist_ok=True)
    for name, content in (("config.json", config), ("tokenizer.json", tokenizer)):
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
    write_weights(os.path.join(directory, "model.safetensors"), config, hidden)


main()
