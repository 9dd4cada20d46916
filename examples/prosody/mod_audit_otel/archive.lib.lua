-- Follows the archive of mod_audit: it is on disk already, and only the place in it is to be kept.

local record = module:require "record";

local MOST_RECORDS = 256; -- of one request

local archive = {};

function archive:load()
	self.store = module:open_store("audit", "archive");
	self.place = module:open_store("audit_otel", "keyval");
	self.last = (self.place:get(nil) or {}).last;
end

-- Returns the items of a query as records, and whether Prosody's storage could read all of them.
local function read(store, query)
	local lines, last = {}, nil;
	local ok, reason = pcall(function ()
		local found, reason = store:find(nil, query);
		if not found then error(reason or "no answer", 0); end
		for key, stanza, when, with in found do
			local ok, line = pcall(function () return record.encode(record.from_stanza(key, stanza, when, with)); end);
			if not ok then
				-- What is no event must not hold up the others.
				local custom = { prosody = { key = key, with = with, stanza = tostring(stanza), error = tostring(line) } };
				line = record.encode({ type = "audit-event", when = tonumber(when), custom = custom });
			end
			lines[#lines + 1], last = line, key;
			if query.reverse then lines = { line }; end -- only the last one is asked for
		end
	end);
	return lines, last, not ok and reason or nil;
end

function archive:batch()
	local lines, last, reason = read(self.store, { after = self.last, limit = MOST_RECORDS });
	if reason == "item-not-found" then
		-- The last one that was sent has expired. What is sent twice now carries the same id.
		lines, last, reason = read(self.store, { limit = MOST_RECORDS });
	end
	if reason and not lines[1] then
		-- Prosody's own storage cannot read the next one, say for a character that XML forbids. Those behind it can be
		-- had from the other end.
		if not self.complained then
			module:log("error", "Some of mod_audit's archive cannot be read (%s): otel-audit import prosody can", reason);
			self.complained = true;
		end
		lines, last = read(self.store, { reverse = true });
		if last == self.last then return; end
	end
	self.next = last;
	return lines[1] and lines;
end

function archive:taken()
	self.last = self.next;
	local ok, reason = self.place:set(nil, { last = self.last });
	if not ok then module:log("error", "The place in the archive of mod_audit cannot be kept: %s", reason); end
end

return archive;
