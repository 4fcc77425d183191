"""plan_time.py PLAN.json JOURNAL TOKENS SECONDS: predicted and measured seconds of each stage, planned and counted operations.

SECONDS, where they are not 0, are those of an evaluation on TOKENS tokens; a plan's is on those of WikiText-2's test split."""
import json
import re
import sys

EVALUATED_TOKENS = 340e3
KINDS = ("gemm_flops", "nearest_flops", "seeding_flops", "factor_flops", "gram_flops")


def percent(predicted, measured):
    return f"{100 * (predicted / measured - 1):+.0f} %" if measured else "-"


def main(plan_file, journal, tokens, seconds):
    plan = json.load(open(plan_file))
    predicted, measured, counted = {}, {}, {}
    for stage in plan["stages"]:
        name = "quantize" if stage["stage"] == "write layers" else stage["stage"].split(":")[0]
        predicted[name] = predicted.get(name, 0) + stage["seconds"]
    for line in open(journal, "rb").read().split(b"\n"):
        found = re.search(rb"\{.*\}", line)
        record = json.loads(found.group()) if found else {}
        if record.get("type") == "stage":
            measured[record["stage"]] = measured.get(record["stage"], 0) + record["seconds"]
        if record.get("type") == "work":
            stage = counted.setdefault(record["stage"], {})
            for name, amount in record["counts"].items():
                stage[name] = stage.get(name, 0) + amount
    if float(seconds) > 0:
        measured["evaluate, original too"] = float(seconds)
        predicted["evaluate, original too"] *= float(tokens) / EVALUATED_TOKENS
    both = [(name, predicted[name], seconds) for name, seconds in measured.items() if name in predicted]
    both.append(("all of these", sum(p for _, p, _ in both), sum(m for _, _, m in both)))
    for name, expected, seconds in both:
        print(f"  {name:22} predicted {expected:7.2f} s, measured {seconds:7.2f} s: {percent(expected, seconds)}")
    for stage, kinds in plan["work"].items():
        for kind in KINDS:
            seen = counted.get(stage, {}).get(kind, 0)
            if seen and kinds.get(kind, 0):
                print(f"  {stage:10} {kind:14} planned {kinds[kind]:9.3g}, counted {seen:9.3g}: {percent(kinds[kind], seen)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
