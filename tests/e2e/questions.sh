#!/usr/bin/env bash
# Questions: figures of a run beside its original, the same on any number of ranks and after interruptions; a task of one's own; rows at fault.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
python3 - "$evaluation_text" "$work/qa" <<'PYTHON'
import json, os, sys
text = open(sys.argv[1], encoding="utf-8").read().replace("\n", " ")
piece = lambda at, n: text[at % 40000:][:n].strip() or "empty"
def rows(task, make, n=40):
    os.makedirs(f"{sys.argv[2]}/{task}")
    with open(f"{sys.argv[2]}/{task}/rows.jsonl", "w", encoding="utf-8") as file:
        file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in map(make, range(n)))
rows("boolq", lambda i: {"passage": piece(31 * i, 90), "question": piece(17 * i, 20), "answer": i % 3 == 0})
rows("arc_easy", lambda i: {"question": piece(53 * i, 60), "choices": {"text": [piece(71 * i + j, 9 + 3 * j) for j in range(3 + i % 3)],
                                                                       "label": list("ABCDE")[:3 + i % 3]}, "answerKey": "ABC"[i % 3]})
rows("piqa", lambda i: '{"goal": "x"}' if i == 7 else {"goal": piece(i, 30), "sol1": piece(91 * i, 20), "sol2": piece(93 * i, 25)})
open(f"{sys.argv[2]}/piqa/rows-labels.lst", "w").writelines(f"{i % 2}\n" for i in range(40))
rows("last", lambda i: {"text": piece(37 * i, 50), "word": piece(37 * i + 50, 4)}, 12)
json.dump({"task": "last", "data": "last/*.jsonl", "context": "{text}", "continuation": "{word}", "delimiter": "", "metrics": ["acc", "perplexity"]},
          open(f"{sys.argv[2]}/last.json", "w"))
PYTHON
tasks=(--tasks "arc_easy,piqa,boolq" --task-data "$work/qa")
plain() { sed 's/"seconds":[^,}]*//' "$1"; }
value() { grep "\"task\":\"$1\",\"metric\":\"$2\"" "$work/stdout" | sed -n 's/.*"value":\([^,}]*\).*/\1/p'; }
expect 0 "$VORONOI" quantize --run "$work/run" "${common[@]}" --method rtn --bits 3
expect 0 "$VORONOI" eval --model "$work/run" "${tasks[@]}" --json
plain "$work/stdout" >"$work/one"
grep -q "piqa/rows.jsonl: line 8.*left out" "$work/stderr" || fail "no word of the row at fault"
[ "$(wc -l <"$work/one")" = 7 ] || fail "not a line a figure: $(cat "$work/one")"
grep '"task":"piqa","metric":"acc"' "$work/one" | grep -q '"n":39,.*"left_out":1' || fail "the row at fault is not counted"
grep '"task":"boolq"' "$work/one" | grep -q '"stderr":[0-9].*"limit":null,"shots":0,"bos":"none".*"reference":[0-9]' || fail "no reference or protocol: $(cat "$work/one")"
awk -v a="$(value arc_easy acc)" -v b="$(value piqa acc)" -v c="$(value boolq acc)" -v m="$(value mean acc)" \
  'BEGIN { d = (a + b + c) / 3 - m; exit !(d * d < 1e-20) }' || fail "the mean is none"
for format in md json; do grep -q "arc_easy" "$work/run/report/report.$format" || fail "report.$format has no questions"; done
rm -rf "$work/run/evaluations"
expect 0 ranks 3 eval --model "$work/run" "${tasks[@]}" --json
[ "$(plain "$work/stdout")" = "$(cat "$work/one")" ] || fail "other figures on 3 ranks"
# Stopped and killed where answers are kept: of the reference, then of the run.
rm -rf "$work/run/evaluations"
for stop in "1 75" "2 137"; do
  read -r nth wanted <<<"$stop"
  start_held "rename .windows $nth" "$work/stderr" "$VORONOI" eval --model "$work/run" "${tasks[@]}" --json --batch-windows 1
  if [ "$wanted" = 75 ]; then kill -USR1 $pid; else kill -KILL $pid; fi
  go_on
  ends "$wanted" "$work/stderr"
  [ ! -s "$work/stdout" ] || fail "figures of an interrupted evaluation"
done
expect 0 ranks 2 eval --model "$work/run" "${tasks[@]}" --json
[ "$(plain "$work/stdout")" = "$(cat "$work/one")" ] || fail "other figures after an interruption"
[ "$(ls "$work"/run/evaluations/*.windows | wc -l)" = 6 ] || fail "answers to three tasks are not kept, those of the reference and of the run"
expect 0 "$VORONOI" eval --model "$work/run" "${tasks[@]}" --text "$evaluation_text" --context 128 --windows 2
for word in "perplexity" "arc_easy .*acc_norm .*questions" "39 questions, 1 left out" "mean "; do
  grep -q "$word" "$work/stdout" || fail "'$word' is not in: $(cat "$work/stdout")"
done

expect 0 "$VORONOI" eval --model "$work/model" --tasks "boolq,$work/qa/last.json" --task-data "$work/qa" --limit 10 --shots 1 --json
grep -q '"task":"boolq","metric":"acc".*"n":10,.*"limit":10,"shots":1' "$work/stdout" || fail "limit or shots: $(cat "$work/stdout")"
awk -v p="$(value last perplexity)" 'BEGIN { exit !(p > 1) }' || fail "a task of one's own: $(cat "$work/stdout")"

expect 2 "$VORONOI" eval --model "$work/model" --tasks arc --task-data "$work/qa"
grep -q "winogrande" "$work/stderr" || fail "the tasks there are are not told: $(cat "$work/stderr")"
expect 2 "$VORONOI" eval --model "$work/model" --tasks winogrande --task-data "$work/qa"
expect 2 "$VORONOI" eval --model "$work/model" --tasks boolq
expect 2 "$VORONOI" eval --model "$work/model" --task-data "$work/qa" --text "$evaluation_text"
echo '{"question": 3}' >"$work/qa/boolq/rows.jsonl"
expect 3 "$VORONOI" eval --model "$work/model" --tasks boolq --task-data "$work/qa"
grep -q "boolq/rows.jsonl: has no row that the task boolq can ask" "$work/stderr" || fail "no row: $(cat "$work/stderr")"
echo "questions: passed"
