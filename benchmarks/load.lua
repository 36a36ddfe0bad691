-- wrk -s load.lua <url> -- <directory> <offset> <delay_ms>
--
-- The directory has three files. `buffer` is the tensor data of the largest shape. `heads` has a
-- line for each shape, with its size in bytes and the JSON part of its requests. `order` has the
-- numbers of the shapes' lines in the order of the requests; this skips the first `offset`. Each
-- connection waits about `delay_ms` before each of its requests.

local ffi = require("ffi")

local KEPT = 64  -- up to this many shapes, each request is made once and kept
local HEAD = 512  -- bytes of the JSON part, padded so that the data begins at the same place

local whole, sizes, heads, order, turn = nil, {}, {}, {}, 0
local kept = {}

-- The headers and the JSON part of a request, which have the same length for every shape.
local function first(shape)
  local json = heads[shape] .. (" "):rep(HEAD - #heads[shape])
  local text = wrk.format("POST", nil, {["Inference-Header-Content-Length"] = tostring(HEAD)}, json)
  return (text:gsub("(\nContent%-Length:) %d+", function(name)
    return ("%s %10d"):format(name, HEAD + sizes[shape])
  end, 1))
end

-- All requests use one string: making a megabyte anew for each takes the measured cores twice as
-- long. The data stay in place. This overwrites the part before them, and sets the length, which
-- LuaJIT keeps in the four bytes before the text.
local function set(text, size)
  local start = ffi.cast("char *", ffi.cast("const char *", whole))
  ffi.copy(start, text, #text)
  ffi.cast("uint32_t *", start)[-1] = #text + size
end

local function made(shape)
  set(first(shape), sizes[shape])
  return whole
end

function init(args)
  local directory, delay_ms = args[1], tonumber(args[3])
  turn = tonumber(args[2])
  for line in io.lines(directory .. "/heads") do
    local size, head = line:match("^(%d+) (.*)$")
    assert(#head <= HEAD)
    sizes[#sizes + 1], heads[#heads + 1] = tonumber(size), head
  end
  local buffer = assert(io.open(directory .. "/buffer", "rb")):read("*a")
  whole = first(1) .. buffer
  set(first(1), 1)
  assert(#whole == #first(1) + 1, "this LuaJIT keeps the length of a string elsewhere")
  set(first(1), #buffer)
  for line in io.lines(directory .. "/order") do
    order[#order + 1] = tonumber(line)
  end
  if #heads <= KEPT then
    for shape = 1, #heads do
      kept[shape] = first(shape) .. buffer:sub(1, sizes[shape])
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
  io.write(string.format("RESULT %d %d %d %d %d %d %d %d\n", summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(95),
    latency:percentile(99), latency.max, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
