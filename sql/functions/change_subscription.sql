-- Let a member, which is this session's, read other topics than those it joined with. Then work out the assignment anew.
--
-- transaction  of its own
-- locks   the group's row
-- raises  PQ023 (InvalidRequestError), PQ035 (UnknownMemberIdError)
create or replace function pgq.change_subscription(member_id bigint, topics text[])
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := (select m.consumer_group_id from pgq.group_member m where m.member_id = change_subscription.member_id);
begin
    if topics is null or array_position(topics, null) is not null then
        raise exception 'change_subscription without topics' using errcode = 'PQ023', hint = 'Name them; an empty array is possible.';
    end if;
    if pgq._member_key(member_id) = any (pgq._held_keys(25)) is not true then
        raise exception 'this session is not member %', member_id
            using errcode = 'PQ035', hint = 'Call it on the member''s session, or join the group again.';
    end if;
    perform from pgq.consumer_group g where g.consumer_group_id = id for no key update;
    update pgq.group_member m set topics = change_subscription.topics, topology = pgq._topology(change_subscription.topics)
     where m.member_id = change_subscription.member_id;
    if not found then
        raise exception 'there is no member %', member_id using errcode = 'PQ035', hint = 'Join the group again.';
    end if;
    perform pgq._bump(id);
end
$$;
