"""Processes, ports, and what the kernel says of them. Whatever is started here is ended by its id, come what may."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TICK = os.sysconf("SC_CLK_TCK")
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORES = str(CORES[0]), ",".join(map(str, CORES[1:] or CORES))

PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "taskset": "util-linux",
    "valgrind": "valgrind",
}


class Failed(Exception):
    """The measurement means nothing."""


def say(text):
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", file=sys.stderr, flush=True)


BEGAN = time.monotonic()


def need(*programs):
    """Installs what is missing, by package name."""
    os.environ["PATH"] += ":/usr/sbin"
    missing = [PACKAGES[program] for program in programs if not shutil.which(program)]
    if missing:
        say(f"installing {' '.join(missing)}")
        run(["apt-get", "update", "-qq"])
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        run(install, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def build(load=True):
    """Builds what is measured and what measures; returns the paths of proxy, load and crowd."""
    proxy = os.environ.get("MCP_AUTH_PROXY")
    if not proxy:
        say("building the release binary")
        run(["cargo", "build", "--locked", "--release", "--quiet", "--bin", "mcp-auth-proxy"], cwd=ROOT)
        proxy = TARGET / "release/mcp-auth-proxy"
    say("building the tools")
    if load:
        # Optimised, and apart from the proxy: it would be built again with each change otherwise.
        command = [*"cargo build --locked --release --quiet --manifest-path".split(), HERE / "tool/Cargo.toml"]
        run([*command, "--target-dir", TARGET / "load"])
    run(["cargo", "build", "--locked", "--quiet", "--example", "crowd"], cwd=ROOT)
    return Path(proxy).resolve(), TARGET / "load/release/load", TARGET / "debug/examples/crowd"


def run(command, timeout=1800, **more):
    """Runs a command to its end and returns what it printed."""
    command = [str(part) for part in command]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, **more
    )
    if done.returncode:
        raise Failed(f"{' '.join(command)[:300]}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def figures(line):
    """The name=value pairs of a line."""
    pairs = (word.split("=", 1) for word in line.split() if "=" in word)
    return {name: float(value) for name, value in pairs}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A process of ours with its children."""

    def __init__(self, rig, name, command, core=None, **more):
        if core is not None:
            command = ["taskset", "-c", core, *command]
        self.rig, self.name = rig, name
        self.log = rig.dir / f"{name}-{len(rig.processes)}.log"
        with open(self.log, "wb") as log:
            more = {"stdin": subprocess.DEVNULL, "stdout": log, **more}
            self.child = subprocess.Popen([str(part) for part in command], stderr=log, cwd=rig.dir, **more)
        rig.processes.append(self)

    def pids(self):
        """Itself and its workers."""
        found = [self.child.pid]
        for pid in found:
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def times(self):
        """Seconds of processor time so far, in user space and in the kernel: utime and stime."""
        user = kernel = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            user, kernel = user + int(fields[11]), kernel + int(fields[12])
        return user / TICK, kernel / TICK

    def cpu(self):
        """Both together."""
        return sum(self.times())

    def cpu_ns(self):
        """The same without rounding to ticks, for little work."""
        tasks = (task for pid in self.pids() for task in Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def descriptors(self):
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def memory(self, name="Rss"):
        """KiB; of what is shared between workers, only Pss counts once."""
        total = 0
        for pid in self.pids():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
        return total

    def answers(self, port, within=20):
        """Waits until it listens."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            if self.child.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise Failed(f"{self.name} does not serve: {self.log.read_text(errors='replace')[-2000:]}")

    def end(self):
        if self.child.poll() is None:
            pids = self.pids()
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(0.5)
            except subprocess.TimeoutExpired:
                for pid in pids:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                self.child.wait(10)
        if self in self.rig.processes:
            self.rig.processes.remove(self)


class Rig:
    """A directory and processes that are gone afterwards."""

    def __enter__(self):
        self.processes, self.dir = [], Path(tempfile.mkdtemp(prefix="bench."))
        for name in ENDED_BY:
            signal.signal(name, lambda *_: sys.exit(130))
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(AT_MOST)
        raise_limit()
        return self

    def __exit__(self, kind, error, trace):
        signal.alarm(0)
        # Whoever says it twice, as timeout does, must not keep us from it.
        for name in ENDED_BY:
            signal.signal(name, signal.SIG_IGN)
        for process in reversed(self.processes[:]):
            process.end()
        shutil.rmtree(self.dir, ignore_errors=True)

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text)
        return path


AT_MOST = 45 * 60
ENDED_BY = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def too_long(*_):
    raise Failed(f"not done after {AT_MOST} s")


def raise_limit():
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def middle(values):
    values = sorted(values)
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def versions(proxy):
    """What this was measured with, for the record."""
    first = lambda *command: run(command).splitlines()[0]
    lines = {"rustc": first("rustc", "--version"), "haproxy": first("haproxy", "-v")}
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()
    return {**lines, "nginx": nginx, "proxy": str(proxy.name), "cores": len(CORES)}


def dump(path, values):
    Path(path).write_text(json.dumps(values, indent=1) + "\n")
