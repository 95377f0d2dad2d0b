// Chromium, and what is watched in it whatever a case is about.

import { createRequire } from 'node:module';
import assert from 'node:assert/strict';
import { GITHUB, PROXY } from './client.mjs';

const { chromium } = createRequire(`${process.env.WORK}/`)('playwright-core');

export const launch = () =>
  chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
      // Nothing leaves this machine, whatever a page asks for.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
    ],
  });

/** A browser of one person: own cookies, own cache. Everything its pages ask for and complain of is kept. */
export class Person {
  static async sitDown(browser, options = {}) {
    const context = await browser.newContext({ viewport: DESKTOP, ...options });
    context.setDefaultTimeout(10_000);
    return new Person(context);
  }

  constructor(context) {
    Object.assign(this, { context, asked: [], violations: [], scripts: [] });
    context.on('request', (request) => this.asked.push(request.url()));
    context.on('console', (message) => {
      if (/content security policy|frame-ancestors/i.test(message.text())) this.violations.push(message.text());
    });
    context.on('weberror', (error) => this.scripts.push(String(error.error())));
    context.on('dialog', (dialog) => {
      this.scripts.push(`${dialog.type()}: ${dialog.message()}`);
      dialog.dismiss();
    });
  }

  page() {
    return this.context.newPage();
  }

  /** URLs below a prefix that were asked for, by link, form or redirect. */
  askedBelow(prefix) {
    return this.asked.filter((url) => url.startsWith(prefix));
  }

  /** Allow on our consent page, then the account on GitHub's; each page by a real click. */
  async logIn(page) {
    await page.getByRole('button', { name: /^Allow/ }).click();
    await page.locator('#sign-in-octocat').click();
  }

  /** What must hold after every case. `sites`: further places that case goes to on purpose. */
  async standUp(sites, violationsExpected) {
    await this.context.close();
    const known = [PROXY, GITHUB, ...sites].map((site) => new URL(site).origin);
    const elsewhere = this.asked.filter((url) => /^(https?|wss?|ftp):/.test(url) && !known.includes(new URL(url).origin));
    assert.deepEqual(elsewhere, [], 'a request to another place');
    assert.deepEqual(this.scripts, [], 'a script ran');
    if (violationsExpected) assert.notEqual(this.violations.length, 0, 'Chromium reports violations at all');
    else assert.deepEqual(this.violations, [], 'a page broke its own policy');
  }
}

/**
 * Stands between a page and what it asks for, redirects included (page.route sees none of those).
 * `answer` gets the URL and gives {status, headers, body}, 'fail', or anything else to let it pass.
 */
export async function intercept(page, urlPattern, answer) {
  const session = await page.context().newCDPSession(page);
  await session.send('Fetch.enable', { patterns: [{ urlPattern }] });
  session.on('Fetch.requestPaused', async ({ requestId, request }) => {
    const given = await answer(request.url);
    const act = () => {
      if (given === 'fail') return session.send('Fetch.failRequest', { requestId, errorReason: 'Aborted' });
      if (!given?.status) return session.send('Fetch.continueRequest', { requestId });
      const headers = Object.entries({ 'Content-Type': 'text/html', ...given.headers });
      return session.send('Fetch.fulfillRequest', {
        requestId,
        responseCode: given.status,
        responseHeaders: headers.map(([name, value]) => ({ name, value })),
        body: Buffer.from(given.body ?? '').toString('base64'),
      });
    };
    await act().catch(() => {}); // The page may be gone by now.
  });
  return session;
}

/** Keeps a page from leaving by itself, so that there is time to look at it; after `release()` it may go. */
export async function keep(page, urlPattern) {
  let released = false;
  let reach;
  const reached = new Promise((resolve) => (reach = resolve));
  await intercept(page, urlPattern, (url) => (reach(url), released || 'fail'));
  return { reached, release: () => (released = true) };
}

/** Everything a page of ours tried to open, custom schemes too, which are no requests. */
export async function navigations(page) {
  const session = await page.context().newCDPSession(page);
  const tried = new Set();
  await session.send('Page.enable');
  for (const event of ['Page.frameRequestedNavigation', 'Page.frameScheduledNavigation']) session.on(event, ({ url }) => tried.add(url));
  return tried;
}

export const DESKTOP = { width: 1100, height: 900 };
export const PHONE = { width: 375, height: 740 };
