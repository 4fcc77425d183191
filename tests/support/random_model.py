#!/usr/bin/env python3
"""random_model.py DIR key=value...: a Hugging Face directory of random BF16 weights, with a tokenizer of single characters.

Keys are those of config.json (num_hidden_layers=96, hidden_size=64, ...); with num_experts it is a Qwen3-MoE, else a Llama.
The same arguments give the same bytes. Standard library only.
"""
import json
import os
import random
import string
import struct
import sys

# Upper bytes of a BF16 number: random ones become a sign and the exponents of 1/128 ... 1/16.
UPPER = bytes((0x80 if byte & 2 else 0) | 0x3C | (byte & 1) for byte in range(256))


def characters():
    alphabet = " \n.," + string.ascii_letters + string.digits
    return {"model": {"type": "BPE", "merges": [], "vocab": {letter: i for i, letter in enumerate(alphabet)}}}


def read_config(assignments, n_characters):
    config = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": n_characters, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
              "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True, "dtype": "bfloat16"}
    for assignment in assignments:
        key, value = assignment.split("=", 1)
        config[key] = int(value)
    config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    if "num_experts" in config:
        config.update({"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "decoder_sparse_step": 1,
                       "mlp_only_layers": [], "norm_topk_prob": True, "attention_bias": False})
        config.setdefault("num_experts_per_tok", 2)
        config.setdefault("moe_intermediate_size", 32)
    else:
        config.update({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    return config


def tensors(config):
    hidden, head = config["hidden_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        yield block + "input_layernorm.weight", (hidden,)
        yield block + "post_attention_layernorm.weight", (hidden,)
        yield block + "self_attn.q_proj.weight", (q, hidden)
        yield block + "self_attn.k_proj.weight", (kv, hidden)
        yield block + "self_attn.v_proj.weight", (kv, hidden)
        yield block + "self_attn.o_proj.weight", (hidden, q)
        experts = config.get("num_experts", 0)
        if experts:
            yield block + "self_attn.q_norm.weight", (head,)
            yield block + "self_attn.k_norm.weight", (head,)
            yield block + "mlp.gate.weight", (experts, hidden)
        inner = config["moe_intermediate_size"] if experts else config["intermediate_size"]
        for place in [f"mlp.experts.{i}." for i in range(experts)] or ["mlp."]:
            yield block + place + "gate_proj.weight", (inner, hidden)
            yield block + place + "up_proj.weight", (inner, hidden)
            yield block + place + "down_proj.weight", (hidden, inner)


def write_weights(path, config):
    header, offset = {}, 0
    for name, shape in tensors(config):
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    draw = random.Random(0)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in header.values():
            n = (entry["data_offsets"][1] - entry["data_offsets"][0]) // 2
            if len(entry["shape"]) == 1:
                file.write(b"\x80\x3f" * n)  # a norm of ones
                continue
            while n > 0:
                part = min(n, 1 << 20)
                values = bytearray(draw.randbytes(2 * part))
                values[1::2] = values[1::2].translate(UPPER)
                file.write(values)
                n -= part


def main():
    directory, assignments = sys.argv[1], sys.argv[2:]
    tokenizer = characters()
    config = read_config(assignments, len(tokenizer["model"]["vocab"]))
    os.makedirs(directory, exist_ok=True)
    for name, content in (("config.json", config), ("tokenizer.json", tokenizer)):
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            json.dump(content, file)
    write_weights(os.path.join(directory, "model.safetensors"), config)


main()
