-- The identity columns of the catalog whose sequence would give a number that is not past all that the column holds.
-- A committed offset of a lower serial number than the one before would not count: its group would go back.
--
-- of_table  the table to look at, as relation; null: all of schema pgq
-- returns   next_value: what the sequence gives next; greatest_value: what the column holds
-- tables    rows are read first, the sequence after them; each by an index, so pgq.committed_offset by group and partition
create or replace function pgq._identities_behind(of_table text default null)
returns table (relation text, "column" name, sequence text, next_value bigint, greatest_value bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    identity record;
begin
    for identity in
        select format('pgq.%I', c.relname) as relation, a.attname,
               pg_get_serial_sequence(format('pgq.%I', c.relname), a.attname) as sequence
          from pg_attribute a
          join pg_class c on c.oid = a.attrelid and c.relkind = 'r' and c.relnamespace = 'pgq'::regnamespace
         where a.attidentity <> '' and (of_table is null or format('pgq.%I', c.relname) = of_table)
         order by c.relname, a.attname
    loop
        continue when identity.sequence is null;
        execute case when identity.relation = 'pgq.committed_offset' then
                    'select max(c.serial) from pgq.consumer_group g cross join pgq.partition p cross join lateral'
                    ' (select c.serial from pgq.committed_offset c where c.consumer_group_id = g.consumer_group_id'
                    '     and c.partition_id = p.partition_id order by c.serial desc limit 1) c'
                else format('select max(%I) from %s', identity.attname, identity.relation) end
           into greatest_value;
        execute format('select last_value + is_called::int from %s', identity.sequence) into next_value;
        continue when greatest_value is null or next_value > greatest_value;
        relation := identity.relation;
        "column" := identity.attname;
        sequence := identity.sequence;
        return next;
    end loop;
end
$$;
