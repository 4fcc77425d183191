#!/usr/bin/env bash
# What a run tells while it works and when it ends: status in the middle of a long block and behind a stop, metrics, logs as JSON, and
# commands that need no MPI.
. "$(dirname "$0")/common.sh"
options=("${common[@]}" --method voronoi --residual-centroids 16 --hessian-window 2)
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" <<<"$2" | head -n 1; }
run=$work/run

# The first block stops before its first Hessian is published, for as long as the test wants.
# wait_for CONDITION...: polls for 60 s.
wait_for() {
  local end=$((SECONDS + 60))
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "not within the time: $*"
    sleep 0.05
  done
}
start_held "rename hessians/block_000 1" "$work/log" "$VORONOI" quantize --run "$run" "${options[@]}" --log-format json --log-level debug
updated() { field updated "$(cat "$run/status.json")"; }
changed() { [ "$(updated)" != "$1" ]; }
wait_for test -s "$run/status.json"
for _ in 1 2 3; do wait_for changed "$(updated)"; done
one=$("$VORONOI" status "$run" --json)
[ "$(field state "$one")" = '"running"' ] || fail "the held block reads as $one"
[ "$(field doing "$one")" = '"block 1/5"' ] || fail "no word of the first block: $one"
awk -v a="$(field eta_seconds "$one")" 'BEGIN { exit !(a > 0) }' || fail "no time left in the first block: $one"
"$VORONOI" status "$run" | grep -q "now     calibrate, block 1/5" || fail "status does not show the block"
"$VORONOI" status "$run" | grep -q "^  calibrate  *\[#*-*\]  *[0-9]* %  \(about .* left\|longer than predicted\)$" || { "$VORONOI" status "$run"; fail "no bar of the stage"; }
"$VORONOI" status --all "$work" >"$work/all"
grep -q "^run  *running  *calibrate  *[0-9]* %  .*  0 of $n_linears  .*  -$" "$work/all" || { cat "$work/all"; fail "the held run among others"; }
# Watched where nothing can be drawn again, and on a terminal, until the run has ended.
"$VORONOI" status "$run" --watch >"$work/watched" &
watcher=$!
script -qefc "\"$VORONOI\" status \"$run\" --watch" "$work/terminal" >/dev/null </dev/null &
terminal=$!
wait_for grep -q "left" "$work/watched"
wait_for grep -q "left" "$work/terminal"
grep -q "voronoi_ranks_alive{.*} 1$" "$run/metrics.prom" || fail "metrics of the held block"
kill -USR1 $pid
go_on
ends 75 "$work/log"
one=$("$VORONOI" status "$run" --json)
[ "$(field state "$one")" = '"stopped"' ] || fail "behind a stop: $one"
wait $watcher || fail "status --watch"
wait $terminal || fail "status --watch on a terminal"
head -n 1 "$work/watched" | grep -q "^[0-9]* %: calibrate, 0 of $n_linears layers done, block 1/5; calibrate .*; quantize about .* left" || fail "the first line watched: $(head -n 1 "$work/watched")"
tail -n 1 "$work/watched" | grep -q "^  resume  " || fail "the last line watched: $(tail -n 1 "$work/watched")"
[ "$(grep -c $'\033' "$work/watched")" = 0 ] || fail "controls of a terminal in a file"
grep -q $'^\033\\[H\033\\[J.*: running' "$work/terminal" || fail "a terminal that is not drawn again"
grep -q "voronoi_ranks_alive{.*} 0$" "$run/metrics.prom" || fail "metrics behind the stop"
"$VORONOI" quantize --run "$run" "${options[@]}" --log-format json --log-level debug >/dev/null 2>>"$work/log"
[ "$(field state "$("$VORONOI" status "$run" --json)")" = '"finished"' ] || fail "not finished"

# Many runs: one that is over, one that is no longer a run, one deep below; links and what is no run are passed by.
mkdir -p "$work/many/deep/deeper"
cp -r "$run" "$work/many/deep/deeper/over"
mkdir "$work/many/spoilt" "$work/many/other"
echo '{}' >"$work/many/spoilt/run.json"
ln -s "$run" "$work/many/link"
expect 0 "$VORONOI" status --all "$work/many"
diff <(sed 's/  */ /g; s/\(unreadable - - - - - \).*/\1?/; s/\(100 % - [^ ]* of [^ ]*\) .* -$/\1 ? -/' "$work/stdout") - <<TEXT || fail "the table of many runs"
run state stage done left layers bits problems
deep/deeper/over finished - 100 % - $n_linears of $n_linears ? -
spoilt unreadable - - - - - ?
TEXT
[ "$("$VORONOI" status --all "$work/many" --json | wc -l)" = 2 ] || fail "an object a run"
expect 2 "$VORONOI" status --all "$work/many/other"
expect 2 "$VORONOI" status --all "$work/many" "$run"
expect 2 "$VORONOI" status
python3 - "$work/log" <<'PY'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
for line in lines:
    assert list(line) == ["time", "level", "rank", "message"], line
finished = [line for line in lines if line["level"] == "debug" and "bits a weight, relative error" in line["message"]]
assert len(finished) == 35, len(finished)
PY
expect 2 "$VORONOI" quantize --log-format json --no-such-option
python3 -c 'import json, sys; assert json.loads(sys.stdin.readline())["level"] == "error"' <"$work/stderr" || fail "an error that is no JSON"

# Commands that need no MPI start where it cannot, and once under a launcher.
for command in "--version" "--help" "quantize --help" "status $run" "inspect $run" "report $run --out $work/report" "verify $run"; do
  # shellcheck disable=SC2086  # words
  OMPI_MCA_btl=none PMIX_MCA_gds=none expect 0 "$VORONOI" $command
  cp "$work/stdout" "$work/alone"
  # shellcheck disable=SC2086
  expect 0 ranks 3 $command
  [ "$(grep -c . "$work/stdout")" = "$(grep -c . "$work/alone")" ] || fail "told more than once under mpirun: $command"
done
expect 2 ranks 3 report
[ "$(grep -c "which runs" "$work/stderr")" = 1 ] || fail "an error is told more than once under mpirun"

# Lines of several ranks in one file that is no terminal stay whole: with Hessians so singular that both ranks warn all the time, and in
# evaluations whose ranks all warn of a model's stray tensor, as text and as JSON.
python3 - "$work/model" "$work/stray" <<'PY'
import json, shutil, struct, sys
shutil.copytree(sys.argv[1], sys.argv[2])
path = sys.argv[2] + "/model.safetensors"
data = open(path, "rb").read()
size = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + size])
end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
header["stray.weight"] = {"dtype": "F32", "shape": [4], "data_offsets": [end, end + 16]}
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
open(path, "wb").write(struct.pack("<Q", len(text)) + text + data[8 + size:] + bytes(16))
PY
for format in text json; do
  ranks 2 quantize --run "$work/warned-$format" --model "$work/stray" "${common[@]:2:2}" --calibration-sequences 1 --calibration-context 16 \
    --method rtn --damping 1e-12 --log-format $format >/dev/null 2>"$work/$format.log" || fail "the run whose ranks warn"
  for _ in 1 2 3; do
    ranks 2 eval --model "$work/stray" --model "$work/warned-$format" --text "$evaluation_text" --join wikitext --context 64 --windows 32 --log-format $format \
      >/dev/null 2>>"$work/$format.log" || fail "the evaluation whose ranks warn"
  done
done
python3 - "$work/text.log" "$work/json.log" <<'PY' || fail "lines of two ranks are mixed"
import json, re, sys
WHOLE = re.compile(r"(computing on the CPU .* for it|export is left out: .* of --stages|(calibrating|quantizing|evaluating): .*left.*|quantization finished|"
                   r"peak memory of a rank: .*B|.*: \d+ layers, .* in all starts|quantizing \(rtn\): .* layers.*|"
                   r"calibration text .*: \d+ windows, \d+ tokens, of \d+ in the text.*|calibrated .* tokens a second through a block.*|"
                   r"warning: not exported: export: --group-size 64 does not divide .*|"
                   r"(rank 1: )?warning: (block \d [a-z_]+: the Hessian needed a damping of \S+ of its mean diagonal to factor|"
                   r".*: 1 tensors are not part of a llama model and are not read; the first is .*stray\.weight.*)|report: .*/report\.html)")
STARTS = re.compile(r"warning: |computing on |calibration text |export is left out|calibrating: |quantizing \(|evaluating: |quantization finished|peak memory |report: ")
ranks, n = set(), 0
for line in open(sys.argv[1]).read().split("\n")[:-1]:
    n += 1
    assert WHOLE.fullmatch(line) and len(STARTS.findall(line)) <= 1, line
    if "warning: " in line:
        ranks.add(line.startswith("rank 1"))
assert ranks == {False, True} and n > 25, (ranks, n)
ranks = set()
for line in open(sys.argv[2]).read().split("\n")[:-1]:
    line = json.loads(line)
    assert list(line) == ["time", "level", "rank", "message"], line
    ranks.add(line["rank"])
assert ranks == {0, 1}, ranks
PY
