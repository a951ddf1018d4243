-- Make up to 25 of the partitions that a topic still lacks; returns how many it lacks then.
create or replace function pgq._create_partitions(topic_id int, partitions int)
returns int
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    missing int[] := array(
        select n from generate_series(0, _create_partitions.partitions - 1) n
         where not exists (select from pgq.partition p where p.topic_id = _create_partitions.topic_id and p.partition = n)
         order by n);
    n int;
begin
    foreach n in array missing[:25] loop
        perform pgq._create_partition(topic_id, n);
    end loop;
    return greatest(0, cardinality(missing) - 25);
end
$$;
