"""Memory, the way to the first answer, and the size on disk."""

import shutil
import subprocess
import urllib.request

from calls import drive
from contenders import end
from rig import Failed, figures, free_port, middle, run
import time


def memory(field, options, table):
    proxy = field.proxy(greet=False)
    time.sleep(1)
    rss, pss = proxy.process.memory() / 1024, proxy.process.memory("Pss") / 1024
    end([proxy])
    table.title("Memory of the proxy, 1 worker")
    table.row("idle, right after the start", ("MiB RSS", [rss]), ("MiB PSS", [pss]))
    return {"rss_idle_mib": rss, "pss_idle_mib": pss, "bytes_per_family": families(field, options, table)}


def families(field, options, table):
    """Everybody calls once. Connections, and what is made at first use, come before."""
    metrics = free_port()
    proxy = field.proxy(people=options.families, more=f"metrics: 127.0.0.1:{metrics}", greet=False)
    everybody = proxy.tokens
    few = everybody.read_text().splitlines()[:64]
    proxy.tokens = field.rig.write("tokens-few", "\n".join(few) + "\n")
    field.greet(proxy)
    drive(field, proxy, 64, 1)
    before, proxy.tokens = proxy.process.memory(), everybody
    field.greet(proxy)
    grown = proxy.process.memory() - before
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    live = sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("mcp_auth_proxy_live_families"))
    if live < 0.9 * options.families:
        raise Failed(f"only {live:.0f} of {options.families} logins are in use")
    each = grown * 1024 / (live - len(few))
    end([proxy])
    table.row(f"{live:.0f} logins in use", ("bytes each", [each]), ("MiB together", [grown / 1024]))
    return each


def start(field, options, table):
    proxy = field.proxy(greet=False)
    end([proxy])
    command = [field.load, "start", proxy.port, field.proxy_program, "--config", proxy.config]
    times = [figures(run(command))["start_ms"] for _ in range(20)]
    table.title("From exec to the first answer, on a store with 10 000 logins")
    table.row("proxy", ("ms", times))
    # What people install is stripped.
    stripped = field.rig.dir / "stripped"
    if shutil.which("strip"):
        subprocess.run(["strip", "-o", stripped, field.proxy_program], check=True)
    else:
        shutil.copy(field.proxy_program, stripped)
    size = stripped.stat().st_size / 2**20
    stripped.unlink()
    table.row("binary, stripped", ("MiB", [size]))
    return {"start_ms": middle(times), "binary_mib": size}
