-- Bytes as text; null if they are not UTF-8 (or hold a zero byte, which text cannot).
-- Without a search_path of its own, as every row of a topic's view comes through here.
create or replace function pgq._text(bytes bytea)
returns text
language plpgsql immutable strict
as $$
begin
    return pg_catalog.convert_from(bytes, 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
    return null;
end
$$;
