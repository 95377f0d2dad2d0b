"""Calls: processor time of each, over HTTP/1 and HTTP/2, and how long they take at a fixed rate."""

from contenders import end
from rig import LOAD_CORES, Failed, HERE, figures, middle, run
import workload


def drive(field, contender, connections, seconds):
    """wrk against a contender; any failed call fails the run."""
    command = ["taskset", "-c", LOAD_CORES, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", HERE / "cycle.lua", f"http://{contender.to}/mcp", "--"]
    before = contender.process.times()
    told = run([*command, field.templates["call"], contender.logins])
    user, kernel = (after - before for after, before in zip(contender.process.times(), before))
    found = figures(told.splitlines()[-1])
    if found["errors"] or found["refused"] or not found["requests"]:
        raise Failed(f"{contender.name} at {connections} connections: {told}")
    each = 1e6 / found["requests"]
    return {"us": (user + kernel) * each, "user_us": user * each, "per_s": found["requests"] / seconds}


def rounds(field, contenders, connections, options, table):
    """Interleaved rounds: µs of each, and each as a ratio to nginx in the same round."""
    found = {contender.name: [] for contender in contenders}
    for _ in range(options.rounds):
        for contender in contenders:
            found[contender.name].append(drive(field, contender, connections, options.seconds))
    ratios = {}
    whom = f"{connections} connection{'s' if connections > 1 else ''}"
    for name, rows in found.items():
        ratios[name] = [row["us"] / peer["us"] for row, peer in zip(rows, found["nginx"])]
        table.row(
            f"{name}, {whom}",
            ("µs/request", [row["us"] for row in rows]),
            ("µs of it in user space", [row["user_us"] for row in rows]),
            ("× nginx", ratios[name]),
            ("requests/s", [row["per_s"] for row in rows]),
        )
    return {name: middle(values) for name, values in ratios.items()}


def warm(field, contenders):
    for contender in contenders:
        drive(field, contender, 256, 1)
    return contenders


def cpu(field, options, table):
    contenders, values = warm(field, field.all()), {}
    table.title(f"CPU per call, 1 worker, {field.people} people's tokens in turn")
    for connections in (1, 64, 256):
        ratios = rounds(field, contenders, connections, options, table)
        values[f"cpu_ratio_{connections}"] = ratios["proxy"]
        values[f"haproxy_ratio_{connections}"] = ratios["haproxy"]
    # With few people, what the proxy reads from its store once a second for each of them does not show.
    table.title(f"The same with {FEW} people's tokens")
    for contender in contenders:
        contender.logins = first_logins(field, contender)
    values["cpu_ratio_64_few_people"] = rounds(field, contenders, 64, options, table)["proxy"]
    end(contenders)
    return values


FEW = 64


def first_logins(field, contender):
    lines = contender.logins.read_text().splitlines()[:FEW]
    return field.rig.write(f"few-{contender.name}", "\n".join(lines) + "\n")


def two_workers(field, options, table):
    contenders, values = warm(field, field.all(workers=2, core=None)), {}
    table.title("CPU per call, 2 workers, not pinned")
    for connections in (64, 256):
        ratios = rounds(field, contenders, connections, options, table)
        values[f"cpu_ratio_{connections}_two_workers"] = ratios["proxy"]
    end(contenders)
    return values


def latency(field, options, table):
    rate, connections = 1000, 32
    contenders = field.all()
    table.title(f"Delay at {rate} calls/s over {connections} connections, added to that of the upstream itself")
    found = {contender.name: [] for contender in [field.direct(), *contenders]}

    def once(contender, seconds):
        arguments = ["pace", contender.to, field.templates["call"], contender.logins, rate, connections, seconds]
        return field.ask(*arguments)

    for contender in contenders:
        once(contender, 1)
    for _ in range(options.rounds):
        for contender in [field.direct(), *contenders]:
            found[contender.name].append(once(contender, options.seconds))
    end(contenders)
    values = {}
    for name, rows in found.items():
        if name == "direct":
            table.row(name, ("p50 µs", [r["p50_us"] for r in rows]), ("p99 µs", [r["p99_us"] for r in rows]))
            continue
        added = {}
        for part in ("p50_us", "p99_us"):
            added[part] = [row[part] - plain[part] for row, plain in zip(rows, found["direct"])]
            prefix = "" if name == "proxy" else f"{name}_"
            values[f"{prefix}added_{part}"] = middle(added[part])
        table.row(name, ("added p50 µs", added["p50_us"]), ("added p99 µs", added["p99_us"]))
    return values


def h2(field, options, table):
    contenders = field.all()
    table.title("HTTP/2 towards the client: 8 connections, 8 calls at a time on each, one person")
    body = field.rig.write("body.json", workload.BODY)
    found = {contender.name: [] for contender in contenders}

    def once(contender, number):
        token, session = contender.logins.read_text().split("\n", 1)[0].split(" ")
        command = ["taskset", "-c", LOAD_CORES, "h2load", "-c8", "-m8", f"-n{number}", "-d", body]
        for name, value in workload.HEADERS.items():
            value = value.replace("TOKEN", token).replace("SESSION", session)
            command += ["-H", f"{name.lower()}: {value}"]
        command += ["-H", ":authority: p.test"]
        before = contender.process.cpu()
        told = run([*command, f"http://127.0.0.1:{contender.port2}/mcp"])
        spent = contender.process.cpu() - before
        if f"status codes: {number} 2xx, 0 3xx, 0 4xx, 0 5xx" not in told:
            raise Failed(f"{contender.name}: {told}")
        return spent / number * 1e6

    for contender in contenders:
        once(contender, 2000)
    for _ in range(options.rounds):
        for contender in contenders:
            found[contender.name].append(once(contender, 10_000 * options.seconds))
    end(contenders)
    for name, rows in found.items():
        ratios = [row / peer for row, peer in zip(rows, found["nginx"])]
        table.row(name, ("µs/request", rows), ("× nginx", ratios))
    ratio = [row / peer for row, peer in zip(found["proxy"], found["nginx"])]
    return {"h2_cpu_ratio": middle(ratio)}
