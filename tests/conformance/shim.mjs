// A loopback relay between the suite and its target. The suite cannot send a token, so the relay adds one.
// The direct run passes through it as well, without a token: then the two runs differ in the proxy only.
import http from 'node:http';
import { once } from 'node:events';

// These describe one connection, and the relay has two.
const HOP_BY_HOP = new Set(['connection', 'keep-alive']);

/**
 * @param target authority of the server behind the relay, as that server expects it in Host
 * @param token  bearer token to present, or undefined
 */
export async function startShim(target, token) {
  const [hostname, port] = target.split(':');
  const agents = new WeakMap();
  let own;

  // One connection onwards for each one that came in, so that reuse and closing look as they do without the relay.
  const agentOf = (socket) => {
    if (!agents.has(socket)) {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      agents.set(socket, agent);
      socket.once('close', () => agent.destroy());
    }
    return agents.get(socket);
  };

  // The relay's own address stands for the target's. Any other Host or Origin is a test of the target and passes as it is.
  const translate = (name, value) => {
    if (name === 'host' && value === own) return target;
    if (name === 'origin' && value === `http://${own}`) return `http://${target}`;
    return value;
  };

  const server = http.createServer((request, response) => {
    const headers = [];
    for (const [name, value] of pairs(request.rawHeaders)) {
      const lower = name.toLowerCase();
      if (!HOP_BY_HOP.has(lower) && lower !== 'authorization') headers.push(name, translate(lower, value));
    }
    if (token) headers.push('Authorization', `Bearer ${token}`);

    const onward = http.request({
      host: hostname, port, method: request.method, path: request.url, headers, setHost: false, agent: agentOf(request.socket),
    });
    onward.on('response', (answer) => {
      response.sendDate = false;
      const passed = pairs(answer.rawHeaders).filter(([name]) => !HOP_BY_HOP.has(name.toLowerCase()));
      response.writeHead(answer.statusCode, answer.statusMessage, passed.flat());
      response.flushHeaders();
      answer.pipe(response);
      // A broken answer must reach the suite as a broken one, never as a complete one.
      answer.on('error', () => response.destroy());
      answer.on('close', () => answer.complete || response.destroy());
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => response.writableFinished || onward.destroy());
    request.pipe(onward);
    request.on('error', () => onward.destroy());
  });
  server.requestTimeout = 0;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  own = `127.0.0.1:${server.address().port}`;
  return {
    url: `http://${own}`,
    stop: () => { server.close(); server.closeAllConnections(); },
  };
}

function pairs(rawHeaders) {
  return Array.from({ length: rawHeaders.length / 2 }, (_, i) => rawHeaders.slice(2 * i, 2 * i + 2));
}
