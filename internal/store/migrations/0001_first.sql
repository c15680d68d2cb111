-- One text for SQLite and PostgreSQL. Times are microseconds since 1970, UTC; 0 means "not set".
-- JSON is kept as text. Ids are made by the program.

CREATE TABLE workspaces (
	id          TEXT PRIMARY KEY,
	name        TEXT NOT NULL,
	created_at  BIGINT NOT NULL,
	archived_at BIGINT NOT NULL DEFAULT 0
);

-- Credentials. Only a SHA-256 of the key is here.
CREATE TABLE keys (
	id             TEXT PRIMARY KEY,
	workspace_id   TEXT NOT NULL REFERENCES workspaces (id),
	kind           TEXT NOT NULL,              -- api, fleet, environment, tunnels
	environment_id TEXT NOT NULL DEFAULT '',
	name           TEXT NOT NULL,
	hint           TEXT NOT NULL,              -- the last characters, for people
	hash           TEXT NOT NULL UNIQUE,
	created_at     BIGINT NOT NULL,
	last_used_at   BIGINT NOT NULL DEFAULT 0,
	revoked_at     BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE agents (
	id           TEXT PRIMARY KEY,
	workspace_id TEXT NOT NULL REFERENCES workspaces (id),
	version      BIGINT NOT NULL,
	body         TEXT NOT NULL,                -- the latest version, a croft.Agent
	created_at   BIGINT NOT NULL,
	updated_at   BIGINT NOT NULL,
	archived_at  BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX agents_by_workspace ON agents (workspace_id, created_at, id);

CREATE TABLE agent_versions (
	agent_id   TEXT NOT NULL REFERENCES agents (id),
	version    BIGINT NOT NULL,
	body       TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (agent_id, version)
);

CREATE TABLE environments (
	id           TEXT PRIMARY KEY,
	workspace_id TEXT NOT NULL REFERENCES workspaces (id),
	kind         TEXT NOT NULL,                -- cloud, self_hosted
	body         TEXT NOT NULL,                -- a croft.Environment
	created_at   BIGINT NOT NULL,
	updated_at   BIGINT NOT NULL,
	archived_at  BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX environments_by_workspace ON environments (workspace_id, created_at, id);

-- A session: what was asked for, and the fold of its log.
CREATE TABLE sessions (
	id               TEXT PRIMARY KEY,
	workspace_id     TEXT NOT NULL REFERENCES workspaces (id),
	environment_id   TEXT NOT NULL REFERENCES environments (id),
	environment_kind TEXT NOT NULL,
	agent_id         TEXT NOT NULL,
	agent_version    BIGINT NOT NULL,
	agent            TEXT NOT NULL,             -- croft.SessionAgent
	title            TEXT,
	metadata         TEXT NOT NULL,
	status           TEXT NOT NULL,             -- idle, running, rescheduling, terminated
	thread_id        TEXT NOT NULL,             -- the primary thread
	last_seq         BIGINT NOT NULL,
	epoch            BIGINT NOT NULL,           -- fences the loop: bumped at each taking of the ownership
	owner            TEXT NOT NULL DEFAULT '',  -- the incarnation that has a model request to make; '' while nobody need act
	wake_at          BIGINT NOT NULL DEFAULT 0, -- when a retry is due
	state            TEXT NOT NULL,             -- session.State: the rest of the fold
	created_at       BIGINT NOT NULL,
	updated_at       BIGINT NOT NULL,
	archived_at      BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX sessions_by_workspace ON sessions (workspace_id, created_at, id);
CREATE INDEX sessions_by_environment ON sessions (environment_id);
CREATE INDEX sessions_owned ON sessions (owner) WHERE owner <> '';
CREATE INDEX sessions_to_wake ON sessions (wake_at) WHERE wake_at > 0;

-- The log. Rows are inserted and never changed.
CREATE TABLE events (
	session_id   TEXT NOT NULL,
	seq          BIGINT NOT NULL,
	id           TEXT NOT NULL,
	type         TEXT NOT NULL,
	thread_id    TEXT NOT NULL,
	processed_at BIGINT NOT NULL,
	payload      TEXT NOT NULL,
	raw          TEXT,
	PRIMARY KEY (session_id, seq)
);
CREATE UNIQUE INDEX events_by_id ON events (id);

-- What clients sent and no turn has taken up yet.
CREATE TABLE inbox (
	session_id TEXT NOT NULL,
	pos        BIGINT NOT NULL,
	id         TEXT NOT NULL,
	type       TEXT NOT NULL,
	payload    TEXT NOT NULL,
	PRIMARY KEY (session_id, pos)
);

-- The queue of an environment: one item while a session has something to run or a live sandbox.
CREATE TABLE work (
	id                TEXT PRIMARY KEY,
	workspace_id      TEXT NOT NULL,
	environment_id    TEXT NOT NULL,
	session_id        TEXT NOT NULL,
	state             TEXT NOT NULL,              -- queued, starting, active, stopping, stopped
	worker            TEXT NOT NULL DEFAULT '',   -- who holds the lease
	incarnation       TEXT NOT NULL DEFAULT '',   -- which process of that worker
	token_hash        TEXT NOT NULL DEFAULT '',
	claim             BIGINT NOT NULL DEFAULT 0,  -- how often it was claimed: fences results of lost leases
	attempts          BIGINT NOT NULL DEFAULT 0,  -- claims since the last result
	available_at      BIGINT NOT NULL,            -- not offered before
	lease_until       BIGINT NOT NULL DEFAULT 0,
	heartbeat         TEXT NOT NULL DEFAULT '',   -- the value that the next heartbeat must echo
	metadata          TEXT NOT NULL DEFAULT '{}',
	created_at        BIGINT NOT NULL,
	acknowledged_at   BIGINT NOT NULL DEFAULT 0,
	started_at        BIGINT NOT NULL DEFAULT 0,
	heartbeat_at      BIGINT NOT NULL DEFAULT 0,
	stop_requested_at BIGINT NOT NULL DEFAULT 0,
	stopped_at        BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX work_by_session ON work (session_id);
CREATE INDEX work_held ON work (worker) WHERE worker <> '';
CREATE INDEX work_queued ON work (environment_id, available_at) WHERE state = 'queued';
CREATE INDEX work_leased ON work (lease_until) WHERE lease_until > 0;
CREATE UNIQUE INDEX work_by_token ON work (token_hash) WHERE token_hash <> '';

-- Answers of requests that came with an Idempotency-Key.
CREATE TABLE idempotency (
	workspace_id TEXT NOT NULL,
	key          TEXT NOT NULL,
	request      TEXT NOT NULL,                  -- SHA-256 of method, path and body
	status       BIGINT NOT NULL,
	answer       TEXT NOT NULL,
	created_at   BIGINT NOT NULL,
	PRIMARY KEY (workspace_id, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- Server processes that share this database.
CREATE TABLE replicas (
	id           TEXT PRIMARY KEY,
	started_at   BIGINT NOT NULL,
	heartbeat_at BIGINT NOT NULL
);
