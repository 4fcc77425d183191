#!/usr/bin/env bash
# A comparison gives each of its runs the bytes of a run of its own, on any number of ranks, however it was interrupted; its runs are runs like
# any other; bad options are told all at once.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
printf 'method = voronoi\nresidual-centroids = 16\nrounds = 8\n' >"$work/voronoi.cfg"
printf 'method = vptq\ndamping = 0.02\n' >"$work/vptq.cfg"
members=(rtn-2bit rtn-3bit gptq-2bit gptq-3bit voronoi vptq)
methods=(--methods "rtn,gptq" --bits "2,3" --member "$work/voronoi.cfg" --member "$work/vptq.cfg")
options=("${common[@]}" "${methods[@]}" --hessian-window 2)
evaluation=(--text "$evaluation_text" --context 128 --windows 4)
# Each by itself.
for run in "${members[@]}"; do
  case $run in
    *bit) settings=(--method "${run%-*}" --bits "${run//[^0-9]/}") ;;
    *) settings=(--config "$work/$run.cfg") ;;
  esac
  expect 0 "$VORONOI" quantize --run "$work/alone/$run" "${common[@]}" "${settings[@]}"
done
same_runs() {  # OUT
  local run
  for run in "${members[@]}"; do same_layers "$work/alone/$run" "$1/$run"; done
  [ -z "$(ls "$1/hessians")" ] || fail "$1 keeps Hessians that nobody needs"
}

for n in 1 2 3; do
  out=$work/compare$n
  expect 0 ranks $n compare --out "$out" "${options[@]}" "${evaluation[@]}"
  same_runs "$out"
done
# The table: the unquantized model, then all runs by their bits; the same figures as eval's, and the same in each form.
cp "$work/stdout" "$work/table"
for run in unquantized "${members[@]}"; do
  grep -q "^$run " "$work/table" && grep -q "^| $run |" "$out/compare.md" && grep -q "^$run," "$out/compare.csv" || fail "$run is not in the table"
done
[ -f "$out/report/report.md" ] && [ -f "$out/voronoi/report/report.md" ] || fail "no report"
python3 - "$out/compare.svg" <<'PYTHON' || fail "the picture is wrong"
import sys, xml.etree.ElementTree
texts = ["".join(element.itertext()) for element in xml.etree.ElementTree.parse(sys.argv[1]).iter()]
assert "evaluation.txt: perplexity over true bits a weight, less is better" in texts, texts
for method in ("rtn", "gptq", "vptq", "voronoi"):
    assert method in texts and any(text.startswith(method + " ") and " true bits a weight" in text for text in texts), (method, texts)
PYTHON
rm "$out"/gptq-2bit/evaluations/*.json
expect 0 "$VORONOI" eval --model "$out/gptq-2bit" "${evaluation[@]}" --json
python3 - "$out/compare.csv" "$work/stdout" <<'PYTHON' || fail "the table is wrong"
import csv, json, sys
rows = list(csv.DictReader(open(sys.argv[1], newline="")))
assert rows[0]["run"] == "unquantized", rows[0]
bits = [float(row["bits_true"]) for row in rows[1:]]
assert bits == sorted(bits) and len(bits) == 6, bits
figure = next(json.loads(line) for line in open(sys.argv[2]))
row = next(row for row in rows if row["run"] == "gptq-2bit")
assert float(row["perplexity_evaluation.txt"]) == figure["perplexity"], (row, figure)
assert float(rows[0]["perplexity_evaluation.txt"]) == figure["reference_perplexity"], rows[0]
assert float(row["bits_true"]) == figure["bits_true"] and float(row["seconds"]) > 0 and int(row["peak_memory"]) > 0, row
PYTHON

# Its runs are runs; the directory itself is none, and says so.
expect 0 "$VORONOI" verify "$out/vptq"
expect 0 "$VORONOI" export "$out/voronoi" --out "$work/exported"
expect 0 "$VORONOI" status "$out/rtn-3bit"
grep -q "finished, method rtn" "$work/stdout" || { cat "$work/stdout"; fail "the status of a run"; }
expect 0 "$VORONOI" status "$out"
grep -q "layers  $((6 * n_linears)) of $((6 * n_linears)) done" "$work/stdout" || { cat "$work/stdout"; fail "the status of the job"; }
expect 3 "$VORONOI" eval --model "$out" "${evaluation[@]}"
grep -q "name one of the run directories in it" "$work/stderr" || { cat "$work/stderr"; fail "no word that it is a comparison"; }
expect 2 "$VORONOI" quantize --run "$out"
grep -q "voronoi compare --out $out" "$work/stderr" || { cat "$work/stderr"; fail "no command to go on with"; }
# One that lost a layer goes on by itself, and so does the job; nothing else is made again.
rm "$out/voronoi/layers/$(ls "$out/voronoi/layers" | head -n 1)"
expect 0 ranks 2 quantize --run "$out/voronoi"
same_layers "$work/alone/voronoi" "$out/voronoi"
rm "$out/gptq-3bit/layers/$(ls "$out/gptq-3bit/layers" | tail -n 1)"
expect 0 ranks 2 compare --out "$out"
same_runs "$out"
[ "$(layers_done "$out/gptq-3bit")" = $((n_linears + 1)) ] && [ "$(layers_done "$out/rtn-2bit")" = "$n_linears" ] || fail "finished layers were made again"
# Another text is all that is evaluated when it is asked for, under a name that the table has.
cp -r "$out" "$work/before"
expect 0 ranks 2 compare --out "$out" --text "$evaluation_text" --text "$technical_text" --text-names evaluation.txt,W2
python3 - "$work/before" "$out" <<'PYTHON' || fail "what was evaluated was evaluated again"
import glob, json, sys
def figures(out):
    return {(result["label"], result["task"], result["metric"]): result["seconds"]
            for file in glob.glob(out + "/*/evaluations/*.json") for result in json.load(open(file))["results"]}
before, after = (figures(out) for out in sys.argv[1:])
assert len(before) == 6 and len(after) == 12, (before, after)
assert all(after[key] == seconds for key, seconds in before.items()), (before, after)
PYTHON
grep -q "| W2 |" "$out/compare.md" || fail "the table does not know the text by its name"

# A later one may have more runs.
expect 0 "$VORONOI" compare --out "$work/compare1" --methods rtn --bits 2,4
[ "$(layers_done "$work/compare1/rtn-4bit")" = "$n_linears" ] && [ "$(layers_done "$work/compare1/rtn-2bit")" = "$n_linears" ] || fail "a run was not added"

# A preset, and a part of it: its settings, its figures, and what papers say beside them.
expect 0 ranks 2 compare --out "$work/paper" "${common[@]}" --preset paper --methods rtn,awq --bits 4 "${evaluation[@]}" --text-names W2
[ "$(cd "$work/paper" && echo *bit)" = "awq-4bit rtn-4bit" ] || fail "other runs than a part of the preset: $(ls "$work/paper")"
grep -q '"group-size": 128' "$work/paper/rtn-4bit/run.json" || fail "the preset's settings: $(cat "$work/paper/rtn-4bit/run.json")"
for words in "| W2 | kl W2 | relative error | minutes | peak memory |" "## Quoted from papers, not measured here" "| LLaMA-2-70B | vptq, tuned | 2.07 |"; do
  grep -qF -- "$words" "$work/paper/compare.md" || { cat "$work/paper/compare.md"; fail "not in the table: $words"; }
done
grep -q "^LLaMA-2-7B,gptq,3,4096,8.06,10.61,53.1,\"by others" "$work/paper/quoted.csv" || { cat "$work/paper/quoted.csv"; fail "no quoted figures"; }
grep -q "Quoted from papers" "$work/paper/report/report.html" || fail "the page has no quoted figures"
expect 2 "$VORONOI" compare --out "$work/none" "${common[@]}" --preset paper --methods bitdistiller
grep -q "paper has none of --methods bitdistiller" "$work/stderr" || { cat "$work/stderr"; fail "no word of what the preset has"; }

# Killed at any moment, on other ranks the same.
ranks_of() {
  local pid
  for pid in $(pgrep -f -- "--out $1 " || true); do
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$(basename "$VORONOI")" ]; then echo "$pid"; fi
  done
}
caught=0
for round in 1 2 3; do
  out=$work/killed$round
  timeout -k 5 120 mpirun --bind-to none -n $((round % 2 + 1)) "$VORONOI" compare --out "$out" "${options[@]}" >/dev/null 2>&1 &
  launcher=$!
  if hold "$out" has_layers "$out/voronoi" $((round * 6)); then
    kill -9 "$(ranks_of "$out" | head -n 1)"
    release "$out"
    caught=$((caught + 1))
  fi
  wait $launcher || true
  expect 0 ranks $((3 - round % 2)) compare --out "$out" "${options[@]}"
  same_runs "$out"
done
[ $caught -ge 2 ] || fail "only $caught of 3 jobs were caught alive"
# A stop on request, then from its directory alone.
out=$work/stopped
start_held "rename voronoi/layers/ 2" "$work/stderr" "$VORONOI" compare --out "$out" "${options[@]}" "${evaluation[@]}"
kill -USR1 $pid
go_on
ends 75 "$work/stderr"
grep -q "voronoi compare --out $out" "$work/stderr" || { cat "$work/stderr"; fail "no word on how to resume"; }
grep -q '"type":"stopped"' "$out/rtn-2bit/journal.log" || fail "a run does not know that it was stopped"
expect 0 ranks 2 compare --out "$out"
same_runs "$out"
[ -f "$out/compare.md" ] || fail "what is to be evaluated was forgotten"

# A weight that cannot be used strikes its linear in each run.
cp -r "$work/model" "$work/damaged"
python3 - "$work/damaged/model.safetensors" <<'PYTHON'
import json, struct, sys
with open(sys.argv[1], "r+b") as file:
    length = struct.unpack("<Q", file.read(8))[0]
    tensor = json.loads(file.read(length))["model.layers.0.mlp.down_proj.weight"]
    file.seek(8 + length + tensor["data_offsets"][0])
    file.write({"F32": b"\x00\x00\xc0\x7f", "F16": b"\x00\x7e", "BF16": b"\xc0\x7f"}[tensor["dtype"]])
PYTHON
expect 4 ranks 2 compare --out "$work/failed" --model "$work/damaged" "${common[@]:2}" --methods rtn,gptq --bits 2
for run in rtn-2bit gptq-2bit; do
  [ "$(layers_done "$work/failed/$run")" = $((n_linears - 1)) ] || fail "$run lost more than the one linear"
  grep -q '"type":"layer_failed"' "$work/failed/$run/journal.log" || fail "$run does not tell what it lost"
done

# All problems at once, each with the runs that have it; nothing is written.
printf 'method = rtn\ncalibration-sequences = 3\n' | tee "$work/strange.cfg" >"$work/logs.cfg"
expect 2 "$VORONOI" compare --out "$work/none" --model "$work/model" --methods rtn,rtm --bits 2,2.5 --member "$work/strange.cfg" --member "$work/logs.cfg" --windows x
for words in "rtn-2.5bit: --bits: rtn codes have whole bits" "rtm-2bit, rtm-2.5bit: --method: must be one of" "--calibration-text: is missing" \
  "logs: is a directory of the comparison itself" "calibration-sequences is the same for all runs; give it to compare" "--windows: "; do
  grep -qF -- "$words" "$work/stderr" || { cat "$work/stderr"; fail "not told: $words"; }
done
expect 2 "$VORONOI" compare --out "$work/none" "${common[@]}" --methods rtn,voronoi --bits 0.5
grep -q "rtn-0.5bit: " "$work/stderr" || { cat "$work/stderr"; fail "no word of the bits"; }
expect 3 "$VORONOI" compare --out "$work/none" "${options[@]}" --text "$work/voronoi.cfg" --context 2000
[ ! -e "$work/none" ] || fail "a refused comparison left something"
