-- One row for every process start, and a node's fence: whoever writes for a node holds its row `for
-- share`, and whoever declares it dead updates the row and so waits for what is under way. A number
-- is never used again.
create table nodes (
    node_id bigint generated always as identity primary key,
    name text not null,
    started_at bigint not null,
    dead_at bigint
);

-- The heartbeats, in a table of their own: an update of the fence would wait for every commit.
create table node_leases (
    node_id bigint primary key,
    lease_until timestamptz not null,
    slots integer not null,
    busy integer not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- The last batch of appends that a node has committed, and what became of each run in it, a letter
-- a run: for a batch that is sent again. Not in the fence row, for the same reason.
create table node_batches (
    node_id bigint primary key,
    n bigint not null,
    answers text not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- An index over the logs, which the same commit keeps in step. Times are milliseconds since 1970, by
-- the database's clock. A partition for each day (UTC) of the ids, which begin with their time.
create table runs (
    id uuid primary key,
    public_id text not null,
    tenant text not null,
    status text not null,
    node_id bigint,
    -- Why it last waited for an owner; null before it first did.
    reason text,
    crashes integer not null default 0,
    inbox_n bigint not null default 0,
    inbox_read bigint not null default 0,
    last_seq bigint not null,
    turn_started_at bigint,
    agent text,
    model text not null,
    created_by text not null,
    created_at bigint not null,
    started_at bigint,
    finished_at bigint,
    cancel_at bigint,
    stop_reason text,
    input_preview text,
    output_preview text,
    metadata text not null,
    spec text not null
) partition by range (id);
create index runs_owned on runs (node_id) where node_id is not null;
create index runs_suspect on runs (id) where crashes >= 2;

-- Idempotency keys and run ids chosen by clients: one intent, one run.
create table run_keys (
    tenant text not null,
    kind text not null,
    key text not null,
    run_id uuid not null,
    digest text not null,
    primary key (tenant, kind, key)
);

-- What waits for an owner. Deleted when it is claimed: it lives by being small, so its dead rows are
-- removed early and without pause.
create table queue (
    run_id uuid primary key,
    kind text not null,
    reason text not null,
    tenant text not null,
    priority integer not null,
    run_at bigint not null,
    -- As in `runs`: it does not change while the run waits, and here it needs no look at all days.
    crashes integer not null default 0
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
create index queue_order on queue (kind, priority, run_at, run_id);
create index queue_suspect on queue (kind, priority, run_at, run_id) where crashes >= 2;

-- What others leave for a run's owner, numbered per run.
create table inbox (
    run_id uuid not null,
    n bigint not null,
    dedupe_key text not null,
    kind text not null,
    body text not null,
    at bigint not null,
    primary key (run_id, n),
    unique (run_id, dedupe_key)
);

-- The logs. `data` is the event's JSON, byte for byte what clients get.
create table events (
    run_id uuid not null,
    seq bigint not null,
    type smallint not null,
    data text not null,
    primary key (run_id, seq)
) partition by range (run_id);
create unique index events_terminal on events (run_id) where type in (13, 14, 15);

-- lz4 reads and writes several times faster, where the server was built with it.
do $$
begin
    if exists (select from pg_settings
                where name = 'default_toast_compression' and 'lz4' = any (enumvals)) then
        alter table events alter column data set compression lz4;
        alter table runs alter column spec set compression lz4;
    end if;
end
$$;

-- The database's clock: milliseconds since 1970.
create function now_ms() returns bigint
language sql volatile as $$
    select floor(extract(epoch from clock_timestamp()) * 1000)::bigint
$$;

-- The smallest id of a day (UTC): ids begin with their time, 48 bits of milliseconds.
create function day_floor(day date) returns uuid
language sql immutable as $$
    select (lpad(to_hex((day - date '1970-01-01')::bigint * 86400000), 12, '0')
            || repeat('0', 20))::uuid
$$;

-- Makes the partitions of yesterday, today and so many days ahead, where they are not there; says how
-- many it made. Made alone and attached, because `create table … partition of` makes all writers wait
-- behind a reader. It has the rights of whoever made it: a node needs none to change the schema.
create function make_days(days_ahead integer) returns integer
language plpgsql security definer set search_path from current set lock_timeout = '3s' as $$
declare
    today constant date := (clock_timestamp() at time zone 'UTC')::date;
    day date;
    parent text;
    part text;
    made integer := 0;
begin
    -- One node at a time.
    perform pg_advisory_xact_lock(hashtext('runledger'), hashtext('make_days'));
    for day in select today + n from generate_series(-1, days_ahead) as n loop
        foreach parent in array array['runs', 'events'] loop
            part := parent || to_char(day, '_YYYYMMDD');
            if exists (select from pg_inherits
                        where inhparent = parent::regclass and inhrelid = to_regclass(part)) then
                continue;
            end if;
            -- Room on each page lets the row of a run change in its place.
            execute format('create table %I (like %I including all) with (fillfactor = %s)',
                           part, parent, case parent when 'runs' then 80 else 100 end);
            execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                           parent, part, day_floor(day), day_floor(day + 1));
            made := made + 1;
        end loop;
    end loop;
    return made;
end
$$;
