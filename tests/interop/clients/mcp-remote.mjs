// mcp-remote, the stdio bridge, driven over its stdio as a desktop application would.
//     mcp-remote.mjs URL (http|sse) [more mcp-remote options]
import { createRequire } from 'node:module';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { check, converse } from './common.mjs';

const [url, kind, ...options] = process.argv.slice(2);
const program = createRequire(import.meta.url).resolve('mcp-remote/dist/proxy.js');

async function start() {
  const client = new Client({ name: 'interop', version: '1' });
  await client.connect(
    new StdioClientTransport({
      command: process.execPath,
      args: [program, url, '--transport', `${kind}-only`, ...options],
      // Its tokens and registrations go below HOME, which `run` makes for every case.
      env: process.env,
    }),
  );
  return client;
}

const call = (client) => async (name, args, onprogress) =>
  (await client.callTool({ name, arguments: args }, undefined, { onprogress })).content[0].text;

const first = await start();
await converse({
  listTools: async () => (await first.listTools()).tools.map((tool) => tool.name),
  call: call(first),
  atOnce: 3,
});
await first.close();

// The next start of the desktop application: another process, the stored registration and tokens.
const second = await start();
check((await call(second)('echo', { message: 'again' })) === 'Echo: again', 'tool called by a second process');
await second.close();
