"""Starts the program under mpirun or alone, ends its processes, and measures how long the rest takes to end."""
import os
import pathlib
import signal
import subprocess
import time
import uuid

LIMIT = 10.0  # seconds from a death to the end of the job: a promise of the program
UNDISTURBED = 240.0  # until a job without a death counts as hung
# mpirun of Open MPI 4.1 itself, all ranks gone and reaped, rarely waits for ever for a lock of its own: more than
# that in so many deaths is something else.
LAUNCHER_HUNG = 0.02
MARK = "VORONOI_CRASH_JOB"


class Hung(Exception):
    pass


def processes(token):
    """{pid: (rank or None, name)} of the living processes that carry the mark."""
    found = {}
    mark = f"{MARK}={token}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            environment = pathlib.Path(entry.path, "environ").read_bytes().split(b"\0")
            if mark not in environment:
                continue
            name = pathlib.Path(entry.path, "comm").read_text().strip()
        except OSError:
            continue
        rank = next((int(e.split(b"=")[1]) for e in environment if e.startswith(b"OMPI_COMM_WORLD_RANK=")), None)
        found[int(entry.name)] = (rank, name)
    return found


class Job:
    """One start of the program. ranks 0: without mpirun."""

    def __init__(self, command, ranks, work, disk, faults=None, rank=None, order=None):
        self.token = uuid.uuid4().hex
        self.program = pathlib.Path(command[0]).name
        self.log = work / "struck"
        self.log.unlink(missing_ok=True)
        self.output = work / "output"
        temporary = work / "mpi"  # killed ranks leave Open MPI's own files: not in /tmp and /dev/shm
        temporary.mkdir(exist_ok=True)
        environment = os.environ | {
            MARK: self.token,
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1",
            "OMPI_MCA_mpi_yield_when_idle": "1",
            "OMPI_MCA_pml": "ob1",
            "OMPI_MCA_btl": "self,vader,tcp",
            "OMPI_MCA_orte_tmpdir_base": str(temporary),
            "OMPI_MCA_btl_vader_backing_directory": str(temporary),
            "VORONOI_FAULT_LOG": str(self.log),
        }
        preload = {}
        if faults:
            environment["VORONOI_FAULT"] = faults
        if rank is not None:
            environment["VORONOI_FAULT_RANK"] = str(rank)
        if order:
            environment["VORONOI_FAULT_ORDER"] = str(order)
        if faults or order:
            preload = {"LD_PRELOAD": str(disk)}
        if ranks > 0:
            # The preloaded library is for the ranks alone.
            exported = [word for name, value in preload.items() for word in ("-x", f"{name}={value}")]
            command = ["mpirun", "--bind-to", "none", *exported, "-n", str(ranks), *command]
        else:
            environment |= preload
        self.launcher_hung = False
        self.start = time.time()
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                            stderr=output, start_new_session=True)

    def kill(self, victims, pick):
        """SIGKILL; False when there was nobody to kill any more."""
        ranks = {}
        while self.process.poll() is None and not ranks:
            ranks = {pid: rank for pid, (rank, name) in processes(self.token).items() if name == self.program}
            if victims == "mpirun":
                break
        if self.process.poll() is not None:
            return False
        # mpirun first: it would end the ranks by itself.
        chosen = [self.process.pid] if "mpirun" in victims else []
        if victims.startswith("all"):
            chosen += list(ranks)
        elif victims == "rank 0":
            chosen += [pid for pid, rank in ranks.items() if rank == 0]
        elif victims == "rank":
            chosen.append(pick.choice(sorted(ranks)))
        alive = False
        for pid in chosen:
            try:
                os.kill(pid, signal.SIGKILL)
                alive = True
            except ProcessLookupError:
                pass
        return alive

    def text(self):
        """What it printed, without mpirun's remarks."""
        lines = self.output.read_text(errors="replace").split("-" * 74)[::2]
        return "".join(lines).strip()

    def struck(self):
        """The lines that the preloaded library left: the faults that struck, or its counts."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def deaths(self):
        return [line for line in self.struck() if not line.startswith("count ")]

    def wait(self, died=None):
        """Until mpirun and all ranks have ended. Seconds from the death (given, or told by the library) to there, less what
        they waited for a core."""
        began, starved = time.time(), Starved(self.process.pid)
        while self.process.poll() is None or processes(self.token):
            if died is None:
                now = Starved(self.process.pid)
                if self.deaths():
                    died = self.log.stat().st_mtime
                else:
                    starved = now
            starved.look()
            if time.time() - (died or began) - starved.seconds() > (LIMIT if died else UNDISTURBED):
                self.end_all(died)
                return LIMIT
            time.sleep(0.01 if died else 0.03)
        if died is None and self.deaths():
            died = self.log.stat().st_mtime
        starved.look()
        took = max(0.0, time.time() - died - starved.seconds()) if died else 0.0
        if took > LIMIT:
            raise Hung(f"the job took {took:.1f} s to end after a process had died")
        return took

    def end_all(self, died):
        """Ends what should have ended. Throws, but for an mpirun that goes on without any rank: see LAUNCHER_HUNG."""
        alive = processes(self.token)
        states = []
        for pid, (rank, name) in alive.items():
            try:
                place = pathlib.Path(f"/proc/{pid}/wchan").read_text()
                os.kill(pid, signal.SIGKILL)
            except OSError:
                place = "?"
            states.append(f"{name} (process {pid}, rank {rank}, in {place})")
        self.process.wait(10)
        if died and list(alive) == [self.process.pid]:
            self.launcher_hung = True
            return
        since = f"{LIMIT:.0f} s after a process had died" if died else f"undisturbed, after {UNDISTURBED:.0f} s"
        raise Hung(f"still there {since}: {', '.join(states)}")


class Starved:
    """How long mpirun, its ranks and this program, which watches them, wanted to run and had no core: on a busy machine
    that is not the job's time."""

    def __init__(self, launcher):
        self.launcher, self.own = launcher, os.getpid()
        self.first, self.last = {}, {}  # by process and thread
        self.look()

    def look(self):
        for pid in (self.own, self.launcher, *self.children()):
            try:
                for thread in os.scandir(f"/proc/{pid}/task"):
                    waited = int(pathlib.Path(thread.path, "schedstat").read_text().split()[1]) / 1e9
                    self.first.setdefault((pid, thread.name), waited)
                    self.last[pid, thread.name] = waited
            except (OSError, ValueError, IndexError):  # it has ended, or this system does not tell
                pass

    def children(self):
        try:
            return [int(pid) for task in os.scandir(f"/proc/{self.launcher}/task")
                    for pid in pathlib.Path(task.path, "children").read_text().split()]
        except OSError:
            return []

    def seconds(self):
        """mpirun's threads wait for each other, this program for them; the ranks end side by side."""
        waits = {key: self.last[key] - first for key, first in self.first.items()}
        in_turn = sum(wait for (pid, _), wait in waits.items() if pid in (self.own, self.launcher))
        ranks = (wait for (pid, _), wait in waits.items() if pid not in (self.own, self.launcher))
        return in_turn + max(ranks, default=0.0)
