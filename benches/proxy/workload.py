"""What is asked: the requests of a client in Node (Claude Code, MCP Inspector), whole, as text with holes."""

BODY = (
    '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"search_issues","arguments":'
    '{"query":"is:open label:bug streams end early","owner":"octocat","repo":"hello-world","per_page":30,'
    '"sort":"updated","order":"desc"},"_meta":{"progressToken":7,"claudecode/toolUseId":"toolu_01A09q90qw90lq917835lq9"}}}'
)
INITIALIZE = (
    '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":'
    '{"roots":{}},"clientInfo":{"name":"claude-code","version":"2.1.0"}}}'
)
assert 290 <= len(BODY) <= 310, len(BODY)

HEADERS = {
    "Authorization": "Bearer TOKEN",
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "User-Agent": "claude-code/2.1.0 (cli)",
    "Mcp-Protocol-Version": "2025-06-18",
    "Mcp-Session-Id": "SESSION",
    "Accept-Language": "*",
    "Sec-Fetch-Mode": "cors",
    "Accept-Encoding": "gzip, deflate",
}


def request(method, path, headers, body=None):
    lines = [f"{method} {path} HTTP/1.1", "Host: p.test", "Connection: keep-alive"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines) + "\r\n\r\n" + (body or "")


def without(*names):
    return {name: value for name, value in HEADERS.items() if name not in names}


CALL = request("POST", "/mcp", HEADERS, BODY)
GREETING = request("POST", "/mcp", without("Mcp-Session-Id", "Mcp-Protocol-Version"), INITIALIZE)
LISTEN = {**without("Content-Type"), "Accept": "text/event-stream"}
SILENT = request("GET", "/mcp", LISTEN)


def events(every_ms):
    return request("GET", f"/mcp?every={every_ms}", LISTEN)


def write(rig):
    """The templates as files: path by name."""
    texts = {"call": CALL, "greeting": GREETING, "silent": SILENT, "events": events(1000)}
    return {name: rig.write(f"{name}.http", text) for name, text in texts.items()}
