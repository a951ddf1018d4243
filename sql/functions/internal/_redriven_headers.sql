-- The headers of a dead letter that is sent back: without a due time, with no attempt made and one redrive more.
create or replace function pgq._redriven_headers(inout keys text[], inout "values" bytea[])
language plpgsql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    redriven bigint := coalesce(pgq._header_number(keys, "values", 'pgq.redriven', 2147483646), 0) + 1;
begin
    select array_agg(h.key order by h.nth), array_agg(h.value order by h.nth) into keys, "values"
      from (select h.key, h.value, h.nth from unnest(keys, "values") with ordinality h (key, value, nth)
             where h.key not in ('pgq.attempt', 'pgq.redriven', 'pgq.due')
             union all
            values ('pgq.attempt', '0'::bytea, 9223372036854775806), ('pgq.redriven', redriven::text::bytea, 9223372036854775807)) h;
end
$$;
