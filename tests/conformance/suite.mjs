// Runs the conformance suite as its users do, by its command line, and reads what it wrote down.
import { spawn } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';

const SERVER_RUN_MS = 300_000;
const AUTHORIZATION_RUN_MS = 60_000;

export class Suite {
  #home;
  #results;

  /** @param work where ./run installed the suite; results go there too */
  constructor(work) {
    this.#home = path.join(work, 'suite/node_modules/@modelcontextprotocol/conformance');
    this.#results = path.join(work, 'results');
    this.version = JSON.parse(readFileSync(path.join(this.#home, 'package.json'), 'utf8')).version;
  }

  /** The server scenarios of a requirement set: [{scenario, unscored: reason or undefined}], in the suite's order. */
  required(revision) {
    const { parse } = createRequire(path.join(this.#home, 'package.json'))('yaml');
    const set = parse(readFileSync(path.join(this.#home, 'requirements', `${revision}.yaml`), 'utf8'));
    const unscored = set.not_scored.filter(({ leg }) => leg === 'server');
    return [
      ...set.server.map((scenario) => ({ scenario })),
      ...unscored.map(({ scenario, reason }) => ({ scenario, unscored: reason })),
    ];
  }

  /** Runs the server scenarios of a requirement set; returns scenario → checks. */
  server(label, url, revision) {
    const args = ['server', '--url', url, '--requirements', revision];
    return this.#run(label, 'server', args, SERVER_RUN_MS, () => {});
  }

  /** Runs the authorization-server scenarios; `visit` gets the address that the suite wants opened in a browser. */
  authorization(label, { issuer, clientId, port, resource, revision }, visit) {
    const args = ['authorization', '--url', issuer, '--client-id', clientId, '--port', String(port), '--spec-version', revision];
    if (resource) args.push('--resource', resource);
    const onLine = (line) => line.startsWith(`${issuer}/`) && visit(line);
    return this.#run(label, 'authorization-server', args, AUTHORIZATION_RUN_MS, onLine);
  }

  async #run(label, prefix, args, limit, onLine) {
    const directory = path.join(this.#results, label);
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { recursive: true });
    const log = createWriteStream(path.join(directory, 'suite.log'));
    const child = spawn(process.execPath, [path.join(this.#home, 'dist/index.js'), ...args, '--output-dir', directory], {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: limit,
      killSignal: 'SIGKILL',
    });
    const abandon = () => child.kill('SIGKILL');
    process.once('exit', abandon);
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });

    // Its exit code only repeats what the results say. What it did not finish is missing there, and missed by the caller.
    await new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', resolve);
      readline.createInterface({ input: child.stdout }).on('line', (line) => {
        Promise.resolve(onLine(line)).catch((error) => { abandon(); reject(error); });
      });
    });
    process.off('exit', abandon);
    log.end();
    return read(directory, prefix);
  }
}

function read(directory, prefix) {
  const results = new Map();
  for (const entry of readdirSync(directory)) {
    const scenario = entry.match(new RegExp(`^${prefix}-(.*)-\\d{4}-\\d\\d-\\d\\dT[\\d-]+Z$`))?.[1];
    const file = path.join(directory, entry, 'checks.json');
    if (scenario && existsSync(file)) results.set(scenario, JSON.parse(readFileSync(file, 'utf8')));
  }
  return results;
}
