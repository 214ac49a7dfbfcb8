
-- The turn has ended.
\set seq :seq + 1
begin;
insert into events (run_id, seq, type, data)
values (:id, :seq, 6, '{"seq":' || :seq::text || ',"at":"' || clock_timestamp() || '","type":"turn.completed","turn":1,"attempt":1,"finish_reason":"stop","parts":[{"type":"text","item":1,"text":"WHOLE"}],"usage":{"input_tokens":10,"output_tokens":5,"total_tokens":15},"model":"openai/bench"}');
update runs set last_seq = :seq where id = :id;
commit;

-- And so has the run.
\set seq :seq + 1
begin;
insert into events (run_id, seq, type, data)
values (:id, :seq, 13, '{"seq":' || :seq::text || ',"at":"' || clock_timestamp() || '","type":"run.completed","turn":1,"attempt":1,"result":{"final_output":"WHOLE","stop_reason":"end_turn","usage":{"input_tokens":10,"output_tokens":5,"total_tokens":15},"turn_count":1}}');
update runs
   set last_seq = :seq, status = 'COMPLETED', stop_reason = 'end_turn', finished_at = now_ms(),
       output_preview = 'WHOLE'
 where id = :id;
commit;
