-- Do what retention says of a partition: one step of it. Space comes back when the segments are dropped, by pgq._drop_segment.
--
-- at               the time against which records are old
-- lock_timeout_ms  how long a roll may wait for open transactions; raise it from 10 to some 200 while it says 'busy'
-- returns 'moved' (the log start), 'made' or 'rolled' (a segment, so that the active one can go): call again; 'busy' (open
--         transactions hold what a roll needs, or somebody else changes segments), or 'done'
-- transaction  short, and its own: a roll keeps takers of offsets waiting
-- locks   the partition's row; as pgq._make_segment or pgq._roll_segment
-- tables  where no record lies directly below the new log start, pgq.skipped_range says so: see pgq._least_position
create or replace function pgq._apply_retention(
    partition_id int, at timestamptz default clock_timestamp(), lock_timeout_ms int default 10)
returns text
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = 0
as $$
declare
    part pgq.partition;
    due record;
    last pgq.segment;
    empty_from bigint;
begin
    select p.* into part from pgq.partition p join pgq.topic t using (topic_id)
     where p.partition_id = _apply_retention.partition_id and t.state = 'ready';
    if not found then
        return 'done';
    end if;
    due := pgq._expired(part, at);
    if due.log_start > part.log_start_offset then
        -- somebody's delete_records may be open
        perform set_config('lock_timeout', '200ms', true);
        update pgq.partition p set log_start_offset = greatest(p.log_start_offset, due.log_start)
         where p.partition_id = _apply_retention.partition_id;
        -- who has read the last record below, and stands behind it, stands there as well as at the log start
        for last in
            select s.* from pgq.segment s
             where s.partition_id = _apply_retention.partition_id
               and s.base_offset < due.log_start and s.end_offset > part.log_start_offset
             order by s.base_offset desc
        loop
            empty_from := pgq._last_offset(pgq._segment_name(part.topic_id, part.partition, last.base_offset), part.log_start_offset) + 1;
            exit when empty_from is not null;
        end loop;
        empty_from := coalesce(empty_from, pgq._least_position(partition_id, part.log_start_offset));
        if pgq._least_position(partition_id, due.log_start) > empty_from then
            delete from pgq.skipped_range r
             where r.partition_id = _apply_retention.partition_id and r.from_offset > empty_from and r.to_offset <= due.log_start;
            insert into pgq.skipped_range (partition_id, from_offset, to_offset)
            values (_apply_retention.partition_id, empty_from, due.log_start)
                on conflict on constraint skipped_range_pkey do update set to_offset = excluded.to_offset;
        end if;
        return 'moved';
    end if;
    if not due.roll_first then
        return 'done';
    end if;
    select s.* into last from pgq.segment s
     where s.partition_id = _apply_retention.partition_id order by s.base_offset desc limit 1;
    if last.base_offset >= pgq._next_offset(part.sequence) then
        return case when pgq._roll_segment(partition_id, lock_timeout_ms) then 'rolled' else 'busy' end;
    end if;
    perform set_config('lock_timeout', '200ms', true);
    perform pgq._make_segment(partition_id, last.end_offset);
    return 'made';
exception
    when lock_not_available or deadlock_detected then
        return 'busy';
    when undefined_table or internal_error then
        -- a segment went away while this looked at it: with its topic, or because compaction has put it together with
        -- another one
        return 'busy';
end
$$;
