-- Refuse a topic name that Kafka would refuse.
--
-- name    the proposed name
-- raises  PQ004 (InvalidTopicError)
-- source  Kafka, Topic.validate: 1 to 249 of [a-zA-Z0-9._-], neither "." nor ".."
create or replace function pgq._check_topic_name(name text)
returns void
language plpgsql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if name is null or name !~ '^[a-zA-Z0-9._-]{1,249}$' or name in ('.', '..') then
        raise exception 'illegal topic name %', coalesce(quote_literal(left(name, 260)), 'NULL')
            using errcode = 'PQ004',
                  hint = 'Use 1 to 249 letters (a-z, A-Z), digits, ".", "_" or "-"; "." and ".." are reserved.';
    end if;
end
$$;
