# Shared by the tests of what is installed: BUILD (build folder), ROOT (project) come from ctest.
# shellcheck shell=bash
set -euo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
work=$(mktemp -d "${TMPDIR:-/tmp}/voronoi-package-XXXXXX")
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; exit 1; }
skip() { echo "SKIP: $*"; exit 77; }

# A model of random weights and a text, in DIR.
tiny_model() {
  python3 "$ROOT/tests/support/random_model.py" "$1/model" num_hidden_layers=1 hidden_size=32 intermediate_size=64
  for i in {1..60}; do echo "It is the $i. time that the quick brown fox jumps over the lazy dog, and it may be the last one."; done >"$1/text.txt"
}
# shellcheck disable=SC2034  # for the tests
calibration=(--calibration-sequences 2 --calibration-context 64 --method voronoi --centroids 16 --rounds 1)
# The sections and options of the man page FILE (compressed): those of PROGRAM's --help.
check_man_page() {
  local file=$1 program=$2 command option
  zcat "$file" >"$work/man"
  for command in $("$program" --help | awk '/^  [a-z]/ { print $1 }'); do
    grep -q "^.SH VORONOI ${command^^}\$" "$work/man" || fail "no $command in the man page"
    for option in $("$program" "$command" --help | sed -n 's/^  \(--[a-z0-9-]*\).*/\1/p'); do
      grep -qF -- ".B ${option//-/\\-}" "$work/man" || fail "no $command $option in the man page"
    done
  done
}
