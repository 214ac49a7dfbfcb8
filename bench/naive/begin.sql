-- A run as a web service keeps it that has tables of runs and events and a queue, and commits each
-- change of a run's state when it happens. `begin.sql`, then `text.sql` for each text that is kept,
-- then `end.sql`. CONTENT and WHOLE are put in: such a text, and all of them.

-- The request: the run, its first event and its place in the queue.
begin;
insert into runs (id, public_id, tenant, status, last_seq, agent, model, created_by, created_at,
                  input_preview, metadata, spec)
select id, id::text, 'default', 'QUEUED', 1, 'bench', 'openai/bench', 'bench', now_ms(), 'run', '{}',
       '{"agent":{"name":"bench","model":"openai/bench","tools":[]},"config":{"max_turns":1000},"input":"run"}'
  from (select (lpad(to_hex(now_ms()), 12, '0')
                || replace(substr(gen_random_uuid()::text, 15), '-', ''))::uuid as id) as new
returning id \gset
insert into events (run_id, seq, type, data)
values (:id, 1, 0, '{"seq":1,"at":"' || clock_timestamp() || '","type":"run.queued","turn":0,"attempt":1,"format":1,"agent":{"name":"bench"},"model":"openai/bench","by":"bench","input":"run"}');
insert into queue (run_id, kind, reason, tenant, priority, run_at)
values (:id, 'drive', 'new', 'default', 0, now_ms());
commit;

-- A worker takes it. It takes its own, so that workers never wait for each other: better than most.
begin;
select run_id from queue where run_id = :id for update skip locked;
delete from queue where run_id = :id;
update runs set status = 'RUNNING', started_at = now_ms() where id = :id;
commit;

-- The run has started.
begin;
insert into events (run_id, seq, type, data)
values (:id, 2, 1, '{"seq":2,"at":"' || clock_timestamp() || '","type":"run.started","turn":0,"attempt":1,"node":"bench","reason":"new","crashes":0,"elapsed":0.0}');
update runs set last_seq = 2 where id = :id;
commit;

-- Its turn has started: then the model is asked.
begin;
insert into events (run_id, seq, type, data)
values (:id, 3, 2, '{"seq":3,"at":"' || clock_timestamp() || '","type":"turn.started","turn":1,"attempt":1,"model":"openai/bench","request_sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}');
update runs set last_seq = 3, turn_started_at = now_ms() where id = :id;
commit;
\set seq 3
