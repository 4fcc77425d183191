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


def linears(config, fused, layer):
    """(name, outputs, inputs, whether it has a bias) in a block."""
    hidden = config["hidden_size"]
    q, kv = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    bias = config.get("qkv_bias", False)
    if fused:
        yield "self_attn.qkv_proj", q + 2 * kv, hidden, bias
    else:
        for name, out in (("q", q), ("k", kv), ("v", kv)):
            yield f"self_attn.{name}_proj", out, hidden, bias
    yield "self_attn.o_proj", hidden, q, False
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
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        norms = ["input", "post_attention"] + (["pre_feedforward", "post_feedforward"] if post_norms else [])
        for norm in norms:
            yield f"{block}{norm}_layernorm.weight", (hidden,)
        if qk_norm:
            yield block + "self_attn.q_norm.weight", (config["head_dim"],)
            yield block + "self_attn.k_norm.weight", (config["head_dim"],)
        if "num_local_experts" in config:
            yield block + "block_sparse_moe.gate.weight", (config["num_local_experts"], hidden)
        elif "num_experts" in config and layer not in config["mlp_only_layers"]:
            yield block + "mlp.gate.weight", (config["num_experts"], hidden)
            if "shared_expert_intermediate_size" in config:
                yield block + "mlp.shared_expert_gate.weight", (1, hidden)
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
    norm = (b"\0\0\0\0" if config["model_type"].startswith("gemma") else b"\0\0\x80\x3f")[-size:]  # Gemma's are 1 + what is stored
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, entry in header.items():
            n = (entry["data_offsets"][1] - entry["data_offsets"][0]) // size
            if "norm" in name:
                file.write(norm * n)
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
