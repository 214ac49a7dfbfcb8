-- Lists, batches, erasing, stream tokens.

-- Specs stand by themselves. Rows of runs change with every append and are read by lists; a spec
-- never changes, and may have megabytes.
create table specs (
    run_id blob primary key,
    spec text not null
);
insert into specs (run_id, spec) select id, spec from runs;
alter table runs drop column spec;

-- What a list shows, so that none reads a log.
alter table runs add column turn_count integer not null default 0;
alter table runs add column usage text;
alter table runs add column error text;
alter table runs add column elapsed real;
-- What an active run waits for: tool_output, approval, budget.
alter table runs add column waiting text;
alter table runs add column thread_id text;
alter table runs add column batch_id blob;
alter table runs add column parent_id blob;

-- 6 is turn.completed; 13, 14 and 15 are the ends.
update runs set turn_count = (select count(*) from events where run_id = runs.id and type = 6);
update runs
   set (usage, error, elapsed) = (
           select data -> '$.result.usage', nullif(data -> '$.result.error', 'null'),
                  data ->> '$.result.elapsed_time'
             from events where run_id = runs.id and type in (13, 14, 15))
 where finished_at is not null;

-- Each filter of the list walks an index from the newest run on. Nearly all runs end in the same way
-- and belong to nothing: those stand in no index of their own.
create index runs_listed on runs (tenant, id);
create index runs_by_status on runs (tenant, status, id);
create index runs_by_reason on runs (tenant, stop_reason, id) where stop_reason <> 'end_turn';
create index runs_by_agent on runs (tenant, agent, id) where agent is not null;
create index runs_by_model on runs (tenant, model, id);
create index runs_by_waiting on runs (tenant, waiting, id) where waiting is not null;
create index runs_by_thread on runs (tenant, thread_id, id) where thread_id is not null;
create index runs_by_batch on runs (tenant, batch_id, id) where batch_id is not null;
create index runs_by_parent on runs (tenant, parent_id, id) where parent_id is not null;

-- The metadata of runs, to find them by it.
create table run_labels (
    tenant text not null,
    key text not null,
    value text not null,
    run_id blob not null,
    primary key (tenant, key, value, run_id)
) without rowid;
insert into run_labels (tenant, key, value, run_id)
select runs.tenant, label.key, label.value, runs.id
  from runs, json_each(runs.metadata) label
 where runs.metadata <> '';

-- Runs that were created together. Their key stands in `run_keys`, with the batch's id.
create table batches (
    id blob primary key,
    tenant text not null,
    metadata text not null,
    created_by text not null,
    created_at integer not null
);

-- Whoever erases a run erases its keys.
create index run_keys_of on run_keys (run_id);

-- What this installation made up once and keeps to itself.
create table secrets (
    name text primary key,
    value blob not null
) without rowid;
