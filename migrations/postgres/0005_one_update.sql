-- Appends a batch, as `append_batch` does, and shows in the same update of each run what lists show of it,
-- which `show_runs` did in a second one. Those two stay for nodes of the release before.
--
-- Its plans are made once a session: planning took more than half of what an append cost. So that the only
-- plan there is goes through the keys, whoever calls it has sequential scans, hash and merge joins turned
-- off in its session.
create function commit_batch(
    me bigint,
    number bigint,
    -- The least and the greatest of the runs' ids: they say which days it is about.
    least_id uuid,
    greatest_id uuid,
    -- Of each run:
    run_ids uuid[],
    -- Negative where the events are not even dense among themselves.
    first_seqs bigint[],
    counts integer[],
    starts integer[],
    guards bigint[],
    reads bigint[],
    resets boolean[],
    turns_at bigint[],
    statuses text[],
    stop_reasons text[],
    previews text[],
    started_ats bigint[],
    finished_ats bigint[],
    turn_counts integer[],
    usages text[],
    errors text[],
    elapseds double precision[],
    metadatas text[],
    -- Of each event:
    event_places integer[],
    event_seqs bigint[],
    event_types smallint[],
    event_data text[]
) returns text
language plpgsql as $$
declare
    last record;
    letters text[];
    -- Up to where each run is committed; null where it is refused.
    ends bigint[];
    gap text;
    -- Runs that end and have had something in their inbox, and runs that get other labels.
    emptied uuid[];
    relabelled uuid[];
begin
    perform from nodes where node_id = me and dead_at is null for share;
    if not found then
        raise exception 'node % is dead', me using errcode = 'RL001';
    end if;
    select n, answers into strict last from node_batches where node_id = me for update;
    if number = last.n then
        return last.answers;
    elsif number < last.n then
        raise exception 'batch % came after batch %', number, last.n using errcode = '22023';
    end if;

    -- Locked before it is judged: what was left for a run is either there or comes after the commit.
    -- In one order on every node, or two of them would wait for each other.
    with judged as (
        select asked.place, asked.id, asked.finished_at, asked.metadata, asked.events, asked.start,
               asked.first_seq, mine.last_seq, mine.inbox_n,
               case when mine.last_seq is null then 'n'
                    when asked.guard <> mine.inbox_n then 'i'
                    when asked.events > 0 and asked.first_seq <> mine.last_seq + 1 then 'gap'
                    when asked.start is not null and mine.cancel_at is not null then 's'
                    else 'a' end as letter
          from (select *
                  from unnest(run_ids, first_seqs, counts, starts, guards, finished_ats, metadatas)
                       with ordinality
                       as run (id, first_seq, events, start, guard, finished_at, metadata, place)
                 order by id) as asked
          left join lateral (
                select last_seq, inbox_n, cancel_at
                  from runs
                 where runs.id = asked.id and runs.id between least_id and greatest_id
                   and node_id is not distinct from me
                   for no key update) as mine on true
    )
    select array_agg(letter order by place),
           array_agg(case letter when 'a' then last_seq + events
                                 when 's' then last_seq + start end order by place),
           min(format('event %s would leave a gap behind %s', abs(first_seq), last_seq))
               filter (where letter = 'gap'),
           array_agg(id) filter (where letter = 'a' and finished_at is not null and inbox_n > 0),
           array_agg(id) filter (where letter in ('a', 's') and metadata is not null)
      into letters, ends, gap, emptied, relabelled
      from judged;
    if gap is not null then
        raise exception '%', gap using errcode = '22023';
    end if;

    insert into events (run_id, seq, type, data)
    select run_ids[place], seq, type, data
      from unnest(event_places, event_seqs, event_types, event_data)
           as event (place, seq, type, data)
     where seq <= ends[place];

    if relabelled is not null then
        perform unlabel_runs(relabelled);
    end if;
    update runs
       set last_seq = asked.last,
           inbox_read = coalesce(asked.read, inbox_read),
           crashes = case when asked.reset then 0 else crashes end,
           turn_started_at = case when asked.letter = 'a'
                                  then coalesce(asked.turn_at, turn_started_at)
                                  else turn_started_at end,
           status = coalesce(asked.status, runs.status),
           stop_reason = coalesce(asked.stop_reason, runs.stop_reason),
           output_preview = coalesce(asked.preview, output_preview),
           started_at = coalesce(runs.started_at, asked.started_at),
           finished_at = coalesce(runs.finished_at, asked.finished_at),
           node_id = case when asked.finished_at is null then node_id end,
           turn_count = coalesce(asked.turn_count, runs.turn_count),
           usage = coalesce(asked.usage, runs.usage),
           error = coalesce(asked.error, runs.error),
           elapsed = coalesce(asked.elapsed, runs.elapsed),
           metadata = coalesce(asked.metadata, runs.metadata)
      from unnest(run_ids, letters, ends, reads, resets, turns_at, statuses, stop_reasons, previews,
                  started_ats, finished_ats, turn_counts, usages, errors, elapseds, metadatas)
           as asked (id, letter, last, read, reset, turn_at, status, stop_reason, preview,
                     started_at, finished_at, turn_count, usage, error, elapsed, metadata)
     where runs.id = asked.id and runs.id between least_id and greatest_id
       and asked.last is not null;
    if relabelled is not null then
        perform label_runs(relabelled);
    end if;

    -- A run that has ended has no inbox any more.
    if emptied is not null then
        delete from inbox where run_id = any (emptied);
    end if;

    update node_batches set n = number, answers = array_to_string(letters, '') where node_id = me;
    return array_to_string(letters, '');
end
$$;

-- Creates a batch of runs as `create_batch` does, which stays for nodes of the release before; its plans are
-- made once a session, and it does nothing about keys and the queue where there is nothing to do.
create function commit_creates(
    -- Of each run:
    ids uuid[],
    tenants text[],
    owners bigint[],
    digests text[],
    public_ids text[],
    agents text[],
    models text[],
    created_bys text[],
    created_ats bigint[],
    input_previews text[],
    metadatas text[],
    specs text[],
    last_seqs bigint[],
    -- Of each key:
    key_places integer[],
    key_kinds text[],
    key_names text[],
    -- Of each event:
    event_places integer[],
    event_seqs bigint[],
    event_types smallint[],
    event_data text[],
    -- Waits for each key by itself and only a little, so that a busy one keeps nobody else.
    is_careful boolean,
    out letters text[],
    out holders uuid[]
)
language plpgsql set lock_timeout = '200ms' as $$
declare
    alive bigint[];
    wanted integer;
    -- Those that were inserted; null where all were.
    made uuid[];
begin
    select coalesce(array_agg(node_id), '{}') into alive
      from (select node_id from nodes
             where node_id = any (owners) and dead_at is null
             order by node_id
               for share) as held;
    select array_agg(case when owner is not null and owner <> all (alive) then 'f' else 'n' end
                     order by place)
      into letters
      from unnest(owners) with ordinality as born (owner, place);
    holders := ids;

    if cardinality(key_places) > 0 then
        select bound.letters, bound.holders into letters, holders
          from bind_keys(ids, tenants, digests, key_places, key_kinds, key_names, is_careful, letters)
               as bound;
    end if;

    select count(*) into wanted from unnest(letters) as letter where letter = 'n';
    with born as (
        insert into runs (id, public_id, tenant, status, node_id, last_seq, agent, model, created_by,
                          created_at, input_preview, metadata, spec)
        select id, public_id, tenant, 'QUEUED', owner, last_seq, agent, model, created_by, created_at,
               input_preview, metadata, spec
          from unnest(ids, public_ids, tenants, owners, agents, models, created_bys, created_ats,
                      input_previews, metadatas, specs, last_seqs, letters)
               as run (id, public_id, tenant, owner, agent, model, created_by, created_at,
                       input_preview, metadata, spec, last_seq, letter)
         where letter = 'n'
        on conflict (id) do nothing
        returning id
    )
    select case when count(*) < wanted then coalesce(array_agg(id), '{}') end into made from born;

    insert into events (run_id, seq, type, data)
    select ids[place], seq, type, data
      from unnest(event_places, event_seqs, event_types, event_data)
           as event (place, seq, type, data)
     where letters[place] = 'n' and (made is null or ids[place] = any (made));

    if array_position(owners, null) is not null then
        insert into queue (run_id, kind, reason, tenant, priority, run_at)
        -- Where the database's clock was put back, the node's is ahead of it for a while.
        select id, 'drive', 'new', tenant, 0, least(created_at, now_ms())
          from unnest(ids, tenants, owners, created_ats, letters)
               as run (id, tenant, owner, created_at, letter)
         where owner is null and letter = 'n' and (made is null or id = any (made));
    end if;
end
$$;

-- Binds the keys of a batch of creates, of those whose letter is n so far; what comes back is as
-- `commit_creates` says it.
create function bind_keys(
    ids uuid[],
    tenants text[],
    digests text[],
    key_places integer[],
    key_kinds text[],
    key_names text[],
    is_careful boolean,
    inout letters text[],
    out holders uuid[]
)
language plpgsql as $$
declare
    asked record;
begin
    holders := ids;
    -- In one order on every node, or two of them would wait for each other.
    if is_careful then
        perform set_config('lock_timeout', '20ms', true);
        for asked in
            select place, tenants[place] as tenant, kind, name
              from unnest(key_places, key_kinds, key_names) as key (place, kind, name)
             where letters[place] = 'n'
             order by tenant, kind, name, place
        loop
            begin
                insert into run_keys (tenant, kind, key, run_id, digest)
                values (asked.tenant, asked.kind, asked.name, ids[asked.place], digests[asked.place])
                on conflict do nothing;
            exception when lock_not_available or deadlock_detected then
                letters[asked.place] := 'b';
            end;
        end loop;
    else
        insert into run_keys (tenant, kind, key, run_id, digest)
        select tenants[place], kind, name, ids[place], digests[place]
          from unnest(key_places, key_kinds, key_names) as key (place, kind, name)
         where letters[place] = 'n'
         order by tenants[place], kind, name, place
        on conflict do nothing;
    end if;

    -- Whom the keys name now, in a step of its own: those who came first are committed by now.
    for asked in
        select key.place,
               bool_or(bound.digest <> digests[key.place]) as differs,
               array_agg(distinct bound.run_id)
                   filter (where bound.run_id <> ids[key.place]) as others
          from unnest(key_places, key_kinds, key_names) as key (place, kind, name)
          join run_keys as bound
            on bound.tenant = tenants[key.place] and bound.kind = key.kind and bound.key = key.name
         where letters[key.place] = 'n'
         group by key.place
    loop
        if asked.differs or cardinality(asked.others) > 1 then
            letters[asked.place] := 'c';
        elsif cardinality(asked.others) = 1 then
            letters[asked.place] := 'e';
            holders[asked.place] := asked.others[1];
        end if;
    end loop;

    -- Of a create with two keys one was taken: the other goes the same way, or is free again.
    if cardinality(ids) = 1 and cardinality(key_places) > 1 and letters[1] in ('e', 'c', 'b') then
        if letters[1] = 'e' then
            update run_keys set run_id = holders[1]
             where tenant = tenants[1] and run_id = ids[1]
               and (kind, key) in (select * from unnest(key_kinds, key_names));
        else
            delete from run_keys
             where tenant = tenants[1] and run_id = ids[1]
               and (kind, key) in (select * from unnest(key_kinds, key_names));
        end if;
    end if;
end
$$;
