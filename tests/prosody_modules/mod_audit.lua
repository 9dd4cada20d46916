-- Stands in for mod_audit, which Debian does not package: writes the same stanzas through Prosody's own storage.
-- At the start it writes what the tests import, once; then logins and registrations, as mod_audit_auth would.

local jid = require "util.jid";
local st = require "util.stanza";

local xmlns = "xmpp:prosody.im/audit";
local store = module:open_store("audit", "archive");

local function audit(user, source, type_, session, custom, when)
	local attr = { source = source, type = type_ };
	if user then attr.user = user; end
	local event = st.stanza("audit-event", attr);
	if session then
		event:tag("session", { xmlns = xmlns, id = session.id, type = session.type });
		if session.ip then event:text_tag("remote-ip", session.ip); end
		if session.country then
			event:text_tag("location", session.place, { country = session.country, continent = session.continent });
		end
		if session.client_id then event:text_tag("client", session.client_id); end
		event:up();
	end
	for _, child in ipairs(custom or {}) do
		event:add_child(child);
	end
	assert(store:append(nil, nil, event, when or os.time(), user or "@"));
end

local function seed()
	local count = module:get_option_number("audit_seed", 0);
	local alice = "alice@" .. module.host;
	local session = {
		id = "c2s1", type = "c2s_unauthed", ip = "203.0.113.7",
		country = "DE", continent = "EU", place = "Germany", client_id = "Gajim 1.9",
	};
	if count > 0 then
		audit(nil, "mod_audit_status", "server-started", nil, nil, 1700000000);
		audit(alice, "mod_audit_register", "user-registered", session, {
			st.stanza("invite-used", { xmlns = xmlns, token = "t0k3n" }),
		}, 1700000001);
		audit(alice, "mod_audit_auth", "authentication-failure", session, nil, 1700000002);
		audit(nil, "mod_audit_status", "server-crashed", nil, {
			st.stanza("note"):text("two\nlines & <more> \27[31m"),
			st.stanza("details", { code = "7" }):text_tag("reason", "käthe \"quoted\" \\ back"):text_tag("reason", "again")
				:tag("deep", { a = "1" }):text_tag("inner", "x"):up(),
		}, 1699990000);
		audit("bob@elsewhere.test", "mod_x", "x-success", { id = "s9", type = "s2sin", ip = "203.0.113.0/24" }, nil, 1700000003);
	end
	for i = 6, count do
		audit(("user%d@%s"):format(i % 7, module.host), "mod_audit_auth", "authentication-success", session, nil, 1700000000 + i);
	end
end

module:hook_global("server-started", function ()
	local there = store:find(nil, { limit = 1 });
	if not there or not there() then seed(); end
	module:log("info", "seeded");
end);

local function full(username)
	return username and jid.join(username, module.host);
end

module:hook("authentication-success", function (event)
	audit(full(event.session.username), "mod_audit_auth", "authentication-success", event.session);
end);
module:hook("authentication-failure", function (event)
	audit(full(event.session.sasl_handler.username), "mod_audit_auth", "authentication-failure", event.session);
end);
module:hook("user-registered", function (event)
	audit(full(event.username), "mod_audit_register", "user-registered", event.session);
end);
