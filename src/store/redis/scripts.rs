//! The decisions, as scripts that run in Redis. Each touches the one key that it is given.

use std::sync::LazyLock;

use redis::Script;

/// A script, read once.
pub(super) struct Source(LazyLock<Script>);

impl Source {
    pub(super) fn script(&self) -> &Script {
        &self.0
    }
}

/// KEYS: record. ARGV: now, content, version, owner, end, kept for. 1 when there was none, or when it is the very one:
/// the library asks again when an answer was lost, and versions are random and the writer's own.
pub(super) static CREATE: Source = Source(LazyLock::new(|| {
    Script::new(
        "local known = redis.call('HMGET', KEYS[1], 'v', 'e')
         if known[1] == ARGV[3] then return 1 end
         if known[2] and tonumber(known[2]) > tonumber(ARGV[1]) then return 0 end
         redis.call('HSET', KEYS[1], 'b', ARGV[2], 'v', ARGV[3], 'o', ARGV[4], 'e', ARGV[5])
         if ARGV[6] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
         return 1",
    )
}));

/// The same with the version that was seen. 1 when it was still there, or when the new one is there already. Versions are compared as text: numbers in
/// Lua have 53 bits.
pub(super) static REPLACE: Source = Source(LazyLock::new(|| {
    Script::new(
        "local known = redis.call('HMGET', KEYS[1], 'v', 'e')
         if known[1] == ARGV[3] then return 1 end
         if not known[1] or known[1] ~= ARGV[7] or tonumber(known[2]) <= tonumber(ARGV[1]) then return 0 end
         redis.call('HSET', KEYS[1], 'b', ARGV[2], 'v', ARGV[3], 'o', ARGV[4], 'e', ARGV[5])
         if ARGV[6] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[6]) end
         return 1",
    )
}));

/// KEYS: owner. ARGV: record, kept for. By Redis' own time, because its own time takes records away: a listing never
/// goes before its record does.
pub(super) static INDEX: Source = Source(LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         local now = time[1] * 1000 + math.floor(time[2] / 1000)
         redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
         local ends = '+inf'
         if ARGV[2] ~= '' then ends = now + tonumber(ARGV[2]) end
         redis.call('ZADD', KEYS[1], 'GT', ends, ARGV[1])
         local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
         if last == 'inf' then redis.call('PERSIST', KEYS[1])
         else redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', tonumber(last) + 1)) end
         return 1",
    )
}));
