#!/usr/bin/env python3
"""read_ints.py DIR [verify.json]: decodes a checkpoint in the layout compressed-tensors, gptq, awq or aqlm with numpy alone.

Written from the layouts' descriptions and sharing no code with the program under test, as read_vptq.py is, whose output and comparison
it has: w = scale * (code - zero) in float32, out x in; of additive codes the sum of the centroids times the scale of the row.
"""
import hashlib
import json
import os
import sys

import numpy as np
import read_vptq

read_vptq.DTYPES["I64"] = "<i8"
read_vptq.DTYPES["I8"] = "<i1"


def stream(words, bits, count):
    """Rows of words as one number each, value j being bits j * bits ..: [rows, count]."""
    return read_vptq.unpack(words, bits, count)


def compressed_tensors(name, quantization, tensors):
    out, columns = (int(n) for n in tensors[name + ".weight_shape"])
    groups = quantization["config_groups"].values()
    own = [g for g in groups if name in g["targets"]] or [g for g in groups if g["targets"] == ["Linear"]]
    weights = own[0]["weights"]
    bits = weights["num_bits"]
    assert 32 % bits == 0 and weights["type"] == "int" and not weights["symmetric"]
    # Signed integers less half the range, on both sides: the half falls out.
    codes = stream(tensors[name + ".weight_packed"], bits, columns)
    scale = tensors[name + ".weight_scale"].astype(np.float32)
    zeros = stream(np.ascontiguousarray(tensors[name + ".weight_zero_point"].T), bits, out).T
    size = weights["group_size"] or columns
    group_of = tensors[name + ".weight_g_idx"].astype(np.int64) if weights["actorder"] == "group" else np.arange(columns) // size
    return codes, zeros, scale, group_of


def gptq(name, quantization, tensors):
    bits = quantization["bits"]
    scale = tensors[name + ".scales"].astype(np.float32).T
    group_of = tensors[name + ".g_idx"].astype(np.int64)
    codes = stream(np.ascontiguousarray(tensors[name + ".qweight"].T), bits, len(group_of))
    zeros = stream(tensors[name + ".qzeros"], bits, len(scale)).T
    return codes, zeros + (quantization["checkpoint_format"] == "gptq"), scale, group_of


def awq(name, quantization, tensors):
    assert quantization["bits"] == 4 and quantization["version"] == "gemm"
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def rows(words):
        values = np.empty((len(words), words.shape[1] * 8), np.int64)
        for place, row in enumerate(order):
            values[:, row::8] = (words.astype(np.int64) >> (4 * place)) & 15
        return values.T

    codes, zeros = rows(tensors[name + ".qweight"]), rows(tensors[name + ".qzeros"])
    size = quantization["group_size"] if quantization["group_size"] > 0 else codes.shape[1]
    return codes, zeros, tensors[name + ".scales"].astype(np.float32).T, np.arange(codes.shape[1]) // size


def integers(reader):
    """The matrix of codes, zeros, scales and the groups of columns."""
    def matrix(name, quantization, tensors):
        codes, zeros, scale, group_of = reader(name, quantization, tensors)
        return scale[:, group_of] * (codes - zeros[:, group_of]).astype(np.float32)
    return matrix


def aqlm(name, quantization, tensors):
    assert quantization["out_group_size"] == 1
    codes = tensors[name + ".codes"].astype(np.int64) % 2 ** quantization["nbits_per_codebook"]
    books = tensors[name + ".codebooks"].astype(np.float32)
    total = np.zeros(codes.shape[:2] + (quantization["in_group_size"],), np.float32)
    for book in range(quantization["num_codebooks"]):
        total = total + books[book, :, 0][codes[:, :, book]]
    scales = tensors[name + ".scales"].astype(np.float32).reshape(-1, 1)
    return total.reshape(len(codes), -1) * scales


def main():
    folder = sys.argv[1]
    with open(os.path.join(folder, "config.json")) as file:
        quantization = json.load(file)["quantization_config"]
    method = quantization["quant_method"]
    reader = {"compressed-tensors": integers(compressed_tensors), "gptq": integers(gptq), "awq": integers(awq), "aqlm": aqlm}[method]
    tensors = read_vptq.read_folder(folder)
    suffix = {"compressed-tensors": ".weight_packed", "aqlm": ".codes"}.get(method, ".qweight")
    sums = {}
    for tensor in tensors:
        if tensor.endswith(suffix):
            name = tensor[: -len(suffix)]
            matrix = reader(name, quantization, tensors)
            sums[name] = hashlib.sha256(np.ascontiguousarray(matrix, dtype="<f4").tobytes()).hexdigest()
    read_vptq.compare(sums)


if __name__ == "__main__":
    main()
