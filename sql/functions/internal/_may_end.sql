-- Whether the caller may end the sessions of a role: pg_terminate_backend raises an error for others.
create or replace function pgq._may_end(role_id oid)
returns boolean
language sql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
    select (pg_has_role(role_id, 'USAGE') or pg_has_role('pg_signal_backend', 'USAGE'))
       and (not (select r.rolsuper from pg_roles r where r.oid = role_id)
            or (select r.rolsuper from pg_roles r where r.rolname = current_user))
$$;
