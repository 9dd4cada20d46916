-- Sends the audit events of a Prosody host to an OpenTelemetry receiver, as OTLP/HTTP with JSON.
-- For Prosody 0.12. README.md beside this file describes settings, events and promises.
--
-- Without mod_audit it hooks Prosody's own events, and keeps them in files. With mod_audit it follows its archive.

local http = require "net.http";
local json = require "util.json";
local time = require "util.time";
local has_pposix, pposix = pcall(require, "util.pposix");

local encode = module:require "record".encode;
local queue = module:require "queue";

local GATHER = 0.2; -- seconds between an event and its way, so that events share requests
local FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60;
local LONGEST_WISH = 3600; -- seconds that a receiver may ask us to wait
local LOOK = 30; -- seconds between two looks at the archive of mod_audit, and at a disk that was full

local endpoint = module:get_option_string("audit_otel_endpoint", "http://127.0.0.1:4318"):gsub("/+$", "") .. "/v1/logs";
local token = module:get_option_string("audit_otel_token");
local patience = module:get_option_number("audit_otel_timeout", 30);
local heartbeat = module:get_option_number("audit_otel_heartbeat", 60);
local follow = module:get_option_boolean("audit_otel_follow");
if follow == nil then
	follow = module:get_option_inherited_set("modules_enabled", {}):contains("audit");
end

local headers = { ["Content-Type"] = "application/json" };
for name, value in pairs(module:get_option("audit_otel_headers", {})) do
	headers[name] = tostring(value);
end
if token then
	headers["Authorization"] = "Bearer " .. token;
end

-- Nothing that goes wrong here may keep Prosody from its work.
local function guarded(what, action, ...)
	local ok, reason = pcall(action, ...);
	if not ok then module:log("error", "%s failed: %s", what, reason); end
	return ok, reason;
end

---- The way to the receiver ----

local archive = follow and module:require "archive" or nil;
local batch, source; -- what is being sent, and where it comes from
local single; -- the number of the one record of it that is being sent, where they are sent one by one
local in_flight, planned, unloaded;
local failures = 0;
local go_on;

local function plan(delay)
	local moment = time.now() + delay;
	if unloaded or (planned and planned <= moment) then return; end
	planned = moment;
	module:add_timer(delay, function ()
		if planned == moment then
			planned = nil;
			go_on();
		end
	end);
end

local function failed(why, wish)
	if failures == 0 then
		module:log("warn", "Audit events wait on disk, since %s does not take them (%s); tried again for ever", endpoint, why);
	end
	failures = failures + 1;
	local pause = math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ^ math.min(failures - 1, 10)) * (0.75 + math.random() / 2);
	plan(math.max(pause, math.min(tonumber(wish) or 0, LONGEST_WISH)));
end

local function done()
	if single and single < #batch then
		single = single + 1;
	else
		batch, single = nil, nil;
		source:taken();
	end
	plan(0);
end

local function accepted()
	if failures > 0 then
		module:log("info", "%s takes audit events again", endpoint);
		failures = 0;
	end
	done();
end

local function refused(why)
	if #batch > 1 and not single then
		single = 1; -- one by one, to find the guilty
		return plan(0);
	end
	queue.set_aside(batch[single or 1], ("was refused for good by %s (%s)"):format(endpoint, why));
	done();
end

local function answered(body, code, response)
	local answer = code == 200 and json.decode(body ~= "" and body or "{}");
	if type(answer) == "table" then
		local partial = type(answer.partialSuccess) == "table" and answer.partialSuccess or {};
		if (tonumber(partial.rejectedLogRecords) or 0) > 0 then
			return refused(tostring(partial.errorMessage));
		end
		return accepted();
	elseif code == 400 or code == 413 or code == 422 then
		return refused(("status %d"):format(code));
	end
	local why = code == 0 and tostring(body) or code == 200 and "its answer is no JSON" or ("status %d"):format(code);
	failed(why, type(response) == "table" and response.headers and response.headers["retry-after"]);
end

local function post(lines)
	local this = {};
	in_flight = this;
	local function once(...)
		if in_flight ~= this or unloaded then return; end
		in_flight = nil;
		if not guarded("Reading an answer", answered, ...) then failed("an answer that cannot be read"); end
	end
	-- The records are JSON already.
	local body = ('{"resourceLogs":[{"resource":{"attributes":[%s,%s]},"scopeLogs":[{"scope":{"name":"mod_audit_otel"},')
		:format(
			json.encode({ key = "service.name", value = { stringValue = "prosody" } }),
			json.encode({ key = "service.version", value = { stringValue = tostring(prosody.version) } })
		) .. '"logRecords":[' .. table.concat(lines, ",") .. "]}]}]}";
	local request = http.request(endpoint, { method = "POST", headers = headers, body = body }, once);
	module:add_timer(patience, function ()
		if in_flight ~= this then return; end
		once(("no answer within %g s"):format(patience), 0);
		if request then guarded("Giving up a request", http.destroy_request, request); end
	end);
end

function go_on()
	if unloaded or planned or in_flight then return; end
	local ok = guarded("Sending audit events", function ()
		if not batch then
			batch, source = queue:batch(), queue; -- with mod_audit too: it may not have been there before
		end
		if not batch and archive then
			batch, source = archive:batch(), archive;
		end
		if batch then post(single and { batch[single] } or batch); end
	end);
	if not ok then
		in_flight = nil;
		failed("an error of this module");
	end
end

-- While nothing is taken, the next try is planned already.
local function hurry(delay)
	if failures == 0 then plan(delay); end
end

---- Events ----

local function record(event)
	local ok, line = guarded("Encoding an audit event", encode, event);
	if not ok then
		line = encode({ type = event.type, when = event.when, custom = { error = { text = tostring(line) } } });
	end
	guarded("Keeping an audit event", queue.push, queue, line);
	hurry(GATHER);
end

local function session_of(session)
	return session and { id = session.id, type = session.type, ip = session.ip, client = session.client_id };
end

-- Calls `make` for an event, before all other handlers: one that returns something ends the chain. Ours never does.
local function on(hook, name, type_, make)
	hook(module, name, function (event)
		local ok, made = guarded("Reading " .. name, make, event);
		if ok and made then
			made.type = type_;
			record(made);
		elseif not ok then
			record({ type = type_, custom = { error = { text = tostring(made) } } });
		end
	end, 1000);
end

local function here(event)
	return event.host == module.host and { user = event.username } or nil;
end

local function hook_events()
	on(module.hook, "authentication-success", "authentication-success", function (event)
		local session = event.session;
		local sasl = session.sasl_handler or {};
		return { user = session.username, session = session_of(session), custom = { authentication = { method = sasl.selected } } };
	end);
	on(module.hook, "authentication-failure", "authentication-failure", function (event)
		local sasl = event.session.sasl_handler or {};
		return {
			user = sasl.username, anonymous = true, session = session_of(event.session),
			custom = {
				reason = { condition = event.condition, text = event.text },
				authentication = { method = sasl.selected },
			},
		};
	end);
	on(module.hook, "user-registered", "user-registered", function (event)
		local session = event.session;
		local invite = event.validated_invite or (session and session.validated_invite);
		return {
			user = event.username, session = session_of(session),
			custom = { ["invite-used"] = invite and { token = invite.token } },
		};
	end);
	local leaving; -- by the time of the event Prosody has emptied the session
	module:hook("iq/self/jabber:iq:register:query", function (event)
		leaving = session_of(event.origin);
	end, 1000);
	on(module.hook, "user-deregistered", "user-deregistered", function (event)
		local session = session_of(event.session);
		return { user = event.username, session = session and leaving and leaving.id == session.id and leaving or session };
	end);
	on(module.hook_global, "user-password-changed", "user.password.changed", here);
	on(module.hook_global, "user-deleted", "user.deleted", here);
end

---- The life of the server ----

local status = module:open_store("audit_otel_status", "keyval");
local stopping;

local function note(state)
	local ok, reason = status:set(nil, { state = state, when = math.floor(time.now()) });
	if not ok then module:log("error", "The server's state cannot be kept: %s", reason); end
end

local function beat()
	if unloaded or stopping then return; end
	note("running");
	return heartbeat;
end

local function hook_server()
	local before = status:get(nil);
	local starting = not prosody.start_time; -- else the module was loaded later, or reloaded
	if starting and before and before.state == "running" then
		-- Whoever came to an end in order said so.
		record({ type = "server-crashed", when = tonumber(before.when), custom = { server = { note = "no heartbeat since" } } });
	end
	local fields = { version = tostring(prosody.version), pid = has_pposix and pposix.getpid() or nil };
	on(module.hook_global, "server-started", "server-started", function ()
		return { custom = { server = fields } };
	end);
	on(module.hook_global, "server-stopping", "server-stopped", function (event)
		stopping = true;
		note("stopped");
		return { custom = { server = { version = fields.version, pid = fields.pid, note = event and event.reason } } };
	end);
	beat();
	module:add_timer(heartbeat, beat);
end

---- Loading ----

queue:load();
if follow then
	archive:load();
	local function look() hurry(1); end
	for _, name in ipairs({ "authentication-success", "authentication-failure", "user-registered", "user-deregistered" }) do
		module:hook(name, look, -1000);
	end
else
	hook_events();
	if heartbeat > 0 then hook_server(); end
end
module:add_timer(LOOK, function ()
	hurry(0);
	return LOOK;
end);
plan(GATHER);

function module.unload()
	unloaded = true;
	queue:close();
	if not follow and heartbeat > 0 and not stopping then note("unloaded"); end
end
