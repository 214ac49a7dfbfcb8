-- The journal's two lanes. Each call is one statement for its node: no lock is held while a client
-- has the word, so one that stops in the middle holds nobody up. Inside, each step reads what was
-- committed before it.

-- Appends a batch. One letter a run comes back: a (all), s (starts refused), i (inbox news), n (not
-- the owner). A batch that is sent again waits here for its first sending and gets the same letters.
create function append_batch(
    me bigint,
    number bigint,
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
    -- Of each event:
    event_places integer[],
    event_seqs bigint[],
    event_types smallint[],
    event_data text[]
) returns text
-- A plan that was made for few rows is many times slower for many; and while the statistics don't know
-- yet of a day's runs, reading them all looks cheaper than looking them up.
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off as $$
declare
    last record;
    letters text[];
    -- Up to where each run is committed; null where it is refused.
    ends bigint[];
    gap text;
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
    with mine as materialized (
        select id, last_seq, inbox_n, cancel_at
          from runs
         -- Not `=`: an index by owner would go through all runs of the node.
         where id = any (run_ids) and node_id is not distinct from me
         order by id
           for no key update
    ), judged as (
        select asked.place, asked.first_seq, asked.events, asked.start, mine.last_seq,
               case when mine.id is null then 'n'
                    when asked.guard <> mine.inbox_n then 'i'
                    when asked.events > 0 and asked.first_seq <> mine.last_seq + 1 then 'gap'
                    when asked.start is not null and mine.cancel_at is not null then 's'
                    else 'a' end as letter
          from unnest(run_ids, first_seqs, counts, starts, guards)
               with ordinality as asked (id, first_seq, events, start, guard, place)
          left join mine on mine.id = asked.id
    )
    select array_agg(letter order by place),
           array_agg(case letter when 'a' then last_seq + events
                                 when 's' then last_seq + start end order by place),
           min(format('event %s would leave a gap behind %s', abs(first_seq), last_seq))
               filter (where letter = 'gap')
      into letters, ends, gap
      from judged;
    if gap is not null then
        raise exception '%', gap using errcode = '22023';
    end if;

    insert into events (run_id, seq, type, data)
    select run_ids[place], seq, type, data
      from unnest(event_places, event_seqs, event_types, event_data)
           as event (place, seq, type, data)
     where seq <= ends[place];

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
           node_id = case when asked.finished_at is null then node_id end
      from unnest(run_ids, letters, ends, reads, resets, turns_at, statuses, stop_reasons, previews,
                  started_ats, finished_ats)
           as asked (id, letter, last, read, reset, turn_at, status, stop_reason, preview,
                     started_at, finished_at)
     where runs.id = any (run_ids) and runs.id = asked.id and asked.last is not null;

    -- A run that has ended has no inbox any more.
    delete from inbox
     where run_id in (select asked.id
                        from unnest(run_ids, letters, finished_ats) as asked (id, letter, finished_at)
                       where asked.letter = 'a' and asked.finished_at is not null);

    update node_batches set n = number, answers = array_to_string(letters, '') where node_id = me;
    return array_to_string(letters, '');
end
$$;

-- Creates a batch of runs. A letter and an id a run come back: n (new, or there by this very intent),
-- e (a key names another run, whose id it is), c (conflict), f (born on a dead node), b (busy: somebody
-- who does not come to an end is binding a key of it). Only a create that is alone may have more than
-- one key.
create function create_batch(
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
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off
set lock_timeout = '200ms' as $$
declare
    alive bigint[];
    asked record;
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

    with born as (
        insert into runs (id, public_id, tenant, status, node_id, last_seq, agent, model, created_by,
                          created_at, input_preview, metadata, spec)
        select id, public_id, tenant, 'QUEUED', owner,
               (select coalesce(max(seq), 0) from unnest(event_places, event_seqs) as event (of, seq)
                 where of = place),
               agent, model, created_by, created_at, input_preview, metadata, spec
          from unnest(ids, public_ids, tenants, owners, agents, models, created_bys, created_ats,
                      input_previews, metadatas, specs)
               with ordinality as run (id, public_id, tenant, owner, agent, model, created_by,
                                       created_at, input_preview, metadata, spec, place)
         where letters[place] = 'n'
        on conflict (id) do nothing
        returning id
    )
    select coalesce(array_agg(id), '{}') into made from born;

    insert into events (run_id, seq, type, data)
    select ids[place], seq, type, data
      from unnest(event_places, event_seqs, event_types, event_data)
           as event (place, seq, type, data)
     where ids[place] = any (made);

    insert into queue (run_id, kind, reason, tenant, priority, run_at)
    -- Where the database's clock was put back, the node's is ahead of it for a while.
    select id, 'drive', 'new', tenant, 0, least(created_at, now_ms())
      from unnest(ids, tenants, owners, created_ats) as run (id, tenant, owner, created_at)
     where owner is null and id = any (made);
end
$$;
