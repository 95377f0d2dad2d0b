// The cases: what a person with a real browser meets, and what a hostile page tries with it.
// How the browser is watched: chrome.mjs; how a page must look: look.mjs; clients and other sites: client.mjs.

import assert from 'node:assert/strict';
import { Client, GITHUB, INITIALIZE, MCP, PROXY, Site, hostileUpstream } from './client.mjs';
import { Person, keep, intercept, launch, navigations } from './chrome.mjs';
import { look, seen, tabThrough } from './look.mjs';

const APP = 'https://app.example';
const cases = [];
/**
 * `pages`: what the site of the case serves; `sites`: other places the case goes to on purpose;
 * `violations`: it provokes one of our policy; `options`: of the browser context.
 */
const test = (name, body, expected = {}) => cases.push({ name, body, expected });
const aSecond = () => new Promise((resolve) => setTimeout(resolve, 1000));

// --- logging in ------------------------------------------------------------------------------------------------------

// CO-16
test('login: consent, GitHub, back to a loopback client, token, tool', async ({ page, person, site }) => {
  const client = await Client.register('Claude Code (everything)', site.callback);
  const github = await keep(page, `${GITHUB}/login/*`);
  await page.goto(client.authorizeUrl());
  await look(page, 'consent-loopback');
  assert.deepEqual(await tabThrough(page), ['Deny', 'Allow and log in at GitHub']);
  await page.getByRole('button', { name: /^Allow/ }).click();
  await github.reached;
  await look(page, 'on-to-github');
  github.release();
  await page.locator('#continue').click();
  await page.locator('#sign-in-octocat').click();
  const { code, ...rest } = await site.arrived;
  assert.deepEqual(rest, { state: client.state, iss: PROXY });
  assert.equal((await client.whoami(code)).login, 'octocat');
  assert.equal(person.askedBelow(`${PROXY}/github/callback`).length, 1);
});

test('login: without JavaScript', async ({ page, site }) => {
  const client = await Client.register('Plain client', site.callback);
  await page.goto(client.authorizeUrl());
  await look(page, 'consent-without-script');
  await page.getByRole('button', { name: /^Allow/ }).click();
  await page.locator('#sign-in-octocat').click();
  const { code, state } = await site.arrived;
  assert.equal(state, client.state);
  assert.equal((await client.whoami(code)).login, 'octocat');
}, { options: { javaScriptEnabled: false } });

test('login: by keyboard alone', async ({ page, site }) => {
  const client = await Client.register('Keyboard client', site.callback);
  await page.goto(client.authorizeUrl());
  await page.keyboard.press('Tab');
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await page.locator('#sign-in-octocat').press('Enter');
  assert.equal((await site.arrived).state, client.state);
});

// CO-16
test('login: an https client is reached by redirect, and redirects on', async ({ page, person }) => {
  const client = await Client.register('Web client', `${APP}/cb?tenant=7`);
  await intercept(page, `${APP}/*`, (url) =>
    url.startsWith(`${APP}/cb`) ? { status: 302, headers: { Location: `${APP}/done` } } : { status: 200, body: '<h1>Connected</h1>' });
  await page.goto(client.authorizeUrl());
  await look(page, 'consent-https');
  await person.logIn(page);
  await page.waitForURL(`${APP}/done`);
  const [called] = person.askedBelow(`${APP}/cb`);
  const { code, ...rest } = Object.fromEntries(new URL(called).searchParams);
  assert.deepEqual(rest, { tenant: '7', state: client.state, iss: PROXY });
  assert.equal((await client.whoami(code)).login, 'octocat');
}, { sites: [APP] });

test('login: a configured client, another resource with a long address', async ({ page, person }) => {
  const client = new Client('configured', `${APP}/cb`);
  await intercept(page, `${APP}/*`, () => ({ status: 200, body: '<h1>Connected</h1>' }));
  await page.goto(client.authorizeUrl({ resource: `${PROXY}/engineering/repositories-and-pull-requests/mcp` }));
  await look(page, 'consent-configured');
  await person.logIn(page);
  await page.waitForURL(`${APP}/cb?*`);
}, { sites: [APP] });

// CO-16, AZ-08
test('login: a custom scheme gets a button and no jump', async ({ page, person }) => {
  const redirect = 'cursor://anysphere.cursor-retrieval/oauth/user-mcp-server/callback';
  const client = await Client.register('Cursor', redirect);
  await page.goto(client.authorizeUrl());
  await look(page, 'consent-custom-scheme');
  const tried = await navigations(page);
  await person.logIn(page);
  const button = page.locator('#continue');
  await button.waitFor();
  await aSecond();
  assert.deepEqual([...tried].filter((url) => url.startsWith('cursor:')), [], 'no jump by itself');
  const { code, ...rest } = Object.fromEntries(new URL(await button.getAttribute('href')).searchParams);
  assert.deepEqual(rest, { state: client.state, iss: PROXY });
  assert.ok((await button.getAttribute('href')).startsWith(`${redirect}?`));
  await look(page, 'logged-in-custom-scheme');
  assert.deepEqual(await tabThrough(page), ['Open the app']);
  await button.click();
  await aSecond();
  assert.deepEqual([...tried].filter((url) => url.startsWith('cursor:')), [await button.getAttribute('href')], 'the button opens the app');
  assert.equal((await client.whoami(code)).login, 'octocat');
});

test('login: the back button at GitHub leads to the question, which can be answered again', async ({ page, person, site }) => {
  const client = await Client.register('Hesitant client', site.callback);
  await page.goto(client.authorizeUrl());
  await page.getByRole('button', { name: /^Allow/ }).click();
  await page.locator('#sign-in-octocat').waitFor();
  await page.goBack();
  assert.ok(page.url().startsWith(`${PROXY}/authorize?`), page.url());
  await person.logIn(page);
  const { code } = await site.arrived;
  assert.equal((await client.whoami(code)).login, 'octocat');
});

test('login: in a popup, whose callback page speaks to the page that opened it', async ({ page, person, site }) => {
  const client = await Client.register('Popup client', site.origin + '/callback');
  await page.goto(`${site.origin}/opener`);
  const [popup] = await Promise.all([
    page.waitForEvent('popup'),
    page.evaluate((url) => void window.open(url, 'login', 'width=600,height=700'), client.authorizeUrl()),
  ]);
  await person.logIn(popup);
  await site.arrived;
  await page.waitForFunction(() => window.told, null, { timeout: 3000 }).catch(() => assert.fail('window.opener is gone'));
  assert.match(await page.evaluate(() => window.told), /code=/);
}, {
  pages: {
    '/opener': '<script>addEventListener("message", (event) => { window.told = event.data; })</script>',
    '/callback': '<script>if (window.opener) window.opener.postMessage(location.search, location.origin)</script>',
  },
});

// --- saying no -------------------------------------------------------------------------------------------------------

// CO-20
test('deny: the client hears access_denied in spite of form-action', async ({ page, person, site }) => {
  const client = await Client.register('Unwanted client', site.callback);
  const back = await keep(page, `${site.callback}*`);
  await page.goto(client.authorizeUrl());
  await page.getByRole('button', { name: 'Deny' }).click();
  await back.reached;
  await look(page, 'denied');
  back.release();
  await page.locator('#continue').click();
  const { error_description: _, ...rest } = await site.arrived;
  assert.deepEqual(rest, { error: 'access_denied', state: client.state, iss: PROXY });
  assert.deepEqual(person.askedBelow(GITHUB), [], 'GitHub is not asked');
});

test('deny: an https client hears it, a custom scheme after a click', async ({ page, person }) => {
  const web = await Client.register('Web client', `${APP}/cb`);
  await intercept(page, `${APP}/*`, () => ({ status: 200, body: '<h1>Not connected</h1>' }));
  await page.goto(web.authorizeUrl());
  await page.getByRole('button', { name: 'Deny' }).click();
  await page.waitForURL(`${APP}/cb?*`);
  assert.equal(new URL(person.askedBelow(APP)[0]).searchParams.get('error'), 'access_denied');

  const app = await Client.register('Cursor', 'cursor://anysphere/cb');
  const tried = await navigations(page);
  await page.goto(app.authorizeUrl());
  await page.getByRole('button', { name: 'Deny' }).click();
  await page.locator('#continue').waitFor();
  await aSecond();
  assert.deepEqual([...tried].filter((url) => url.startsWith('cursor:')), []);
  await look(page, 'denied-custom-scheme');
  assert.match(await page.locator('#continue').getAttribute('href'), /^cursor:\/\/anysphere\/cb\?error=access_denied&/);
}, { sites: [APP] });

test('deny: a decision is made once, also by the back button', async ({ page, site }) => {
  const client = await Client.register('Undecided client', site.callback);
  await page.goto(client.authorizeUrl());
  const flow = await page.locator('input[name=flow]').inputValue();
  await page.getByRole('button', { name: 'Deny' }).click();
  await page.waitForURL(`${site.callback}*`);
  await page.goto(`${PROXY}/`);
  await page.evaluate((sealed) => {
    const form = document.createElement('form');
    Object.assign(form, { method: 'post', action: '/consent' });
    for (const [name, value] of [['flow', sealed], ['decision', 'approve']]) {
      form.append(Object.assign(document.createElement('input'), { name, value }));
    }
    document.body.append(form);
    form.submit();
  }, flow);
  await page.waitForURL(`${PROXY}/consent`);
  assert.equal(await page.locator('h1').textContent(), 'This page is out of date');
  await look(page, 'out-of-date');
});

// --- other tabs, other browsers, other pages ---------------------------------------------------------------------------

// CO-14
test('tabs: two logins finished in swapped order, each code to its own client', async ({ page, person, site, open }) => {
  const other = await open();
  const [one, two] = [await Client.register('First client', site.callback), await Client.register('Second client', other.callback)];
  const tab = await person.page();
  for (const [at, client] of [[page, one], [tab, two]]) await at.goto(client.authorizeUrl());
  for (const at of [page, tab]) {
    await at.getByRole('button', { name: /^Allow/ }).click();
    await at.locator('#sign-in-octocat').waitFor();
  }
  await tab.locator('#sign-in-octocat').click();
  const second = await other.arrived;
  assert.equal(site.callbacks, 0);
  await page.locator('#sign-in-octocat').click();
  const first = await site.arrived;
  assert.deepEqual([first.state, second.state], [one.state, two.state]);
  assert.equal((await two.redeem(first.code)).error, 'invalid_grant', 'a code is bound to its client');
  const third = await Client.register('Third client', site.callback);
  assert.equal((await third.redeem(second.code)).error, 'invalid_grant');
  assert.equal((await two.whoami(second.code)).login, 'octocat');
});

// CO-02
test('another browser: the GitHub URL and the callback of a login are worth nothing there (CO-02)', async ({ page, site, sitDown }) => {
  const attacker = await Client.register('Attacker', site.callback);
  const [github, callback] = ['/login/*', '/github/callback*'].map((path, at) => `${[GITHUB, PROXY][at]}${path}`);
  const held = await keep(page, github);
  await page.goto(attacker.authorizeUrl());
  await page.getByRole('button', { name: /^Allow/ }).click();
  const githubUrl = await held.reached;

  // The victim follows the attacker's link to GitHub, and logs in there.
  const victim = await sitDown();
  const target = await victim.page();
  await target.goto(githubUrl);
  await target.locator('#sign-in-octocat').click();
  await target.locator('h1', { hasText: 'This login cannot be finished' }).waitFor();
  await look(target, 'another-browser');
  const [withCode] = victim.askedBelow(`${PROXY}/github/callback`);
  assert.ok(new URL(withCode).searchParams.get('code'), 'GitHub has given a code');

  // Even in the middle of a login of their own.
  const own = await Client.register('Own client', site.callback);
  await target.goto(own.authorizeUrl());
  await target.getByRole('button', { name: /^Allow/ }).click();
  await target.waitForURL(`${site.callback}*`);
  const before = site.callbacks;
  await target.goto(githubUrl);
  await target.locator('h1', { hasText: 'This login cannot be finished' }).waitFor();
  assert.equal(site.callbacks, before, 'nothing is redirected');

  // The attacker goes on to the callback, stops there, and hands that URL over.
  await intercept(page, callback, () => 'fail');
  held.release();
  await page.locator('#continue').click();
  const [stopped] = await Promise.all([
    page.waitForEvent('requestfailed', (request) => request.url().startsWith(`${PROXY}/github/callback`)),
    page.locator('#sign-in-octocat').click(),
  ]);
  const answer = await target.goto(stopped.url());
  assert.equal(answer.status(), 400);
  assert.equal(site.callbacks, before, 'nothing is redirected');
});

// CO-06
test('another site: a form there cannot decide, nor carry a stolen page', async ({ page, person, site, sitDown }) => {
  const client = await Client.register('Client', site.callback);
  await page.goto(client.authorizeUrl());
  const flow = await page.locator('input[name=flow]').inputValue();
  // Same browser, so the cookie goes along: ports do not separate cookies, nor sites.
  for (const reader of [person, await sitDown()]) {
    const tab = await reader.page();
    await tab.goto(`${site.origin}/forge`);
    await tab.locator('input[name=flow]').fill(flow);
    await tab.locator('form').evaluate((form, action) => { form.action = action; form.submit(); }, `${PROXY}/consent`);
    await tab.waitForURL(`${PROXY}/consent`);
    assert.equal(await tab.locator('h1').textContent(), 'This cannot go on');
    assert.deepEqual(reader.askedBelow(GITHUB), []);
    if (reader === person) await look(tab, 'forged-decision');
  }
}, { pages: { '/forge': '<form method="post"><input name="flow"><input name="decision" value="approve"></form>' } });

// CO-15
test('another site: our pages do not render in its frames', async ({ page, site }) => {
  const client = await Client.register('Framed client', site.callback);
  await page.goto(`${site.origin}/frame`);
  for (const url of [client.authorizeUrl(), `${PROXY}/`, MCP]) {
    await page.evaluate((src) => {
      const frame = Object.assign(document.createElement('iframe'), { src });
      const done = new Promise((resolve) => (frame.onload = resolve));
      document.body.replaceChildren(frame);
      return done;
    }, url);
    const [frame] = page.mainFrame().childFrames();
    assert.match(frame.url(), /^chrome-error:/);
    assert.equal(await frame.locator('main').count(), 0);
  }
  await page.screenshot({ path: `${process.env.WORK}/framed.png` });
}, { pages: { '/frame': '<h1>Win a prize</h1>' }, violations: true });

// CO-17
test('hostile name: is text on every page, asks for nothing, runs nothing', async ({ page, person, site }) => {
  const redirect = 'cursor://anysphere/cb';
  const names = {
    markup: '<img src=x onerror=alert(1)><script>alert(2)</script>',
    attribute: '"><meta http-equiv=refresh content="0;url=https://evil.example">',
    template: '{{ 7*7 }} {% raw %} ${7*7} </title></style><b>bold',
    markdown: '[Claude](https://evil.example) ![x](https://evil.example/x.png) **bold**',
    bidi: 'Good \u202Eelgoog\u202C app',
    long: 'W'.repeat(79),
  };
  for (const [kind, name] of Object.entries(names)) {
    const client = await Client.register(name, redirect);
    const shown = name.replace(/[\u202A-\u202E]/g, '').slice(0, 80).trim();
    await page.goto(client.authorizeUrl());
    assert.equal(await page.locator('h1 q').textContent(), shown);
    assert.equal(await page.title(), `Allow ${shown}?`);
    assert.equal(await page.locator('img, script, b, main a').count(), 0);
    assert.doesNotMatch(await page.content(), /[\u202A-\u202E]/);
    if (kind === 'markup' || kind === 'long') await look(page, `hostile-${kind}`);
    await page.getByRole('button', { name: 'Deny' }).click();
    await page.locator('#continue').waitFor();
    assert.ok((await page.locator('main').textContent()).includes(shown));
    await page.goto(client.authorizeUrl({ redirect_uri: 'https://evil.example/cb' }));
    assert.ok((await page.locator('main').textContent()).includes(shown));
    if (kind === 'long') await look(page, 'hostile-long-problem');
  }
  await aSecond();
  assert.deepEqual(person.asked.filter((url) => !url.startsWith(PROXY) && !url.startsWith('cursor:')), []);
});

// GT-23, GT-24: no browser sends a bearer token by itself; this one does, so that the page is seen at all.
test('hostile upstream: a page of it can do nothing at our origin', async ({ page, person, site }) => {
  const resource = `${PROXY}/hostile`;
  const client = await Client.register('Careless client', site.callback);
  const other = await Client.register('Other client', site.callback);
  const upstream = await hostileUpstream(
    `<!doctype html><title>before</title><meta http-equiv="refresh" content="0;url=${PROXY}/healthz?refreshed">
     <link rel="stylesheet" href="/hostile-style"><img src="/consent?image"><iframe src="${other.authorizeUrl()}"></iframe>
     <form method="post" action="/consent"><input name="flow" value="x"><button id="post">Claim your prize</button></form>
     <a id="open" target="_blank" href="${PROXY}/healthz?popup">More</a>
     <script>
       document.title = 'ran'; alert(document.cookie); document.cookie = 'planted=1; path=/';
       fetch('/consent', { method: 'POST', body: new URLSearchParams({ decision: 'approve' }) });
       navigator.serviceWorker.register('/hostile', { scope: '/' }); document.forms[0].submit();
     </script><script src="/hostile"></script><body onload="alert(1)"><svg onload="alert(2)"></svg></body>`,
    {
      'Set-Cookie': ['__Host-mcp-consent=planted; Secure; Path=/', 'mcp-consent=planted; Path=/', 'mcp-login=planted'],
      'Service-Worker-Allowed': '/', 'Content-Security-Policy': "default-src * 'unsafe-inline'", 'Clear-Site-Data': '"*"',
      'X-Content-Type-Options': 'none', Refresh: `0;url=${PROXY}/healthz?header`, 'Cache-Control': 'public, max-age=600',
    },
  );
  try {
    // A login on its way, whose form and cookie the page would like to have.
    const pending = await person.page();
    await pending.goto(other.authorizeUrl());
    await page.goto(client.authorizeUrl({ resource }));
    await person.logIn(page);
    const { access_token: token } = await client.redeem((await site.arrived).code, resource);
    const cookies = await person.context.cookies(PROXY);
    // What the policy stops is announced as a request too, and never answered.
    const answered = [];
    page.on('response', (response) => answered.push(response.url()));
    await page.setExtraHTTPHeaders({ Authorization: `Bearer ${token}` });
    const answer = await page.goto(resource);
    assert.equal(answer.status(), 200);
    assert.ok(upstream.heard.at(-1)['x-github-token'], 'it is the upstream that answers');
    const headers = answer.headers();
    assert.equal(headers['content-security-policy'], "sandbox; default-src 'none'");
    assert.equal(headers['x-content-type-options'], 'nosniff');
    assert.equal(headers['cache-control'], 'no-store');
    for (const gone of ['set-cookie', 'service-worker-allowed', 'clear-site-data', 'refresh']) assert.equal(headers[gone], undefined, gone);
    await page.locator('#post').click();
    await page.locator('#open').click();
    await aSecond();
    assert.equal(await page.title(), 'before', 'no script ran');
    assert.equal(page.url(), resource, 'it leads nowhere');
    assert.deepEqual(await person.context.cookies(PROXY), cookies, 'no cookie came, changed or went');
    assert.equal(person.context.serviceWorkers().length, 0);
    assert.deepEqual(answered.filter((url) => !url.endsWith('/favicon.ico')), [resource], 'nothing else was loaded');
    // As a script, a style or a worker of ours it is no good either.
    const front = await person.page();
    await front.setExtraHTTPHeaders({ Authorization: `Bearer ${token}` });
    await front.goto(`${PROXY}/`);
    await assert.rejects(front.evaluate(() => navigator.serviceWorker.register('/hostile')));
    // The login that was on its way goes on; GitHub knows the person by now.
    await pending.getByRole('button', { name: /^Allow/ }).click();
    await pending.waitForURL(`${site.callback}*`);
  } finally {
    upstream.close();
  }
}, { violations: true });

// --- the other pages -----------------------------------------------------------------------------------------------------

test('pages: unknown client, foreign redirect_uri, broken request', async ({ page, site }) => {
  const client = await Client.register('Known client', site.callback);
  for (const [name, title, url] of [
    ['unknown-client', 'Unknown client', new Client('nobody', site.callback).authorizeUrl()],
    ['foreign-redirect', 'This login link is broken', client.authorizeUrl({ redirect_uri: 'https://evil.example/cb' })],
    ['broken-link', 'This login link is broken', `${PROXY}/authorize`],
    ['stray-callback', 'This login cannot be finished', `${PROXY}/github/callback?code=x&state=y`],
  ]) {
    const answer = await page.goto(url);
    assert.equal(answer.status(), 400);
    assert.equal(await page.locator('h1').textContent(), title);
    await look(page, name);
  }
  assert.equal(site.callbacks, 0);
});

test('pages: an error for a client nobody vouches for is offered, not sent', async ({ page, person }) => {
  const client = await Client.register('Web client', `${APP}/cb`);
  await intercept(page, `${APP}/*`, () => ({ status: 200, body: '<h1>Back</h1>' }));
  const answer = await page.goto(client.authorizeUrl({ code_challenge: null }));
  assert.equal(answer.status(), 400);
  await look(page, 'offered');
  assert.deepEqual(await tabThrough(page), ['Back to the client']);
  await aSecond();
  assert.deepEqual(person.askedBelow(APP), [], 'no jump by itself');
  await page.locator('#continue').click();
  await page.waitForURL(`${APP}/cb?*`);
  const { error, state, iss } = Object.fromEntries(new URL(page.url()).searchParams);
  assert.deepEqual({ error, state, iss }, { error: 'invalid_request', state: client.state, iss: PROXY });
}, { sites: [APP] });

test('pages: a callback opened again is finished already', async ({ page, person, site }) => {
  const client = await Client.register('Impatient client', site.callback);
  await page.goto(client.authorizeUrl());
  await person.logIn(page);
  await page.waitForURL(`${site.callback}*`);
  const { code } = await site.arrived;
  const before = site.callbacks;
  const [callback] = person.askedBelow(`${PROXY}/github/callback`);
  for (const open of [() => page.goto(callback), () => page.reload()]) {
    assert.equal((await open()).status(), 400);
    assert.equal(await page.locator('h1').textContent(), 'This login is finished already');
  }
  await look(page, 'finished-already');
  assert.equal(site.callbacks, before);
  assert.equal((await client.whoami(code)).login, 'octocat', 'the login itself is not hurt');
});

test('pages: the front page, at / and where a person opens the resource', async ({ page }) => {
  const front = await page.goto(`${PROXY}/`);
  assert.equal(front.status(), 200);
  await look(page, 'front');
  const text = await page.locator('main').textContent();
  for (const name of ['Claude Code', 'VS Code', 'Cursor', 'Gemini CLI', 'MCP Inspector']) assert.ok(text.includes(name), name);
  assert.ok(text.includes(MCP));
  const resource = await page.goto(MCP);
  assert.equal(resource.status(), 401);
  assert.match(resource.headers()['www-authenticate'], /^Bearer resource_metadata=/);
  assert.equal(await page.locator('main').textContent(), text);
  await look(page, 'front-at-resource');
});

// --- scripts of a page of another origin -----------------------------------------------------------------------------------

test('fetch: a page on localhost discovers, registers, redeems and calls (the Inspector, direct)', async ({ page, person, site }) => {
  await page.goto(`${site.origin}/app`);
  const ask = (url, { method = 'GET', headers = {}, body } = {}) =>
    page.evaluate(async ([url, init]) => {
      const answer = await fetch(url, init);
      return { status: answer.status, headers: Object.fromEntries(answer.headers), text: await answer.text() };
    }, [url, { method, headers, body: body && (typeof body === 'string' ? body : JSON.stringify(body)) }]);
  const json = { 'Content-Type': 'application/json', Accept: 'application/json, text/event-stream' };

  const refused = await ask(MCP, { method: 'POST', headers: { ...json, 'MCP-Protocol-Version': '2025-06-18' }, body: INITIALIZE });
  assert.equal(refused.status, 401);
  const [, metadataUrl] = refused.headers['www-authenticate'].match(/resource_metadata="([^"]+)"/);
  const resource = JSON.parse((await ask(metadataUrl, { headers: { 'MCP-Protocol-Version': '2025-06-18' } })).text);
  assert.equal(resource.resource, MCP);
  const server = JSON.parse((await ask(`${resource.authorization_servers[0]}/.well-known/oauth-authorization-server`)).text);
  const registered = await ask(server.registration_endpoint, {
    method: 'POST', headers: json,
    body: { client_name: 'MCP Inspector', redirect_uris: [site.callback], token_endpoint_auth_method: 'none' },
  });
  assert.equal(registered.status, 201);

  const client = new Client(JSON.parse(registered.text).client_id, site.callback);
  const tab = await person.page();
  await tab.goto(client.authorizeUrl());
  await person.logIn(tab);
  const { code } = await site.arrived;

  const form = { 'Content-Type': 'application/x-www-form-urlencoded' };
  const tokens = await ask(server.token_endpoint, { method: 'POST', headers: form, body: client.redemption(code).toString() });
  assert.equal(tokens.status, 200);
  const { access_token: token } = JSON.parse(tokens.text);
  const bearer = { ...json, Authorization: `Bearer ${token}`, 'MCP-Protocol-Version': '2025-06-18' };
  const begun = await ask(MCP, { method: 'POST', headers: bearer, body: INITIALIZE });
  assert.equal(begun.status, 200);
  const session = begun.headers['mcp-session-id'];
  assert.ok(session, 'Mcp-Session-Id can be read');
  const listed = await ask(MCP, {
    method: 'POST',
    headers: { ...bearer, 'Mcp-Session-Id': session, 'Mcp-Method': 'tools/list', 'Last-Event-ID': '0' },
    body: { jsonrpc: '2.0', id: 2, method: 'tools/list' },
  });
  assert.match(listed.text, /whoami/);
  const ended = await ask(MCP, { method: 'DELETE', headers: { ...bearer, 'Mcp-Session-Id': session } });
  assert.ok([200, 202, 204].includes(ended.status), `DELETE: ${ended.status}`);
  const stale = await ask(MCP, { method: 'POST', headers: { ...bearer, Authorization: 'Bearer stale' }, body: INITIALIZE });
  assert.match(stale.headers['www-authenticate'], /error="invalid_token"/);

  // What a person decides on is not for scripts.
  for (const path of ['/authorize', '/consent']) {
    await assert.rejects(ask(`${PROXY}${path}`, { method: path === '/consent' ? 'POST' : 'GET' }), /Failed to fetch/);
  }
}, { pages: { '/app': '<h1>Inspector</h1>' } });

// --- all of it ---------------------------------------------------------------------------------------------------------------

const LIMIT = 30_000;

async function runCase(browser, { body, expected }) {
  const people = [];
  const sites = [];
  const open = async () => (sites.push(await Site.open(expected.pages)), sites.at(-1));
  const sitDown = async () => (people.push(await Person.sitDown(browser, expected.options)), people.at(-1));
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`no end after ${LIMIT / 1000} s`)), LIMIT)));
  try {
    const [site, person] = [await open(), await sitDown()];
    const page = await person.page();
    await Promise.race([body({ page, person, site, open, sitDown }), late]);
    const places = sites.flatMap(({ origin, callback }) => [origin, callback]);
    for (const one of people) await one.standUp([...places, ...(expected.sites ?? [])], expected.violations);
  } finally {
    clearTimeout(timer);
    await Promise.allSettled(people.map((one) => one.context.close()));
    sites.forEach((site) => site.close());
  }
}

const wanted = process.argv.slice(2);
const chosen = cases.filter(({ name }) => wanted.length === 0 || wanted.some((word) => name.includes(word)));
const browser = await launch();
let failed = chosen.length === 0 ? 1 : 0;
for (const one of chosen) {
  const begun = Date.now();
  try {
    await runCase(browser, one);
    console.log(`PASS  ${one.name}  (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${one.name}\n${String(error.stack ?? error).replace(/^/gm, '    ')}`);
  }
}
await browser.close();
console.log(`pictures of ${seen.length} pages in ${process.env.WORK}`);
console.log(`${chosen.length - failed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
