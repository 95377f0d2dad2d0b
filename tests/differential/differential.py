"""The same bytes as the proxy, h11 and nginx read them.

Requests, odd ones too, are said to the proxy; what it sends on must be the messages that h11 and nginx find in it, at
the configured path, and never more than was answered. Answers of a hostile upstream must reach the client as one whole
answer, a refusal or a cut, and the next call must not notice.

    differential.py FOLDER [--examples N] [--seed N]
"""

import argparse
import collections
import json
import re

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rig import UPSTREAM_PATH, Rig, read_answers, read_by_h11

SENTINEL = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /mcp?smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
POISON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n\"poisoned\""

# === What is said ===

EOLS = [b"\n", b"\r", b"\r\r\n"]
TARGETS = [
    "/mcp/", "/mcp?a=b&c", "/mcp?access_token=x&a=1", "/mcp?%61ccess_token=x", "/mcp?&&a=%20", "/mcp#f", "/mcp?a#f",
    "/mcp?endpoint=AAECAwQFBgcICQoLDA0ODw", "//mcp", "/%6dcp", "/mcp/../x", "/x/../mcp", "/mcp;x", "/MCP", "/mcp%00",
    "/mcp?a=b c", "/mcp\tx", "http://localhost/mcp", "http://evil.test/mcp", "localhost:80", "*", "mcp", "", "/mcp?\x80",
    "/mcp?a='\"<>{}|\\^`", "/mcp?tenant=2&tenant=3",
]
METHODS = ["PUT", "post", "OPTIONS", "TRACE", "CONNECT"]
VERSIONS = ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 "]
LENGTHS = ["{1}", "{2}", "+{0}", "0{0}", "{0},{0}", "{0}, {1}", "0x{0}", "-1", "", "18446744073709551616", "{0} "]
CODINGS = [
    "Chunked", "identity", "identity, chunked", "chunked, identity", "xchunked", "\x0bchunked", "chunked\x0c", "gzip, chunked",
    "chunked, chunked", '"chunked"', "chunked;q=1", "", "chunked,", ",chunked", "chun\x80ked",
]
CODING_NAMES = [
    "transfer-encoding", "Transfer-Encoding ", " Transfer-Encoding", "Transfer_Encoding", "Transfer-Encoding\t",
    "Content-Length", "TE", "X: y\rTransfer-Encoding",
]
FURTHER = [
    "Connection: close", "Connection: keep-alive", "Connection: Transfer-Encoding", "Connection: Content-Length, x-github-token",
    "Connection: upgrade", "Upgrade: h2c", "Upgrade: websocket", "HTTP2-Settings: AAAA", "Expect: 100-continue", "Expect: x",
    "X-GitHub-Token: evil", "x_github_token: evil", "X.GitHub.Token: evil", "Cookie: a=b", "TE: trailers, chunked",
    "Trailer: X-GitHub-Token", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Host: localhost", "Host: evil.test",
    "Content-Type: application/json", "Mcp-Name: x", "X-Request-Id: one", "Accept: a\r\n folded: b", "NoColon", ": empty",
    "Content-Length : 3", "Accept: a\x00b", "Accept: \xff", "X-HTTP-Method-Override: DELETE", "Accept: " + "a" * 2000,
]
SIZES = ["{:X}", "0{:x}", "{:x} ", "{:x};e", '{:x};e="a"', "{:x};e=\n", "0x{:x}", "+{:x}", "{:x}\t", ";{:x}", "1{:016x}"]
TRAILERS = ["X-GitHub-Token: evil\r\n", "Content-Length: 3\r\n", "Authorization: x\r\n", "Transfer-Encoding: chunked\r\n"]
CONTENTS = [b"{}", b"", b'{"jsonrpc":"2.0","id":1,"method":"ping"}', SMUGGLED, b"\r\n\r\n", b"0\r\n\r\n" + SMUGGLED, b"\x00\xff" * 20]
NOISE = [b"\r", b"\n", b"\r\n", b"\t", b" ", b"\0", b":", b",", b";", b"\x80", b"0", b"a", b"\x0b"]


def pick(draw, choices):
    return draw(st.sampled_from(choices))


def mostly(draw, usual, odd, one_in=8):
    """The usual thing, or one of the odd ones."""
    return pick(draw, odd) if draw(st.integers(1, one_in)) == one_in else usual


def chunked(draw, eol, content):
    out, pieces = b"", [content[:7], content[7:]]
    for piece in [piece for piece in pieces if piece]:
        out += mostly(draw, "{:x}", SIZES).format(len(piece)).encode() + eol + piece + eol
    return out + b"0" + eol + mostly(draw, "", TRAILERS).encode() + eol


@st.composite
def request(draw, token):
    eol = mostly(draw, b"\r\n", EOLS, 12)
    method = mostly(draw, pick(draw, ["POST", "POST", "POST", "GET", "DELETE"]), METHODS, 12)
    version = mostly(draw, "HTTP/1.1", VERSIONS, 12)
    lines = [f"{method} {mostly(draw, '/mcp', TARGETS, 4)} {version}", "Host: localhost", f"Authorization: Bearer {token}"]
    content = b"z" * 70_000 if draw(st.integers(0, 60)) == 60 else pick(draw, CONTENTS)
    kind = mostly(draw, pick(draw, ["length", "chunked"]), ["both", "none"])
    if kind in ("length", "both"):
        for _ in range(mostly(draw, 1, [2])):
            length = mostly(draw, "{0}", LENGTHS)
            lines.append("Content-Length: " + length.format(len(content), len(content) + 1, max(len(content) - 1, 0)))
    if kind in ("chunked", "both"):
        for _ in range(mostly(draw, 1, [2])):
            lines.append(f"{mostly(draw, 'Transfer-Encoding', CODING_NAMES)}: {mostly(draw, 'chunked', CODINGS)}")
    lines += mostly(draw, [], [[one, two] for one in FURTHER for two in FURTHER], 3)[: draw(st.integers(1, 2))]
    if mostly(draw, False, [True]):
        lines = [lines[0], *reversed(lines[1:])]
    head = eol.join(line.encode("latin-1") for line in lines) + eol + eol
    return head + (content if kind in ("length", "none") else chunked(draw, eol if eol != b"\r" else b"\r\n", content))


@st.composite
def requests(draw, token):
    data = b"".join(draw(st.lists(request(token), min_size=1, max_size=3)))
    for _ in range(mostly(draw, 0, [1, 2], 4)):
        at = draw(st.integers(0, min(len(data), 600)))
        data = data[:at] + pick(draw, NOISE) + data[at + pick(draw, [0, 1]):]
    return data


STATUSES = [
    "HTTP/1.0 200 OK", "HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified", "HTTP/1.1 404 x", "HTTP/1.1 500 x", "HTTP/1.1 401 x",
    "HTTP/1.1 302 x", "HTTP/1.1 307 x", "HTTP/1.1 101 x", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", "HTTP/1.1 200",
    "HTTP/1.1 103 x\r\nLink: y\r\n\r\nHTTP/1.1 202 x", "HTTP/1.2 200 OK", "HTTP/2 200 OK", "ICY 200 OK", "200 OK", "HTTP/1.1  200 OK",
    "HTTP/1.1 99 x", "HTTP/1.1 999 x", "HTTP/1.1 20O x", "HTTP/1.1 200 \x80", "", "\r\nHTTP/1.1 200 OK", "HTTP/1.1 205 x",
]
ANSWERED = [
    "Content-Type: application/json", "Content-Type: text/event-stream", "Content-Encoding: gzip", "Connection: close",
    "Connection: keep-alive", "Connection: content-length", "Set-Cookie: a=b", "Location: http://evil.test/", "Mcp-Session-Id: s",
    "Upgrade: h2c", "Trailer: x", "Accept: a\r\n folded", "NoColon", "X: \x00", "X: a\rb", "X: " + "a" * 70_000,
]


@st.composite
def hostile(draw):
    eol = mostly(draw, b"\r\n", EOLS, 12)
    lines = [mostly(draw, "HTTP/1.1 200 OK", STATUSES, 4)]
    content = pick(draw, [*CONTENTS, POISON, b"data: x\n\n"])
    kind = mostly(draw, pick(draw, ["length", "chunked"]), ["both", "none"])
    if kind in ("length", "both"):
        for _ in range(mostly(draw, 1, [2])):
            length = mostly(draw, "{0}", LENGTHS)
            lines.append("Content-Length: " + length.format(len(content), len(content) + 1, max(len(content) - 1, 0)))
    if kind in ("chunked", "both"):
        for _ in range(mostly(draw, 1, [2])):
            lines.append(f"{mostly(draw, 'Transfer-Encoding', CODING_NAMES)}: {mostly(draw, 'chunked', CODINGS)}")
    lines += mostly(draw, [], [[one, two] for one in ANSWERED for two in ANSWERED], 3)[: draw(st.integers(1, 2))]
    data = eol.join(line.encode("latin-1") for line in lines) + eol + eol
    data += content if kind in ("length", "none") else chunked(draw, b"\r\n", content)
    data += pick(draw, [b"", b"", POISON, POISON, b"\r\n", b"x"])
    for _ in range(mostly(draw, 0, [1], 6)):
        at = draw(st.integers(0, min(len(data), 400)))
        data = data[:at] + pick(draw, NOISE) + data[at + pick(draw, [0, 1]):]
    return data, draw(st.booleans()), pick(draw, ["POST", "POST", "GET"])


# === What must hold ===


def check_requests(rig, data, count):
    data += SENTINEL
    rig.recorder.mark()
    said, clean = rig.say(data)
    if not clean:
        # What was on its way has arrived when this has.
        rig.ping()
    heard = rig.recorder.heard()
    answers, why = read_answers(said)
    assert why is None, f"h11 does not understand the proxy's answers: {why}"
    forwarded = 0
    for sent, closed in heard:
        forwarded += check_sent(rig, sent, closed)
    answered = {}
    for place, (status, headers, body) in enumerate(answers):
        if status == 200 and b'"number"' in body:
            answered[place] = rig.recorder.answered[json.loads(body)["number"]]
    assert len(answered) <= forwarded <= len(answered) + (not clean), f"{forwarded} sent on, {len(answered)} answered"
    check_like(answered, *read_by_h11(data), "h11")
    seen = rig.nginx.understood(data)
    good = [line for line in seen if line["status"].startswith("2")]
    refused = None if len(good) == len(seen) else "refused"
    # Only what comes before a refusal was understood.
    good = seen[: next((at for at, line in enumerate(seen) if not line["status"].startswith("2")), len(seen))]
    check_like(answered, [(line["method"], line["target"], line["body"].encode("latin-1")) for line in good], refused, "nginx")
    count["streams"] += 1
    count["sent on"] += len(answered)
    for status, _, _ in answers:
        if status != 200:
            count[f"times {status}"] += 1
    count["unanswered at the end"] += not clean
    count["with bodies"] += sum(1 for message in answered.values() if message.body)


def check_sent(rig, sent, closed):
    """The bytes on one connection to the upstream; how many messages they are."""
    messages, why = read_by_h11(sent)
    cut = why is not None and closed and ("closed connection" in why or "unexpectedly closed" in why)
    assert why is None or cut, f"h11 does not understand what went on: {why}: {sent[:400]!r}"
    seen = rig.nginx.understood(sent)
    for message, line in zip(messages, seen):
        body = line["body"].encode("latin-1")
        assert (line["method"], line["target"], body) == (message.method, message.target, message.body), f"{message}: {line}"
        assert line["status"].startswith("2"), f"nginx refuses {message}: {line}"
    more = [line for line in seen[len(messages):] if line["status"].startswith("2")]
    assert len(seen) >= len(messages) and not more, f"nginx sees {len(seen)} messages, h11 {len(messages)}: {more}"
    for message in messages:
        check_message(rig, message)
    heads = re.split(rb"\r\n\r\n", sent)[0]
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", heads), f"odd line ends went on: {heads!r}"
    return sum(1 for message in messages if message.all("x-request-id") != ["ping"])


def check_message(rig, message):
    assert message.method in ("GET", "POST", "DELETE"), message
    assert message.target == UPSTREAM_PATH or message.target.startswith(UPSTREAM_PATH + "&"), message
    assert "access_token" not in message.target and not re.search(r"[\x00-\x20\x7f#]", message.target), message
    assert message.all("host") == [f"127.0.0.1:{rig.recorder.port}"], message.headers
    tokens = message.all("x-github-token")
    assert len(tokens) == 1 and tokens[0].startswith("gho_"), message.headers
    assert len(message.all("content-length")) + len(message.all("transfer-encoding")) <= 1, message.headers
    never = {
        "authorization", "connection", "cookie", "expect", "keep-alive", "proxy-connection", "te", "trailer", "upgrade",
        "http2-settings", "x_github_token", "x.github.token", "transfer_encoding", "x-http-method-override",
    }
    assert not never & {name for name, _ in message.headers}, message.headers


def check_like(answered, messages, why, who):
    """What went on is what `who` finds at the same place of the client's bytes, as far as it understands them."""
    for place, message in answered.items():
        if place >= len(messages):
            assert why is not None and "incomplete" not in why and "closed" not in why, f"{who} sees no message {place + 1}: {message} ({why})"
            continue
        theirs = messages[place]
        method, target, body = theirs if isinstance(theirs, tuple) else (theirs.method, theirs.target, theirs.body)
        path = re.sub(r"^https?://[^/?#]*", "", target).split("?")[0].split("#")[0]
        assert path in ("/mcp", "/mcp/"), f"{who} sees {target}, {message} went on"
        assert method == message.method, f"{who} sees {method}, {message} went on"
        # The body of a GET means nothing (RFC 9110 §9.3.1) and stays here.
        assert message.body == (b"" if method == "GET" else body), f"{who} sees {body[:200]!r}, {message} went on"


def check_answer(rig, data, close, method, count):
    rig.recorder.mark()
    rig.recorder.hostile = (data, close)
    body = b"" if method == "GET" else b"{}"
    asked = f"{method} /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {rig.token}\r\nContent-Length: {len(body)}\r\n"
    said, clean = rig.say(asked.encode() + b"Connection: close\r\n\r\n" + body)
    rig.recorder.hostile = None
    answers, why = read_answers(said, method)
    theirs, reason = read_answers(data + (b"" if close else b""), method)
    whole = theirs[:1] if close or not theirs or is_delimited(theirs[0]) else []
    if why is not None or not answers:
        assert len(answers) == 0, f"something follows the answer: {why}"
        count["cut"] += 1
    else:
        status, headers, content = answers[0]
        assert len(answers) == 1, answers
        if status in (502, 504) and content.startswith(b'{"error":"upstream_'):
            count["refused"] += 1
        else:
            assert whole or reason, f"{data!r} is no whole answer, {content!r} came of it"
            if whole:
                assert (status, content) == (whole[0][0], whole[0][2]), f"{whole[0]} became {answers[0]}"
            count["passed on"] += 1
        assert b"set-cookie" not in headers and b"location" not in headers, headers
    # A connection that the upstream closes meanwhile is a refusal (a POST is not sent twice), never a foreign answer.
    for _ in range(5):
        honest, why = rig.ping()
        assert why is None and len(honest) == 1, f"the next call got {honest} ({why})"
        if honest[0][0] != 502:
            break
        count["refused to the next"] += 1
    assert honest[0][0] == 200 and json.loads(honest[0][2])["asked"] == "ping", f"the next call got {honest}"
    count["answers"] += 1


def is_delimited(answer):
    """Whether it ends before the connection does."""
    status, headers, _ = answer
    return status in (204, 304) or b"content-length" in headers or b"transfer-encoding" in headers


# === All of it ===


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("--examples", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments = arguments.parse_args()
    rig = Rig(arguments.folder)
    examples = settings(
        max_examples=arguments.examples, database=None, deadline=None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )
    asked, answered = collections.Counter(), collections.Counter()

    @seed(arguments.seed)
    @examples
    @given(requests(rig.token))
    def requests_are_understood_alike(data):
        check_requests(rig, data, asked)

    @seed(arguments.seed)
    @examples
    @given(hostile())
    def answers_are_one_or_none(answer):
        check_answer(rig, *answer, answered)

    try:
        requests_are_understood_alike()
        print("requests:", ", ".join(f"{number} {name}" for name, number in asked.items()))
        answers_are_one_or_none()
        print("answers:", ", ".join(f"{number} {name}" for name, number in answered.items()))
        assert asked["sent on"] > arguments.examples / 3 and asked["with bodies"] > arguments.examples / 6, asked
        assert answered["passed on"] > arguments.examples / 6, answered
    finally:
        rig.stop()


main()
