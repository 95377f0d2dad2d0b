"""mcp 2.x: Client with OAuthClientProvider.    python2.py URL (http|sse)"""

import asyncio
import sys

import httpx2
from common import Callback, Storage, converse
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata


async def main(url, transport):
    storage = Storage()
    async with Callback() as callback:

        async def result():
            return AuthorizationCodeResult(**await callback.query)

        provider = OAuthClientProvider(
            server_url=url,
            client_metadata=OAuthClientMetadata(client_name="interop python 2", redirect_uris=[callback.uri]),
            storage=storage,
            redirect_handler=callback.visit,
            callback_handler=result,
        )
        async with httpx2.AsyncClient(auth=provider, timeout=httpx2.Timeout(30, read=300)) as http:
            if transport == "sse":
                # 2.x speaks the 2026 revision only over Streamable HTTP.
                client = Client(sse_client(url, auth=provider), mode="legacy")
            else:
                client = Client(streamable_http_client(url, http_client=http))
            async with client:
                print(f"protocol {client.protocol_version}", flush=True)

                async def list_tools():
                    return [tool.name for tool in (await client.list_tools()).tools]

                async def call(name, arguments, progress=None):
                    answer = await client.call_tool(name, arguments, progress_callback=progress)
                    return answer.content[0].text

                await converse(list_tools, call, storage)


asyncio.run(main(*sys.argv[1:]))
