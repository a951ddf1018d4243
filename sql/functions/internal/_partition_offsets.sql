-- Log start and log end of many partitions in one call, in the order given; null for one that is gone.
-- What a consumer asks to see which partitions have something new.
create or replace function pgq._partition_offsets(partition_ids int[])
returns table (log_start_offset bigint, log_end_offset bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    starts bigint[];
    ends bigint[];
begin
    perform pgq._check_leader();
    for attempt in 1 .. 5 loop
        begin
            -- Sequences are looked at in the order in which all lock them. Materialized, since an aggregate with an
            -- order of its own may be fed in that order (PostgreSQL 16), and would have the sequences looked at in it.
            with part as materialized (
                select i.nth, p.log_start_offset, p.sequence
                  from unnest(_partition_offsets.partition_ids) with ordinality i (partition_id, nth)
                  left join (pgq.partition p join pgq.topic t on t.topic_id = p.topic_id and t.state = 'ready') using (partition_id)
                 order by i.partition_id
            ), looked as materialized (
                select p.nth, p.log_start_offset,
                       case when p.sequence is not null then pgq._next_offset(p.sequence) end as log_end_offset
                  from part p
            )
            select array_agg(l.log_start_offset order by l.nth), array_agg(l.log_end_offset order by l.nth)
              into starts, ends from looked l;
            exit;
        exception when undefined_table or internal_error or deadlock_detected then
            -- a topic was deleted while its sequences were waited for: the next look knows
            if attempt = 5 then
                raise;
            end if;
        end;
    end loop;
    return query select * from unnest(starts, ends);
end
$$;
