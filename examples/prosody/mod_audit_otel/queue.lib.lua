-- Keeps audit events in files until the receiver took them: lines of JSON, each a record.
-- A file is a batch. It is removed when it was taken, and never written to again once it was sent for the first time.

local datamanager = require "util.datamanager";
local json = require "util.json";
local lfs = require "lfs";

local MOST_RECORDS, MOST_BYTES = 256, 262144; -- of one file, and so of one request
local MOST_IN_MEMORY = 1000; -- records that wait for a disk that is full

local host = module.host;

local queue = { waiting = {}, unwritten = {}, last = 0 };

local function path_of(number)
	return datamanager.getpath(("%010d"):format(number), host, "audit_otel_queue", "jsonl", true);
end

local function append_to(path, text)
	local file, reason = io.open(path, "a");
	if not file then return nil, reason; end
	local ok, why = file:write(text);
	local closed, late = file:close(); -- a full disk may show here only
	return ok and closed, why or late;
end

-- Keeps what no receiver will ever take, beside the queue; an operator finds it there.
local function set_aside(line, why)
	local path = datamanager.getpath("refused", host, "audit_otel_queue", "jsonl", true);
	local kept, reason = append_to(path, line .. "\n");
	module:log("error", "An audit event %s; it is %s", why, kept and "kept in " .. path
		or ("nowhere but here, since " .. path .. " cannot be written (" .. tostring(reason) .. "): " .. line));
end

function queue:load()
	local folder = path_of(0):match("^(.*)/");
	if lfs.attributes(folder, "mode") ~= "directory" then return; end
	for name in lfs.dir(folder) do
		local number = tonumber(name:match("^(%d+)%.jsonl$"));
		if number then
			self.waiting[#self.waiting + 1] = number;
			self.last = math.max(self.last, number);
		end
	end
	table.sort(self.waiting);
end

-- Writes a line to the open file, which is the last one that waits; a failed write may leave half a line there, so
-- that the next one begins another file.
function queue:write(line)
	if not self.open or self.records >= MOST_RECORDS or self.bytes >= MOST_BYTES then
		self.last = self.last + 1;
		self.open, self.records, self.bytes = self.last, 0, 0;
		self.waiting[#self.waiting + 1] = self.last;
	end
	local ok, reason = append_to(path_of(self.open), line .. "\n");
	self.records, self.bytes = self.records + 1, self.bytes + #line;
	if not ok then
		if not lfs.attributes(path_of(self.open), "mode") then table.remove(self.waiting); end
		self.open = nil;
	end
	return ok, reason;
end

function queue:push(line)
	self.unwritten[#self.unwritten + 1] = line;
	while self.unwritten[1] do
		local ok, reason = self:write(self.unwritten[1]);
		if not ok then
			if not self.complained then
				module:log("error", "Audit events wait in memory, since they cannot be written: %s", reason);
				self.complained = true;
			end
			if #self.unwritten > MOST_IN_MEMORY then
				set_aside(table.remove(self.unwritten, 1), "found no room in memory");
			end
			return;
		end
		table.remove(self.unwritten, 1);
		self.complained = nil;
	end
end

-- Returns the lines of the oldest file. What a crash cut off is set aside; so it cannot hold up the others.
function queue:batch()
	if self.unwritten[1] then
		self:push(table.remove(self.unwritten)); -- perhaps there is room again
	end
	while self.waiting[1] do
		local number = self.waiting[1];
		if self.open == number then self.open = nil; end
		local path, lines, torn = path_of(number), {}, {};
		if lfs.attributes(path, "mode") then -- else somebody removed it
			for line in io.lines(path) do
				local whole = type(json.decode(line)) == "table";
				table.insert(whole and lines or torn, line);
			end
		end
		for _, line in ipairs(torn) do set_aside(line, "was cut off when it was written"); end
		if lines[1] then return lines; end
		self:taken();
	end
end

function queue:taken()
	os.remove(path_of(table.remove(self.waiting, 1)));
end

function queue:close()
	for _, line in ipairs(self.unwritten) do set_aside(line, "could not be written before the module was unloaded"); end
	self.unwritten = {};
end

queue.set_aside = set_aside;
return queue;
