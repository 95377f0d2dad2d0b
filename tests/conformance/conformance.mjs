// What is judged, in order: each requirement set directly and through the proxy, then the login. Started by ./run.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { differences } from './compare.mjs';
import { send } from './http.mjs';
import { approve, logIn, register } from './login.mjs';
import { report, score } from './report.mjs';
import { freePort, start, stopAll } from './servers.mjs';
import { startShim } from './shim.mjs';
import { Suite } from './suite.mjs';

const REQUIREMENT_SETS = ['2025-11-25', '2026-07-28'];
// RFC 8707 came into MCP with 2025-06-18: clients before it name no resource.
const LOGINS = [
  { revision: '2025-03-26', resource: false },
  { revision: '2025-06-18', resource: true },
  { revision: '2025-11-25', resource: true },
  { revision: '2026-07-28', resource: true },
];
const LOGIN_SCENARIOS = ['authorization-server-metadata-endpoint', 'authorization-code-grant'];
const MCP_PATH = '/mcp';
const GITHUB_APP = { id: 'conformance', secret: 'conformance-secret' };
// What the proxy has to say to a foreign Host or Origin differs from what the upstream says; that it refuses does not.
const OWN_WORDS = { 'dns-rebinding-protection': ['localhost-host-rebinding-rejected'] };

const here = import.meta.dirname;
const root = path.resolve(here, '../..');
const work = path.join(root, 'target/conformance');
const logs = path.join(work, 'logs');
const page = path.join(root, 'docs/conformance.md');
const proxyBinary = path.resolve(process.env.MCP_AUTH_PROXY ?? path.join(root, 'target/release/mcp-auth-proxy'));
const standinBinary = path.resolve(process.env.STANDIN ?? path.join(root, 'target/release/examples/standin'));

const tally = { passed: 0, failed: 0 };

function judge(name, complaints) {
  tally[complaints.length ? 'failed' : 'passed'] += 1;
  console.log(`${complaints.length ? 'FAIL' : 'ok  '} ${name}`);
  for (const complaint of complaints) console.log(`       ${complaint}`);
}

async function main() {
  const { values: options } = parseArgs({
    options: { check: { type: 'boolean' }, direct: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  });
  if (options.help) {
    console.log('usage: run [--check | --direct]\n  --check   fail when docs/conformance.md would change, write nothing\n  --direct  only try the upstream itself, without proxy and stand-in');
    return 0;
  }
  if (!options.direct) {
    for (const binary of [proxyBinary, standinBinary]) {
      if (!existsSync(binary)) throw new Error(`${path.relative(process.cwd(), binary)} is missing; build it with cargo build --release --bins --examples`);
    }
  }
  mkdirSync(logs, { recursive: true });

  const suite = new Suite(work);
  const servers = [];
  for (const revision of REQUIREMENT_SETS) servers.push({ revision, rows: await judgeServer(suite, revision, options.direct) });
  if (options.direct) return verdict();

  const logins = [];
  for (const login of LOGINS) logins.push({ ...login, rows: await judgeLogin(suite, login) });

  const text = report({ suite: suite.version, upstream: upstreamVersion() }, servers, logins);
  if (options.check) {
    const current = existsSync(page) ? readFileSync(page, 'utf8') : '';
    judge('docs/conformance.md is up to date', current === text ? [] : ['run tests/conformance/run and commit the page']);
  } else if (tally.failed) {
    console.log('docs/conformance.md is left as it was');
  } else {
    mkdirSync(path.dirname(page), { recursive: true });
    writeFileSync(page, text);
  }
  return verdict();
}

function verdict() {
  console.log(`${tally.passed} passed, ${tally.failed} failed`);
  return tally.failed ? 1 : 0;
}

async function judgeServer(suite, revision, directOnly) {
  const direct = await runServer(suite, `${revision}-direct`, revision, startUpstream);
  const proxied = directOnly ? undefined : await runServer(suite, `${revision}-proxied`, revision, startProxied);

  return suite.required(revision).map(({ scenario, unscored }) => {
    const [one, other] = [direct, proxied].map((run) => run?.checks.get(scenario));
    const complaints = [];
    // Two runs that fail alike would prove nothing: what is scored has to pass directly first.
    if (!one) complaints.push('has no result directly');
    else if (!unscored && one.some(({ status }) => status === 'FAILURE')) complaints.push('fails directly');
    if (proxied) complaints.push(...differences(strip(scenario, one), strip(scenario, other), { direct: direct.own, proxied: proxied.own }));
    judge(`${revision} ${scenario}`, complaints);
    return { scenario, unscored, direct: one ? score(one) : '–', proxied: other ? score(other) : '–', same: !complaints.length };
  });
}

function strip(scenario, checks) {
  return checks?.map((check) => (OWN_WORDS[scenario]?.includes(check.id) ? { ...check, details: undefined } : check));
}

// A fresh upstream for each run, so that its counters (event ids) agree too.
async function runServer(suite, label, revision, startTarget) {
  const { target, token } = await startTarget(label);
  const shim = await startShim(target, token);
  try {
    return { own: new URL(shim.url).host, checks: await suite.server(label, shim.url + MCP_PATH, revision) };
  } finally {
    shim.stop();
    await stopAll();
  }
}

async function judgeLogin(suite, { revision, resource }) {
  const label = `${revision}-login`;
  const { issuer } = await startProxy(label);
  const port = await freePort();
  const callback = `http://127.0.0.1:${port}/callback`;
  try {
    const clientId = await register(issuer, 'conformance suite');
    const request = { issuer, clientId, port, resource: resource && issuer + MCP_PATH, revision };
    const results = await suite.authorization(label, request, async (address) => {
      await send(await approve(address, callback));
    });
    // A suite that was cut short leaves out what it did not finish, which must not look like success.
    for (const scenario of LOGIN_SCENARIOS) {
      if (!results.has(scenario)) judge(`${revision} ${scenario}`, ['has no result']);
    }
    const checks = [...results.values()].flat();
    for (const { id, status, errorMessage } of checks) {
      judge(`${revision} ${id}`, status === 'SUCCESS' ? [] : [`${status} ${errorMessage ?? ''}`]);
    }
    return checks.map(({ id, status }) => ({ check: id, status: status === 'SUCCESS' ? 'pass' : status.toLowerCase() }));
  } finally {
    await stopAll();
  }
}

async function startUpstream(label) {
  const port = await freePort();
  const target = `127.0.0.1:${port}`;
  await start('upstream', path.join(work, 'venv/bin/python'), ['-m', 'mcp_everything_server', '--port', String(port)], {
    readyUrl: `http://${target}${MCP_PATH}`,
    log: path.join(logs, `${label}.upstream.log`),
    env: { PYTHONPATH: path.join(work, 'upstream'), PYTHONDONTWRITEBYTECODE: '1' },
  });
  return { target };
}

async function startProxied(label) {
  const { issuer } = await startProxy(label);
  const resource = issuer + MCP_PATH;
  const bare = await send(resource, { method: 'POST' });
  // Otherwise the comparison might be of the upstream with itself.
  if (bare.status !== 401) throw new Error(`without a token the proxy answered ${bare.status}, not 401`);
  return { target: new URL(issuer).host, token: await logIn(issuer, resource) };
}

async function startProxy(label) {
  const [{ target: upstream }, standinPort, port] = [await startUpstream(label), await freePort(), await freePort()];
  const github = `http://127.0.0.1:${standinPort}`;
  await start('stand-in', standinBinary,
    ['--listen', `127.0.0.1:${standinPort}`, '--client-id', GITHUB_APP.id, '--client-secret', GITHUB_APP.secret],
    { readyUrl: github, log: path.join(logs, `${label}.standin.log`) });

  const issuer = `http://localhost:${port}`;
  const config = path.join(work, 'proxy.yaml');
  writeFileSync(config, `public_url: ${issuer}
listen: 127.0.0.1:${port}
github:
  client_id: ${GITHUB_APP.id}
  client_secret: ${GITHUB_APP.secret}
  base_url: ${github}
  api_url: ${github}/api/v3
allow: anyone
resources:
  - path: ${MCP_PATH}
    upstream: http://${upstream}${MCP_PATH}
    github_scopes: [read:user]
    inject:
      X-GitHub-Token: "{github_token}"
store: "memory:"
tokens: {access: 8h}
`);
  await start('mcp-auth-proxy', proxyBinary, ['--config', config], {
    readyUrl: `${issuer}/.well-known/oauth-authorization-server`,
    log: path.join(logs, `${label}.proxy.log`),
  });
  return { issuer };
}

function upstreamVersion() {
  return readFileSync(path.join(here, 'requirements.txt'), 'utf8').match(/^mcp==(.+)$/m)[1];
}

for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130));

try {
  process.exitCode = await main();
} catch (error) {
  await stopAll();
  judge('the run comes to its end', error.message.split('\n'));
  process.exitCode = verdict();
}
