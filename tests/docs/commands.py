#!/usr/bin/env python3
"""commands.py ROOT: runs every command of README.md and docs/*.md, in a folder where the names they use stand for a tiny random model and
invented texts; the environment's VORONOI is the program.

A block of commands is fenced as ```sh, or as ```sh no-test: REASON where it cannot run here; those are listed. tests/docs/bin has what
the blocks meet under the names voronoi (windows and texts are made small), mpirun (two ranks unless told), sbatch (runs the script at once),
squeue and scontrol. The blocks of a file share a folder and run in their order.
"""
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

MODELS = ("SmolLM2-135M", "Llama-2-7B", "Llama-3.1-70B")
STARTS = re.compile(r"^(voronoi|mpirun|sbatch|cmake|cpack|\w+=\S* |(jobs|tests|slurm|validation)/)", re.MULTILINE)


def blocks(path):
    """(line, language, reason not to run it or None, text) of each fenced block."""
    lines, begin = path.read_text(encoding="utf-8").splitlines(), None
    for number, line in enumerate(lines, 1):
        if line.startswith("```") and begin is None:
            begin = number
        elif line.startswith("```"):
            language, _, reason = lines[begin - 1][3:].partition(" ")
            yield begin, language, reason or None, "\n".join(lines[begin:number - 1])
            begin = None
    if begin is not None:
        raise SystemExit(f"{path}:{begin}: the block has no end")


def missing_links(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not (path.parent / target).exists():
            yield f"{path.name} links to {target}, which is not there"


def furnish(folder, root, model):
    """Everything that the commands name."""
    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefghiklmnoprstuvw", k=draw.randint(2, 8))) for _ in range(200)]
    text = " ".join(draw.choices(words, k=4000))
    folder.mkdir()
    for name in MODELS:
        (folder / name).symlink_to(model)
    for name in ("wiki.txt", "wiki.test.raw"):
        (folder / name).write_text(text)
    (folder / "c4.jsonl").write_text("".join(json.dumps({"text": text[at:at + 2000]}) + "\n" for at in range(0, len(text), 2000)))
    for name in ("slurm", "configs"):
        (folder / name).symlink_to(root / name)
    furnish_tasks(folder, [" ".join(draw.choices(words, k=6)) for _ in range(10)])


def furnish_tasks(folder, texts):
    """Rows of every task, and requests."""
    choices = {"text": texts[:3], "label": ["A", "B", "C"]}
    rows = {"arc_easy": {"choices": choices, "answerKey": "B"}, "arc_challenge": {"choices": choices, "answerKey": "C"},
            "piqa": {"goal": texts[0], "sol1": texts[1], "sol2": texts[2]},
            "hellaswag": {"query": texts[3], "endings": texts[:4], "label": 1},
            "winogrande": {"option1": texts[4], "option2": texts[5], "answer": "2"},
            "boolq": {"passage": texts[6], "answer": True}, "my_task": {"passage": texts[7] + ". More of it.", "right": "so", "wrong": "no", "label": "0"}}
    for task, row in rows.items():
        (folder / "qa" / task).mkdir(parents=True)
        with open(folder / "qa" / task / "rows.jsonl", "w") as file:
            file.writelines(json.dumps({"question": text, "sentence": f"{text} _ {text}", **row}) + "\n" for text in texts)
    (folder / "qa" / "piqa" / "rows-labels.lst").write_text("1\n" * len(texts))
    guide = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "user-guide.md").read_text()
    (folder / "my_task.json").write_text(re.search(r'```json\n(.*?"my_task".*?)```', guide, re.DOTALL)[1])
    (folder / "requests.jsonl").write_text("".join(json.dumps({"context": text, "continuation": " " + text}) + "\n" for text in texts))


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "VORONOI_"))}
    environment.update(PATH=f"{root}/tests/docs/bin:{environment['PATH']}", PROGRAM=environment["VORONOI"],
                       VORONOI=f"{root}/tests/docs/bin/voronoi", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_hwloc_base_binding_policy="none")
    problems, skipped, n_run = [], [], 0
    with tempfile.TemporaryDirectory() as work:
        model = pathlib.Path(work) / "model"
        # Wide enough that codebooks of about 2 bits pay.
        subprocess.run([sys.executable, root / "tests/support/random_model.py", model, "num_hidden_layers=1", "hidden_size=512",
                        "intermediate_size=1024", "num_attention_heads=8", "num_key_value_heads=8"], check=True)
        for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
            problems += missing_links(path)
            folder = pathlib.Path(work) / path.stem
            furnish(folder, root, model)
            for line, language, reason, text in blocks(path):
                place = f"{path.relative_to(root)}:{line}"
                if language != "sh":
                    if STARTS.search(text):
                        problems.append(f"{place}: commands in a block that is not marked as sh")
                    continue
                if reason is not None:
                    if not re.fullmatch(r"no-test: \S.*", reason):
                        problems.append(f"{place}: '{reason}' is not no-test: REASON")
                    skipped.append(f"{place}: {reason}")
                    grammar = subprocess.run(["bash", "-n", "-c", text], text=True, stderr=subprocess.PIPE)
                    if grammar.returncode != 0:
                        problems.append(f"{place}: {grammar.stderr}")
                    for word in re.findall(r"^(?:jobs|tests|slurm|validation)/\S+", text, re.MULTILINE):
                        if not os.access(root / word, os.X_OK):
                            problems.append(f"{place}: {word} is no program of the project")
                    continue
                result = subprocess.run(["bash", "-exo", "pipefail", "-c", text], cwd=folder, env=environment, text=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
                n_run += 1
                print(f"{place}: exit code {result.returncode}")
                if result.returncode != 0:
                    problems.append(f"{place}: exit code {result.returncode}\n{result.stdout[-3000:]}")
    print("not run:", *skipped, sep="\n  ")
    if n_run == 0:
        problems.append("no block was run")
    if problems:
        raise SystemExit("\n".join(["FAILED", *problems]))
    print(f"{n_run} blocks ran")


main()
