-- Lists, batches, erasing, stream tokens.

-- What a list shows, so that none reads a log.
alter table runs
    add column turn_count integer not null default 0,
    add column usage text,
    add column error text,
    add column elapsed double precision,
    -- What an active run waits for: tool_output, approval, budget.
    add column waiting text,
    add column thread_id text,
    add column batch_id uuid,
    add column parent_id uuid;

-- 6 is turn.completed; 13, 14 and 15 are the ends.
update runs
   set turn_count = (select count(*) from events where run_id = runs.id and type = 6);
update runs
   set usage = told.result ->> 'usage',
       error = told.result ->> 'error',
       elapsed = (told.result ->> 'elapsed_time')::double precision
  from (select run_id, data::json -> 'result' as result from events where type in (13, 14, 15)) as told
 where told.run_id = runs.id;

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
    run_id uuid not null,
    primary key (tenant, key, value, run_id)
);
insert into run_labels (tenant, key, value, run_id)
select runs.tenant, label.key, label.value, runs.id
  from runs, json_each_text(runs.metadata::json) as label
 where runs.metadata <> '';

-- Runs that were created together. Their key stands in `run_keys`, with the batch's id.
create table batches (
    id uuid primary key,
    tenant text not null,
    metadata text not null,
    created_by text not null,
    created_at bigint not null
);

-- Whoever erases a run erases its keys.
create index run_keys_of on run_keys (run_id);

-- What this installation made up once and keeps to itself.
create table secrets (
    name text primary key,
    value bytea not null
);

-- Takes out the labels that these runs have, by the metadata of their rows.
create function unlabel_runs(run_ids uuid[]) returns void
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off as $$
begin
    delete from run_labels as old
     using runs, json_each_text(runs.metadata::json) as label
     where runs.id = any (run_ids) and runs.metadata <> ''
       and old.tenant = runs.tenant and old.key = label.key and old.value = label.value
       and old.run_id = runs.id;
end
$$;

-- Enters the labels of these runs, by the metadata of their rows.
create function label_runs(run_ids uuid[]) returns void
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off as $$
begin
    insert into run_labels (tenant, key, value, run_id)
    select runs.tenant, label.key, label.value, runs.id
      from runs, json_each_text(runs.metadata::json) as label
     where runs.id = any (run_ids) and runs.metadata <> ''
    on conflict do nothing;
end
$$;

-- Enters the labels of those runs of a create that are new, in the same transaction.
create function label_new(ids uuid[], letters text[]) returns void
language sql volatile as $$
    select label_runs(array(select id from unnest(ids, letters) as run (id, letter)
                             where letter = 'n'))
$$;

-- What lists show of runs, in the same transaction as the appends that say it. `letters` is what
-- became of the appends, a letter a run. A batch that is sent again says it again: not of runs that
-- are another's by now.
create function show_runs(
    me bigint,
    letters text,
    run_ids uuid[],
    turn_counts integer[],
    usages text[],
    errors text[],
    elapseds double precision[],
    metadatas text[]
) returns text
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off as $$
declare
    relabelled uuid[];
begin
    select array_agg(id) into relabelled
      from unnest(run_ids, metadatas) with ordinality as asked (id, metadata, place)
     where metadata is not null and substr(letters, place::integer, 1) in ('a', 's');
    if relabelled is not null then
        perform unlabel_runs(relabelled);
    end if;
    update runs
       set turn_count = coalesce(asked.turn_count, runs.turn_count),
           usage = coalesce(asked.usage, runs.usage),
           error = coalesce(asked.error, runs.error),
           elapsed = coalesce(asked.elapsed, runs.elapsed),
           metadata = coalesce(asked.metadata, runs.metadata)
      from unnest(run_ids, turn_counts, usages, errors, elapseds, metadatas) with ordinality
           as asked (id, turn_count, usage, error, elapsed, metadata, place)
     where runs.id = any (run_ids) and runs.id = asked.id
       and (runs.node_id = me or runs.finished_at is not null)
       and substr(letters, asked.place::integer, 1) in ('a', 's')
       and (asked.turn_count is not null or asked.usage is not null or asked.error is not null
            or asked.elapsed is not null or asked.metadata is not null);
    if relabelled is not null then
        perform label_runs(relabelled);
    end if;
    return letters;
end
$$;

-- Creates a batch: its key, its row and all its runs, queued; or nothing. What comes back: n (new, or
-- there by this very intent), e (the key names another batch, whose id it is), c (the key was used for
-- something else), t (keys of runs are taken: the places of the runs).
create function make_batch(
    of_batch uuid,
    of_tenant text,
    batch_key text,
    of_digest text,
    of_metadata text,
    by_whom text,
    at_ms bigint,
    -- Of each run:
    ids uuid[],
    digests text[],
    public_ids text[],
    agents text[],
    models text[],
    created_bys text[],
    created_ats bigint[],
    input_previews text[],
    metadatas text[],
    specs text[],
    event_types smallint[],
    event_data text[],
    -- Of each key of a run:
    key_places integer[],
    key_names text[],
    out letter text,
    out holder uuid,
    out taken integer[]
)
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off
set lock_timeout = '200ms' as $$
declare
    there record;
begin
    letter := 'n';
    holder := of_batch;
    -- In one order on every node, or two of them would wait for each other: this key comes before
    -- those of the runs, which come by their names.
    if batch_key is not null then
        insert into run_keys (tenant, kind, key, run_id, digest)
        values (of_tenant, 'idempotency', batch_key, of_batch, of_digest)
        on conflict do nothing;
        if not found then
            select run_id, digest into strict there
              from run_keys
             where tenant = of_tenant and kind = 'idempotency' and key = batch_key;
            if there.run_id <> of_batch then
                holder := there.run_id;
                letter := case when there.digest = of_digest then 'e' else 'c' end;
            end if;
            return;
        end if;
    end if;
    insert into batches (id, tenant, metadata, created_by, created_at)
    values (of_batch, of_tenant, of_metadata, by_whom, at_ms)
    on conflict do nothing;
    if not found then
        return;
    end if;
    insert into run_keys (tenant, kind, key, run_id, digest)
    select of_tenant, 'run_id', name, ids[place], digests[place]
      from unnest(key_places, key_names) as key (place, name)
     order by name, place
    on conflict do nothing;
    -- In a step of its own: those who came first are committed by now.
    select array_agg(key.place order by key.place) into taken
      from unnest(key_places, key_names) as key (place, name)
      join run_keys as bound
        on bound.tenant = of_tenant and bound.kind = 'run_id' and bound.key = key.name
     where bound.run_id <> ids[key.place];
    if taken is not null then
        -- Nothing was created, and no key is bound.
        delete from run_keys where run_id = any (ids) or run_id = of_batch;
        delete from batches where id = of_batch;
        letter := 't';
        return;
    end if;
    insert into runs (id, public_id, tenant, status, last_seq, agent, model, created_by, created_at,
                      input_preview, metadata, spec, batch_id)
    select id, public_id, of_tenant, 'QUEUED', 1, agent, model, created_by, created_at,
           input_preview, metadata, spec, of_batch
      from unnest(ids, public_ids, agents, models, created_bys, created_ats, input_previews,
                  metadatas, specs)
           as run (id, public_id, agent, model, created_by, created_at, input_preview, metadata,
                   spec);
    insert into events (run_id, seq, type, data)
    select id, 1, type, data from unnest(ids, event_types, event_data) as event (id, type, data);
    insert into queue (run_id, kind, reason, tenant, priority, run_at)
    select id, 'drive', 'new', of_tenant, 0, least(created_at, now_ms())
      from unnest(ids, created_ats) as run (id, created_at);
    perform label_runs(ids);
end
$$;

-- Erases a run that has ended, with its log and its keys; a batch goes with its last run. What comes
-- back: erased, active, no_run.
create function erase_run(of_tenant text, of_run uuid) returns text
language plpgsql as $$
declare
    run record;
begin
    select finished_at, batch_id into run from runs where id = of_run and tenant = of_tenant;
    if not found then
        return 'no_run';
    elsif run.finished_at is null then
        return 'active';
    end if;
    -- Before the run: of two who erase the last two of a batch, the second sees that it is empty.
    perform from batches where id = run.batch_id for update;
    perform from runs where id = of_run and tenant = of_tenant for update;
    if not found then
        return 'no_run';
    end if;
    perform unlabel_runs(array[of_run]);
    delete from events where run_id = of_run;
    delete from inbox where run_id = of_run;
    delete from run_keys where run_id = of_run;
    delete from runs where id = of_run;
    if run.batch_id is not null
       and not exists (select from runs where tenant = of_tenant and batch_id = run.batch_id) then
        delete from batches where id = run.batch_id;
        delete from run_keys where run_id = run.batch_id;
    end if;
    return 'erased';
end
$$;

-- Leaves the same note for several runs, in one order on every node; the answers in the order of the
-- runs.
create function leave_notes(
    of_tenant text,
    of_runs uuid[],
    note_kind text,
    note_key text,
    note_body text,
    out outcomes text[],
    out owners bigint[]
)
language plpgsql as $$
declare
    asked record;
    left_note record;
begin
    outcomes := array_fill(null::text, array[cardinality(of_runs)]);
    owners := array_fill(null::bigint, array[cardinality(of_runs)]);
    for asked in select id, place from unnest(of_runs) with ordinality as run (id, place) order by id
    loop
        select * into left_note
          from leave_note(of_tenant, asked.id, note_kind, note_key, note_body);
        outcomes[asked.place] := left_note.outcome;
        owners[asked.place] := left_note.owner;
    end loop;
end
$$;

-- Leaves a note in a run's inbox. What comes back: accepted, with the owner to wake; ended; full (it
-- has had as many as it takes; a cancel always fits); no_run.
create function leave_note(
    of_tenant text,
    of_run uuid,
    note_kind text,
    note_key text,
    note_body text,
    out outcome text,
    out owner bigint
)
language plpgsql as $$
declare
    run record;
begin
    select node_id, inbox_n, finished_at, crashes into run
      from runs
     where id = of_run and tenant = of_tenant
       for no key update;
    if not found then
        outcome := 'no_run';
        return;
    elsif run.finished_at is not null then
        outcome := 'ended';
        return;
    elsif run.inbox_n >= 256 and note_kind <> 'cancel'
          and not exists (select from inbox where run_id = of_run and dedupe_key = note_key) then
        outcome := 'full';
        return;
    end if;
    outcome := 'accepted';
    owner := run.node_id;
    insert into inbox (run_id, n, dedupe_key, kind, body, at)
    values (of_run, run.inbox_n + 1, note_key, note_kind, note_body, now_ms())
    on conflict (run_id, dedupe_key) do nothing;
    if not found then
        return;
    end if;
    update runs
       set inbox_n = inbox_n + 1,
           cancel_at = case note_kind when 'cancel' then coalesce(cancel_at, now_ms())
                                      else cancel_at end
     where id = of_run;
    -- A run without an owner is queued for its inbox; one that waits already waits no longer.
    if owner is null then
        insert into queue (run_id, kind, reason, tenant, priority, run_at, crashes)
        values (of_run, 'inbox', 'inbox', of_tenant, 0, now_ms(), run.crashes)
        on conflict (run_id) do update set kind = 'inbox',
                                           run_at = least(queue.run_at, excluded.run_at);
    end if;
end
$$;
