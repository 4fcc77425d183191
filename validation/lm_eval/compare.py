#!/usr/bin/env python3
"""compare.py MODEL TASK_DATA [--program P] [--limit N] [--tasks a,b] [--threads N]: lm-evaluation-harness on local data (folders as `voronoi
eval --task-data` takes them), once through transformers and once through voronoi.

MODEL is a Hugging Face directory. Prints the figures and seconds of both, and exits with 1 when a log-likelihood differs by more than
1e-5 of itself + 5e-5, a greedy flag or an answer differs.
"""
import argparse
import copy
import json
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import lm_eval
import torch
from lm_eval import utils
from lm_eval.tasks import TaskManager

import voronoi_lm  # noqa: F401  # makes the model known

TASKS = ("arc_easy", "arc_challenge", "piqa", "hellaswag", "winogrande", "boolq")


def harness_rows(task, folder):
    """Rows with the fields that the harness's task names."""
    path, = sorted((folder / task).glob("*.jsonl"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if task == "piqa":
        labels, = (folder / task).glob("*-labels.lst")
        for row, label in zip(rows, labels.read_text().split()):
            row["label"] = int(label)
    if task == "hellaswag" and "query" in rows[0]:
        for row in rows:
            row["activity_label"], _, row["ctx_a"] = row["query"].partition(": ")
            row["ctx_b"], row["label"] = "", str(row["label"])
    if task == "boolq":
        for row in rows:
            row["label"] = int(row["answer"])
    return rows


def local_task(task, folder, work):
    """The harness's own task, with local rows."""
    config = utils.load_yaml_config(TaskManager().task_index[task]["yaml_path"], mode="full")
    split = config.get("test_split") or config["validation_split"]
    rows = work / f"{task}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in harness_rows(task, folder)), encoding="utf-8")
    # What is not named here the harness takes from its own task of that name.
    config.update(dict.fromkeys(("training_split", "validation_split", "dataset_name")))
    config.update(dataset_path="json", dataset_kwargs={"data_files": {split: str(rows)}}, test_split=split)
    return config


def evaluate(model, arguments, tasks, limit):
    start = time.time()
    # The harness takes the tasks' settings apart.
    results = lm_eval.simple_evaluate(model=model, model_args=arguments, tasks=copy.deepcopy(tasks), limit=limit, batch_size=1 if model == "hf" else None,
                                      bootstrap_iters=0, log_samples=True)
    return results, time.time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("task_data", type=pathlib.Path)
    parser.add_argument("--program", default="voronoi")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    failures = 0
    with tempfile.TemporaryDirectory() as work:
        tasks = [local_task(task, options.task_data, pathlib.Path(work)) for task in options.tasks.split(",")]
        theirs, their_seconds = evaluate("hf", f"pretrained={options.model},dtype=float32,device=cpu", tasks, options.limit)
        ours, our_seconds = evaluate("voronoi", {"model": options.model, "program": options.program, "threads": options.threads, "dtype": "f32"},
                                     tasks, options.limit)
    worst = 0.0
    for task in theirs["samples"]:
        for mine, other in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            assert mine["doc_hash"] == other["doc_hash"]
            for (mine_ll, mine_greedy), (ll, greedy) in zip(mine["filtered_resps"], other["filtered_resps"], strict=True):
                difference = abs(float(mine_ll) - float(ll)) / (1e-5 * abs(float(ll)) + 5e-5)
                worst = max(worst, difference)
                failures += difference > 1 or str(mine_greedy) != str(greedy)
            failures += any(mine[metric] != other[metric] for metric in ("acc", "acc_norm") if metric in mine)
        figures = [f"{key.split(',')[0]} {ours['results'][task][key]:.4f} (transformers {value:.4f})"
                   for key, value in theirs["results"][task].items() if key in ("acc,none", "acc_norm,none")]
        print(f"{task}: {len(theirs['samples'][task])} questions, {', '.join(figures)}")
    print(f"largest difference {worst:.2f} of the tolerance, {failures} failures; seconds with loading: transformers {their_seconds:.1f}, "
          f"voronoi {our_seconds:.1f}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
