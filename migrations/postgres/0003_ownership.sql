-- Who owns which run. Each call is one statement for its node, as in the journal.

-- Makes a new node, which lives for so long without a heartbeat.
create function register_node(
    of_name text,
    lease_ms bigint,
    out node bigint,
    out handed_over bigint
)
language plpgsql as $$
begin
    insert into nodes (name, started_at) values (of_name, now_ms()) returning node_id into node;
    insert into node_leases (node_id, lease_until, slots, busy)
    values (node, clock_timestamp() + lease_ms * interval '1 millisecond', 0, 0);
    insert into node_batches (node_id, n, answers) values (node, 0, '');
    -- Runs stand in the queue by the time of their creation. Where the clock has been put back
    -- since, that is still to come, and they would wait for it.
    -- In one order, as all who lock several rows: runs and queue rows by the run's id.
    perform from queue where run_at > now_ms() and reason <> 'timer' order by run_id for update;
    update queue set run_at = now_ms() where run_at > now_ms() and reason <> 'timer';
    select count(*) into handed_over from queue where reason = 'drain';
end
$$;

-- Locks all runs of a node whose fence is dead: it gets no more. Asked once, because each look goes
-- through all that the node has owned since the last vacuum; what follows goes by the ids.
create function lock_runs(of_node bigint) returns uuid[]
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off as $$
begin
    -- In one order, as all who lock several.
    return (select array_agg(id)
              from (select id from runs where node_id = of_node order by id for no key update) as held);
end
$$;

-- Queues the runs of a node whose fence is dead: all of them, and they are locked.
create function release_runs(of_node bigint, ids uuid[], why text) returns bigint
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off as $$
declare
    queued bigint;
begin
    with released as (
        update runs set node_id = null
         where id = any (ids)
        returning id, status, tenant, created_at, crashes, inbox_n > inbox_read as has_news
    )
    insert into queue (run_id, kind, reason, tenant, priority, run_at, crashes)
    select id, case when has_news then 'inbox' else 'drive' end,
           case status when 'QUEUED' then 'new' else why end, tenant, 0, least(created_at, now_ms()),
           crashes
      from released
    on conflict (run_id) do update set kind = excluded.kind, reason = excluded.reason,
                                       run_at = least(queue.run_at, excluded.run_at),
                                       crashes = excluded.crashes;
    get diagnostics queued = row_count;
    delete from node_leases where node_id = of_node;
    delete from node_batches where node_id = of_node;
    return queued;
end
$$;

-- A clean stop: no crash is counted.
create function hand_over(me bigint) returns bigint
language plpgsql as $$
begin
    -- First, as a rescuer does, or each would wait for the other.
    perform from node_leases where node_id = me for update;
    -- Waits for what this node has under way; the next step sees it.
    update nodes set dead_at = now_ms() where node_id = me and dead_at is null;
    return release_runs(me, lock_runs(me), 'drain');
end
$$;

-- Declares one node dead whose lease has ended, another than the one that looks, and queues its runs;
-- null where there is none. In several steps: one statement would look with eyes from before its
-- wait, and miss the runs that the dead node's last commit has made or claimed.
create function rescue_node(me bigint) returns bigint
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off as $$
declare
    dead bigint;
    ids uuid[];
begin
    select node_id into dead
      from node_leases
     where lease_until < clock_timestamp() and node_id <> me
     order by lease_until
     limit 1
       for update skip locked;
    if not found then
        return null;
    end if;
    -- Waits for what that node has under way.
    update nodes set dead_at = now_ms() where node_id = dead and dead_at is null;
    ids := lock_runs(dead);
    -- Runs that were never started cannot have killed anybody. Where a suspect was owned, it did it,
    -- and nobody else.
    update runs set crashes = crashes + 1
     where id = any (ids)
       and (crashes >= 2
            or (status = 'RUNNING'
                and not exists (select from runs as suspect
                                 where suspect.id = any (ids) and suspect.crashes >= 2)));
    return release_runs(dead, ids, 'crash');
end
$$;

-- Takes due runs: those with news, and others up to the free slots. It waits for nobody: whoever
-- leaves a note locks the run first and the queue then, which is the other way round.
create function claim_runs(
    me bigint,
    free_slots integer,
    out run_ids uuid[],
    out for_inbox boolean[],
    out reasons text[],
    out is_more boolean
)
language plpgsql set plan_cache_mode = force_custom_plan set enable_seqscan = off set jit = off as $$
declare
    now constant bigint := now_ms();
    of_kind text;
    room integer;
    suspect uuid;
    due uuid[];
    free uuid[];
    taken record;
begin
    run_ids := '{}';
    for_inbox := '{}';
    reasons := '{}';
    is_more := false;
    perform from nodes where node_id = me and dead_at is null for share;
    if not found then
        raise exception 'node % is dead', me using errcode = 'RL001';
    end if;
    foreach of_kind in array array['inbox', 'drive'] loop
        room := case of_kind when 'inbox' then 64 else fair_share(me, free_slots, now) end;
        -- From 2 crashes on a run is suspected of killing its node: only one such run is owned at a
        -- time, and while it is, the node's death counts for it alone. Those behind it pass. Beyond 5
        -- crashes a run is only ended: nobody waits for one whose end can't be written.
        select run_id into suspect
          from queue
         where kind = of_kind and crashes >= 2 and run_at <= now
         order by priority, run_at, run_id
         limit 1;
        if found and exists (select from runs where node_id = me and crashes between 2 and 5) then
            suspect := null;
        end if;

        select array_agg(run_id) into due
          from (select run_id
                  from queue
                 where kind = of_kind and run_at <= now and (crashes < 2 or run_id = suspect)
                 order by priority, run_at, run_id
                 limit room
                   for update skip locked) as held;
        -- By their ids, so that only the days are looked at that they are of.
        select array_agg(id) into free
          from (select id from runs where id = any (due) for no key update skip locked) as held;

        with unqueued as (
            delete from queue where run_id = any (free)
            returning run_id, reason, priority, run_at
        ), owned as (
            -- A suspect had to wait for those before it, which is not its turn's time.
            update runs
               set node_id = me,
                   reason = unqueued.reason,
                   turn_started_at = case when crashes >= 2 then now else turn_started_at end
              from unqueued
             where runs.id = any (free) and runs.id = unqueued.run_id and runs.node_id is null
            returning runs.id, unqueued.reason, unqueued.priority, unqueued.run_at
        )
        select coalesce(array_agg(id order by priority, run_at, id), '{}') as ids,
               coalesce(array_agg(reason order by priority, run_at, id), '{}') as reasons
          into taken
          from owned;
        run_ids := run_ids || taken.ids;
        reasons := reasons || taken.reasons;
        for_inbox := for_inbox || array_fill(of_kind = 'inbox', array[cardinality(taken.ids)]);
        is_more := is_more or (cardinality(taken.ids) >= room
                               and exists (select from queue where kind = of_kind and run_at <= now));
    end loop;
end
$$;

-- How many of the due runs a node takes: its part by free slots, of all nodes that live, so that one
-- that asks first does not take all; a few in any case, so that small queues are not shared out.
create function fair_share(me bigint, free_slots integer, now bigint) returns integer
language sql volatile as $$
    with due as (
        select count(*) as runs
          from (select from queue where kind = 'drive' and run_at <= now limit 1024) as counted
    ), others as (
        select coalesce(sum(greatest(slots - busy, 0)), 0) as slots
          from node_leases
         where node_id <> me and lease_until > clock_timestamp()
    )
    select least(free_slots,
                 greatest(8, ceil(due.runs * free_slots::numeric
                                  / greatest(free_slots + others.slots, 1))::integer))
      from due, others
$$;

-- Lets go of a run that has not ended, and queues it at the place that it had, for the reason for
-- which it waited; one that has been started since is no new one any more.
create function let_go(me bigint, of_run uuid, is_crashed boolean) returns void
language sql volatile as $$
    with let_go as (
        update runs
           set node_id = null,
               crashes = crashes + is_crashed::integer,
               reason = case when is_crashed then 'crash' else reason end
         -- Not `=`: an index by owner would go through all runs of the node.
         where id = of_run and node_id is not distinct from me
        returning id, tenant, status, reason, created_at, crashes, inbox_n > inbox_read as has_news
    )
    insert into queue (run_id, kind, reason, tenant, priority, run_at, crashes)
    select id, case when has_news then 'inbox' else 'drive' end,
           case when coalesce(reason, 'new') <> 'new' then reason
                when status = 'QUEUED' then 'new'
                else 'inbox' end,
           tenant, 0, least(created_at, now_ms()), crashes
      from let_go
$$;
