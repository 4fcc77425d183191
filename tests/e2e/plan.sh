#!/usr/bin/env bash
# A plan against the run it is of: the bits of every layer to the last one, the memory of a rank within a tenth.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
# The memory of a run so small is that of its text, where that is a long one.
if [ "$kind" = trained ]; then
  calibration_text=$DATA/calibration/wiki.utf8
  common=(--model "$work/model" --calibration-text "$calibration_text" --calibration-sequences 12 --calibration-context 128)
fi
says() { grep -q -- "$1" "$work/stderr" || { cat "$work/stderr"; fail "no word of '$1'"; }; }
options=(--calibration-sequences 12 --calibration-context 128 --method voronoi --centroids 16 --residual-centroids 4 --rounds 1)

expect 0 "$VORONOI" plan "${common[@]}" --method voronoi --centroids 16 --residual-centroids 4 --rounds 1 --json
cp "$work/stdout" "$work/plan.json"
expect 0 "$VORONOI" quantize --run "$work/run" "${common[@]}" --method voronoi --centroids 16 --residual-centroids 4 --rounds 1
python3 - "$work/plan.json" "$work/run/journal.log" "$kind" <<'PY' || fail "the plan is not what the run did"
import json, re, sys
plan = json.load(open(sys.argv[1]))
planned = {entry["role"]: entry for entry in plan["linears"]}
layers, peak = {}, 0
for line in open(sys.argv[2], "rb").read().split(b"\n"):
    found = re.search(rb"\{.*\}", line)
    if not found:
        continue
    record = json.loads(found.group())
    if record.get("type") == "layer":
        layers[record["name"]] = record["stored_bits"]
    peak = max(peak, record.get("peak_bytes", 0))
assert layers and sum(entry["count"] for entry in planned.values()) == len(layers), (len(layers), plan["linears"])
for name, bits in layers.items():
    assert planned[name.split(".", 3)[3]]["stored_bits"] == bits, name
assert sum(layers.values()) == plan["quantized_bits"]
if sys.argv[3] == "random":  # nothing to tokenize worth a plan: the program itself is most of it; memory.sh has a larger model
    sys.exit()
# With the pages of the model's file, which count as resident.
expected = max(plan["memory"][part]["bytes"] for part in ("host_tokenizing", "host_calibrating", "host_gathering", "host_quantizing")) + plan["memory"]["mapped_bytes"]
assert 0.9 < expected / peak < 1.1, (expected, peak)
PY

# What ranks send, read, write and compute, against what they count. counts RANKS "KINDS WITH LOOPS THAT STOP BY THEMSELVES" OPTIONS...
python3 "$support/random_model.py" "$work/tiny" num_hidden_layers=2 hidden_size=64 intermediate_size=128 num_attention_heads=4 num_key_value_heads=2
head -c 20000 "$work/calibration.txt" >"$work/tiny.txt"
counts() {
  # More damping than sampling asks for: one more is tried, which does not help.
  local n=$1 loose=$2 tiny=(--model "$work/tiny" --calibration-text "$work/tiny.txt" --calibration-sequences 16 --calibration-context 64 --damping 0.15)
  shift 2
  expect 0 "$VORONOI" plan "${tiny[@]}" "$@" --ranks "$n" --json
  cp "$work/stdout" "$work/counts.json"
  rm -rf "$work/counted"
  expect 0 ranks "$n" quantize --run "$work/counted" "${tiny[@]}" "$@"
  # shellcheck disable=SC2086  # several words
  python3 "$(dirname "$0")/plan_counts.py" "$work/counts.json" "$work/counted/journal.log" $loose || fail "on $n rank(s) the plan is not the run: $*"
}
counts 2 "" --method gptq --bits 3 --hessian plain --calibration-held-out 0 --team-size 2
steps=(--vector-length 4 --centroids 16 --kmeans-iterations 3 --kmeans-tolerance 0)
for n in 1 2 4 16; do counts $n "" --method gptq --bits 3 --hessian plain --calibration-held-out 0; done
for n in 1 4; do counts $n "" --method voronoi "${steps[@]}" --residual-centroids 4 --rounds 0 --hessian guided; done
# Fits and sweeps stop by themselves; what the law is with their number is told by tests/quant/voronoi_test.cpp.
counts 2 gemm_flops --method voronoi "${steps[@]}" --rounds 1 --hessian plain
counts 2 "" --method trellis --bits 2 --state-bits 12 --trellis-sweeps 1 --hessian guided
for n in 1 4; do counts $n "" --method gptq --bits 3 --calibration sequential --target asymmetric --hessian guided; done

# It works from config.json alone, and by name; --bits picks by size and says what.
mkdir "$work/config" && cp "$work/model/config.json" "$work/config"
expect 0 "$VORONOI" plan --model "$work/config" "${options[@]}"
expect 0 "$VORONOI" plan --model llama-2-7b --method voronoi --bits 2.3
says "--bits 2.3: vector length"
expect 2 "$VORONOI" plan --model llama-2-7b --method voronoi --bits 2.3 --centroids 256
says "--centroids"
expect 2 "$VORONOI" plan --model llama-5
says "llama-2-7b"
# A job that cannot fit is refused, with the layer.
expect 2 "$VORONOI" plan --model llama-3.1-405b --method voronoi --bits 2 --ranks 8 --gpu-memory 24GiB
says "does not fit"; says "down"
grep -q 'sbatch' "$work/stdout" && fail "a job that cannot fit has an sbatch command"
# The largest mixture fits a node of 8 GPUs of 80 GiB, with a quarter of what such nodes have.
expect 0 "$VORONOI" plan --model deepseek-v3 --method voronoi --bits 2 --ranks 64 --device cuda --gpu-memory 80GiB --node-memory 256GiB
expect 2 "$VORONOI" plan --model llama-2-7b --gpu-memory lots
says "80GiB"

# The sbatch command carries every option given, quoted, and makes the run that is meant: executed with an sbatch that runs the script here.
mkdir "$work/bin" "$work/a b"
cp "$calibration_text" "$work/a b/it's text"
cat >"$work/bin/sbatch" <<'STUB'
#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
script=$1 model=$2 run=$3
shift 3
[ "${script##*/}" = quantize.sbatch ] || exit 9
exec "$VORONOI" quantize --model "$model" --run "$run" "$@"
STUB
chmod +x "$work/bin/sbatch"
given=(--model "$work/model" --run "$work/a b/run" --calibration-text "$work/a b/it's text" --calibration-sequences 4 --calibration-context 32 --method voronoi
  --centroids 16 --rounds 1 --seed 7 --damping 0.02 --kmeans-iterations 5 --act-order false --keep-hessians --hessian-window 2 --dtype f32 --device cpu)
expect 0 "$VORONOI" plan "${given[@]}" --ranks 1 --json
line=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["sbatch"])' "$work/stdout")
PATH=$work/bin:$PATH VORONOI=$VORONOI expect 0 bash -c "$line"
expect 0 "$VORONOI" quantize "${given[@]:0:2}" --run "$work/meant" "${given[@]:4}"
same_layers "$work/a b/run" "$work/meant"
cmp <(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["identity"])' "$work/a b/run/run.json") \
  <(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["identity"])' "$work/meant/run.json") || fail "the command that plan prints makes another run"
