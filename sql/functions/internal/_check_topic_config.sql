-- Refuse configuration keys that have no effect here and values out of bounds; returns the config without null values.
--
-- config  an object: key -> whole number or word, as the key takes, or null for the default
-- raises  PQ006 (InvalidConfigError)
create or replace function pgq._check_topic_config(config jsonb)
returns jsonb
language plpgsql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    given record;
    known pgq.topic_config;
    word text;
    result jsonb := '{}';
begin
    if jsonb_typeof(config) is distinct from 'object' then
        raise exception 'topic config must be a JSON object, not %', coalesce(jsonb_typeof(config), 'NULL')
            using errcode = 'PQ006', hint = 'For example {"max.message.bytes": 65536}.';
    end if;
    for given in select e.key, e.value from jsonb_each(config) e loop
        select * into known from pgq.topic_config c where c.key = given.key;
        if not found then
            raise exception 'unknown topic config %', quote_literal(given.key)
                using errcode = 'PQ006',
                      hint = 'Known here: ' || (select string_agg(c.key, ', ' order by c.key) from pgq.topic_config c) || '.';
        end if;
        continue when jsonb_typeof(given.value) = 'null';
        word := given.value #>> '{}';
        if known.choices is not null then
            if word <> all (known.choices) then
                raise exception 'bad value % for topic config %', given.value, quote_literal(given.key)
                    using errcode = 'PQ006', hint = format('Give one of %s.', array_to_string(known.choices, ', '));
            end if;
            result := result || jsonb_build_object(given.key, word);
        else
            if word !~ '^-?[0-9]{1,18}$' or word::bigint not between known.minimum and known.maximum then
                raise exception 'bad value % for topic config %', given.value, quote_literal(given.key)
                    using errcode = 'PQ006',
                          hint = format('Give a whole number from %s to %s.', known.minimum, known.maximum);
            end if;
            result := result || jsonb_build_object(given.key, word::bigint);
        end if;
    end loop;
    return result;
end
$$;
