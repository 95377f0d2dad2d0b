// @modelcontextprotocol/client 2.x.    client2.mjs URL (http|sse)
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { check, connect, converse, loopback, Provider } from './common.mjs';

const [url, kind] = process.argv.slice(2);
const callback = await loopback();
const provider = new Provider(callback, 'interop client 2');
const Transport = kind === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport;
// The 2026 revision has no HTTP+SSE; over Streamable HTTP the client asks the server which one it speaks.
const versionNegotiation = { mode: kind === 'sse' ? 'legacy' : 'auto' };

const client = await connect(
  () => new Client({ name: 'interop', version: '1' }, { versionNegotiation }),
  () => new Transport(new URL(url), { authProvider: provider }),
  provider,
  callback,
  // Given the whole query, the SDK itself checks `iss` (RFC 9207).
  (transport, query) => transport.finishAuth(query),
);
console.log(`protocol ${client.getNegotiatedProtocolVersion?.() ?? client.transport.protocolVersion}`);
await converse({
  listTools: async () => (await client.listTools()).tools.map((tool) => tool.name),
  call: async (name, args, onprogress) => (await client.callTool({ name, arguments: args }, { onprogress })).content[0].text,
  issued: () => provider.issued,
  atOnce: 3,
});
if (kind === 'http' && client.transport.sessionId) {
  await client.transport.terminateSession();
  check(true, 'session ended by DELETE');
}
await client.close();
callback.server.close();
