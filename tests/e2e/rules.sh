#!/usr/bin/env bash
# Rules by name: the bits that the plan says, linears left as they are all the way to evaluation, tuning and export, the same bytes on any ranks,
# and what cannot be told by file and rule.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
says() { grep -q -- "$1" "$work/stderr" || { cat "$work/stderr"; fail "no word of '$1'"; }; }
base=("${common[@]}" --method voronoi --residual-centroids 4 --rounds 1)
# Blocks 0 and 1 differ from the rest; a rule that leaves one linear of a site, one whose Hessian is factored otherwise, a whole site without Hessian.
cat >"$work/mixed.cfg" <<'CONFIG'
method = voronoi
residual-centroids = 4
rounds = 1

[[rules]]
match = "*.down_proj"
residual-centroids = 16  # of the run: 4

[[rules]]
match = *.self_attn.v_proj
damping = 0.1

[[rules]]
match = *.layers.[01].self_attn.q_proj
quantize = false
[[rules]]
match = *.layers.1.self_attn.o_proj
quantize = false
CONFIG
options=("${common[@]}" --config "$work/mixed.cfg")
left=3

expect 0 "$VORONOI" quantize --run "$work/dry" "${options[@]}" --dry-run
[ ! -e "$work/dry" ] || fail "a dry run wrote"
expect 0 "$VORONOI" plan "${options[@]}" --json
cp "$work/stdout" "$work/plan.json"
expect 0 ranks 1 quantize --run "$work/run" "${options[@]}" --keep-hessians
expect 0 "$VORONOI" verify "$work/run"
expect 0 "$VORONOI" status "$work/run"
expect 0 "$VORONOI" quantize --run "$work/plain" "${base[@]}"
python3 - "$work" "$n_linears" $left <<'PY' || fail "the run is not what the rules and the plan say"
import json, re, sys
work, n, left = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def records(run):
    for line in open(f"{work}/{run}/journal.log", "rb").read().split(b"\n"):
        found = re.search(rb"\{.*\}", line)
        if found:
            yield json.loads(found.group())
plan = json.load(open(f"{work}/plan.json"))
layers = {r["name"]: r for r in records("run") if r["type"] == "layer"}
kept = {r["name"]: r for r in records("run") if r["type"] == "left_unquantized"}
plain = {r["name"]: r for r in records("plain") if r["type"] == "layer"}
assert len(layers) == n - left and len(kept) == left and not set(layers) & set(kept), (len(layers), kept)
assert sum(r["stored_bits"] for r in layers.values()) == plan["quantized_bits"]
assert sum(r["weights"] for r in kept.values()) == plan["kept_weights"]
assert sum(entry["count"] for entry in plan["linears"]) == n
for name, layer in layers.items():  # only what a rule names differs from a run without rules
    same = layer["sha256"] == plain[name]["sha256"]
    assert same != ("down_proj" in name or "v_proj" in name), name
report = json.load(open(f"{work}/run/report/report.json"))["runs"][0]
bits = sum(r["stored_bits"] for r in layers.values()) + 16 * sum(r["weights"] for r in kept.values())
weights = sum(r["weights"] for r in list(layers.values()) + list(kept.values()))
assert abs(report["bits_true"] - bits / weights) < 1e-9 and abs(plan["bits_true"] - bits / weights) < 1e-9, (report["bits_true"], bits / weights)
assert len(report["unquantized"]) == left
PY
[ ! -e "$work/run/hessians/block_001.o.h5" ] || fail "a site without a quantized linear has a Hessian"
[ -e "$work/run/hessians/block_000.o.h5" ] || fail "no Hessian of a site that needs one"

# The same bytes on more ranks and from kept Hessians; another run goes on from its directory alone and is refused other rules.
for n in 2 3; do
  expect 0 ranks $n quantize --run "$work/ranks$n" "${options[@]}"
  same_layers "$work/run" "$work/ranks$n"
done
expect 0 "$VORONOI" quantize --run "$work/from" "${options[@]}" --hessians-from "$work/run"
same_layers "$work/run" "$work/from"
expect 0 "$VORONOI" quantize --run "$work/stopped" "${options[@]}" --stages calibrate
rm "$work/mixed.cfg"
expect 2 "$VORONOI" quantize --run "$work/stopped" "${base[@]}"
says "rules"
expect 2 "$VORONOI" quantize --run "$work/stopped" "${base[@]}" --rule "*.down_proj residual-centroids=8"
expect 0 ranks 2 quantize --run "$work/stopped" --stages calibrate,quantize,export,report
same_layers "$work/run" "$work/stopped"

# Evaluation and export see the model's own linears where rules leave them; the export says so to its readers.
expect 0 "$VORONOI" eval --model "$work/run" --model "$work/run/export" --text "$evaluation_text" --context 128 --windows 4 --json
python3 - "$work" <<'PY' || fail "run and export differ"
import json, sys
work = sys.argv[1]
run, export = [r for r in map(json.loads, open(f"{work}/stdout")) if r["metric"] == "perplexity"]
assert abs(run["bits_true"] - export["bits_true"]) < 1e-9, (run["bits_true"], export["bits_true"])
assert abs(run["nll"] - export["nll"]) < 2e-3, (run["nll"], export["nll"])
config = json.load(open(f"{work}/run/export/config.json"))["quantization_config"]
excluded = config["modules_to_not_convert"]
assert "model.layers.1.self_attn.o_proj" in excluded and len(excluded) == 4, excluded
assert not set(excluded) & set(config["config_for_layers"])
PY
expect 0 "$VORONOI" verify "$work/run/export"
expect 0 "$VORONOI" generate --model "$work/run" --prompt "a" --max-tokens 2
expect 0 ranks 2 quantize --run "$work/run" --tune-phases block,end-to-end --stages tune,export,report
[ ! -e "$work/run/layers/model.layers.1.self_attn.o_proj.g1.h5" ] || fail "a linear that is not quantized was tuned"
expect 0 "$VORONOI" verify "$work/run/export"

# All runs of a comparison take them, whatever the bits of each method mean.
expect 0 "$VORONOI" compare --out "$work/compared" "${common[@]}" --methods gptq,vptq --bits 6 --rule "*.down_proj bits=7" --rule "*.v_proj quantize=false"
for run in gptq-6bit vptq-6bit; do
  [ "$(layers_done "$work/compared/$run")" = $((n_linears * 6 / 7)) ] || fail "$run: not every linear that is to be quantized is"
done

# Errors: by file and rule.
printf 'centroids = 16\n[[rules]]\nmatch = *.down\nbits = 3\n' >"$work/wrong.cfg"
expect 2 "$VORONOI" quantize --run "$work/never" "${common[@]}" --config "$work/wrong.cfg"
says "wrong.cfg: \[\[rules\]\] 1 (line 2) '\*.down': matches no linear"
sed -i 's/down/down_proj/; s/bits = 3/bit = 3/' "$work/wrong.cfg"
expect 2 "$VORONOI" quantize --run "$work/never" "${common[@]}" --config "$work/wrong.cfg"
says "wrong.cfg: \[\[rules\]\] 1 (line 2): \*.down_proj: bit: is unknown"
sed -i 's/bit = 3/bits = 9/' "$work/wrong.cfg"
expect 2 "$VORONOI" plan "${common[@]}" --config "$work/wrong.cfg"
says "bits: must be a number from 0.5 to 8"
sed -i 's/bits = 9/vector-length = 16\ncentroids = 65536/' "$work/wrong.cfg"
expect 2 "$VORONOI" plan "${common[@]}" --config "$work/wrong.cfg"
says "wrong.cfg: \[\[rules\]\] 1 (line 2)"; says "65536 is more than"
[ ! -e "$work/never" ] || fail "a refused start wrote"
echo ok
