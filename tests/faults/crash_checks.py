"""What must hold in a run directory after a death, and at the end."""
import filecmp
import hashlib
import json

TOP = {"run.json", "journal.log", "lock.json", "layers", "hessians", "staging", "status.json", "metrics.prom", "quarantine", "export",
       "evaluations", "report", "logs", "tuning"}
MADE = ("layer", "tensor")
# Of a report: not of the result.
TIMES = {"scheduling", "stage_seconds", "work", "seconds", "ranks", "starts", "peak_memory_bytes", "sha256", "markdown_sha256", "html_sha256",
         "history"}


class Broken(Exception):
    pass


def require(truth, text):
    if not truth:
        raise Broken(text)


def journal(run):
    """(records, whether the last line is torn), by the rules of docs/formats.md."""
    path = run / "journal.log"
    if not path.exists():
        return [], False
    *lines, tail = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        head, check, payload = line.split(b" ", 2)
        digest = hashlib.sha256(b"%d %s" % (number, payload)).hexdigest()[:16]
        require(head == b"%d" % number and check.decode() == digest, f"journal line {number} is not whole")
        records.append(json.loads(payload))
    return records, bool(tail)


def shard_of(record):
    """The file of a layer's or a tensor's record, without its ending: each generation has its own."""
    generation = record.get("generation", 0)
    return record["name"] + (f".g{generation}" if generation else "")


def layers_of(records):
    """shard_of -> record of the layers and tensors that are done as the journal says."""
    done = {}
    for record in records:
        if record["type"] in MADE:
            done[shard_of(record)] = record
        elif record["type"] == "layer_lost":
            done.pop(shard_of(record), None)
    return done


def same_tree(a, b):
    names = sorted(p.name for p in b.iterdir())
    require(sorted(p.name for p in a.iterdir()) == names, f"{a} holds other files than an undisturbed run's")
    for name in names:
        require(filecmp.cmp(a / name, b / name, shallow=False), f"{a / name}: other bytes than an undisturbed run's")


def figures(value):
    if isinstance(value, dict):
        return {key: figures(child) for key, child in value.items() if key not in TIMES}
    return [figures(child) for child in value] if isinstance(value, list) else value


class Watch:
    """Follows one run directory through its deaths. `reference`: the directory of an undisturbed run."""

    def __init__(self, run, reference, keeps_hessians):
        self.run, self.reference, self.keeps_hessians = run, reference, keeps_hessians
        self.finished = {}  # shard_of -> (inode, time) of the file when the journal first had it
        self.damaged = None

    def damage(self, name):
        """Flips a byte of a journalled layer; it alone may be made again."""
        self.damaged = name
        path = self.run / "layers" / f"{name}.h5"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        del self.finished[name]

    def after_death(self):
        """A reader of the dead run sees whole files only, and what the journal has is there."""
        records, torn = journal(self.run)
        spoilt = {self.damaged} if self.damaged and not self.made_again(records) else set()
        for path in (self.run / "layers").glob("*.h5"):
            if path.name.removesuffix(".h5") not in spoilt:
                require(filecmp.cmp(path, self.reference / "layers" / path.name, shallow=False),
                        f"{path} is there with other bytes than an undisturbed run's")
        for name, record in layers_of(records).items():
            if name in spoilt:
                continue
            path = self.run / "layers" / f"{name}.h5"
            require(path.exists(), f"{path} is journalled and not there")
            require(hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"], f"{path}: not the journalled sum")
            status = path.stat()
            identity = (status.st_ino, status.st_mtime_ns)
            require(self.finished.setdefault(name, identity) == identity, f"{path} was finished and is made again")
        if (self.run / "export").exists():
            same_tree(self.run / "export", self.reference / "export")
        for path in (self.run / "status.json", self.run / "run.json", self.run / "report" / "report.json"):
            if path.exists():
                json.loads(path.read_text())
        return torn

    def made_again(self, records):
        lost = [i for i, r in enumerate(records) if r["type"] == "layer_lost" and r["name"] == self.damaged]
        return bool(lost) and any(r["type"] in MADE and r["name"] == self.damaged for r in records[lost[-1]:])

    def at_end(self):
        run = self.run
        self.after_death()
        records, torn = journal(run)
        require(not torn and records[-1]["type"] == "finished", "the journal does not end with \"finished\"")
        starts = [r["number"] for r in records if r["type"] == "start"]
        require(starts == list(range(1, len(starts) + 1)), f"starts are numbered {starts}")
        made = sorted(shard_of(r) for r in records if r["type"] in MADE)
        wanted = [p.name.removesuffix(".h5") for p in (self.reference / "layers").iterdir()]
        if self.damaged:
            wanted.append(self.damaged)
        require(made == sorted(wanted), f"layers in the journal: {made}")
        lost = [r["name"] for r in records if r["type"] == "layer_lost"]
        require(lost == ([self.damaged] if self.damaged else []), f"lost layers in the journal: {lost}")
        same_tree(run / "layers", self.reference / "layers")
        if self.keeps_hessians:
            same_tree(run / "hessians", self.reference / "hessians")
        require((run / "export").exists() == (self.reference / "export").exists(), f"{run / 'export'}: not as undisturbed")
        report, expected = (json.loads((d / "report" / "report.json").read_text()) for d in (run, self.reference))
        require(figures(report) == figures(expected), "the report has other figures than an undisturbed run's")
        for name in ("run.json", "allocation.cfg"):
            here, there = ((d / name).read_bytes() if (d / name).exists() else None for d in (run, self.reference))
            require(here == there, f"{name} differs")
        self.nothing_left()

    def nothing_left(self):
        run = self.run
        top = TOP | {p.name for p in self.reference.glob("allocation.cfg")}
        left = [p for p in run.iterdir() if p.name not in top] + list((run / "staging").iterdir())
        left += [p for p in run.rglob("*") if ".tmp" in p.name]
        left += [p for p in (run / "report").iterdir() if p.name not in ("report.json", "report.md", "report.html")]
        if not self.keeps_hessians:
            left += list((run / "hessians").iterdir())
        if not self.damaged:
            left += list((run / "quarantine").iterdir())
        require(not left, f"left behind: {', '.join(sorted(str(p.relative_to(run)) for p in left))}")
        require((run / "lock.json").stat().st_size == 0, "the lock still names a holder")
