#!/usr/bin/env bash
# Log-likelihoods of requests: the same answers on any number of ranks, from texts and from their ids, of a run too; stopped and killed in the
# middle it goes on; what is no request is named.
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"
python3 - "$evaluation_text" "$work" <<'PYTHON'
import json, sys
text = " ".join(open(sys.argv[1], encoding="utf-8").read().split())  # a piece of spaces alone may be no token
lines = []
for question in range(120):
    context = text[400 * question:400 * question + 40 + question]
    lines += [{"context": context, "continuation": text[n:n + 3 + n % 20]} for n in range(7 * question, 7 * question + 4)]
lines += [{"context": "", "continuation": text[:9]}, lines[5], {"text": text[:3000]}]
with open(sys.argv[2] + "/requests.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(line) + "\n" for line in lines)
PYTHON
requests=$work/requests.jsonl
score=(score --model "$work/model" --requests "$requests" --max-length 300)
expect 0 "$VORONOI" "${score[@]}"
cp "$work/stdout" "$work/answers"
[ "$(wc -l <"$work/answers")" = "$(wc -l <"$requests")" ] || fail "not an answer a request"
[ "$(sed -n 6p "$work/answers")" = "$(sed -n 482p "$work/answers")" ] || fail "equal requests have other answers"
for name in loglikelihood is_greedy tokens; do grep -q "\"$name\":" "$work/answers" || fail "no $name"; done
python3 - "$work/answers" <<'PYTHON' || fail "answers that cannot be"
import json, sys
answers = [json.loads(line) for line in open(sys.argv[1])]
# Of a text every token is scored, which takes more than one input.
sys.exit(not (all(a["loglikelihood"] < 0 for a in answers) and answers[-1]["tokens"] > 300 and all(a["tokens"] > 0 for a in answers)))
PYTHON
for n in 2 3; do
  expect 0 ranks $n "${score[@]}" --batch-packs $n
  cmp -s "$work/stdout" "$work/answers" || fail "other answers on $n ranks"
done

# Stopped and killed where it keeps what it has.
again=("$VORONOI" "${score[@]}" --out "$work/out/answers.jsonl" --batch-packs 1)
mkdir "$work/out"
for stop in "3 75" "2 137" "2 75"; do
  read -r nth wanted <<<"$stop"
  start_held "rename .windows $nth" "$work/stderr" "${again[@]}"
  if [ "$wanted" = 75 ]; then kill -USR1 $pid; else kill -KILL $pid; fi
  go_on
  ends "$wanted" "$work/stderr"
  [ ! -e "$work/out/answers.jsonl" ] || fail "answers of an interrupted command"
done
expect 0 ranks 2 "${again[@]:1}"
cmp -s "$work/out/answers.jsonl" "$work/answers" || fail "other answers after interruptions"
[ "$(ls "$work/out")" = answers.jsonl ] || fail "it left more than the answers: $(ls "$work/out")"

# Ids instead of texts, where the model has a tokenizer of characters.
printf '{"context_ids": [5, 6, 7], "continuation_ids": [8, 9]}\n{"context_ids": [5, 6, 7, 8], "continuation_ids": [9]}\n' >"$work/ids.jsonl"
expect 0 "$VORONOI" score --model "$work/model" --requests "$work/ids.jsonl"
[ "$(sed -n 's/.*"tokens":\([0-9]*\).*/\1/p' "$work/stdout" | tr '\n' ' ')" = "2 1 " ] || fail "tokens of ids: $(cat "$work/stdout")"

expect 0 "$VORONOI" quantize --run "$work/run" "${common[@]}" --method rtn --bits 3
expect 0 "$VORONOI" score --model "$work/run" --requests "$requests" --max-length 300
cmp -s "$work/stdout" "$work/answers" && fail "a run answers as its original"

# refused LINE WORDS...: as the second line of a file it is an error that says them.
refused() {
  local line=$1 word
  shift
  { head -n 1 "$requests"; echo "$line"; } >"$work/bad.jsonl"
  expect 3 "$VORONOI" score --model "$work/model" --requests "$work/bad.jsonl" --max-length 4
  for word in "bad.jsonl: line 2" "$@"; do grep -qF -- "$word" "$work/stderr" || fail "'$word' is not in: $(cat "$work/stderr")"; done
}
refused '{"context": "a"}' "is no request"
refused '{"context": "a", "continuation": 3}' "is no request"
refused '{"context": "a", "continuation": ""}' "empty continuation"
refused '{"context_ids": [1], "continuation_ids": [1, 2, 3, 4, 5]}' "5 tokens, more than the 4"
refused '{"context_ids": [1], "continuation_ids": [100000]}' "token id 100000"
refused "$(printf '{"text": "\xff"}')"
: >"$work/bad.jsonl"
expect 3 "$VORONOI" score --model "$work/model" --requests "$work/bad.jsonl"
grep -q "holds no requests" "$work/stderr" || fail "an empty file: $(cat "$work/stderr")"
expect 2 "$VORONOI" score --model "$work/model"
expect 5 "$VORONOI" score --model "$work/none" --requests "$requests"
expect 5 "$VORONOI" score --model "$work/model" --requests "$work/none"
echo "score: passed"
