"""Event streams: what silent ones take, and what events cost."""

import select
import subprocess
import time

from calls import drive
from contenders import end
from rig import LOAD_CORES, Failed, Process, figures, middle, raise_limit
import workload

MOST, BUSY = 10_000, 1_000


class Streams:
    """Open streams, in a process of their own because descriptors are counted per process."""

    def __init__(self, field, contender, template, count):
        command = [field.load, "streams", contender.to, field.templates[template], contender.logins, count]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = Process(field.rig, "streams", command, LOAD_CORES, **pipes)
        self.heard()

    def heard(self):
        # One line for each word said, so that none waits in Python's own buffer.
        ready, _, _ = select.select([self.process.child.stdout], [], [], 60)
        line = ready and self.process.child.stdout.readline()
        if not line:
            raise Failed(f"streams: {self.process.log.read_text()[-2000:]}")
        return figures(line)

    def say(self, word):
        self.process.child.stdin.write(word + "\n")
        self.process.child.stdin.flush()
        return self.heard()

    def stop(self):
        told = self.say("stop")
        self.process.child.wait(60)
        self.process.end()
        return told


def sse(field, options, table):
    return {**silent(field, options, table), **busy(field, options, table), **over_http2(field, table)}


def silent(field, options, table):
    # Two descriptors of a proxy each, and some for itself.
    most = MOST // 5 if options.short else MOST
    count, values = min(most, (raise_limit() - 1_000) // 2), {}
    table.title(f"{count} silent event streams, HTTP/1.1, 1 worker")
    for kind in (field.proxy, field.nginx, field.haproxy):
        contender = kind()
        drive(field, contender, 64, 1)
        before = contender.process.memory()
        streams = Streams(field, contender, "silent", count)
        time.sleep(2)
        opened = contender.process.memory()
        broken = streams.stop()["broken"]
        if broken:
            raise Failed(f"{contender.name}: {broken:.0f} streams ended")
        time.sleep(3)
        after = contender.process.memory()
        end([contender])
        kib = (opened - before) / count
        values["sse_kib_per_stream" if contender.name == "proxy" else f"{contender.name}_sse_kib_per_stream"] = kib
        mib = [("MiB before", [before / 1024]), ("open", [opened / 1024]), ("after close", [after / 1024])]
        table.row(contender.name, ("KiB/stream", [kib]), *mib)
    return values


def busy(field, options, table):
    """Everybody's streams are opened anew in each round."""
    contenders, values = field.all(), {}
    everybody, seconds = [field.direct(), *contenders], 2 * options.seconds
    table.title(f"{BUSY} event streams with an event a second each, 1 worker")
    found = {contender.name: [] for contender in everybody}
    for _ in range(1 if options.short else min(options.rounds, 5)):
        for contender in everybody:
            streams = Streams(field, contender, "events", BUSY)
            time.sleep(1)
            before = contender.process.cpu_ns() if contender.process else 0
            streams.say("mark")
            time.sleep(seconds)
            told = streams.stop()
            spent = contender.process.cpu_ns() - before if contender.process else 0
            if told["broken"] or told["count"] < 0.5 * BUSY * seconds:
                raise Failed(f"{contender.name}: {told}")
            found[contender.name].append({**told, "us": spent / told["count"] / 1e3})
    end(contenders)
    for name, rows in found.items():
        delays = [(f"p{part} µs", [row[f"p{part}_us"] for row in rows]) for part in (50, 99)]
        if name == "direct":
            table.row(name, *delays)
            continue
        prefix = "" if name == "proxy" else f"{name}_"
        values[f"{prefix}sse_cpu_us_per_event"] = middle([row["us"] for row in rows])
        cells = [("CPU µs/event", [row["us"] for row in rows])]
        for part in (50, 99):
            key = f"p{part}_us"
            added = [row[key] - plain[key] for row, plain in zip(rows, found["direct"])]
            values[f"{prefix}sse_added_{key}"] = middle(added)
            cells.append((f"added p{part} µs", added))
        table.row(name, *cells)
    return values


def over_http2(field, table):
    """Silent streams of one person, twenty on each connection, held open by h2load."""
    connections, each = 50, 20
    contender = field.proxy()
    drive(field, contender, 64, 1)
    token, session = contender.logins.read_text().split("\n", 1)[0].split(" ")
    count = connections * each
    command = ["h2load", f"-c{connections}", f"-m{each}", f"-n{count}", "-H", ":authority: p.test"]
    for name, value in workload.LISTEN.items():
        command += ["-H", f"{name.lower()}: {value.replace('TOKEN', token).replace('SESSION', session)}"]
    before = contender.process.memory()
    holder = Process(field.rig, "h2load", [*command, f"http://{contender.to}/mcp"], LOAD_CORES)
    until = time.monotonic() + 20
    while contender.process.descriptors() < connections + count and time.monotonic() < until:
        time.sleep(0.1)
    if contender.process.descriptors() < connections + count:
        raise Failed(f"streams over HTTP/2: {holder.log.read_text(errors='replace')[-1000:]}")
    time.sleep(2)
    kib = (contender.process.memory() - before) / count
    holder.end()
    end([contender])
    table.title(f"{count} silent event streams, HTTP/2, {each} on each connection")
    table.row("proxy", ("KiB/stream", [kib]))
    return {"sse_h2_kib_per_stream": kib}
