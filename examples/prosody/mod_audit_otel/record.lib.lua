-- One audit event as the JSON of an OTLP LogRecord; docs/mapping.md of otel_audit lists the attributes.

local hashes = require "util.hashes";
local jid = require "util.jid";
local json = require "util.json";
local random = require "util.random";
local sorted_pairs = require "util.iterators".sorted_pairs;
local time = require "util.time";
local valid_utf8 = require "util.encodings".utf8.valid;

local LONGEST = 16384; -- bytes of one text
local LATEST = 2 ^ 33; -- seconds: the year 2242, whose nanoseconds a record can hold

local host = module.host;

-- What each type is: action, outcome. Others are EXECUTE, with the outcome of their suffix.
local TYPES = {
	["authentication-success"] = { "LOGIN", "success" };
	["authentication-failure"] = { "LOGIN", "failure" };
	["new-client"] = { "CREATE", "success" };
	["user-registered"] = { "CREATE", "success" };
	["user-deregistered"] = { "DELETE", "success" };
	["user-deregistered-pending"] = { "DELETE", "success" };
	["user-enabled"] = { "UPDATE", "success" };
	["user-disabled"] = { "UPDATE", "success" };
	["user.deleted"] = { "DELETE", "success" };
	["user.password.changed"] = { "UPDATE", "success" };
	["token-grant-created"] = { "CREATE", "success" };
	["token-grant-revoked"] = { "DELETE", "success" };
	["token-revoked"] = { "DELETE", "success" };
	["server-started"] = { "EXECUTE", "success" };
	["server-stopped"] = { "EXECUTE", "success" };
	["server-crashed"] = { "EXECUTE", "failure" };
};

local function known(type_)
	if TYPES[type_] then
		return TYPES[type_][1], TYPES[type_][2];
	end
	return "EXECUTE", type_:match("[-.](success)$") or type_:match("[-.](failure)$") or "unknown";
end

-- Returns a text that any JSON parser takes: clients choose names, and bytes that are no UTF-8 are shown as \xNN.
local function clean(value, name, altered)
	value = tostring(value);
	if not valid_utf8(value) or value:find("%z") then
		value = value:gsub("[%z\128-\255]", function (byte) return ("\\x%02x"):format(byte:byte()); end);
		altered[#altered + 1] = name .. ":escaped";
	end
	if #value > LONGEST then
		altered[#altered + 1] = ("%s:cut:%d:%s"):format(name, #value, hashes.sha256(value, true));
		value = value:sub(1, LONGEST);
		while not valid_utf8(value) do
			value = value:sub(1, -2); -- the cut went through a character
		end
	end
	return value;
end

-- A UUIDv7 (RFC 9562): of chance, or of a digest where the same event must get the same id again.
local function record_id(seconds, digest)
	local chance = digest or random.bytes(10):gsub(".", function (byte) return ("%02x"):format(byte:byte()); end);
	local moment = ("%012x"):format(math.floor(seconds * 1000));
	local variant = ("89ab"):sub(1 + tonumber(chance:sub(4, 4), 16) % 4):sub(1, 1);
	return ("%s-%s-7%s-%s%s-%s"):format(
		moment:sub(1, 8), moment:sub(9, 12), chance:sub(1, 3), variant, chance:sub(5, 7), chance:sub(8, 19));
end

local function nanoseconds(seconds)
	-- In two parts: a number of Lua 5.1 does not hold so many digits.
	return ("%d%06d000"):format(math.floor(seconds), math.floor(seconds % 1 * 1000000));
end

local function address_type(address)
	if address:find(":", 1, true) then return "ipv6"; end
	return address:find("^%d+%.%d+%.%d+%.%d+") and "ipv4" or "unknown";
end

-- Returns a value as an OTLP AnyValue: text, whole numbers, and tables as lists of pairs in the order of their keys.
local function any_value(value, name, altered)
	if type(value) == "number" and value % 1 == 0 then
		return { intValue = ("%d"):format(value) };
	elseif type(value) == "table" then
		local pairs_of = {};
		for key, inner in sorted_pairs(value) do
			pairs_of[#pairs_of + 1] = { key = clean(key, name, altered), value = any_value(inner, name, altered) };
		end
		return { kvlistValue = { values = pairs_of } };
	end
	return { stringValue = clean(value, name, altered) };
end

-- Returns a record as the JSON of an OTLP LogRecord. The fields of `event`: type, source, user, session (id, type, ip,
-- client, country, continent), custom ({ group = { field = value } }), when (seconds), digest (of an event that may be
-- encoded anew: the record is the same then), anonymous (somebody acted, and who is not known).
local function encode(event)
	local altered, attributes = { event.session and event.session.network and "session.ip:truncated" or nil }, {};
	local function add(key, value, name)
		if value ~= nil then
			attributes[#attributes + 1] = { key = key, value = any_value(value, name or key, altered) };
		end
	end
	local now = time.now();
	local when = event.when or now;
	if not (when > 0 and when < LATEST) then
		altered[#altered + 1] = "timestamp:out-of-range:" .. tostring(when);
		when = now;
	end
	local id = record_id(when, event.digest);
	local action, outcome = known(event.type);
	local session = event.session or {};
	local type_ = clean(event.type, "type", altered);
	add("audit.record.id", id);
	add("log.record.uid", id);
	add("otel_audit.host", host, "host");
	add("otel_audit.source", event.source or "mod_audit_otel", "source");
	add("user.name", event.user, "user");
	add("audit.actor.id", event.user or (event.anonymous and "unknown") or event.source or "mod_audit_otel", "actor.id");
	add("audit.actor.type", (event.user or event.anonymous) and "user" or "system");
	add("audit.action", action);
	add("audit.outcome", outcome);
	add("audit.schema.version", "0.1.0");
	add("session.id", session.id, "session.id");
	add("otel_audit.session.type", session.type, "session.type");
	add("user_agent.original", session.client, "session.client");
	add("geo.country.iso_code", session.country, "session.country");
	add("geo.continent.code", session.continent, "session.continent");
	if session.ip then
		add("client.address", session.ip, "session.ip");
		add("audit.source.id", session.ip, "session.ip");
		add("audit.source.type", address_type(session.ip));
	end
	for group, fields in sorted_pairs(event.custom or {}) do
		for field, value in sorted_pairs(fields) do
			add("otel_audit.custom." .. group .. "." .. field, value, "custom." .. group .. "." .. field);
		end
	end
	if altered[1] then
		local marks = {};
		for i, mark in ipairs(altered) do marks[i] = { stringValue = mark }; end
		attributes[#attributes + 1] = { key = "otel_audit.altered", value = { arrayValue = { values = marks } } };
	end
	local who = event.user and (event.user .. "@" .. host) or host;
	local from = session.ip and (" from " .. session.ip) or "";
	return json.encode {
		timeUnixNano = nanoseconds(when);
		observedTimeUnixNano = nanoseconds(event.digest and when or now);
		severityNumber = outcome == "failure" and 13 or 9;
		severityText = outcome == "failure" and "WARN" or "INFO";
		eventName = type_;
		body = { stringValue = clean(("%s (%s) %s%s"):format(type_, outcome, who, from), "message", {}) };
		attributes = attributes;
	};
end

-- Returns an element's own text; nil where it has none.
local function text_of(stanza)
	local texts = {};
	for _, child in ipairs(stanza) do
		if type(child) == "string" then texts[#texts + 1] = child; end
	end
	local text = table.concat(texts);
	return text:find("%S") and text or nil;
end

-- Returns what an element holds as fields: attributes, text (`text`) and children, those that hold text alone as such.
local function fields_of(stanza)
	local fields = {};
	local function put(name, value)
		local base, number = name:gsub("[^%w_-]", "_"), 1;
		name = base;
		while fields[name] ~= nil do
			number = number + 1;
			name = base .. "_" .. number;
		end
		fields[name] = value;
	end
	for name, value in sorted_pairs(stanza.attr) do
		if name ~= "xmlns" then put(name, value); end
	end
	local text = text_of(stanza);
	if text then put("text", text); end
	for _, child in ipairs(stanza.tags) do -- of whatever namespace
		local inner = fields_of(child);
		local only = next(inner);
		put(child.name, only == nil and "" or only == "text" and next(inner, only) == nil and inner.text or inner);
	end
	return fields;
end

local function from_stanza(key, stanza, when, with)
	local event = { custom = {}, when = tonumber(when), type = stanza.attr.type or "audit-event", source = stanza.attr.source };
	-- Not of the stanza's text, where the order of attributes is chance.
	event.digest = hashes.sha256(table.concat({ host, key, tostring(when), event.type }, "\0"), true);
	local user = stanza.attr.user or (with ~= "@" and with ~= "" and with) or nil;
	local node, domain = jid.split(user);
	event.user = node and domain == host and node or user;
	for _, child in ipairs(stanza.tags) do
		if child.name == "session" and not event.session then
			local place = child:get_child("location");
			event.session = {
				id = child.attr.id, type = child.attr.type, ip = child:get_child_text("remote-ip"),
				-- mod_audit may have been told to store networks
				network = (child:get_child_text("remote-ip") or ""):find("/", 1, true),
				client = child:get_child_text("client"),
				country = place and place.attr.country, continent = place and place.attr.continent,
			};
			if place and text_of(place) then
				event.custom.session = { location_text = text_of(place) };
			end
		else
			local base, number = child.name:gsub("[^%w_-]", "_"), 1;
			local group = base;
			while event.custom[group] do
				number = number + 1;
				group = base .. "_" .. number;
			end
			event.custom[group] = fields_of(child);
		end
	end
	return event;
end

return {
	encode = encode;
	from_stanza = from_stanza;
};
