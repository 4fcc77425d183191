#!/usr/bin/env python3
"""Damages F32 tensors of a safetensors file in place.

damage.py FILE EDIT...   EDIT: TENSOR[ROW,COLUMN]=VALUE, TENSOR[INDEX]=VALUE; an index may be ':' for all.
"""
import json
import re
import struct
import sys


def main() -> int:
    path, edits = sys.argv[1], sys.argv[2:]
    with open(path, "r+b") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
        for edit in edits:
            match = re.fullmatch(r"([\w.]+)\[([\d:]+)(?:,([\d:]+))?\]=(\S+)", edit)
            if match is None:
                sys.exit(f"not an edit: {edit}")
            name, first, second, value = match.groups()
            tensor = header[name]
            if tensor["dtype"] != "F32":
                sys.exit(f"{name}: is {tensor['dtype']}, not F32")
            shape = tensor["shape"]
            if len(shape) != (1 if second is None else 2):
                sys.exit(f"{name}: has shape {shape}")
            columns = 1 if second is None else shape[1]
            rows = range(shape[0]) if first == ":" else [int(first)]
            places = [0] if second is None else range(columns) if second == ":" else [int(second)]
            packed = struct.pack("<f", float(value))
            start = 8 + header_bytes + tensor["data_offsets"][0]
            for row in rows:
                for column in places:
                    file.seek(start + 4 * (row * columns + column))
                    file.write(packed)
    return 0


sys.exit(main())
