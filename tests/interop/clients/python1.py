"""mcp 1.x: ClientSession with OAuthClientProvider.    python1.py URL (http|sse)"""

import asyncio
import sys

from common import Callback, Storage, converse
from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared.auth import OAuthClientMetadata


async def main(url, transport):
    storage = Storage()
    async with Callback() as callback:

        async def code_and_state():
            query = await callback.query
            return query["code"], query.get("state")

        provider = OAuthClientProvider(
            server_url=url,
            client_metadata=OAuthClientMetadata(client_name="interop python 1", redirect_uris=[callback.uri]),
            storage=storage,
            redirect_handler=callback.visit,
            callback_handler=code_and_state,
        )
        connect = sse_client if transport == "sse" else streamablehttp_client
        async with connect(url, auth=provider) as streams, ClientSession(streams[0], streams[1]) as session:
            await session.initialize()

            async def list_tools():
                return [tool.name for tool in (await session.list_tools()).tools]

            async def call(name, arguments, progress=None):
                result = await session.call_tool(name, arguments, progress_callback=progress)
                return result.content[0].text

            await converse(list_tools, call, storage)


asyncio.run(main(*sys.argv[1:]))
