-- wrk -s load.lua <url> -- <directory> <offset> <delay_ms>
--
-- The directory holds `buffer`, the tensor data of the largest shape; `heads`, a line for each
-- shape with its size in bytes and the JSON part of its requests; and `order`, the shapes' lines
-- in the order of the requests, of which the first `offset` are left out. Each connection waits
-- about `delay_ms` before each of its requests.

local ffi = require("ffi")

local KEPT = 64  -- the requests of so many shapes are made once and kept
local ROOM = 4096  -- for what stands in front of the tensor data

local memory, sizes, heads, order, turn = nil, {}, {}, {}, 0
local kept = {}

-- What comes first is written in front of the data, which stays where it is: a megabyte that is put
-- together from parts in Lua takes the cores that are measured almost twice as long.
local function made(shape)
  local headers = {["Inference-Header-Content-Length"] = tostring(#heads[shape])}
  local first, size = wrk.format("POST", nil, headers, heads[shape]), sizes[shape]
  first = first:gsub("(\nContent%-Length: )%d+", "%1" .. #heads[shape] + size, 1)
  assert(#first <= ROOM)
  local start = memory + ROOM - #first
  ffi.copy(start, first, #first)
  return ffi.string(start, #first + size)
end

function init(args)
  local directory, delay_ms = args[1], tonumber(args[3])
  turn = tonumber(args[2])
  local buffer = assert(io.open(directory .. "/buffer", "rb")):read("*a")
  memory = ffi.new("char[?]", ROOM + #buffer)
  ffi.copy(memory + ROOM, buffer, #buffer)
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
