// Says where two runs of one scenario differ: in their checks, the verdicts, the messages and the evidence kept with them.

// Chosen anew in every run, by the suite, by the upstream, or (the session id) by the proxy, which seals it.
const FRESH_IN_EVERY_RUN = new Set([
  'timestamp', 'date', 'sessionId', 'sessionIdSent', 'mcp-session-id',
  'requestState', 'subscriptionId', 'io.modelcontextprotocol/subscriptionId',
]);

// Streams opened at the same moment draw their event ids from one counter: who is first is chance.
const RACED = /\.results\.\d+\.event\.id$/;

// What the proxy adds to every answer of an upstream, so that its HTML cannot act on the proxy's origin.
const ADDED_BY_PROXY = new Set(['content-security-policy', 'x-content-type-options']);

/** Differences as lines of text, none when the runs agree. `own` is the address each run had for its target. */
export function differences(direct, proxied, own) {
  if (!direct || !proxied) {
    return [`has no result ${[!direct && 'directly', !proxied && 'through the proxy'].filter(Boolean).join(' nor ')}`];
  }
  const found = [];
  walk('checks', settle(direct, own.direct), settle(proxied, own.proxied), found);
  return found;
}

function settle(value, own) {
  if (typeof value === 'string') return value.replaceAll(own, 'TARGET');
  if (Array.isArray(value)) return value.map((item) => settle(item, own));
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, settle(inner, own)]));
}

function walk(where, one, other, found) {
  const bothObjects = [one, other].every((value) => value !== null && typeof value === 'object');
  if (bothObjects && Array.isArray(one) === Array.isArray(other)) {
    for (const key of new Set([...Object.keys(one), ...Object.keys(other)])) {
      const path = `${where}.${key}`;
      const mayDiffer = FRESH_IN_EVERY_RUN.has(key) || RACED.test(path);
      if (mayDiffer && one[key] && other[key]) continue;
      if (ADDED_BY_PROXY.has(key) && !(key in one)) continue;
      walk(path, one[key], other[key], found);
    }
  } else if (one !== other) {
    found.push(`${where}: ${brief(one)} directly, ${brief(other)} through the proxy`);
  }
}

const brief = (value) => (value === undefined ? 'absent' : JSON.stringify(value).slice(0, 200));
