-- wrk's script: the call of one login after the other. Arguments: the template, the logins ("token session" lines).
-- Prints what went wrong beside what was served: wrk itself only tells it to people.

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local template = file:read("*a")
  file:close()
  calls, turn = {}, 0
  for line in io.lines(args[2]) do
    local token, session = line:match("^(%S+) ?(%S*)$")
    local values = { TOKEN = token, SESSION = session }
    calls[#calls + 1] = (template:gsub("TOKEN", values):gsub("SESSION", values))
  end
end

function request()
  turn = turn % #calls + 1
  return calls[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("requests=%d errors=%d refused=%d p50_us=%d p99_us=%d\n", summary.requests,
    errors.connect + errors.read + errors.write + errors.timeout, errors.status,
    latency:percentile(50), latency:percentile(99)))
end
