// The processes around the suite: each on a port of its own, waited for by asking it, ended by its handle.
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { send } from './http.mjs';

const READY_WITHIN_MS = 30_000;
const STOP_WITHIN_MS = 5_000;
const running = new Set();

/**
 * A port that was free a moment ago. The servers take a number, not a socket, so a gap remains; it is drawn from below
 * the ephemeral range, where no outgoing connection can take it meanwhile.
 */
export async function freePort() {
  for (let attempts = 0; attempts < 100; attempts++) {
    const server = createServer().listen(randomInt(20_000, 32_000), '127.0.0.1');
    try {
      await once(server, 'listening');
    } catch {
      continue;
    }
    const { port } = server.address();
    server.close();
    await once(server, 'close');
    return port;
  }
  throw new Error('no free port found');
}

/** Starts a server and waits until `readyUrl` answers, whatever the status. */
export async function start(name, command, args, { readyUrl, log, env = {} }) {
  const output = openSync(log, 'w');
  const child = spawn(command, args, { stdio: ['ignore', output, output], env: { ...process.env, ...env } });
  closeSync(output);
  running.add(child);
  let failure;
  const ended = (how) => { running.delete(child); failure ??= how; };
  child.on('error', (error) => ended(`does not start (${error.message})`));
  child.on('exit', (code, signal) => ended(`ended early (${signal ?? code})`));

  const deadline = Date.now() + READY_WITHIN_MS;
  let ready = false;
  while (!ready) {
    ready = await answers(readyUrl);
    if (!ready && Date.now() > deadline) failure ??= `did not answer within ${READY_WITHIN_MS / 1000} s`;
    if (failure) throw new Error(`${name} ${failure}; its last words:\n${lastLines(log)}`);
    if (!ready) await sleep(50);
  }
}

const answers = (url) => send(url, {}, 1_000).then(() => true, () => false);

async function stop(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  const killer = setTimeout(() => child.kill('SIGKILL'), STOP_WITHIN_MS);
  await gone;
  clearTimeout(killer);
}

export const stopAll = () => Promise.all([...running].map(stop));

// The last resort when this process itself is ended: no time is left to wait for anyone.
process.on('exit', () => { for (const child of running) child.kill('SIGKILL'); });

function lastLines(file, count = 20) {
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-count).join('\n');
}
