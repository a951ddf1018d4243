-- Do what is due for a partition's segments: make the next one when the last is half used, roll the active one when it
-- reached 1.25 times segment.bytes, or when its last record's timestamp is segment.ms later than its first one's.
--
-- partition_id     the partition
-- lock_timeout_ms  how long a roll may wait for open transactions; raise it from 10 to some 200 while it says 'busy'
-- returns 'made' or 'rolled' (call again, something more may be due), 'busy' (open transactions hold what a roll needs, or somebody
--         else makes a segment), or 'done'
-- transaction  call it in one of its own: appends that need a segment, or offsets, wait for its end
-- locks   as pgq._make_segment or pgq._roll_segment
create or replace function pgq.upkeep(partition_id int, lock_timeout_ms int default 10)
returns text
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = 0
as $$
declare
    part pgq.partition;
    next_offset bigint;
    last pgq.segment;
    active pgq.segment;
    leaf text;
begin
    select p.* into part from pgq.partition p where p.partition_id = upkeep.partition_id;
    if not found then
        return 'done';
    end if;
    next_offset := pgq._next_offset(part.sequence);
    select s.* into last from pgq.segment s
     where s.partition_id = upkeep.partition_id order by s.base_offset desc limit 1;
    select s.* into active from pgq.segment s
     where s.partition_id = upkeep.partition_id and s.base_offset < next_offset order by s.base_offset desc limit 1;
    if not found then
        return 'done';
    end if;
    leaf := pgq._segment_name(part.topic_id, part.partition, active.base_offset);
    if next_offset < active.end_offset
       and (pg_total_relation_size(to_regclass(leaf)) >= 1.25 * pgq._segment_bytes(part.topic_id)
            or pgq._segment_span_ms(leaf) > pgq._config_value(part.topic_id, 'segment.ms')::bigint) then
        if last.base_offset > active.base_offset then
            return case when pgq._roll_segment(partition_id, lock_timeout_ms) then 'rolled' else 'busy' end;
        end if;
    elsif next_offset <= last.base_offset + (last.end_offset - last.base_offset) / 2 then
        return 'done';
    end if;
    perform set_config('lock_timeout', '200ms', true);
    perform pgq._make_segment(partition_id, last.end_offset);
    return 'made';
exception
    when lock_not_available or deadlock_detected then
        return 'busy';
    when undefined_table or internal_error then
        -- "could not open relation": the topic was deleted while this looked at it
        if exists (select from pgq.partition p where p.partition_id = upkeep.partition_id) then
            raise;
        end if;
        return 'done';
end
$$;
