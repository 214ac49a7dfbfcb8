
-- A text has come, and is kept before it is shown.
\set seq :seq + 1
begin;
insert into events (run_id, seq, type, data)
values (:id, :seq, 3, '{"seq":' || :seq::text || ',"at":"' || clock_timestamp() || '","type":"text","turn":1,"attempt":1,"item":1,"content":"CONTENT"}');
update runs set last_seq = :seq where id = :id;
commit;
