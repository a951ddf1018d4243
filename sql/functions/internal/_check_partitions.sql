-- Refuse a number of partitions that cannot be made in one go.
--
-- most    how many can
-- raises  PQ005 (InvalidPartitionsError)
create or replace function pgq._check_partitions(partitions int, most int)
returns void
language plpgsql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if partitions is null or partitions not between 1 and most then
        raise exception 'cannot make % partitions', coalesce(partitions::text, 'NULL')
            using errcode = 'PQ005',
                  hint = case when most < 1000
                              then format('Give 1 to %s: more in one transaction would use up the lock table that all sessions share.'
                                          ' The functions named _step, Admin and `pgq topic` make up to 1000.', most)
                              else format('Give 1 to %s.', most) end;
    end if;
end
$$;
