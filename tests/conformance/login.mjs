// A person with a browser, without a screen: registers a client, approves on the consent page, follows the way
// through the GitHub stand-in and back. Nothing here but what a browser does, so no page needs to know of tests.
import { createHash, randomBytes } from 'node:crypto';
import { send } from './http.mjs';

const CLIENT_REDIRECT = 'http://127.0.0.1/callback';
const MOST_STEPS = 12;

/** Registers a public client; loopback redirects match with any port, so one registration serves every callback. */
export async function register(issuer, name) {
  const answer = await send(new URL('/register', issuer), {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      client_name: name,
      redirect_uris: [CLIENT_REDIRECT],
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      token_endpoint_auth_method: 'none',
    }),
  });
  if (answer.status !== 201) throw new Error(`/register answered ${answer.status}: ${answer.body}`);
  return JSON.parse(answer.body).client_id;
}

/** Logs in and returns an access token for `resource`. */
export async function logIn(issuer, resource) {
  const clientId = await register(issuer, 'conformance login');
  const verifier = randomBytes(32).toString('base64url');
  const state = randomBytes(16).toString('base64url');
  const authorize = new URL('/authorize', issuer);
  authorize.search = new URLSearchParams({
    response_type: 'code',
    client_id: clientId,
    redirect_uri: CLIENT_REDIRECT,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
    state,
    resource,
  });

  const { searchParams } = await approve(authorize, CLIENT_REDIRECT);
  if (searchParams.get('error')) throw new Error(`login refused: ${searchParams}`);
  if (searchParams.get('state') !== state) throw new Error('login answered with another state');
  if (searchParams.get('iss') !== issuer) throw new Error(`login answered with iss ${searchParams.get('iss')}`);

  const answer = await send(new URL('/token', issuer), {
    method: 'POST',
    headers: { 'Content-Type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({
      grant_type: 'authorization_code',
      code: searchParams.get('code'),
      redirect_uri: CLIENT_REDIRECT,
      client_id: clientId,
      code_verifier: verifier,
      resource,
    }).toString(),
  });
  if (answer.status !== 200) throw new Error(`/token answered ${answer.status}: ${answer.body}`);
  return JSON.parse(answer.body).access_token;
}

/** Opens an authorization URL, presses Approve, and returns the URL at the client that the browser is sent to in the end. */
export async function approve(authorizationUrl, redirectUri) {
  const cookies = new Map();
  let step = { url: new URL(authorizationUrl) };
  // What a browser says of the page that caused the request; an address typed by hand has none.
  let site = 'none';

  for (let steps = 0; steps < MOST_STEPS; steps++) {
    const { url } = step;
    if (url.href.startsWith(`${redirectUri}?`)) return url;
    const jar = cookies.get(url.hostname) ?? new Map();
    cookies.set(url.hostname, jar);

    const headers = {
      Accept: 'text/html,application/xhtml+xml',
      'Sec-Fetch-Site': site,
      'Sec-Fetch-Mode': 'navigate',
      'Sec-Fetch-Dest': 'document',
      'Upgrade-Insecure-Requests': '1',
    };
    if (jar.size) headers.Cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
    if (step.form) {
      headers['Content-Type'] = 'application/x-www-form-urlencoded';
      headers.Origin = url.origin;
    }
    const answer = await send(url, { method: step.form ? 'POST' : 'GET', headers, body: step.form?.toString() });
    for (const line of answer.headers['set-cookie'] ?? []) keep(jar, line);

    const next = nextStep(url, answer);
    // A chain that once left its origin stays cross-site, even when it comes home.
    site = site === 'cross-site' || next.url.origin !== url.origin ? 'cross-site' : 'same-origin';
    step = next;
  }
  throw new Error(`no way back to ${redirectUri} within ${MOST_STEPS} steps`);
}

function nextStep(url, { status, headers, body }) {
  if (status >= 300 && status < 400 && headers.location) return { url: new URL(headers.location, url) };
  if (status !== 200) throw new Error(`${url.origin}${url.pathname} answered ${status}: ${body.slice(0, 500)}`);

  const refresh = tags(body, 'meta').find((meta) => meta['http-equiv']?.toLowerCase() === 'refresh');
  if (refresh) return { url: new URL(refresh.content.replace(/^\s*\d+\s*;\s*url\s*=\s*/i, ''), url) };

  const form = tags(body, 'form').find(({ method }) => method?.toLowerCase() === 'post');
  if (!form) throw new Error(`${url.origin}${url.pathname} is a page without a way on: ${body.slice(0, 500)}`);
  const fields = new URLSearchParams();
  for (const input of tags(body, 'input')) if (input.type === 'hidden') fields.append(input.name, input.value ?? '');
  const button = tags(body, 'button').find(({ value }) => value === 'approve');
  if (!button) throw new Error(`${url.origin}${url.pathname} has a form but no approve button`);
  fields.append(button.name, button.value);
  return { url: new URL(form.action, url), form: fields };
}

/** The attributes of every tag of one name. Enough for pages without scripts, whose markup is ours. */
function tags(html, name) {
  return [...html.matchAll(new RegExp(`<${name}\\b([^>]*)>`, 'gi'))].map(([, inside]) =>
    Object.fromEntries([...inside.matchAll(/([\w-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))/g)].map(
      ([, key, double, single, bare]) => [key.toLowerCase(), decode(double ?? single ?? bare)])));
}

const ENTITIES = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

function decode(text) {
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (whole, hex, decimal, name) =>
    hex ? String.fromCodePoint(parseInt(hex, 16)) : decimal ? String.fromCodePoint(+decimal) : ENTITIES[name] ?? whole);
}

function keep(jar, line) {
  const [pair, ...attributes] = line.split(';').map((part) => part.trim());
  const at = pair.indexOf('=');
  if (attributes.some((attribute) => /^max-age=(0|-\d+)$/i.test(attribute))) jar.delete(pair.slice(0, at));
  else jar.set(pair.slice(0, at), pair.slice(at + 1));
}
