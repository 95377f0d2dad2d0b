// What the Node cases share: a loopback callback, a browser, an OAuthClientProvider kept in memory, and the
// conversation every client has. The same conversation as common.py.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

export const direct = Boolean(process.env.INTEROP_DIRECT);
export const expiry = () => sleep(Number(process.env.INTEROP_EXPIRY) * 1000);

export function check(condition, what) {
  if (!condition) throw new Error(`not so: ${what}`);
  console.log(`ok: ${what}`);
}

/** Runs the browser; answers with what it printed, which is the final address when it was told to print. */
export async function browse(...args) {
  console.log(`browser: ${args.join(' ')}`);
  const browser = spawn(process.env.INTEROP_BROWSER, args.map(String), { stdio: ['ignore', 'pipe', 'inherit'] });
  let printed = '';
  browser.stdout.on('data', (chunk) => (printed += chunk));
  const [code] = await once(browser, 'close');
  if (code !== 0) throw new Error('the browser did not come back');
  return printed.trim();
}

/** A loopback redirect_uri; `query` resolves with the parameters of the first callback. */
export async function loopback() {
  const callback = {};
  callback.query = new Promise((resolve) => {
    callback.server = http.createServer((request, response) => {
      resolve(new URL(request.url, 'http://localhost').searchParams);
      response.end('done');
    });
  });
  await once(callback.server.listen(0, '127.0.0.1'), 'listening');
  callback.uri = `http://localhost:${callback.server.address().port}/callback`;
  return callback;
}

/** An OAuthClientProvider as both generations of the SDK want it. */
export class Provider {
  issued = [];

  constructor(callback, name) {
    this.redirectUrl = callback.uri;
    this.clientMetadata = { client_name: name, redirect_uris: [callback.uri] };
  }

  state() {
    return (this.expectedState = randomUUID());
  }
  clientInformation() {
    return this.client;
  }
  saveClientInformation(client) {
    this.client = client;
  }
  discoveryState() {
    return this.discovery;
  }
  saveDiscoveryState(discovery) {
    this.discovery = discovery;
  }
  tokens() {
    return this.held;
  }
  saveTokens(tokens) {
    this.held = tokens;
    this.issued.push(tokens.access_token);
    console.log(`tokens: expires_in=${tokens.expires_in} scope=${tokens.scope} refresh=${Boolean(tokens.refresh_token)}`);
  }
  codeVerifier() {
    return this.verifier;
  }
  saveCodeVerifier(verifier) {
    this.verifier = verifier;
  }
  async redirectToAuthorization(url) {
    await browse(url);
  }
  invalidateCredentials(scope) {
    throw new Error(`the SDK gave up its ${scope}`);
  }
}

export const isUnauthorized = (error) => error.constructor.name === 'UnauthorizedError';

/** Connect; when that ends in a login, finish it and connect again, as the SDK's own examples do. */
export async function connect(makeClient, makeTransport, provider, callback, finish) {
  const transport = makeTransport();
  try {
    const client = makeClient();
    await client.connect(transport);
    return client;
  } catch (error) {
    if (!isUnauthorized(error)) throw error;
  }
  const query = await callback.query;
  check(query.get('state') === provider.expectedState, 'state came back');
  await finish(transport, query);
  const client = makeClient();
  await client.connect(makeTransport());
  return client;
}

/** List, call, stream, wait for the access token to die, call again. */
export async function converse({ listTools, call, issued, atOnce }) {
  const tools = await listTools();
  check(tools.includes('echo'), `${tools.length} tools listed`);
  check((await call('echo', { message: 'before' })) === 'Echo: before', 'tool called');
  if (call.length > 2) {
    let steps = 0;
    const [name, args] = tools.includes('count')
      ? ['count', { to: 3 }]
      : ['trigger-long-running-operation', { duration: 0.6, steps: 3 }];
    await call(name, args, () => steps++);
    // The SDKs drop a progress event that arrives in one chunk with the answer, so the last one may be missing.
    check(steps >= 2, `${steps} progress events streamed before the answer`);
  }
  await checkSeen(tools, call);
  if (direct) return;
  const before = issued?.().length;
  await expiry();
  const messages = Array.from({ length: atOnce }, (_, n) => `after ${n}`);
  const answers = await Promise.all(messages.map((message) => call('echo', { message })));
  check(answers.every((answer, n) => answer === `Echo: after ${n}`), `${atOnce} call(s) at once after expiry`);
  if (issued) {
    const now = issued();
    check(now.length > before && now.at(-1) !== now[before - 1], 'access token renewed');
  }
  await checkSeen(tools, call);
}

/** Only upstreams of ours tell what reached them. */
async function checkSeen(tools, call) {
  if (direct || !tools.includes('seen')) return;
  const headers = JSON.parse(await call('seen', {}));
  check(headers['x-github-token'], 'the upstream got a GitHub token');
  check(!('authorization' in headers) && !('cookie' in headers), "and not the client's credentials");
}
