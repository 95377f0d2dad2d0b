// The MCP Inspector's CLI: one process per command, so login, registration and tokens live in its files below HOME.
//     inspector.mjs URL (http|sse)        needs Node >= 22
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { check, expiry } from './common.mjs';

const [url, kind] = process.argv.slice(2);
const program = fileURLToPath(new URL('node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js', import.meta.url));
const env = {
  ...process.env,
  // Without a terminal it starts a browser only when told so, and a keychain is not to be expected.
  MCP_AUTO_OPEN_ENABLED: 'true',
  MCP_INSPECTOR_SECRET_STORE: 'file',
};

/** Runs one command and answers with the JSON it printed. */
async function cli(...args) {
  console.log(`inspector --cli ${args.join(' ')}`);
  const child = spawn(
    process.execPath,
    // Port 0: any free port, another one for every process.
    [program, '--cli', '--server-url', url, '--transport', kind, '--format', 'json', '--callback-url', 'http://127.0.0.1:0/oauth/callback', ...args],
    { env, stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let printed = '';
  child.stdout.on('data', (chunk) => (printed += chunk));
  const [code] = await once(child, 'close');
  console.log(printed.slice(0, 300));
  check(code === 0, `exit code ${code}`);
  return JSON.parse(printed);
}
const stored = '--stored-auth-only';
const text = (answer) => (answer.result ?? answer).content[0].text;
const echo = (message, ...more) => cli('--method', 'tools/call', '--tool-name', 'echo', '--tool-arg', `message=${message}`, ...more);

const list = await cli('--method', 'tools/list');
check((list.result ?? list).tools.some((tool) => tool.name === 'echo'), 'login and tools listed');
check(text(await echo('before', stored)) === 'Echo: before', 'tool called with the stored login');
await expiry();
check(text(await echo('after', stored)) === 'Echo: after', 'renewed without a browser after expiry');
check(text(await echo('auto', stored, '--protocol-era', kind === 'sse' ? 'legacy' : 'auto')) === 'Echo: auto', 'tool called in the era of the server');
check(text(await echo('anew', '--relogin')) === 'Echo: anew', 'stored login dropped, logged in anew');
