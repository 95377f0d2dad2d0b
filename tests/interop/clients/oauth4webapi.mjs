// oauth4webapi, the strictest OAuth client there is, and MCP by plain fetch.
//     oauth4webapi.mjs URL http METHOD        METHOD: none | client_secret_post | client_secret_basic
import { setTimeout as sleep } from 'node:timers/promises';
import * as oauth from 'oauth4webapi';
import { browse, check, expiry } from './common.mjs';

const [url, , method] = process.argv.slice(2);
const insecure = { [oauth.allowInsecureRequests]: true };
const redirectUri = 'http://localhost:1/callback';

/** One JSON-RPC message; answers with the response and, if there is one, the message in it. */
async function mcp(token, message, session) {
  const headers = { accept: 'application/json, text/event-stream', 'content-type': 'application/json' };
  if (token) headers.authorization = `Bearer ${token}`;
  if (session) headers['mcp-session-id'] = session;
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ jsonrpc: '2.0', ...message }) });
  const text = await response.text();
  const data = response.headers.get('content-type')?.startsWith('text/event-stream')
    ? text.split('\n').findLast((line) => line.startsWith('data: {')).slice(6)
    : text;
  return { response, body: data ? JSON.parse(data) : undefined };
}

const initialize = {
  id: 1,
  method: 'initialize',
  params: { protocolVersion: '2025-06-18', capabilities: {}, clientInfo: { name: 'interop', version: '1' } },
};

const rejects = async (promise) => {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('not so: it should have been refused');
};

// Discovery: the challenge leads to the resource's metadata, that to the issuer's, and each names what it was asked for.
const challenged = (await mcp(undefined, initialize)).response;
check(challenged.status === 401, 'no token: 401');
const challenge = challenged.headers.get('www-authenticate');
check(/^Bearer /.test(challenge) && !/\berror=/.test(challenge), `challenge without error: ${challenge}`);
const pointed = /resource_metadata="([^"]+)"/.exec(challenge)[1];
const resource = await oauth.processResourceDiscoveryResponse(new URL(url), await oauth.resourceDiscoveryRequest(new URL(url), insecure));
check((await (await fetch(pointed)).json()).resource === resource.resource, 'resource_metadata is the metadata of this resource');
check(resource.resource === url, 'resource is the very URL');
const issuer = new URL(resource.authorization_servers[0]);
const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { ...insecure, algorithm: 'oauth2' }));
check(as.issuer === resource.authorization_servers[0], 'issuer is spelled as advertised');
const alias = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, insecure));
check(alias.token_endpoint === as.token_endpoint, 'openid-configuration is an alias');
check(as.code_challenge_methods_supported.includes('S256'), 'S256 advertised');
check(as.authorization_response_iss_parameter_supported === true, 'iss advertised');
check(as.token_endpoint_auth_methods_supported.includes(method), `${method} advertised`);

const registered = await oauth.processDynamicClientRegistrationResponse(
  await oauth.dynamicClientRegistrationRequest(
    as,
    { client_name: `interop ${method}`, redirect_uris: [redirectUri], token_endpoint_auth_method: method },
    insecure,
  ),
);
check(registered.token_endpoint_auth_method === method, `registered for ${method}`);
check(Boolean(registered.client_secret) === (method !== 'none'), 'a secret exactly when one is needed');
const client = { client_id: registered.client_id };
const authentication = {
  none: () => oauth.None(),
  client_secret_post: () => oauth.ClientSecretPost(registered.client_secret),
  client_secret_basic: () => oauth.ClientSecretBasic(registered.client_secret),
}[method]();

async function authorize(decision) {
  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const address = new URL(as.authorization_endpoint);
  address.search = new URLSearchParams({
    response_type: 'code',
    client_id: client.client_id,
    redirect_uri: redirectUri,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    state,
    resource: resource.resource,
    ...(resource.scopes_supported && { scope: resource.scopes_supported.join(' ') }),
  });
  const back = new URL(await browse('--decision', decision, '--print', address));
  return { verifier, parameters: () => oauth.validateAuthResponse(as, client, back, state) };
}
const exchange = ({ verifier, parameters }, code = parameters()) =>
  oauth
    .authorizationCodeGrantRequest(as, client, authentication, code, redirectUri, verifier, {
      ...insecure,
      additionalParameters: { resource: resource.resource },
    })
    .then((response) => oauth.processAuthorizationCodeResponse(as, client, response));
const renew = (token) =>
  oauth
    .refreshTokenGrantRequest(as, client, authentication, token, insecure)
    .then((response) => oauth.processRefreshTokenResponse(as, client, response));
const revoke = async (token) =>
  oauth.processRevocationResponse(await oauth.revocationRequest(as, client, authentication, token, insecure));

/** The proxy promises that a revocation is obeyed within a second. */
const obeyed = () => sleep(1100);

async function callEcho(token) {
  const { response, body } = await mcp(token, initialize);
  check(response.status === 200 && body.result, 'initialized');
  const session = response.headers.get('mcp-session-id');
  await mcp(token, { method: 'notifications/initialized' }, session);
  const tools = (await mcp(token, { id: 2, method: 'tools/list' }, session)).body.result.tools;
  check(tools.some((tool) => tool.name === 'echo'), 'tools listed');
  const answer = await mcp(token, { id: 3, method: 'tools/call', params: { name: 'echo', arguments: { message: 'hi' } } }, session);
  check(answer.body.result.content[0].text === 'Echo: hi', 'tool called');
}

const denied = await rejects((async () => (await authorize('deny')).parameters())());
check(denied.code === oauth.AUTHORIZATION_RESPONSE_ERROR && denied.error === 'access_denied', 'deny: access_denied, with state and iss');

const approved = await authorize('approve');
const tokens = await exchange(approved);
check(tokens.token_type === 'bearer' && tokens.expires_in > 0 && tokens.refresh_token, `tokens for ${tokens.expires_in} s`);
await callEcho(tokens.access_token);

await expiry();
const stale = (await mcp(tokens.access_token, initialize)).response;
check(stale.status === 401 && /error="invalid_token"/.test(stale.headers.get('www-authenticate')), 'expired: 401 invalid_token');
const renewed = await renew(tokens.refresh_token);
check(renewed.refresh_token !== tokens.refresh_token, 'refresh token rotated');
const again = await renew(tokens.refresh_token);
check(again.refresh_token === renewed.refresh_token && again.access_token === renewed.access_token, 'a repeated refresh gets the same pair');
await callEcho(renewed.access_token);

await revoke(renewed.refresh_token);
await obeyed();
const dead = (await mcp(renewed.access_token, initialize)).response;
check(dead.status === 401, 'revoked: its access token is refused');
const gone = await rejects(renew(renewed.refresh_token));
check(gone.code === oauth.RESPONSE_BODY_ERROR && gone.error === 'invalid_grant', 'revoked: invalid_grant');
await revoke('nonsense');
check(true, 'revoking an unknown token succeeds (RFC 7009 §2.2)');

// A code is for one use; the second use also ends what the first one got (RFC 6749 §4.1.2).
const once = await authorize('approve');
const parameters = once.parameters();
const first = await exchange(once, parameters);
const replay = await rejects(exchange(once, parameters));
check(replay.error === 'invalid_grant', 'a replayed code is refused');
await obeyed();
check((await mcp(first.access_token, initialize)).response.status === 401, 'and its tokens are revoked');
