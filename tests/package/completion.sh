#!/usr/bin/env bash
# completion.sh FILE PROGRAM: what bash offers behind `voronoi ...` once FILE is sourced, held against what PROGRAM itself says.
set -u
file=$1 program=$2
# shellcheck disable=SC1090
. "$file"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/runs"
touch "$work/text.txt"
cd "$work" || exit 1

sorted() { tr ' ' '\n' <<<"$1" | LC_ALL=C sort | paste -sd' '; }
offered() {  # WORDS...: the candidates for the last one
  COMP_WORDS=(voronoi "$@")
  COMP_CWORD=$#
  _voronoi
  echo "${COMPREPLY[*]}"
}
failures=0
same() {  # EXPECTED WORDS...
  local expected=$1 got
  shift
  got=$(sorted "$(offered "$@")")
  expected=$(sorted "$expected")
  [ "$got" = "$expected" ] || { echo "FAILED: voronoi $*: offers '$got' instead of '$expected'"; failures=$((failures + 1)); }
}
complete -p voronoi | grep -q -- '-F _voronoi' || { echo "FAILED: nothing completes voronoi"; exit 1; }
same "status" sta
same "--version" --v
same "quantize" quant
same "--calibration --calibration-text --calibration-sequences --calibration-context --calibration-held-out --calibration-weights --calibration-preset --calibration-data --calibration-duplicates --calibration-experts" quantize --calibration
same "text.txt" eval --text te
same "runs" status ru
same "runs text.txt" inspect ""
same "" quantize --seed ""
same "--watch" status --w
same "true false" quantize --act-order ""
same "vptq" quantize --method vp
same "vptq" quantize --method = vp  # as bash cuts --method=vp
same "calibrate,export" quantize --stages calibrate,ex
same "" unknown --

# Every command and option of --help, and of an option with choices exactly those that the program takes.
n_options=0 n_choices=0
for command in $("$program" --help | awk '/^  [a-z]/ { print $1 }'); do
  same "$command" "$command"
  while read -r option kind; do
    n_options=$((n_options + 1))
    case " $(offered "$command" "$option") " in *" $option "*) ;; *) echo "FAILED: $command $option is not offered"; failures=$((failures + 1)) ;; esac
    [ "$kind" = NAME ] || continue
    n_choices=$((n_choices + 1))
    taken=$("$program" "$command" "$option" no-such-choice 2>&1 | sed -n "s/.*$option: must be one of \(.*\), not 'no-such-choice'.*/\1/p")
    [ -n "$taken" ] || { echo "FAILED: $command $option: the program names no choices"; failures=$((failures + 1)); }
    same "${taken//,/}" "$command" "$option" ""
  done < <("$program" "$command" --help | sed -n 's/^  \(--[a-z0-9-]*\) *\([A-Z=]*\).*/\1 \2/p')
done
if [ $n_options -le 50 ] || [ $n_choices -le 5 ]; then echo "FAILED: only $n_options options, $n_choices with choices were seen"; exit 1; fi
[ $failures = 0 ] || exit 1
echo "completion: $n_options options, $n_choices with choices"
