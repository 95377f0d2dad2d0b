// One request, one connection. Not fetch: that pools connections, which outlive the servers they lead to when a port is
// used again, and it does not let a script set the headers that only browsers may set.
import http from 'node:http';

const WITHIN_MS = 10_000;

export function send(url, { method = 'GET', headers, body } = {}, within = WITHIN_MS) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers, agent: false, signal: AbortSignal.timeout(within) }, (response) => {
      response.setEncoding('utf8');
      let text = '';
      response.on('data', (chunk) => { text += chunk; });
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body: text }));
      response.on('error', reject);
    });
    request.on('error', (error) => reject(new Error(`${method} ${url}: ${error.message || error.code}`)));
    request.end(body);
  });
}
