-- One row for every process start; a number is never used again.
create table nodes (
    node_id integer primary key autoincrement,
    name text not null,
    started_at integer not null,
    dead_at integer,
    -- The last batch of appends that it committed, and what became of those in it that were not
    -- committed whole, as [place, answer]: for a batch that is sent again.
    last_batch integer not null default 0,
    last_answers text not null default '[]'
);

-- An index over the logs, which the same commit keeps in step. Times are milliseconds since 1970.
create table runs (
    id blob primary key,
    public_id text not null,
    tenant text not null,
    status text not null,
    node_id integer references nodes (node_id),
    -- Why it last waited for an owner; null before it first did.
    reason text,
    crashes integer not null default 0,
    inbox_n integer not null default 0,
    inbox_read integer not null default 0,
    last_seq integer not null,
    turn_started_at integer,
    agent text,
    model text not null,
    created_by text not null,
    created_at integer not null,
    started_at integer,
    finished_at integer,
    cancel_at integer,
    stop_reason text,
    input_preview text,
    output_preview text,
    metadata text not null,
    spec text not null
);
create index runs_owned on runs (node_id) where node_id is not null;
create index runs_suspect on runs (id) where crashes >= 2;

-- Idempotency keys and run ids chosen by clients: one intent, one run.
create table run_keys (
    tenant text not null,
    kind text not null,
    key text not null,
    run_id blob not null,
    digest text not null,
    primary key (tenant, kind, key)
) without rowid;

-- What waits for an owner. Deleted when it is claimed.
create table queue (
    run_id blob primary key,
    kind text not null,
    reason text not null,
    tenant text not null,
    priority integer not null,
    run_at integer not null
) without rowid;
create index queue_order on queue (kind, priority, run_at, run_id);

-- What others leave for a run's owner, numbered per run.
create table inbox (
    run_id blob not null,
    n integer not null,
    dedupe_key text not null,
    kind text not null,
    body text not null,
    at integer not null,
    primary key (run_id, n),
    unique (run_id, dedupe_key)
) without rowid;

-- The logs. `data` is the event's JSON, byte for byte what clients get.
create table events (
    run_id blob not null,
    seq integer not null,
    type integer not null,
    data text not null,
    primary key (run_id, seq)
) without rowid;
create unique index events_terminal on events (run_id) where type in (13, 14, 15);
