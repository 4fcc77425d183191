#!/usr/bin/env python3
"""read_vptq.py DIR [verify.json]: decodes a checkpoint in VPTQ's public format with numpy alone.

Written from the format's description and sharing no code with the program under test. Prints "name sha256" of every
decoded matrix (out x in, row-major, little-endian float32, float32 arithmetic: main + residual, times scale, plus bias);
with the output of `voronoi verify DIR --json`, or the golden.json of a checkpoint that the public client was seen to load,
it compares and fails on the first difference.
"""
import hashlib
import json
import math
import os
import sys

import numpy as np

DTYPES = {"I32": "<u4", "I16": "<u2", "U16": "<u2", "F16": "<f2", "F32": "<f4", "BF16": "bf16"}


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + length + begin : 8 + length + end]
        if (8 + length + begin) % {"I64": 8, "I32": 4}.get(entry["dtype"], 2):
            sys.exit(f"{path}: {name} is not aligned")
        kind = DTYPES[entry["dtype"]]
        if kind == "bf16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, kind)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def read_folder(folder):
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return read_safetensors(os.path.join(folder, "model.safetensors"))
    with open(index) as file:
        places = json.load(file)["weight_map"]
    tensors = {}
    for shard in sorted(set(places.values())):
        stored = read_safetensors(os.path.join(folder, shard))
        if {name for name, place in places.items() if place == shard} != set(stored):
            sys.exit(f"{index}: does not list what {shard} holds")
        tensors.update(stored)
    return tensors


def unpack(words, width, count):
    """[rows, words] -> [rows, count]: value j is bits j*width .. of the row read as one number, lowest bit first."""
    out = np.zeros((words.shape[0], count), np.uint64)
    for r, row in enumerate(words):
        number = int.from_bytes(row.astype("<u4").tobytes(), "little")
        for j in range(count):
            out[r, j] = (number >> (j * width)) & ((1 << width) - 1)
    return out.astype(np.int64)


def decode(name, entry, tensors):
    n_out, n_in = entry["out_features"], entry["in_features"]
    v0, v = entry["vector_lens"]
    k0, k = entry["num_centroids"]
    kr = max(entry["num_res_centroids"][1], 0)
    groups, size, outliers = entry["group_num"], entry["group_size"], entry["outlier_size"]
    assert entry["is_indice_packed"] and entry["enable_norm"] and not entry["indices_as_float"]
    rows = math.ceil(n_out / v)
    main_bits = k.bit_length() - 1
    bits = main_bits + (kr.bit_length() - 1 if kr else 0)
    stored = np.zeros((rows * v, n_in), np.float32)  # columns in stored order
    for g in range(groups):
        values = unpack(tensors[name + ".indices"][g].reshape(rows, -1), bits, size)
        book = tensors[name + ".centroids.weight"][g].astype(np.float32).reshape(k, v)
        part = book[values & (k - 1)]  # [rows, size, v]
        if kr:
            part = part + tensors[name + ".res_centroids.weight"][g].astype(np.float32).reshape(kr, v)[values >> main_bits]
        begin = outliers + g * size
        stored[:, begin : begin + size] = part.transpose(0, 2, 1).reshape(rows * v, size)
    stored = stored[:n_out]
    if outliers:
        book = tensors[name + ".outlier_centroids.weight"].astype(np.float32).reshape(k0, v0)
        part = book[tensors[name + ".outlier_indices"][0].astype(np.int64)]  # [ceil(out/v0), outliers, v0]
        stored[:, :outliers] = part.transpose(0, 2, 1).reshape(-1, outliers)[:n_out]
    natural = stored
    if entry["enable_perm"]:
        natural = np.empty_like(stored)
        natural[:, tensors[name + ".perm"].astype(np.int64)] = stored
    scaled = natural * tensors[name + ".weight_scale"].astype(np.float32)
    return np.ascontiguousarray(scaled + tensors[name + ".weight_bias"].astype(np.float32), dtype="<f4")


def compare(sums):
    """Prints the sums, or holds them against the file that the command line names."""
    if len(sys.argv) < 3:
        for name, value in sums.items():
            print(name, value)
        return
    with open(sys.argv[2]) as file:
        known = json.load(file)["layers"]
    if isinstance(known, dict):
        expected = {name: layer["sha256"] for name, layer in known.items()}
    else:
        expected = {layer["name"]: layer["decoded_sha256"] for layer in known}
    if not expected or set(expected) != set(sums):
        sys.exit("the two lists of layers differ")
    for name, value in sums.items():
        if value != expected[name]:
            sys.exit(f"{name}: decodes to other numbers")
    print(f"{len(sums)} layers decode to the same numbers")


def main():
    folder = sys.argv[1]
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    layers = config["quantization_config"]["config_for_layers"]
    tensors = read_folder(folder)
    sums = {}
    for name, entry in layers.items():
        sums[name] = hashlib.sha256(decode(name, entry, tensors).tobytes()).hexdigest()
    compare(sums)


if __name__ == "__main__":
    main()
