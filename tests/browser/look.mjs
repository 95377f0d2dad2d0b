// Whether a page of ours looks as it should: styled, readable, fit for a phone. Leaves pictures behind.

import assert from 'node:assert/strict';
import { DESKTOP, PHONE } from './chrome.mjs';

export const seen = [];

/** Looks at a page in light, in dark, and as wide as a phone; `name` names the pictures. */
export async function look(page, name) {
  for (const [way, viewport, colorScheme] of WAYS) {
    await page.setViewportSize(viewport);
    await page.emulateMedia({ colorScheme });
    const found = await page.evaluate(examine);
    const where = `${name} in ${way}`;
    assert.equal(found.styled, true, `${where}: our style is applied`);
    assert.equal(found.overflow, 0, `${where}: pixels to scroll sideways`);
    assert.deepEqual(found.faint, [], `${where}: text with a contrast below 4.5`);
    assert.deepEqual(found.small, [], `${where}: buttons lower than 44 px`);
    await page.screenshot({ path: `${process.env.WORK}/${name}-${way}.png`, fullPage: true });
  }
  await page.setViewportSize(DESKTOP);
  await page.emulateMedia({ colorScheme: 'light' });
  seen.push(name);
}

/** Goes through a page by keyboard; every stop shows where it is. Names what was stopped at. */
export async function tabThrough(page) {
  const stops = [];
  for (;;) {
    await page.keyboard.press('Tab');
    const stop = await page.evaluate(() => {
      const focused = document.activeElement;
      if (!focused || focused === document.body) return null;
      const style = getComputedStyle(focused);
      return { text: focused.textContent.trim(), shown: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 };
    });
    if (!stop || stops.some((before) => before.text === stop.text)) return stops.map(({ text }) => text);
    assert.ok(stop.shown, `focus on "${stop.text}" can be seen`);
    stops.push(stop);
  }
}

/** Runs in the page. */
function examine() {
  const main = getComputedStyle(document.querySelector('main'));
  const numbers = (color) => color.match(/[\d.]+/g).map(Number);
  const opaque = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, alpha = 1] = numbers(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  // WCAG 2.2, relative luminance and contrast ratio.
  const luminance = (color) => {
    const [r, g, b] = color.map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim();
    const element = texts.currentNode.parentElement;
    const ratio = contrast(numbers(getComputedStyle(element).color).slice(0, 3), opaque(element));
    if (text && ratio < 4.5) faint.push(`${text.slice(0, 40)} (${ratio.toFixed(2)})`);
  }
  const buttons = [...document.querySelectorAll('button, .button')];
  return {
    styled: main.paddingTop !== '0px' && getComputedStyle(document.body).margin === '0px' && main.getPropertyValue('--paper') !== '',
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    faint,
    small: buttons.filter((button) => button.getBoundingClientRect().height < 44).map((button) => button.textContent.trim()),
  };
}

const WAYS = [
  ['light', DESKTOP, 'light'],
  ['dark', DESKTOP, 'dark'],
  ['phone', PHONE, 'light'],
  ['phone-dark', PHONE, 'dark'],
];
