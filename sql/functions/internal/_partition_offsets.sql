-- Log start and log end of many partitions in one call, in the order given; null for one that is gone.
-- What a consumer asks to see which partitions have something new.
create or replace function pgq._partition_offsets(partition_ids int[])
returns table (log_start_offset bigint, log_end_offset bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    perform pgq._check_leader();
    return query
        select p.log_start_offset, case when p.sequence is not null then pgq._next_offset(p.sequence) end
          from unnest(_partition_offsets.partition_ids) with ordinality i (partition_id, nth)
          left join pgq.partition p using (partition_id)
         order by i.nth;
end
$$;
