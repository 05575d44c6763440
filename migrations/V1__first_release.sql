-- The pipeline's present, its runs, what happened in each, who is logged in, and what was answered to keyed requests.
--
-- Times are RFC 3339 in UTC with exactly three digits of milliseconds: 24 characters, so texts sort like times.
-- SQLite cannot change a CHECK. So a CHECK here describes a form, or a rule between columns that holds for ever; the words that may grow
-- (status, kind, cause, containment, origin) are checked by the code that reads them.

-- Says whose file this is (https://www.sqlite.org/pragma.html#pragma_application_id): the letters "AADv".
PRAGMA application_id = 0x41414476;

-- One life of the pipeline each. AUTOINCREMENT: an id names a folder and is never used twice.
CREATE TABLE pipeline_runs (
    id            INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    status        TEXT    NOT NULL,
    -- The leader's; kept after the end, for the reader. It names no process then.
    pid           INTEGER CHECK (pid > 0),
    script        TEXT    NOT NULL,
    cwd           TEXT    NOT NULL,
    args          TEXT    NOT NULL CHECK (json_valid(args) AND json_type(args) = 'array'),
    created_at    TEXT    NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    started_at    TEXT    CHECK (started_at GLOB '????-??-??T??:??:??.???Z'),
    stopped_at    TEXT    CHECK (stopped_at GLOB '????-??-??T??:??:??.???Z'),
    -- The clients that started and stopped it, as JSON; null if unknown.
    started_by    TEXT    CHECK (started_by IS NULL OR json_valid(started_by) AND json_type(started_by) = 'object'),
    stopped_by    TEXT    CHECK (stopped_by IS NULL OR json_valid(stopped_by) AND json_type(stopped_by) = 'object'),
    exit_code     INTEGER,
    signal        INTEGER CHECK (signal > 0),
    paused_ms     INTEGER NOT NULL DEFAULT 0 CHECK (paused_ms >= 0),
    cpu_user_ms   INTEGER CHECK (cpu_user_ms >= 0),
    cpu_system_ms INTEGER CHECK (cpu_system_ms >= 0),
    max_rss_kb    INTEGER CHECK (max_rss_kb >= 0),
    error         TEXT,
    -- What holds, or held, its processes together; null while it was not seen to run.
    containment   TEXT,
    -- What was killed at its end: a JSON array of the first of them, each with its pid and its name, and how many there were in all.
    killed        TEXT    CHECK (killed IS NULL OR json_valid(killed) AND json_type(killed) = 'array'),
    killed_count  INTEGER CHECK (killed_count > 0),
    -- Positions in the pipeline's log: before the run's first byte, after its last.
    log_start     INTEGER NOT NULL CHECK (log_start >= 0),
    log_end       INTEGER CHECK (log_end >= log_start),
    -- What its start took, so that it can be repeated: the folder as the start named it (null: the root), the names of the variables that it
    -- added to the environment, as a JSON array, and the grace that it named (null: the server's).
    start_cwd     TEXT,
    env_names     TEXT    NOT NULL DEFAULT '[]' CHECK (json_valid(env_names) AND json_type(env_names) = 'array'),
    grace_ms      INTEGER CHECK (grace_ms >= 0),
    -- How many processes the kernel killed for lack of memory, and the most memory that the whole tree used; null if not measured.
    oom_kills     INTEGER CHECK (oom_kills >= 0),
    memory_peak_bytes INTEGER CHECK (memory_peak_bytes >= 0),

    -- A live run has no end, an ended one has.
    CHECK (status NOT IN ('starting', 'running', 'paused') OR stopped_at IS NULL),
    CHECK (status NOT IN ('completed', 'failed', 'stopped', 'lost') OR stopped_at IS NOT NULL),
    -- It has a leader exactly since it was seen to run.
    CHECK ((pid IS NULL) = (started_at IS NULL)),
    CHECK (status <> 'starting' OR started_at IS NULL),
    CHECK (status NOT IN ('running', 'paused', 'completed', 'stopped') OR started_at IS NOT NULL),
    -- How the leader ended: by itself or by a signal, known only of an end that was seen.
    CHECK (exit_code IS NULL OR signal IS NULL),
    CHECK (status NOT IN ('starting', 'running', 'paused', 'lost') OR (exit_code IS NULL AND signal IS NULL)),
    CHECK (status <> 'completed' OR (exit_code IS NOT NULL AND exit_code = 0)),
    CHECK (status <> 'stopped' OR exit_code IS NOT NULL OR signal IS NOT NULL),
    -- A run whose end was not seen, and a run that failed before it started, come with a sentence.
    CHECK (status <> 'lost' OR error IS NOT NULL),
    CHECK (status <> 'failed' OR exit_code IS NOT NULL OR signal IS NOT NULL OR error IS NOT NULL),
    CHECK ((killed IS NULL) = (killed_count IS NULL))
) STRICT;

-- At most one run is alive. The expression is 1 for each row of the index.
CREATE UNIQUE INDEX pipeline_runs_one_live ON pipeline_runs (stopped_at IS NULL) WHERE stopped_at IS NULL;

-- How many runs failed, and how long the completed runs of a script took, without reading all runs.
CREATE INDEX pipeline_runs_by_status ON pipeline_runs (status, script);

-- What happened in a run. seq is the journal's number, so recording a fact twice is harmless; 0 is the commit before the start.
-- What a program needs of a fact has a column; detail is a sentence for people, which no program reads.
CREATE TABLE pipeline_events (
    run_id       INTEGER NOT NULL REFERENCES pipeline_runs (id) ON DELETE CASCADE,
    seq          INTEGER NOT NULL CHECK (seq >= 0),
    at           TEXT    NOT NULL CHECK (at GLOB '????-??-??T??:??:??.???Z'),
    kind         TEXT    NOT NULL,
    from_state   TEXT    CHECK (from_state IN ('stopped', 'running', 'paused')),
    to_state     TEXT    CHECK (to_state IN ('stopped', 'running', 'paused')),
    cause        TEXT,
    -- The client that asked for it, as JSON; null if no client did, or if unknown.
    origin       TEXT    CHECK (origin IS NULL OR json_valid(origin) AND json_type(origin) = 'object'),
    pid          INTEGER CHECK (pid > 0),
    exit_code    INTEGER,
    signal       INTEGER CHECK (signal > 0),
    grace_ms     INTEGER CHECK (grace_ms >= 0),
    paused_ms    INTEGER CHECK (paused_ms >= 0),
    killed       TEXT    CHECK (killed IS NULL OR json_valid(killed) AND json_type(killed) = 'array'),
    killed_count INTEGER CHECK (killed_count > 0),
    detail       TEXT,
    oom_kills    INTEGER CHECK (oom_kills >= 0),

    PRIMARY KEY (run_id, seq),
    CHECK ((from_state IS NULL) = (to_state IS NULL)),
    CHECK (from_state IS NULL OR cause IS NOT NULL),
    CHECK (exit_code IS NULL OR signal IS NULL),
    CHECK ((killed IS NULL) = (killed_count IS NULL))
) STRICT, WITHOUT ROWID;

-- What the pipeline is now: one row. version counts changes and never goes back.
CREATE TABLE pipeline_state (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    state      TEXT    NOT NULL CHECK (state IN ('stopped', 'running', 'paused')),
    pid        INTEGER CHECK (pid > 0),
    -- The latest run, also after its end. No ON DELETE: the latest run can't be deleted.
    run_id     INTEGER REFERENCES pipeline_runs (id),
    started_at TEXT    CHECK (started_at GLOB '????-??-??T??:??:??.???Z'),
    paused_at  TEXT    CHECK (paused_at GLOB '????-??-??T??:??:??.???Z'),
    resumed_at TEXT    CHECK (resumed_at GLOB '????-??-??T??:??:??.???Z'),
    stopped_at TEXT    CHECK (stopped_at GLOB '????-??-??T??:??:??.???Z'),
    updated_at TEXT    NOT NULL CHECK (updated_at GLOB '????-??-??T??:??:??.???Z'),
    version    INTEGER NOT NULL CHECK (version >= 0),

    CHECK ((state = 'stopped') = (pid IS NULL)),
    CHECK (state = 'stopped' OR (run_id IS NOT NULL AND started_at IS NOT NULL AND stopped_at IS NULL)),
    CHECK (state <> 'paused' OR paused_at IS NOT NULL)
) STRICT;

-- Who is logged in on the page. Neither the cookie nor a token can be found out from a row: secret is a digest of the cookie's secret, and
-- made_with one of the token that the session came from, both by a key outside of this file.
CREATE TABLE sessions (
    id         TEXT PRIMARY KEY CHECK (length(id) > 0),
    secret     TEXT NOT NULL CHECK (length(secret) = 64),
    role       TEXT NOT NULL,
    made_with  TEXT NOT NULL CHECK (length(made_with) = 64),
    created_at TEXT NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.???Z'),
    -- Coarse: written at most once an hour.
    used_at    TEXT NOT NULL CHECK (used_at GLOB '????-??-??T??:??:??.???Z'),
    expires_at TEXT NOT NULL CHECK (expires_at GLOB '????-??-??T??:??:??.???Z'),
    -- The latest that expires_at can become.
    ends_at    TEXT NOT NULL CHECK (ends_at GLOB '????-??-??T??:??:??.???Z'),
    address    TEXT NOT NULL,
    user_agent TEXT NOT NULL,

    CHECK (expires_at <= ends_at)
) STRICT, WITHOUT ROWID;

-- What came of the actions that were asked for with an Idempotency-Key, so that a repeat gets the same answer and acts once.
-- Ages are noted by id, so none is used twice.
CREATE TABLE request_keys (
    id      INTEGER PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    key     TEXT    NOT NULL UNIQUE CHECK (length(key) BETWEEN 1 AND 64),
    -- A digest of the route and the body, by a key outside of this file: the body can hold secrets.
    request TEXT    NOT NULL CHECK (length(request) = 64),
    -- The run that the action began or was meant for, and its last recorded fact then; null where nothing was done.
    run_id  INTEGER CHECK (run_id > 0),
    seq     INTEGER CHECK (seq >= 0),
    -- The answer; null until it is known.
    status  INTEGER CHECK (status BETWEEN 200 AND 599),
    body    TEXT,

    CHECK ((run_id IS NULL) = (seq IS NULL)),
    CHECK ((status IS NULL) = (body IS NULL)),
    CHECK (run_id IS NOT NULL OR status IS NOT NULL)
) STRICT;

INSERT OR IGNORE INTO pipeline_state (id, state, updated_at, version)
VALUES (1, 'stopped', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 0);
