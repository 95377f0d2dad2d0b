// @modelcontextprotocol/sdk 1.x.    sdk1.mjs URL (http|sse)
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { check, connect, converse, loopback, Provider } from './common.mjs';

const [url, kind] = process.argv.slice(2);
const callback = await loopback();
const provider = new Provider(callback, 'interop sdk 1');
const Transport = kind === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;

const client = await connect(
  () => new Client({ name: 'interop', version: '1' }),
  () => new Transport(new URL(url), { authProvider: provider }),
  provider,
  callback,
  (transport, query) => transport.finishAuth(query.get('code')),
);
await converse({
  listTools: async () => (await client.listTools()).tools.map((tool) => tool.name),
  call: async (name, args, onprogress) =>
    (await client.callTool({ name, arguments: args }, undefined, { onprogress })).content[0].text,
  issued: () => provider.issued,
  // Its breaker takes the 401 of a second call for a refused fresh token if the first has just renewed.
  atOnce: 1,
});
if (kind === 'http' && client.transport.sessionId) {
  await client.transport.terminateSession();
  check(true, 'session ended by DELETE');
}
await client.close();
callback.server.close();
