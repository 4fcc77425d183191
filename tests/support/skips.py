#!/usr/bin/env python3
"""skips.py JUNIT: the tests that took longest in a run of ctest (--output-junit), and the table of what was skipped, and why.

A reason is a line `SKIP (machine): ...` or `SKIP (missing): ...` (tests/support/skip.sh, skip.h). With VORONOI_REQUIRE_ALL=1 a skip for any
other reason than the machine is a failure: exit status 1.
"""
import os
import re
import sys
import xml.etree.ElementTree

# Prefixes of tests that stand for themselves; the others are rooms of many small ones.
GROUPS = {"asan", "bench", "docs", "e2e", "emulated", "faults", "fuzz", "gpu", "house", "mpi", "package", "slurm", "tsan"}
REASON = re.compile(r"SKIP \((machine|missing)\): (.*)")


def skips(path):
    """(test, kind, reason) of each; a program of many cases may skip some of them and pass."""
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        output = case.findtext("system-out") or ""
        reasons = list(dict.fromkeys(REASON.findall(output)))
        yield from ((case.get("name"), kind, reason) for kind, reason in reasons)
        skipped = case.find("skipped")
        if not reasons and (skipped is not None or case.get("status") in ("notrun", "disabled")):
            said = skipped.get("message") if skipped is not None else None
            yield case.get("name"), "unstated", said or "it did not run"


def longest(path, number=12):
    """[(seconds, test)] of tests, and of all unit tests of a room together."""
    seconds = {}
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name")
        suite = name if name.split(".")[0] in GROUPS else name.split(".")[0] + ".*"
        seconds[suite] = seconds.get(suite, 0) + float(case.get("time"))
    return sorted(((time, name) for name, time in seconds.items()), reverse=True)[:number]


def main():
    print("longest:", ", ".join(f"{name} {time:.0f} s" for time, name in longest(sys.argv[1])))
    found = sorted(skips(sys.argv[1]), key=lambda skip: (skip[1], skip[2], skip[0]))
    by_reason = {}
    for name, kind, reason in found:
        by_reason.setdefault((kind, reason), []).append(name)
    print(f"skipped: {len({name for name, _, _ in found})} tests")
    for (kind, reason), names in by_reason.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        print(f"  {kind:9} {reason}\n            {', '.join(names[:3])}{more}")
    wrong = sum(kind != "machine" for _, kind, _ in found)
    if wrong and os.environ.get("VORONOI_REQUIRE_ALL") == "1":
        print("FAILED: nothing but the machine may be a reason to skip here (VORONOI_REQUIRE_ALL=1)")
        sys.exit(1)


main()
