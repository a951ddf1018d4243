-- A step of what pgq._open_compaction_plan began: read the keys of 16 dirty segments; or, once all were read, count
-- what remains of 16 segments.
--
-- returns how many segments are still to be read or counted; 0: all is known
-- transaction  its own
-- locks   those of a reader on these segments, until the transaction ends
create or replace function pgq._read_compaction_step()
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    query text;
    segment record;
begin
    select string_agg(format('select s.key, s."offset" from %s s where s.key is not null', s.leaf), ' union all ')
      into query
      from (select s.leaf from pg_temp.compaction_segment s where s.unread order by s.base_offset limit 16) s;
    if query is not null then
        execute 'insert into pg_temp.compaction_offset'
                ' select k.key, max(k."offset") from (' || query || ') k (key, "offset") group by k.key';
        update pg_temp.compaction_segment s set unread = false
         where s.leaf in (select u.leaf from pg_temp.compaction_segment u
                           where u.unread order by u.base_offset limit 16);
        if not exists (select from pg_temp.compaction_segment s where s.unread) then
            insert into pg_temp.compaction_key
            select k.key, max(k.last_offset) from pg_temp.compaction_offset k group by k.key;
            truncate pg_temp.compaction_offset;
            analyze pg_temp.compaction_key;
        end if;
    else
        for segment in
            select s.* from pg_temp.compaction_segment s where s.records is null order by s.base_offset limit 16
        loop
            execute format('update pg_temp.compaction_segment u set (records, kept, tombstones) ='
                           ' (select count(*), count(*) filter (where k.key is null and not (%1$s)),'
                           '         count(*) filter (where k.key is null and s.value is null and s.key is not null'
                           '                            and not (%1$s))'
                           '    from %2$s s'
                           '    left join pg_temp.compaction_key k on k.key = s.key and k.last_offset > s."offset")'
                           ' where u.base_offset = %3$s',
                           format('s."offset" < %s or %s', segment.log_start_offset, pgq._removable(segment.removable_below)),
                           segment.leaf, segment.base_offset);
        end loop;
    end if;
    return (select count(*) filter (where s.unread) + count(*) filter (where s.records is null)
              from pg_temp.compaction_segment s);
end
$$;
