// MCP clients and other people's web servers, as small as they can be.

import { createHash, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';

export const PROXY = process.env.PROXY;
export const GITHUB = process.env.GITHUB;
export const MCP = `${PROXY}/mcp`;

const random = () => randomBytes(32).toString('base64url');

/** A client that has registered itself, or one the proxy knows already (`id`). */
export class Client {
  static async register(name, ...redirectUris) {
    const answer = await fetch(`${PROXY}/register`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ client_name: name, redirect_uris: redirectUris, token_endpoint_auth_method: 'none' }),
    });
    if (answer.status !== 201) throw new Error(`/register said ${answer.status} ${await answer.text()}`);
    return new Client((await answer.json()).client_id, redirectUris[0]);
  }

  constructor(id, redirectUri) {
    Object.assign(this, { id, redirectUri, state: random(), verifier: random() });
  }

  /** Where the person is sent; `changes` replace parameters, null removes one. */
  authorizeUrl(changes = {}) {
    const url = new URL(`${PROXY}/authorize`);
    const params = {
      response_type: 'code',
      client_id: this.id,
      redirect_uri: this.redirectUri,
      state: this.state,
      code_challenge: createHash('sha256').update(this.verifier).digest('base64url'),
      code_challenge_method: 'S256',
      resource: MCP,
      ...changes,
    };
    for (const [name, value] of Object.entries(params)) if (value !== null) url.searchParams.set(name, value);
    return url.href;
  }

  redemption(code, resource = MCP) {
    return new URLSearchParams({
      grant_type: 'authorization_code',
      client_id: this.id,
      redirect_uri: this.redirectUri,
      code_verifier: this.verifier,
      resource,
      code,
    });
  }

  async redeem(code, resource) {
    const answer = await fetch(`${PROXY}/token`, { method: 'POST', body: this.redemption(code, resource) });
    return { status: answer.status, ...(await answer.json()) };
  }

  /** Who the MCP server behind the proxy takes the bearer of this code for. */
  async whoami(code) {
    const { status, access_token: token } = await this.redeem(code);
    if (status !== 200) throw new Error(`/token said ${status}`);
    const session = await mcp(token, null, INITIALIZE);
    await mcp(token, session.id, { jsonrpc: '2.0', method: 'notifications/initialized' });
    const call = { jsonrpc: '2.0', id: 2, method: 'tools/call', params: { name: 'whoami', arguments: {} } };
    return (await mcp(token, session.id, call)).message.result.structuredContent;
  }
}

export const INITIALIZE = {
  jsonrpc: '2.0',
  id: 1,
  method: 'initialize',
  params: { protocolVersion: '2025-06-18', capabilities: {}, clientInfo: { name: 'browser-test', version: '1' } },
};

async function mcp(token, session, body) {
  const answer = await fetch(MCP, {
    method: 'POST',
    headers: {
      Authorization: `Bearer ${token}`,
      Accept: 'application/json, text/event-stream',
      'Content-Type': 'application/json',
      'MCP-Protocol-Version': '2025-06-18',
      ...(session && { 'Mcp-Session-Id': session }),
    },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${body.method} was answered ${answer.status} ${await answer.text()}`);
  return { id: answer.headers.get('mcp-session-id'), message: messageIn(await answer.text()) };
}

/** The JSON-RPC answer in a body that is JSON or an event stream. */
function messageIn(text) {
  const events = text.split('\n').filter((line) => line.startsWith('data:') && line.includes('{'));
  const last = events.length > 0 ? events.at(-1).slice('data:'.length) : text;
  return last.trim() === '' ? null : JSON.parse(last);
}

/** An MCP server that answers everything with a page of its own, and with headers that are not its business. */
export async function hostileUpstream(page, headers = {}) {
  const heard = [];
  const server = createServer((request, response) => {
    heard.push(request.headers);
    response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8', ...headers });
    response.end(page);
  });
  await new Promise((resolve) => server.listen(Number(process.env.HOSTILE_PORT), '127.0.0.1', resolve));
  return { heard, close: () => (server.close(), server.closeAllConnections()) };
}

/** A web server of somebody else on this machine: pages by path, and the callback of a client. */
export class Site {
  static async open(pages = {}) {
    const site = new Site(pages);
    await new Promise((resolve) => site.server.listen(0, '127.0.0.1', resolve));
    const { port } = site.server.address();
    site.origin = `http://localhost:${port}`;
    site.callback = `http://127.0.0.1:${port}/callback`;
    return site;
  }

  constructor(pages) {
    this.callbacks = 0;
    this.arrived = new Promise((resolve) => (this.arrive = resolve));
    this.server = createServer((request, response) => {
      const url = new URL(request.url, 'http://site');
      if (url.pathname === '/callback') {
        this.callbacks += 1;
        this.arrive(Object.fromEntries(url.searchParams));
      }
      const page = url.pathname === '/callback' ? (pages['/callback'] ?? '<h1>Back at the client</h1>') : pages[url.pathname];
      response.writeHead(page === undefined ? 404 : 200, { 'Content-Type': 'text/html' });
      response.end(page ?? 'nothing');
    });
  }

  close() {
    this.server.close();
    this.server.closeAllConnections();
  }
}
