"""A plan's bytes, passes and operations against those that a run journalled: plan_counts.py PLAN.json JOURNAL [LOOSE...].

Passes agree exactly, bytes within 5 %, operations within 10 %; a kind that is named LOOSE (loops that stop by themselves, of which a plan knows
the usual number of steps) within a factor of 1.5."""
import json
import re
import sys

SMALL_MESSAGES = 4096  # between all ranks: digests and lists that a plan does not tell


def journalled(file):
    total = {}
    for line in open(file, "rb").read().split(b"\n"):
        found = re.search(rb"\{.*\}", line)
        record = json.loads(found.group()) if found else {}
        if record.get("type") == "work":
            stage = total.setdefault(record["stage"], {})
            for name, amount in record["counts"].items():
                stage[name] = stage.get(name, 0) + amount
    return total


def agrees(name, planned, counted, loose):
    if name in loose:
        return planned / 1.5 <= counted <= planned * 1.5
    if name.endswith("_tokens"):
        return planned == counted
    slack = 0.1 if name.endswith("_flops") else 0.05
    return abs(planned - counted) <= slack * counted + (SMALL_MESSAGES if name == "sent_bytes" else 0)


def main(plan, journal, *loose):
    planned, counted = json.load(open(plan))["work"], journalled(journal)
    wrong = []
    for stage, quantities in planned.items():
        for name, amount in quantities.items():
            seen = counted[stage].get(name, 0)
            print(f"{stage:10}{name:24}planned {amount:16.0f} counted {seen:16.0f}")
            if not agrees(name, amount, seen, loose):
                wrong.append(f"{stage} {name}: planned {amount:.0f}, counted {seen:.0f}")
        unknown = set(counted[stage]) - set(quantities) - {"scheduling_bytes"}
        wrong += [f"{stage}: the plan does not tell {name}" for name in unknown]
    assert planned["calibrate"]["forward_tokens"] > 0 and planned["quantize"]["model_bytes"] > 0
    return wrong


if __name__ == "__main__":
    sys.exit("\n".join(main(*sys.argv[1:])) or 0)
