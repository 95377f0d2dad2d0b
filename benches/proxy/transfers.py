"""Large bodies; logins and refreshes."""

import os
import re
import socket
import time

from contenders import end
from rig import LOAD_CORES, ROOT, Failed, middle, run
import workload

SIZE, TIMES = 20 * 2**20, 5
BLOCK = b"x" * 2**20


def bodies(field, options, table):
    contenders, values = field.all(), {}
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(map(int, LOAD_CORES.split(","))))
    for way, name in ((up, "up"), (down, "down")):
        table.title(f"Bodies of 20 MiB, {name}, one connection")
        found = {contender.name: [] for contender in contenders}
        for contender in contenders:
            way(contender)
        for _ in range(options.rounds):
            for contender in contenders:
                before, began = contender.process.cpu(), time.monotonic()
                for _ in range(TIMES):
                    way(contender)
                took, spent = time.monotonic() - began, contender.process.cpu() - before
                found[contender.name].append((spent / TIMES * 1e3, SIZE * TIMES / 2**20 / took))
        for contender, rows in found.items():
            ratios = [ms / max(peer, 0.01) for (ms, _), (peer, _) in zip(rows, found["nginx"])]
            cells = [("CPU ms", [ms for ms, _ in rows]), ("× nginx", ratios), ("MiB/s", [rate for _, rate in rows])]
            table.row(contender, *cells)
            if contender == "proxy":
                values[f"body_{name}_ratio"] = middle(ratios)
                values[f"body_{name}_cpu_ms"] = middle([ms for ms, _ in rows])
    os.sched_setaffinity(0, ours)
    end(contenders)
    return values


def up(contender):
    # The length stands in the head, the body follows it.
    head = workload.request("POST", "/mcp", {**workload.HEADERS, "Content-Length": SIZE})
    with opened(contender, head) as stream:
        for _ in range(SIZE // len(BLOCK)):
            stream.sendall(BLOCK)
        received(stream, 1)


def down(contender):
    with opened(contender, workload.request("POST", f"/mcp?bytes={SIZE}", workload.HEADERS, workload.BODY)) as stream:
        received(stream, SIZE)


def opened(contender, head):
    with open(contender.logins) as logins:
        token, session = logins.readline().split()
    stream = socket.create_connection(("127.0.0.1", contender.port), 30)
    stream.sendall(head.replace("TOKEN", token).replace("SESSION", session).encode())
    return stream


def received(stream, least):
    """Reads an answer whose body is at least so long."""
    block, total, first = bytearray(2**20), 0, b""
    while total < least + len(first.split(b"\r\n\r\n")[0]):
        count = stream.recv_into(block)
        if not count:
            raise Failed(f"an answer ends after {total} bytes: {first[:300]}")
        first = first or bytes(block[:count])
        total += count
    if not first.startswith(b"HTTP/1.1 200"):
        raise Failed(f"refused: {first[:300]}")


def oauth(field, options, table):
    """tests/scale.rs has a browser and a GitHub for it. Both are debug builds that share the cores: how many there are
    in a second is a lower bound, the processor time is the proxy's own."""
    command = ["cargo", "test", "--locked", "--quiet", "--test", "scale", "--", "--ignored", "--nocapture"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("TEST_")}
    env["MCP_AUTH_PROXY"] = str(field.proxy_program)
    told = run([*command, "refreshes_and_logins"], cwd=ROOT, env=env)
    lines = dict(re.findall(r"^sqlite: (.+?) = ([\d.]+)", told, re.MULTILINE))
    found = {name: float(value) for name, value in lines.items()}
    table.title("OAuth on SQLite, processor time of the proxy")
    per_second = {"refresh": found["refreshes, 16 at a time"], "login": found["logins, one after the other"]}
    for name, rate in per_second.items():
        table.row(name, ("CPU ms", [found[name] / 1e3]), ("per s", [rate]))
    ms = {f"{name}_cpu_ms": found[name] / 1e3 for name in per_second}
    return {**ms, "refreshes_per_s": per_second["refresh"], "logins_per_s": per_second["login"]}
