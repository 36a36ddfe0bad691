-- wrk -s load.lua <url> -- <directory> <offset> <delay_ms>
--
-- The directory holds `buffer`, the tensor data of the largest shape; `heads`, a line for each
-- shape with its size in bytes and the JSON part of its requests; and `order`, the shapes' lines
-- in the order of the requests, of which the first `offset` are left out. Each connection waits
-- about `delay_ms` before each of its requests.

local KEPT = 64  -- the requests of so many shapes are made once and kept

local buffer, sizes, heads, order, turn = "", {}, {}, {}, 0
local kept = {}

local function made(shape)
  local headers = {["Inference-Header-Content-Length"] = tostring(#heads[shape])}
  return wrk.format("POST", nil, headers, heads[shape] .. buffer:sub(1, sizes[shape]))
end

function init(args)
  local directory, delay_ms = args[1], tonumber(args[3])
  turn = tonumber(args[2])
  buffer = assert(io.open(directory .. "/buffer", "rb")):read("*a")
  for line in io.lines(directory .. "/heads") do
    local size, head = line:match("^(%d+) (.*)$")
    sizes[#sizes + 1], heads[#heads + 1] = tonumber(size), head
  end
  for line in io.lines(directory .. "/order") do
    order[#order + 1] = tonumber(line)
  end
  if #heads <= KEPT then
    for shape = 1, #heads do
      kept[shape] = made(shape)
    end
  end
  if delay_ms > 0 then
    function delay()
      return math.random(delay_ms / 2, delay_ms * 3 / 2)
    end
  end
end

function request()
  local shape = order[turn % #order + 1]
  turn = turn + 1
  return kept[shape] or made(shape)
end

function done(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d %d %d\n", summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(95),
    latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
