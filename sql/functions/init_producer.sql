-- Give a producer what marks its flushes (pgq.begin_flush); with a transactional_id also fence whoever had it before.
--
-- transactional_id  a name that one producer at a time has, or null
-- returns producer_id     to be given with each flush; random, since a number from a sequence could be given out twice
--                         after a failover
--         producer_epoch  likewise; null without a transactional_id
--         rotation        to be given with the first flush
-- transaction  the earlier producer is fenced when this commits, and nothing of it is appended after that: this waits for
--              its flush in flight
-- locks   the producer's row
-- raises  PQ023 (InvalidRequestError) if the name is empty or over 249 characters
create or replace function pgq.init_producer(
    transactional_id text, out producer_id bigint, out producer_epoch int, out rotation bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    select r.rotation into init_producer.rotation from pgq.flush_rotation r;
    init_producer.producer_id := ('x' || translate(gen_random_uuid()::text, '-', ''))::bit(64)::bigint;
    if transactional_id is not null then
        if length(transactional_id) not between 1 and 249 then
            raise exception 'a transactional_id of % characters', length(transactional_id)
                using errcode = 'PQ023', hint = 'Give 1 to 249.';
        end if;
        insert into pgq.producer as p (transactional_id, producer_id)
        values (init_producer.transactional_id, init_producer.producer_id)
            on conflict (transactional_id) do update set producer_epoch = p.producer_epoch + 1, started_at = now()
        returning p.producer_id, p.producer_epoch into init_producer.producer_id, init_producer.producer_epoch;
    end if;
end
$$;
