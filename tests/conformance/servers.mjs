// The processes around the suite: each on a port of its own, waited for by asking it, ended by its handle.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const READY_WITHIN_MS = 30_000;
const STOP_WITHIN_MS = 5_000;
const running = new Set();

/** A port that was free a moment ago. The servers take a number, not a socket, so a gap remains. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Starts a server and returns its stop function once `readyUrl` answers, whatever the status. */
export async function start(name, command, args, { readyUrl, log, env = {} }) {
  const output = openSync(log, 'w');
  const child = spawn(command, args, { stdio: ['ignore', output, output], env: { ...process.env, ...env } });
  running.add(child);
  let failure;
  child.on('error', (error) => { failure = error.message; });
  child.on('exit', (code, signal) => { running.delete(child); failure ??= `ended early (${signal ?? code})`; });

  const deadline = Date.now() + READY_WITHIN_MS;
  while (!(await answers(readyUrl))) {
    if (!failure && Date.now() > deadline) failure = `did not answer within ${READY_WITHIN_MS / 1000} s`;
    if (failure) throw new Error(`${name} ${failure}; its last words:\n${lastLines(log)}`);
    await sleep(50);
  }
  return () => stop(child);
}

async function answers(url) {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(1_000) });
    await response.body?.cancel();
    return true;
  } catch {
    return false;
  }
}

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

export function lastLines(file, count = 20) {
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-count).join('\n');
}
