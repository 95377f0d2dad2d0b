"""What both Python cases share: a loopback callback, a store for tokens, and the conversation every client has."""

import asyncio
import json
import os
from urllib.parse import parse_qsl, urlsplit


class Callback:
    """A loopback redirect_uri that starts the browser and keeps the query it comes back with."""

    async def __aenter__(self):
        self.query = asyncio.get_running_loop().create_future()
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.uri = f"http://localhost:{self.server.sockets[0].getsockname()[1]}/callback"
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def answer(self, reader, writer):
        target = (await reader.readline()).split()[1].decode()
        if not self.query.done():
            self.query.set_result(dict(parse_qsl(urlsplit(target).query)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")
        await writer.drain()
        writer.close()

    async def visit(self, url):
        if self.query.done():
            raise SystemExit("not so: one login is enough")
        print(f"browser: {url}", flush=True)
        browser = await asyncio.create_subprocess_exec(os.environ["INTEROP_BROWSER"], url)
        if await browser.wait() != 0:
            raise SystemExit("the browser did not come back")


class Storage:
    """Tokens and registration in memory, and every access token ever held, to see that it was replaced."""

    def __init__(self):
        self.tokens = self.client_info = None
        self.seen = []

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens
        self.seen.append(tokens.access_token)
        print(f"tokens: expires_in={tokens.expires_in} scope={tokens.scope} refresh={bool(tokens.refresh_token)}", flush=True)

    async def get_client_info(self):
        return self.client_info

    async def set_client_info(self, client_info):
        self.client_info = client_info


def check(condition, what):
    if not condition:
        raise SystemExit(f"not so: {what}")
    print(f"ok: {what}", flush=True)


async def converse(list_tools, call, storage):
    """List, call, stream, wait for the access token to die, call again, several at once."""
    tools = await list_tools()
    check("echo" in tools, f"{len(tools)} tools listed")
    check(await call("echo", {"message": "before"}) == "Echo: before", "tool called")
    steps = []

    async def progress(step, total, message):
        steps.append(step)

    if "count" in tools:
        await call("count", {"to": 3}, progress)
    else:
        await call("trigger-long-running-operation", {"duration": 0.6, "steps": 3}, progress)
    check(len(steps) == 3, f"{len(steps)} progress events streamed before the answer")
    await check_seen(tools, call)
    if os.environ.get("INTEROP_DIRECT"):
        return
    issued = len(storage.seen)
    check(issued >= 1, "tokens issued")
    await asyncio.sleep(float(os.environ["INTEROP_EXPIRY"]))
    answers = await asyncio.gather(*(call("echo", {"message": f"after {n}"}) for n in range(3)))
    check(answers == [f"Echo: after {n}" for n in range(3)], "three calls at once after expiry")
    check(len(storage.seen) > issued and storage.seen[-1] != storage.seen[issued - 1], "access token renewed")
    await check_seen(tools, call)


async def check_seen(tools, call):
    """Only upstreams of ours tell what reached them."""
    if "seen" not in tools or os.environ.get("INTEROP_DIRECT"):
        return
    headers = json.loads(await call("seen", {}))
    check(headers.get("x-github-token"), "the upstream got a GitHub token")
    check("authorization" not in headers and "cookie" not in headers, "and not the client's credentials")
