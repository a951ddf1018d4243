-- The least position from which a reader misses nothing that was deleted: the log start; or, where no record ever was directly
-- below it, the first offset after the last one. Whoever has read all up to there has not fallen behind when the log start
-- passes over what a roll skipped.
create or replace function pgq._least_position(partition_id int, log_start_offset bigint)
returns bigint
language sql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select coalesce((select case when r.to_offset >= _least_position.log_start_offset then r.from_offset end
                       from pgq.skipped_range r
                      where r.partition_id = _least_position.partition_id and r.from_offset < _least_position.log_start_offset
                      order by r.from_offset desc limit 1), _least_position.log_start_offset)
$$;
