#!/usr/bin/env bash
# The validation stage: its figures are those that eval has of the run; stopped, killed and resumed it has the same on any number of ranks.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
text=(--validate-text "$evaluation_text" --validate-join wikitext --validate-context 128 --validate-windows 12)
figures() { grep -hE '"(metric|value|stderr|n|reference)":' "$1"/evaluations/*.json; }
expect 0 ranks 2 quantize --run "$work/run" "${common[@]}" --method rtn --bits 3 "${text[@]}"
grep -q "validated: evaluation.txt: perplexity" "$work/stderr" || fail "no word of the figures"
[ "$(figures "$work/run" | grep -c '"metric": "kl"')" = 1 ] || fail "no divergence is kept"
grep -q '| kl |' "$work/run/report/report.md" || fail "the report lacks the divergence"
grep -q '"type":"stage_done".*validate' "$work/run/journal.log" || grep -q 'validate' "$work/run/journal.log" || fail "the journal lacks the stage"
figures "$work/run" >"$work/once"
# The same protocol, the same figures, from eval.
cp -r "$work/run" "$work/copy"
rm -r "$work/copy/evaluations"
expect 0 "$VORONOI" eval --model "$work/copy" --text "$evaluation_text" --join wikitext --context 128 --windows 12 --kl
figures "$work/copy" | cmp - "$work/once" || fail "eval has other figures than the stage"
# Stopped in the middle, killed in the middle, on another number of ranks.
for stop in "2 75" "1 137"; do
  read -r nth wanted <<<"$stop"
  rm -rf "$work/again"
  start_held "rename .windows $nth" "$work/held" "$VORONOI" quantize --run "$work/again" "${common[@]}" --method rtn --bits 3 "${text[@]}"
  if [ "$wanted" = 75 ]; then kill -USR1 $pid; else kill -KILL $pid; fi
  go_on
  code=0
  wait "$pid" || code=$?
  if [ "$wanted" = 75 ] && ! grep -q "stopped" "$work/held"; then wanted=0; fi  # its only batch was over
  [ $code = "$wanted" ] || { cat "$work/held"; fail "exit $code instead of $wanted"; }
  expect 0 ranks 3 quantize --run "$work/again"
  figures "$work/again" | cmp - "$work/once" || fail "other figures after a stop ($stop)"
done
# By name alone, later, of a run that was made without.
expect 0 "$VORONOI" quantize --run "$work/later" "${common[@]}" --method rtn --bits 3
[ ! -e "$work/later/evaluations" ] || [ -z "$(ls "$work/later/evaluations")" ] || fail "figures that nobody asked for"
expect 0 ranks 2 quantize --run "$work/later" "${common[@]}" --method rtn --bits 3 "${text[@]}" --stages validate,report
figures "$work/later" | cmp - "$work/once" || fail "other figures of a stage by name"
# Questions too.
mkdir -p "$work/qa/boolq"
python3 - "$evaluation_text" "$work/qa/boolq/rows.jsonl" <<'PYTHON'
import json, sys
text = open(sys.argv[1], encoding="utf-8").read().replace("\n", " ")
with open(sys.argv[2], "w", encoding="utf-8") as file:
    for i in range(20):
        file.write(json.dumps({"passage": text[31 * i:][:90], "question": text[17 * i + 5:][:20], "answer": i % 3 == 0}) + "\n")
PYTHON
expect 0 ranks 2 quantize --run "$work/later" "${common[@]}" --method rtn --bits 3 --stages validate,report --validate-tasks boolq --task-data "$work/qa" --validate-limit 15
grep -q "validated: boolq: acc .*(unquantized" "$work/stderr" || fail "no word of the questions"
grep -q '| boolq | acc |' "$work/later/report/report.md" || fail "the report lacks the questions"
expect 2 "$VORONOI" quantize --run "$work/bad" "${common[@]}" --validate-tasks boolq
expect 2 "$VORONOI" quantize --run "$work/bad" "${common[@]}" --validate-tasks winogrande --task-data "$work/qa"
# What cannot be done is said before any work.
expect 2 "$VORONOI" quantize --run "$work/bad" "${common[@]}" --stages validate
grep -q -- "--validate-text" "$work/stderr" || fail "no word of --validate-text"
head -c 300 "$evaluation_text" >"$work/short.txt"
expect 3 "$VORONOI" quantize --run "$work/bad" "${common[@]}" --validate-text "$work/short.txt"
grep -q "short.txt" "$work/stderr" || fail "the short text is not named"
expect 5 "$VORONOI" quantize --run "$work/bad" "${common[@]}" --validate-text "$work/none.txt"
[ ! -e "$work/bad" ] || fail "a run was begun all the same"
