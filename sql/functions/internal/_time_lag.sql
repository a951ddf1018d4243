-- Age of the first record that a group has not processed; zero if there is none, null if that is not known.
-- With the owner's rights, since readers may not even name what is in schema pgq_log; stable, so that a view which shows
-- it does not compute it for those who do not ask.
--
-- from_offset, to_offset  the range of what is unread, to_offset not included
create or replace function pgq._time_lag(partition_id int, from_offset bigint, to_offset bigint)
returns interval
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select case when _time_lag.from_offset < _time_lag.to_offset then
                     coalesce((select greatest('0', clock_timestamp() - r."timestamp")
                                 from pgq._first_record(_time_lag.partition_id, _time_lag.from_offset, _time_lag.to_offset) r), '0')
                when _time_lag.from_offset >= _time_lag.to_offset then '0' end
$$;
