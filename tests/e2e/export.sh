#!/usr/bin/env bash
# Export to VPTQ's public format: the same numbers as the run, read by an independent reader, every change found, and what the
# format cannot hold refused before any work.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
python=
for candidate in python3 /usr/bin/python3; do
  if "$candidate" -c 'import numpy' 2>/dev/null; then python=$candidate; break; fi
done
[ -n "$python" ] || skip missing "no python3 with numpy (Debian: python3-numpy)"
read_vptq=$(dirname "$0")/../export/read_vptq.py
says() { grep -q -- "$1" "$work/stderr" || { cat "$work/stderr"; fail "no word of '$1'"; }; }
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" "$work/stdout" | head -n 1; }
nll() { expect 0 "$VORONOI" eval --model "$1" --text "$technical_text" --context 128 --windows 8 --json; field nll; }

# The independent reader itself agrees with the public client.
for variant in v4k256-16 outlier-perm-group2-bf16; do
  published=$DATA/models/stories260K-vptq/$variant
  [ ! -d "$published" ] || "$python" "$read_vptq" "$published" "$published/golden.json" || fail "the independent reader is wrong on $variant"
done

# The model in half precision: what is not quantized is then exported as it is, and figures must be equal.
"$python" - "$work/model" <<'PYTHON'
import json, sys, numpy as np
path = sys.argv[1] + "/model.safetensors"
data = open(path, "rb").read()
length = int.from_bytes(data[:8], "little")
header, out, body = json.loads(data[8:8 + length]), {}, b""
for name, entry in header.items():
    if name == "__metadata__": continue
    begin, end = entry["data_offsets"]
    half = np.frombuffer(data[8 + length + begin:8 + length + end], "<f4").astype("<f2").tobytes()
    out[name] = {"dtype": "F16", "shape": entry["shape"], "data_offsets": [len(body), len(body) + len(half)]}
    body += half
text = json.dumps(out).encode()
open(path, "wb").write(len(text).to_bytes(8, "little") + text + body)
config = json.load(open(sys.argv[1] + "/config.json"))
config.pop("dtype", None)
config["torch_dtype"] = "float16"
json.dump(config, open(sys.argv[1] + "/config.json", "w"))
PYTHON

# Two ranks quantize and export; another export of the same run has the same bytes.
options=("${common[@]}" --method voronoi --residual-centroids 16 --rounds 1)
expect 0 ranks 2 quantize --run "$work/run" "${options[@]}"
[ -f "$work/run/export/config.json" ] || fail "the default stages did not export"
[ ! -e "$work/run/export.unfinished" ] || fail "an unfinished export was left behind"
expect 0 "$VORONOI" export "$work/run" --out "$work/out/"
diff -r "$work/run/export" "$work/out" || fail "two exports differ"
expect 0 ranks 3 export "$work/run" --out "$work/by3"
diff -r "$work/run/export" "$work/by3" || fail "three ranks export other bytes than one"
# What one rank finds is told once, and nothing of it stays.
expect 2 ranks 2 export "$work/run" --out "$work/by2" --format awq
[ "$(grep -c "error: " "$work/stderr")" = 1 ] || { cat "$work/stderr"; fail "an error of all ranks is not told once"; }
[ -z "$(ls -d "$work"/by2* 2>/dev/null)" ] || fail "a refused export left something"
expect 0 ranks 1 quantize --run "$work/run" "${options[@]}"
says "is there already"
expect 2 "$VORONOI" export "$work/run" --out "$work/out"
says "is there already"

# Our own reader and an independent one see the numbers of the run.
expect 0 "$VORONOI" verify "$work/run" --json
cp "$work/stdout" "$work/run.json"
expect 0 ranks 3 verify "$work/run" --json
cmp "$work/run.json" "$work/stdout" || fail "three ranks verify other layers than one"
expect 0 "$VORONOI" verify "$work/out" --json
cp "$work/stdout" "$work/out.json"
expect 0 ranks 2 verify "$work/out" --json
cmp "$work/out.json" "$work/stdout" || fail "two ranks verify other layers than one"
grep -q "compared with the run" "$work/out.json" || fail "verify did not compare with the run"
"$python" "$read_vptq" "$work/out" "$work/run.json" || fail "the independent reader disagrees with the run"
"$python" "$read_vptq" "$work/out" "$work/out.json" || fail "the independent reader disagrees with our own"
"$python" - "$work" <<'PYTHON' || fail "an edited matrix was not noticed by the independent reader"
import json, subprocess, sys
work = sys.argv[1]
edited = json.load(open(work + "/run.json"))
edited["layers"][7]["decoded_sha256"] = "0" * 64
json.dump(edited, open(work + "/edited.json", "w"))
PYTHON
! "$python" "$read_vptq" "$work/out" "$work/edited.json" 2>/dev/null || fail "the independent reader accepts anything"
run_nll=$(nll "$work/run")
[ "$run_nll" = "$(nll "$work/out")" ] || fail "run and export evaluate to other figures"
bits=$(field bits_true)
nll "$work/run" >/dev/null
[ "$bits" = "$(field bits_true)" ] || fail "run and export have other true bits"
expect 0 "$VORONOI" inspect "$work/out" --json
grep -q '"kind":"VPTQ checkpoint"' "$work/stdout" || fail "inspect does not know the checkpoint"
expect 3 "$VORONOI" quantize --run "$work/again" --model "$work/out" "${common[@]:2}" --method vptq
says "quantized already"

# A moved export whose run is gone still verifies against its own sums.
mv "$work/run" "$work/moved"
expect 0 "$VORONOI" verify "$work/out"
grep -q "the run is not at hand" "$work/stdout" || fail "no word of the absent run"
mv "$work/moved" "$work/run"

# Changes are found.
size=$(stat -c %s "$work/out/model.safetensors")
for offset in $((size / 3)) $((size - 1000)); do
  cp "$work/out/model.safetensors" "$work/whole"
  printf '\x55\xaa\x55' | dd of="$work/out/model.safetensors" bs=1 seek=$offset conv=notrunc status=none
  expect 3 "$VORONOI" verify "$work/out"
  says "checksum"
  expect 3 ranks 2 verify "$work/out"
  says "checksum"
  mv "$work/whole" "$work/out/model.safetensors"
done
cp "$work/out/config.json" "$work/whole"
for edit in 's/"group_size": 172/"group_size": 171/' 's/"vector_lens": \[/"vector_lens": [7,/' 's/"quant_method": "vptq"/"quant_method": "gptq"/' \
  's/"is_indice_packed": true/"is_indice_packed": false/' 's/"hidden_size": 64/"hidden_size": 640000/'; do
  sed "$edit" "$work/whole" >"$work/out/config.json"
  cmp -s "$work/whole" "$work/out/config.json" && fail "the edit $edit changes nothing"
  expect 3 "$VORONOI" eval --model "$work/out" --text "$technical_text" --context 64 --windows 1
done
cp "$work/whole" "$work/out/config.json"
head -c $((size - 10)) "$work/out/model.safetensors" >"$work/cut" && mv "$work/cut" "$work/out/model.safetensors"
expect 3 "$VORONOI" eval --model "$work/out" --text "$technical_text" --context 64 --windows 1
says "model.safetensors"

# Without the manifest's run a layer that differs from its shard would pass; with it, it does not.
expect 0 "$VORONOI" export "$work/run" --out "$work/other"
victim=$(ls "$work/run/layers" | head -n 1)
printf 'x' | dd of="$work/run/layers/$victim" bs=1 seek=2000 conv=notrunc status=none
expect 3 "$VORONOI" verify "$work/other"
says "is not the file that was exported"
expect 3 "$VORONOI" export "$work/run" --out "$work/third"
says "$victim"
[ -z "$(ls -d "$work"/third* 2>/dev/null)" ] || fail "a damaged run was exported"
expect 3 ranks 2 export "$work/run" --out "$work/third"
says "$victim"

# What the format cannot hold is refused before any work, all at once; the default stages leave export out.
expect 2 "$VORONOI" quantize --run "$work/no" "${common[@]}" --stages calibrate,quantize,export,report --method vptq --vector-length 5 --centroids 128 \
  --residual-centroids 2 --outlier-percent 3 --outlier-centroids 16
says "--vector-length 5"; says "--centroids 128"; says "--residual-centroids 2"; says "safe profile"
[ ! -e "$work/no" ] || fail "a run directory was left behind"
expect 2 "$VORONOI" quantize --run "$work/no" "${common[@]}" --stages calibrate,quantize,export --method gptq --export-format vptq
says "--method gptq"
expect 2 "$VORONOI" quantize --run "$work/no" "${common[@]}" --stages calibrate,quantize,export --method gptq --bits 5
says "5 bits"
expect 0 "$VORONOI" quantize --run "$work/rtn" "${common[@]}" --method rtn --bits 5
[ ! -e "$work/rtn/export" ] || fail "5 bits were exported"
expect 2 "$VORONOI" export "$work/rtn" --out "$work/rtn-out"
says "5 bits"; says "$n_linears of $n_linears layers"

# Integers: each layout holds the numbers of the run, for our own reader and an independent one. gptq wants widths in multiples of 32.
read_ints=$(dirname "$0")/../export/read_ints.py
python3 "$support/random_model.py" "$work/even" num_hidden_layers=2 hidden_size=64 intermediate_size=96 num_attention_heads=4 num_key_value_heads=2
even=(--model "$work/even" --calibration-text "$calibration_text" --calibration-sequences 4 --calibration-context 64)
expect 0 ranks 2 quantize --run "$work/gptq" "${even[@]}" --method gptq --bits 4 --group-size 32 --group-grid original
expect 0 "$VORONOI" quantize --run "$work/rtn4" "${even[@]}" --method rtn --bits 4 --group-size 16 --export-format awq
expect 0 "$VORONOI" quantize --run "$work/rtn3" "${even[@]}" --method rtn --bits 3 --group-size 16
expect 0 ranks 2 quantize --run "$work/aqlm" "${even[@]}" --method aqlm --code-bits 5 --in-group 4
expect 2 "$VORONOI" quantize --run "$work/no" "${even[@]}" --method aqlm --stages calibrate,quantize,export --rule '*.k_proj codebooks=3'
says "one setting for all"
expect 0 "$VORONOI" export "$work/gptq" --out "$work/gptq-out" --format gptq
expect 2 "$VORONOI" export "$work/gptq" --out "$work/no" --format awq
says "column order"
for pair in "gptq gptq/export compressed-tensors" "gptq gptq-out gptq" "rtn4 rtn4/export awq" "rtn3 rtn3/export gptq" \
  "aqlm aqlm/export aqlm"; do
  read -r run out layout <<<"$pair"
  grep -q "\"quant_method\": \"$layout\"" "$work/$out/config.json" || fail "$out is of another layout than $layout"
  expect 0 "$VORONOI" verify "$work/$run" --json
  cp "$work/stdout" "$work/ints.json"
  "$python" "$read_ints" "$work/$out" "$work/ints.json" || fail "the independent reader disagrees on $out"
  expect 0 "$VORONOI" verify "$work/$out"
  grep -q "compared with the run" "$work/stdout" || fail "verify did not compare $out with the run"
  [ "$(nll "$work/$run")" = "$(nll "$work/$out")" ] || fail "run and $out evaluate to other figures"
done
# Scales of columns are folded into norms and linears, and rounded there: the figures are those of the run but for that.
expect 0 ranks 2 quantize --run "$work/awq" "${even[@]}" --method awq --bits 4 --group-size 16
says "are folded into the norms or linears before them"
for layout in compressed-tensors gptq awq; do
  expect 0 "$VORONOI" export "$work/awq" --out "$work/awq-$layout" --format $layout
  expect 0 "$VORONOI" verify "$work/awq-$layout"
  grep -q "compared with the run" "$work/stdout" || fail "verify did not compare awq-$layout with the run"
  awk -v a="$(nll "$work/awq")" -v b="$(nll "$work/awq-$layout")" 'BEGIN { d = a - b; exit !(d * d < 1e-6 && a > 0) }' || fail "run and awq-$layout evaluate to other figures"
done
"$python" - "$work" <<'PYTHON' || fail "an edited matrix was not noticed by the independent reader of integers"
import json, sys
edited = json.load(open(sys.argv[1] + "/ints.json"))
edited["layers"][3]["decoded_sha256"] = "0" * 64
json.dump(edited, open(sys.argv[1] + "/edited.json", "w"))
PYTHON
! "$python" "$read_ints" "$work/rtn3/export" "$work/edited.json" 2>/dev/null || fail "the independent reader of integers accepts anything"

# Groups and outliers, for the loaders that take them.
full=(--method vptq --vector-length 4 --centroids 256 --outlier-percent 3 --outlier-centroids 16 --export-profile full)
expect 0 ranks 2 quantize --run "$work/full" "${common[@]}" "${full[@]}" --stages calibrate,quantize,export,report
expect 0 "$VORONOI" verify "$work/full" --json
cp "$work/stdout" "$work/full.json"
"$python" "$read_vptq" "$work/full/export" "$work/full.json" || fail "the independent reader disagrees on outliers"
expect 0 "$VORONOI" verify "$work/full/export"
expect 2 "$VORONOI" export "$work/full" --out "$work/full-safe"
says "safe profile"
