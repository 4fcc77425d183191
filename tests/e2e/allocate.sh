#!/usr/bin/env bash
# Bits divided among the linears: within the budget, the same on any ranks and after any interruption, kept as a config file that makes the same
# layers by itself; one setting for all where that is predicted to be better.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
says() { grep -q -- "$1" "$work/stderr" || { cat "$work/stderr"; fail "no word of '$1'"; }; }
options=("${common[@]}" --method voronoi --rounds 1 --kmeans-iterations 20 --bits 6 --allocate --hessian guided)
gptq=("${common[@]}" --method gptq --bits 3.2 --allocate --hessian guided)
trellis=("${common[@]}" --method trellis --bits 2.5 --state-bits 12 --trellis-sweeps 1 --allocate --hessian guided)

expect 0 "$VORONOI" plan "${options[@]}"
grep -q '^  allocate ' "$work/stdout" || fail "the plan does not know the stage"
grep -q 'an estimate' "$work/stdout" || fail "the plan does not say that it is an estimate"
grep -q "($((n_linears / 7)) blocks)" "$work/stdout" || fail "the plan has not all Hessians on disk"
expect 0 "$VORONOI" quantize --run "$work/dry" "${options[@]}" --dry-run
grep -q '^  allocate *to do' "$work/stdout" || fail "the dry run does not know the stage"
[ ! -e "$work/dry" ] || fail "a dry run wrote"

expect 0 ranks 1 quantize --run "$work/run" "${options[@]}" --keep-hessians
says "with one setting for all"
expect 0 "$VORONOI" verify "$work/run"
expect 0 ranks 1 quantize --run "$work/gptq" "${gptq[@]}" --hessians-from "$work/run"
expect 0 ranks 1 quantize --run "$work/trellis" "${trellis[@]}" --hessians-from "$work/run"
cat >"$work/check.py" <<'PY'
import json, re, sys
run, bits = sys.argv[1], float(sys.argv[2])
layers, allocated = {}, None
for line in open(f"{run}/journal.log", "rb").read().split(b"\n"):
    found = re.search(rb"\{.*\}", line)
    if not found:
        continue
    record = json.loads(found.group())
    if record["type"] == "layer":
        layers[record["name"]] = record
    if record["type"] == "allocated":
        assert allocated is None and not layers, "chosen twice, or behind a layer"
        allocated = record
assert allocated["linears"] == len(layers) == len(allocated["rules"]), (allocated, len(layers))
stored = sum(r["stored_bits"] for r in layers.values())
weights = sum(r["weights"] for r in layers.values())
assert weights == allocated["weights"]
assert abs(stored - allocated["stored_bits"]) <= (0.01 * stored if "gptq" in run else 0), "not what was divided"
assert 0.9 * bits < stored / weights <= bits, stored / weights
assert allocated["loss_rise"] < allocated["uniform_loss_rise"], allocated
assert len({rule.split(" ", 1)[1] for rule in allocated["rules"]}) > 1, "all take one setting"
PY
python3 "$work/check.py" "$work/run" 6 || fail "the division is not what was asked for"
python3 "$work/check.py" "$work/gptq" 3.2 || fail "the division is not what was asked for"
python3 "$work/check.py" "$work/trellis" 2.5 || fail "the division is not what was asked for"

for n in 2 3; do
  expect 0 ranks $n quantize --run "$work/ranks$n" "${options[@]}"
  cmp "$work/run/allocation.cfg" "$work/ranks$n/allocation.cfg" || fail "another choice on $n ranks"
  same_layers "$work/run" "$work/ranks$n"
done
[ -z "$(ls "$work/ranks2/hessians")" ] || fail "Hessians were left"
# By hand: the file alone, without a look.
expect 0 "$VORONOI" quantize --run "$work/again" "${common[@]}" --config "$work/run/allocation.cfg" --hessians-from "$work/run"
same_layers "$work/run" "$work/again"
expect 0 "$VORONOI" quantize --run "$work/gptq-again" "${common[@]}" --config "$work/gptq/allocation.cfg" --hessians-from "$work/run"
same_layers "$work/gptq" "$work/gptq-again"
# Killed while it quantizes, it goes on with what was chosen; in the stage before, it chooses the same.
for call in "rename layers/ 2" "rename allocation.cfg 1"; do
  rm -rf "$work/killed"
  start_held "$call" "$work/stderr" "$VORONOI" quantize --run "$work/killed" "${options[@]}" --hessians-from "$work/run"
  kill -9 $pid
  wait $pid || true
  expect 0 ranks 2 quantize --run "$work/killed"
  [ "$(grep -c '"type":"allocated"' "$work/killed/journal.log")" = 1 ] || fail "it was chosen twice"
  cmp "$work/run/allocation.cfg" "$work/killed/allocation.cfg" || fail "another choice after a kill"
  same_layers "$work/run" "$work/killed"
done

# A linear that a rule speaks of gets what that says; the file has the rule too.
expect 0 "$VORONOI" quantize --run "$work/ruled" "${gptq[@]}" --hessians-from "$work/run" --rule "*.v_proj quantize=false" --rule "*.o_proj bits=7"
[ "$(layers_done "$work/ruled")" = $((n_linears * 6 / 7)) ] || fail "a linear that is to stay was quantized"
grep -q '"type":"layer".*o_proj.*"nominal_bits":7' "$work/ruled/journal.log" || fail "a rule lost against the division"
! grep -q 'match = .*[0-9].*o_proj' "$work/ruled/allocation.cfg" || fail "bits were divided to a linear of a rule"
expect 0 "$VORONOI" quantize --run "$work/ruled-again" "${common[@]}" --config "$work/ruled/allocation.cfg" --hessians-from "$work/run"
same_layers "$work/ruled" "$work/ruled-again"

# With a single linear there is nothing to divide: it keeps the setting that it has anyway.
expect 0 "$VORONOI" quantize --run "$work/one" "${common[@]}" --method rtn --bits 3.2 --allocate --hessian guided --hessians-from "$work/run" \
  --rule "*.layers.[1-9].* bits=4" --rule "*.mlp.* bits=4" --rule "*.[kvo]_proj bits=4" --stages allocate,quantize
says "one setting for all it is"
grep -q '"type":"allocated","rules":\[\],"linears":1,' "$work/one/journal.log" || fail "that one setting is kept is not journalled"
[ "$(layers_done "$work/one")" = "$n_linears" ] || fail "not every linear was quantized"

# With groups of rows each row's error is measured in its group's Hessian: what all add to the loss is of one size with what it is without.
expect 0 "$VORONOI" quantize --run "$work/groups" "${options[@]}" --hessian-groups 2 --stages calibrate,allocate
python3 - "$work/run/journal.log" "$work/groups/journal.log" <<'PY' || fail "groups of rows change what errors are said to cost"
import json, sys
def rise(path):
    for line in open(path, "rb"):
        record = json.loads(line.split(b" ", 2)[2])
        if record["type"] == "allocated":
            return record["uniform_loss_rise"]
one, groups = map(rise, sys.argv[1:])
assert 0.5 < groups / one < 1.5 and groups != one, (one, groups)
PY

# The experts of a layer at the same place take one setting.
character_tokenizer "$work/characters.json"
expect 0 "$VORONOI" quantize --run "$work/experts" --model "$(tiny_model mixtral)" --tokenizer "$work/characters.json" --calibration-text "$calibration_text" \
  --calibration-sequences 16 --calibration-context 64 --method gptq --bits 5 --allocate --hessian guided
python3 - "$work/experts/journal.log" <<'PY' || fail "experts differ"
import collections, json, re, sys
places = collections.defaultdict(set)
for line in open(sys.argv[1], "rb"):
    record = json.loads(line.split(b" ", 2)[2])
    if record["type"] == "layer" and "experts" in record["name"]:
        places[re.sub(r"experts\.\d+", "experts.*", record["name"])].add(record["nominal_bits"])
assert places and all(len(bits) == 1 for bits in places.values()), places
PY

grep -q 'match = .*\.experts\.\*\.' "$work/experts/allocation.cfg" || fail "no rule is for all experts"

refused() {
  local word=$1
  shift
  expect 2 "$VORONOI" quantize --run "$work/never" "${common[@]}" "$@"
  says "$word"
}
refused "needs --bits" --method voronoi --allocate --hessian guided
refused "needs --hessian guided" --method voronoi --bits 6 --allocate --hessian plain
refused "not with sequential" --method voronoi --bits 6 --allocate --hessian guided --calibration sequential
refused "hessian-groups 2: --method gptq quantizes all rows" --method gptq --bits 6 --hessian guided --hessian-groups 2
refused "needs the stage allocate" --method voronoi --bits 6 --allocate --hessian guided --stages calibrate,quantize
refused "allocate needs --allocate" --method voronoi --bits 6 --hessian guided --stages calibrate,allocate,quantize
refused "without calibrate the Hessians must be there" --method voronoi --bits 6 --allocate --hessian guided --stages allocate
rm -r "$work/never"
refused "the least is" --method gptq --bits 2 --allocate --hessian guided
[ ! -e "$work/never" ] || fail "a refused start wrote"
expect 2 "$VORONOI" quantize --run "$work/run" "${common[@]}" --method voronoi --rounds 1 --kmeans-iterations 20 --bits 6 --hessian guided
says "allocated_bits"
printf 'method = gptq\nbits = 3\nallocate = true\n' >"$work/member.cfg"
expect 2 "$VORONOI" compare --out "$work/never" "${common[@]}" --hessian guided --member "$work/member.cfg"
says "allocation.cfg can be a --member"
echo ok
