# shellcheck shell=bash
# skip KIND REASON...: leaves the test as skipped (77). KIND is `machine` for what no package or file would change here (no GPU, no right to
# mount), `missing` for a program or data that could be here, which fails where all tests are required (VORONOI_REQUIRE_ALL=1). The line
# that it prints is what tests/support/skips.py collects; tests/support/skip.h has the same for GoogleTest.
skip() {
  echo "SKIP ($1): ${*:2}"
  if [ "$1" != machine ] && [ "${VORONOI_REQUIRE_ALL:-}" = 1 ]; then
    echo "FAILED: nothing may be missing here (VORONOI_REQUIRE_ALL=1)"
    exit 1
  fi
  exit 77
}
