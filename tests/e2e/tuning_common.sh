# shellcheck shell=bash disable=SC2034  # used by the scripts that source this
# Shared by the tests of tuning: three blocks of the model, a first, a last and one between; what the journal says of a phase; kills.
# shellcheck source=common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
sed -i 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 3/' "$work/model/config.json"
n_linears=21

# ended RUN PHASE FIELD: of the record of the end of a phase.
ended() { grep '"type":"tuning_ended"' "$1/journal.log" | grep "\"phase\":\"$2\"" | sed -n "s/.*\"$3\":\([^,}]*\).*/\1/p"; }
perplexity() { "$VORONOI" eval --model "$1" --text "$evaluation_text" --context 128 --windows 6 --json 2>/dev/null | sed -n 's/.*"perplexity":\([0-9.]*\).*/\1/p' | tail -n 1; }
less() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }
records() { local n; n=$(grep -c "\"type\":\"$2\"" "$1/journal.log" 2>/dev/null || true); [ "${n:-0}" -ge "$3" ]; }
points() { local n; n=$(grep '"type":"tuning_point"' "$1/journal.log" 2>/dev/null | grep -c "\"phase\":\"$2\"" || true); [ "${n:-0}" -ge "$3" ]; }
# killed RUN "CONDITION WORDS..." OPTIONS...: two ranks of it, one of which dies once the condition holds; false when it was over before.
killed() {
  local run=$1 condition victims launcher caught=1
  read -ra condition <<<"$2"
  shift 2
  timeout -k 5 120 mpirun --bind-to none -n 2 "$VORONOI" quantize --run "$run" "$@" >/dev/null 2>&1 &
  launcher=$!
  if hold "$run" "${condition[0]}" "$run" "${condition[@]:1}"; then
    mapfile -t victims < <(ranks_of "$run")
    kill -9 "${victims[0]}"
    release "$run"
    caught=0
  fi
  wait $launcher || true
  return $caught
}
