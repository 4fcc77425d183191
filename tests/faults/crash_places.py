"""Where the crash harness strikes: file calls of one purpose each, as the preloaded library (faulty_disk.cpp) names them."""
import dataclasses

ANY = ("kill", "done-kill")


@dataclasses.dataclass(frozen=True)
class Place:
    """`calls`: (calls, part of the path, actions), of which a round picks one, and the Nth such call of a process.

    start: what the run directory is like before the strike: "fresh"; "resumed": a run that was killed half way; "held": as
    that, and its lock is still held for the dead process; "damaged": as that, with a damaged layer; "export", "report": a
    finished run and that command by hand.
    shared: every rank makes such calls, so that N is at most a rank's share.
    ranks: least number of ranks. first: only the first so many calls belong to the place. tuned: of runs that are tuned.
    """

    name: str
    calls: tuple
    start: str = "fresh"
    shared: bool = False
    ranks: int = 1
    first: int = 1 << 30
    tuned: bool = False


@dataclasses.dataclass(frozen=True)
class Signal:
    """SIGKILL at a random time. victims: "rank", "rank 0", "all ranks", "mpirun", "all ranks and mpirun"."""

    name: str
    victims: str
    start: str = "fresh"
    ranks: int = 1
    tuned: bool = False


def file(path, calls="open,fsync,rename", writes="write"):
    """Calls that make a file; its writes are torn as often as anything else happens."""
    return (f"{calls},{writes}", path, ANY), (writes, path, ("torn-kill",))


PLACES = (
    Place("directories", (("mkdir", "/crashed", ANY), ("open,write,unlink", ".write-check", ANY))),
    Place("identity", file("run.json.0")),
    Place("lock", file("lock.json", "open,truncate,fsync", "pwrite")),
    Place("lock of a killed start", file("lock.json", "open,truncate,fsync", "pwrite"), "resumed"),
    Place("lock take-over", file("lock.json.tmp-", "open,truncate,fsync,rename", "pwrite"), "held"),
    Place("staging begun", (("mkdir", "-XXXXXX", ANY), ("fsync", "/staging", ANY))),
    Place("staging taken over", (("rename,unlink", "/revoked-", ANY), ("mkdir", "-XXXXXX", ANY)), "resumed"),
    Place("journal read", (("open,read", "/crashed/journal.log", ANY),), "resumed", first=2),
    Place("journal replaced", file("journal.log.0"), "resumed"),
    Place("layers checked", (("open", "/crashed/layers/", ANY),), "resumed", first=4),
    Place("quarantine", (("rename", "/quarantine/", ANY), ("fsync", "/quarantine", ANY)), "damaged"),
    Place("Hessian published", (*file("/block_", "open,fsync"), ("rename,fsync", "/hessians", ANY)), shared=True),
    Place("Hessian removed", (("unlink", "/block_", ANY),)),
    Place("shard written", file("/model.layers.", "open,fsync"), shared=True),
    Place("shard renamed", (("rename", "/crashed/layers/", ANY),), shared=True),
    Place("shard not journalled", (("rename", "/crashed/layers/", ("done-kill",)), ("fsync", "/crashed/layers", ANY)),
          shared=True),
    Place("journal line", (("write", "/crashed/journal.log", ANY), ("write", "/crashed/journal.log", ("torn-kill",)))),
    Place("journal synced", (("fsync", "/crashed/journal.log", ANY),)),
    Place("status", file("status.json")),
    Place("bits divided", file("/allocation.cfg.0")),
    Place("export stage", (("any,open", "/model.safetensors.0", ANY), ("write,pwrite", "/model.safetensors.0", ("torn-kill",)),
                           ("any,open", "/voronoi_export.json.0", ANY), ("rename,unlink,mkdir,fsync", "/crashed/export", ANY))),
    Place("export by hand", (("any,open", "/byhand", ANY), ("write,pwrite", "/byhand", ("torn-kill",)),
                             ("open", "/crashed/", ANY)), "export"),
    Place("report", file("/report/")),
    Place("report by hand", file("/report/"), "report"),
    Place("any file call", (("any,open,read", "/crashed", ANY),)),
    Place("MPI_Init", (("open,truncate", "vader_segment", ANY), ("open", "pci.ids", ANY)), ranks=2),
    Place("MPI_Finalize", (("unlink", "vader_segment", ANY),), ranks=2),
    Place("state of tuning", (*file("/end-to-end.h5", "open,fsync"), ("rename", "/end-to-end.h5", ANY),
                              ("fsync", "/crashed/tuning", ANY)), tuned=True),
    Place("generation of blocks", file("_proj.g1.h5"), tuned=True),
    Place("norms of blocks", file("layernorm.weight.g1.h5"), tuned=True),
    Place("generation end to end", file("_proj.g2.h5"), tuned=True),
    Place("norms end to end", (*file("layernorm.weight.g2.h5"), *file("/model.norm.weight.g1.h5")), tuned=True),
    Place("tuning goes on", (*file(".g1.h5"), *file(".g2.h5"), *file("/end-to-end.h5")), "resumed", tuned=True),
    Signal("random rank", "rank", ranks=2),
    Signal("rank 0", "rank 0", ranks=2),
    Signal("all ranks", "all ranks", "resumed"),
    Signal("mpirun alone", "mpirun", ranks=2),
    Signal("all ranks and mpirun", "all ranks and mpirun", ranks=2),
)


def fault(place, pick, seen):
    """VORONOI_FAULT for a strike at the place; `seen[i]`: such calls an undisturbed run made for place.calls[i]."""
    i = pick.choice([i for i, n in enumerate(seen) if n > 0])
    calls, path, actions = place.calls[i]
    return f"{calls} {path} {pick.randint(1, min(seen[i], place.first))} {pick.choice(actions)}"


def counting(places):
    """VORONOI_FAULT that only counts, in the order of the places and their calls."""
    return ";".join(f"{calls} {path} 1 count" for place in places for calls, path, _ in place.calls)
