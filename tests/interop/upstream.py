"""An MCP server that knows nothing of authorization, on the Python SDK it is started with.

Under mcp 2.x it is an MCPServer (both protocol eras), under mcp 1.x a FastMCP. Beside `echo` it has `seen`, which
answers with the request's headers as they arrived here: that is how a client case knows what the proxy passed on.

    upstream.py (http|sse) PORT
"""

import asyncio
import json
import sys

try:
    from mcp.server.mcpserver import Context, MCPServer

    SETTINGS_IN_RUN = True
except ImportError:
    from mcp.server.fastmcp import Context, FastMCP as MCPServer

    SETTINGS_IN_RUN = False

mode, port = sys.argv[1], int(sys.argv[2])
# 1.x takes host and port when the server is made, 2.x when it is run.
where = {"host": "127.0.0.1", "port": port}
server = MCPServer("interop upstream") if SETTINGS_IN_RUN else MCPServer("interop upstream", **where)


@server.tool()
def echo(message: str) -> str:
    """Say it back."""
    return f"Echo: {message}"


@server.tool()
def seen(ctx: Context) -> str:
    """The headers of this very request, as the upstream received them."""
    return json.dumps(dict(ctx.request_context.request.headers))


@server.tool()
async def count(to: int, ctx: Context) -> str:
    """Report progress `to` times, so that an answer is a stream of several events."""
    for step in range(1, to + 1):
        await ctx.report_progress(step, to)
        await asyncio.sleep(0.1)
    return f"counted to {to}"


transport = {"http": "streamable-http", "sse": "sse"}[mode]
server.run(transport, **where) if SETTINGS_IN_RUN else server.run(transport)
