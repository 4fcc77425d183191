#!/usr/bin/env bash
# Damaged models through the whole program: what is bad is named and given up, the rest is finished, exit 4, and all of it
# is the same on one and two ranks.
# shellcheck source-path=SCRIPTDIR source=../e2e/common.sh
. "$(dirname "$0")/../e2e/common.sh"

# says FILE TEXT
says() { grep -qF -- "$2" "$1" || { cat "$1"; fail "no word of '$2'"; }; }
stderr_says() { says "$work/stderr" "$1"; }
report_says() { grep -qF -- "$2" "$1/report/report.md" || { cat "$1/report/report.md"; fail "$1: the report lacks '$2'"; }; }
damage() { python3 "$(dirname "$0")/damage.py" "$@"; }
# damaged NAME EDIT...: a damaged copy of the model as $work/NAME.
damaged() { cp -r "$work/model" "$work/$1"; damage "$work/$1/model.safetensors" "${@:2}"; }
# A token that is there once, and where: number $rare is token $position of sequence $sequence.
sequence=7 position=85
if [ "$kind" = trained ]; then
  rare=300 overflowing="block 3, input 3 of gate_up is -106112"
  head -c 40000 "$calibration_text" >"$work/text.txt"  # reading all of it is most of the time of a run
else
  rare=$(sed -n 's/.*"Z": \([0-9]*\).*/\1/p' "$work/model/tokenizer.json") overflowing="block 3, input "
  head -c $((12 * 128)) "$calibration_text" >"$work/text.txt"  # one token a character, so that the sequences stand side by side
  printf Z | dd of="$work/text.txt" bs=1 seek=$((128 * sequence + position)) conv=notrunc status=none
fi
text=(--calibration-text "$work/text.txt" --calibration-sequences 12 --calibration-context 128)
# on_two_counts CODE NAME OPTION...: the same run on one rank and on two gives the same bytes and the same failures; what
# they say is in $work/NAME.said and $work/NAME.said.2.
on_two_counts() {
  local name=$2
  expect "$1" "$VORONOI" quantize --model "$work/$name" --run "$work/$name.1" "${text[@]}" "${@:3}"
  cp "$work/stderr" "$work/$name.said"
  expect "$1" ranks 2 quantize --model "$work/$name" --run "$work/$name.2" "${text[@]}" "${@:3}"
  cp "$work/stderr" "$work/$name.said.2"
  same_layers "$work/$name.1" "$work/$name.2"
  python3 - "$work/$name.1" "$work/$name.2" <<'PYTHON' || fail "$name: the reports of one and two ranks differ"
import json, sys
def facts(run):
    section = json.load(open(run + "/report/report.json"))["runs"][0]
    for layer in section["layers"]:
        del layer["seconds"]
    return section["failures"], section["damaged_tensors"], section["layers"]
sys.exit(0 if facts(sys.argv[1]) == facts(sys.argv[2]) else 1)
PYTHON
}
# failed RUN NAME...: exactly these were given up, by report.json and by status.
failed() {
  python3 - "$@" <<'PYTHON' || fail "other failures than $*"
import json, sys
found = sorted(json.load(open(sys.argv[1] + "/report/report.json"))["runs"][0]["failures"])
if found != sorted(sys.argv[2:]):
    print("found:", found)
    sys.exit(1)
PYTHON
  expect 0 "$VORONOI" status "$1"
  for name in "${@:2}"; do grep -qF "FAILED  $name: " "$work/stdout" || fail "status does not list $name"; done
}
# layer RUN NAME FIELD: one figure of a layer.
layer() {
  python3 - "$@" <<'PYTHON'
import json, sys
section = json.load(open(sys.argv[1] + "/report/report.json"))["runs"][0]
print(next(layer[sys.argv[3]] for layer in section["layers"] if layer["name"] == sys.argv[2]))
PYTHON
}
layers() { find "$1/layers" -type f | wc -l; }

# Bad weights: the two linears that hold them are named and given up, all others are done. A dead channel, an input that is
# always zero and a huge outlier are no failures: what was done about them is on record.
damaged weights \
  'model.layers.0.self_attn.q_proj.weight[3,5]=nan' 'model.layers.1.mlp.up_proj.weight[7,9]=-inf' \
  'model.layers.2.input_layernorm.weight[10]=0' 'model.layers.3.mlp.up_proj.weight[:,:]=0' \
  'model.layers.4.mlp.down_proj.weight[2,3]=30000'
nan="model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: element [3, 5] is nan"
inf="model.safetensors: tensor model.layers.1.mlp.up_proj.weight: element [7, 9] is -inf"
for method in "gptq" "vptq --centroids 64 --residual-centroids 16 --outlier-percent 4 --outlier-centroids 16" "voronoi --centroids 64"; do
  rm -rf "$work"/weights.?
  read -ra options <<<"$method"
  on_two_counts 4 weights --method "${options[@]}"
  failed "$work/weights.1" model.layers.0.self_attn.q_proj model.layers.1.mlp.up_proj
  [ "$(layers "$work/weights.1")" = 33 ] || fail "$method: not 33 layers"
  expect 0 "$VORONOI" verify "$work/weights.2"
  for cause in "$nan" "$inf"; do says "$work/weights.said" "$cause"; says "$work/weights.said.2" "$cause"; report_says "$work/weights.1" "$cause"; done
  says "$work/weights.said" "1 such value(s) count as 0 in calibration"
  report_says "$work/weights.1" "Damaged tensors: calibration took 0"
  [ "$(layer "$work/weights.1" model.layers.3.mlp.up_proj relative_error)" = 0.0 ] || fail "$method: a layer of zeros has an error"
  python3 -c "import sys; sys.exit(float(sys.argv[1]) > 1)" "$(layer "$work/weights.1" model.layers.4.mlp.down_proj relative_error)" ||
    fail "$method: the outlier's layer is worse than nothing"
done
[ "$(layer "$work/weights.1" model.layers.2.self_attn.k_proj dead_inputs)" = 1 ] || fail "the dead channel is not on record"
[ "$(layer "$work/weights.1" model.layers.3.mlp.down_proj dead_inputs)" = 172 ] || fail "the dead input is not on record"
report_says "$work/weights.1" "| model.layers.2.self_attn.k_proj | 0 | 1536 | 0.01 | 0 | 1 |"

# What other commands make of such a run.
expect 0 "$VORONOI" verify "$work/weights.1"
grep -q "33 of 33 layers good, 0 problems; 2 layers or tensors were given up" "$work/stdout" || fail "verify does not tell what is missing"
expect 2 "$VORONOI" export "$work/weights.1" --out "$work/checkpoint"
stderr_says "2 of 35 layers are not quantized"; stderr_says "$nan"; stderr_says "$inf"
[ ! -e "$work/checkpoint" ] || fail "an export of part of a model was left"
expect 3 "$VORONOI" eval --model "$work/weights.1" --text "$calibration_text" --context 64 --windows 1
stderr_says "$nan"
expect 3 "$VORONOI" inspect "$work/weights"
stderr_says "2 tensor(s) cannot be used"
# The same command again tries again and ends the same way; nothing that is done is done again.
before=$(cat "$work"/weights.1/layers/* | sha256sum)
calibrated=$(grep -c '"type":"stage","stage":"calibrate"' "$work/weights.1/journal.log")
[ "$(ls "$work/weights.1/hessians" | tr '\n' ' ')" = "block_000.qkv.h5 block_001.gate_up.h5 " ] ||
  fail "not the Hessians of what was given up were kept: $(ls "$work/weights.1/hessians")"
expect 4 "$VORONOI" quantize --model "$work/weights" --run "$work/weights.1" "${text[@]}" --method voronoi --centroids 64
stderr_says "33 layers are done already"; stderr_says "$nan"
# Its Hessians are still there: nothing is calibrated.
[ "$(grep -c '"type":"stage","stage":"calibrate"' "$work/weights.1/journal.log")" = "$calibrated" ] || fail "a second start calibrated again"
[ "$before" = "$(cat "$work"/weights.1/layers/* | sha256sum)" ] || fail "a second start changed layers"

# The rare token, whose activations overflow F16 in block 3, through a channel that no other token uses:
# its row is left out, behind the next attention all later rows of its sequence too; nothing fails.
silent=()
for block in 0 1 2 3; do
  silent+=("model.layers.$block.self_attn.o_proj.weight[20,:]=0" "model.layers.$block.mlp.down_proj.weight[20,:]=0")
done
damaged overflow "${silent[@]}" 'model.embed_tokens.weight[:,20]=0' "model.embed_tokens.weight[$rare,20]=60000" \
  'model.layers.3.post_attention_layernorm.weight[20]=60000'
on_two_counts 0 overflow --method gptq --dtype f16
first="block 3, input 20 of gate_up is 480000 at token $position of calibration sequence $sequence"
says "$work/overflow.said" "$first"
[ "$(layer "$work/overflow.1" model.layers.3.self_attn.o_proj left_out_tokens)" = 0 ] || fail "rows are missing before the overflow"
[ "$(layer "$work/overflow.1" model.layers.3.mlp.up_proj left_out_tokens)" = 1 ] || fail "not the token's one row was left out"
[ "$(layer "$work/overflow.1" model.layers.3.mlp.up_proj calibration_tokens)" = 1535 ] || fail "the other rows were not kept"
behind=$(layer "$work/overflow.1" model.layers.4.self_attn.o_proj left_out_tokens)  # 43, and what attention masks in the same tile
{ [ "$behind" -ge 43 ] && [ "$behind" -le 128 ]; } || fail "$behind rows behind the token were left out"
report_says "$work/overflow.1" "| model.layers.3.mlp.up_proj | 1 | 1536 |"
# All rows overflow from block 3 on: ten layers are given up for one cause, which is explained once; the 25 before are done.
damaged nothing_left 'model.layers.3.post_attention_layernorm.weight[:]=60000'
on_two_counts 4 nothing_left --method gptq --dtype f16
failed "$work/nothing_left.1" model.layers.3.mlp.{gate,up,down}_proj model.layers.4.self_attn.{q,k,v,o}_proj model.layers.4.mlp.{gate,up,down}_proj
[ "$(layers "$work/nothing_left.2")" = 25 ] || fail "not 25 layers"
says "$work/nothing_left.said.2" "$overflowing"
[ "$(grep -c "given up: .*no calibration row" "$work/nothing_left.said")" = 1 ] || fail "the cause is explained more than once"
[ "$(grep -c "given up: .*for the same reason" "$work/nothing_left.said")" = 5 ] || fail "not six sites were given up"
# With the stream leaving the blocks quantized, and Hessians of another run, it is the same ten.
expect 4 ranks 2 quantize --model "$work/nothing_left" --run "$work/sequential" "${text[@]}" --method rtn --dtype f16 --calibration sequential
[ "$(layers "$work/sequential")" = 25 ] || fail "sequential: not 25 layers"
expect 4 "$VORONOI" quantize --model "$work/nothing_left" --run "$work/kept" "${text[@]}" --method rtn --dtype f16 --keep-hessians
expect 4 "$VORONOI" quantize --model "$work/nothing_left" --run "$work/from" "${text[@]}" --method rtn --dtype f16 --hessians-from "$work/kept"
stderr_says "$overflowing"
same_layers "$work/kept" "$work/from"

# A tensor that is stored as it is: all layers are done, the export is not, and the run says so.
damaged embedding "model.embed_tokens.weight[$rare,20]=nan"
on_two_counts 4 embedding --method vptq
[ "$(layers "$work/embedding.1")" = 35 ] || fail "not 35 layers"
failed "$work/embedding.1" export model.embed_tokens.weight
says "$work/embedding.said" "not exported: $work/embedding/model.safetensors: tensor model.embed_tokens.weight: element [$rare, 20] is nan"
[ ! -e "$work/embedding.1/export" ] || fail "a damaged model was exported"
