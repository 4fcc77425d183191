#!/usr/bin/env bash
# The peak of a rank is what the plan says within a tenth, on one rank and on two, for a model whose matrices outweigh the program; and it does
# not grow with the number of blocks.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
random_model=$support/random_model.py
text=$work/text.txt
head -c 100000 "$calibration_text" >"$text"
peak() { sed -n 's/.*"peak_bytes":\([0-9]*\).*/\1/p' "$1/journal.log" | sort -n | tail -n 1; }

# as_planned RANKS OPTIONS...; `part` (when not empty) is the stage that is to need most of all. What the allocator holds beyond the arrays
# depends on where the small blocks of other threads come to lie: of three runs one is to be as planned.
part=
as_planned() {
  local n=$1 try
  shift
  expect 0 "$VORONOI" plan "$@" --ranks "$n" --json
  cp "$work/stdout" "$work/plan.json"
  for try in 1 2 3; do
    rm -rf "$work/run"
    expect 0 ranks "$n" quantize --run "$work/run" "$@"
    if near_plan "$(peak "$work/run")"; then return; fi
  done
  fail "$n rank(s), $try runs: the plan's memory is not the run's"
}
near_plan() {
  python3 - "$work/plan.json" "$1" "$part" <<'PY'
import json, sys
memory, peak = json.load(open(sys.argv[1]))["memory"], int(sys.argv[2])
parts = ("host_tokenizing", "host_calibrating", "host_gathering", "host_quantizing", "host_tuning")
most = max((part for part in parts if memory[part]), key=lambda part: memory[part]["bytes"])
planned = memory[most]["bytes"] + memory["mapped_bytes"]
print(f"planned {planned / 2**20:.1f} MiB, measured {peak / 2**20:.1f} MiB")
sys.exit(0 if sys.argv[3] in ("", most) and 0.9 < planned / peak < 1.1 else 1)
PY
}
options=(--calibration-text "$text" --method rtn --bits 4)
python3 "$random_model" "$work/wide" num_hidden_layers=2 hidden_size=768 intermediate_size=2048 num_attention_heads=12 num_key_value_heads=4
for n in 1 2; do as_planned $n --model "$work/wide" "${options[@]}" --calibration-sequences 8 --calibration-context 64; done
# A second stream, and whole matrices beside the Hessians.
for n in 1 2; do
  as_planned $n --model "$work/wide" "${options[@]}" --calibration-sequences 8 --calibration-context 64 --calibration sequential --target asymmetric
done
# Many experts: arrays enough that what is held beyond them does not grow as they do, and a layer that is not read behind the others.
python3 "$random_model" "$work/mixture" architecture=deepseek-v3 hidden_size=512 intermediate_size=512 moe_intermediate_size=128 \
  num_attention_heads=8 num_key_value_heads=8
as_planned 1 --model "$work/mixture" "${options[@]}" --calibration-sequences 8 --calibration-context 64
# Many chunks through several blocks: their arrays may not wander through the heap.
python3 "$random_model" "$work/stream" num_hidden_layers=6 hidden_size=512 intermediate_size=1024 num_attention_heads=8 num_key_value_heads=4
as_planned 1 --model "$work/stream" "${options[@]}" --calibration-sequences 64 --calibration-context 256
# Tuning: the teacher's states of all sequences and a block's activations; then both streams, where no other stage needs as much.
as_planned 1 --model "$work/stream" "${options[@]}" --calibration-sequences 64 --calibration-context 256 --tune-phases end-to-end
python3 "$random_model" "$work/short" num_hidden_layers=2 hidden_size=512 intermediate_size=1024 num_attention_heads=8 num_key_value_heads=4
part=host_tuning
as_planned 1 --model "$work/short" "${options[@]}" --calibration-sequences 2 --calibration-context 1024 --tune-phases block --tune-tokens 4096
# And the buffers of what moves codes.
as_planned 1 --model "$work/stream" "${options[@]}" --calibration-sequences 16 --calibration-context 256 --tune-phases end-to-end,codes
# And weights with their moments and sums.
as_planned 1 --model "$work/stream" "${options[@]}" --calibration-sequences 16 --calibration-context 256 --tune-phases weights

# 80 more blocks: their pages of the model's file, 3 KiB a layer in the lists of what is done and in the report, and 8 KiB in those of an
# export's tensors, which are four a layer, under its own and its file's names; nothing else.
for blocks in 16 96; do
  python3 "$random_model" "$work/deep$blocks" num_hidden_layers=$blocks
  expect 0 ranks 2 quantize --run "$work/run$blocks" --model "$work/deep$blocks" --calibration-text "$text" --calibration-sequences 4 \
    --calibration-context 32 --method rtn --bits 4
done
size() { stat -c %s "$work/deep$1/model.safetensors"; }
growth=$(($(peak "$work/run96") - $(peak "$work/run16") - $(size 96) + $(size 16)))
echo "growth over 80 blocks: $((growth / 1024)) KiB"
[ $growth -lt $((80 * 7 * 11264 + (1 << 21))) ] || fail "80 more blocks took $growth bytes more"
