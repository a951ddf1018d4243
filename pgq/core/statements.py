"""Every SQL text that clients send, once for both drivers: `$1` placeholders, a cast on every argument.

The two hot paths, COPY of a batch (made by the drivers) and SELECT of a window, are statements and not functions
because that is several times faster. The rule that they rest on stands in sql/functions/begin_append.sql and
sql/functions/internal/_settle.sql.
"""

from __future__ import annotations

import re
from functools import cache

SCHEMA_VERSION = "select pgq.schema_version()"
TOPIC_METADATA = (
    "select topic_id, partition_ids, max_message_bytes, compression_type, timestamp_after_max_ms, needs_key,"
    " pgq._upkeep_bytes(topic_id) from pgq._topic_metadata($1::text)"
)

INIT_PRODUCER = "select producer_id, producer_epoch, rotation from pgq.init_producer($1::text)"
BEGIN_FLUSH = (
    "select topic_id, partition, partition_id, offsets, upkeep_due, log_append_ms, appended, current_rotation"
    " from pgq.begin_flush($1::int4[], $2::int4[], $3::int4[], $4::int8[], $5::text, $6::int8, $7::int4, $8::int8,"
    " $9::int8, $10::bool)"
)
PRODUCE = (
    'select partition, "offset" from pgq.produce($1::text, $2::bytea, $3::bytea, $4::text[], $5::bytea[], $6::int4,'
    " 'epoch'::timestamptz + $7::int8 * interval '1 millisecond')"
)
APPEND_RECORDS = (
    'select partition, "offset" from pgq._append_records($1::text[], $2::int4[], $3::text[],'
    " array(select 'epoch'::timestamptz + t.ms * interval '1 millisecond'"
    " from unnest($4::int8[]) with ordinality t (ms, nth) order by t.nth),"
    " $5::bytea[], $6::bytea[], $7::int4[], $8::text[], $9::bytea[])"
)
DELAY_RECORDS = (
    "select delayed_id, partition, (date_part('epoch', due_at) * 1000)::int8"
    " from pgq._delay_records($1::text[], $2::int4[], $3::text[],"
    " array(select 'epoch'::timestamptz + t.ms * interval '1 millisecond'"
    " from unnest($4::int8[]) with ordinality t (ms, nth) order by t.nth),"
    " $5::bytea[], $6::bytea[], $7::int4[], $8::text[], $9::bytea[],"
    " array(select 'epoch'::timestamptz + t.ms * interval '1 millisecond'"
    " from unnest($10::int8[]) with ordinality t (ms, nth) order by t.nth))"
)
CANCEL_DELAYED = "select pgq.cancel_delayed($1::text)"
DESCRIBE_CLUSTER = (
    "select server, role, address, port, state, sync_state, flush_lag_bytes, replay_lag_bytes, lag_seconds"
    " from pgq.describe_cluster()"
)
ACKS_STATUS = "select synchronous_standby_names, in_sync_replicas, acks_all, warnings from pgq.acks_status()"
UPKEEP = "select pgq.upkeep($1::int4, $2::int4)"

PARTITION_OFFSETS = "select log_start_offset, log_end_offset from pgq._partition_offsets($1::int4[])"
LEAST_POSITION = "select pgq._least_position($1::int4, $2::int8)"
# Up to PostgreSQL 16 it is their commit that flushes, and it need not wait for standbys.
_LOCAL = ", set_config('synchronous_commit', 'local', true)"
SETTLE = f"select next_offset, high_watermark from pgq._settle($1::int4, $2::int8){_LOCAL}"
FLUSH_READS = (
    "select f.high_watermark, f.replicas, f.flushed::text"
    " from unnest($1::int4[], $2::bool[]) with ordinality w (partition_id, watermark, nth)"
    f" cross join lateral pgq._flush_reads(w.partition_id, w.watermark) f{_LOCAL} order by w.nth"
)
AWAIT_REPLICAS = "select pgq._await_replicas($1::text::pg_lsn, $2::int4, $3::int4)"
HIGH_WATERMARKS = (
    "select pgq.high_watermark(w.topic, w.partition)"
    " from unnest($1::text[], $2::int4[]) with ordinality w (topic, partition, nth) order by w.nth"
)
OFFSETS_FOR_TIMES = (
    "select pgq.offsets_for_times($1::text, $2::int4, 'epoch'::timestamptz + $3::int8 * interval '1 millisecond')"
)
OFFSETS_FOR_AGE = (
    "select pgq.offsets_for_times(w.topic, w.partition, clock_timestamp() - $3::int8 * interval '1 millisecond')"
    " from unnest($1::text[], $2::int4[]) with ordinality w (topic, partition, nth) order by w.nth"
)
COMMIT_OFFSETS = (
    "select pgq.commit_offsets($1::text, $2::text[], $3::int4[], $4::int8[], $5::text[], $6::int8, $7::int8[])"
)
COMMIT_WITH_FAILURES = (
    "select moved, repeated from pgq._commit_with_failures("
    "$1::text, $2::text[], $3::int4[], $4::int8[], $5::text[], $6::int8, $7::int8[],"
    " $8::text[], $9::int4[], $10::int8[], array(select clock_timestamp() + d.ms * interval '1 millisecond'"
    " from unnest($11::int8[]) with ordinality d (ms, nth) order by d.nth), $12::text[], $13::int4[], $14::bool[])"
)
CREATE_RETRY_TOPICS = "select r.name from pgq.create_retry_topics($1::text, $2::text[]) r (name)"
COMMITTED_OFFSETS = (
    'select topic, partition, "offset", metadata from pgq.committed_offsets($1::text, $2::text[], $3::int4[])'
)

# Claims end with the leader, so that no standby needs to know of them: membership does not wait for any.
JOIN_GROUP = (
    "select member_id, generation, channel"
    f" from pgq.join_group($1::text, $2::text[], $3::text, $4::int4, $5::text, $6::text, $7::int8){_LOCAL}"
)
HEARTBEAT = f"select generation, claims, next_due_ms from pgq.heartbeat($1::int8, $2::bool){_LOCAL}"
END_STUCK_MEMBERS = "select pgq.end_stuck_members($1::int8)"
GROUP_ASSIGNMENT = "select generation, assignor, members::text, topics::text from pgq.group_assignment($1::int8)"
CLAIM_PARTITIONS = (
    'select topic, partition, epoch, "offset", added'
    f" from pgq.claim_partitions($1::int8, $2::int8, $3::text[], $4::int4[]){_LOCAL}"
)
KEEP_PARTITIONS = "select pgq.keep_partitions($1::int8, $2::text[], $3::int4[])"
CHANGE_SUBSCRIPTION = f"select pgq.change_subscription($1::int8, $2::text[]){_LOCAL}"
LEAVE_GROUP = f"select pgq.leave_group($1::int8){_LOCAL}"

LIST_GROUPS = (
    "select group_id, state from pgq.group_status"
    ' where $1::text[] is null or state = any ($1::text[]) order by group_id collate "C"'
)
DESCRIBE_GROUPS = (
    "select group_id, state, assignor, generation, lag from pgq.group_status where group_id = any ($1::text[])"
)
DESCRIBE_MEMBERS = (
    "select group_id, member_id, group_instance_id, client_id, host(client_addr), pid,"
    " (date_part('epoch', joined_at) * 1000)::int8, alive, session_timeout_ms, topics, assignment::text"
    " from pgq.member_status where group_id = any ($1::text[]) order by joined_at, member_id"
)
ALTER_GROUP_OFFSETS = "select pgq.alter_group_offsets($1::text, $2::text[], $3::int4[], $4::int8[], $5::text[])"
RESET_OFFSETS = (
    "select topic, partition, current_offset, new_offset, clamped"
    " from pgq.reset_offsets($1::text, $2::text, $3::text, $4::text[], $5::int4[], $6::int8[], $7::bool)"
)
DELETE_GROUPS = "select pgq.delete_group(g) from unnest($1::text[]) g"
DELETE_GROUP_OFFSETS = "select pgq.delete_group_offsets($1::text, $2::text[], $3::int4[])"

_DEAD_LETTERS = "$1::text, $2::text, $3::text, $4::text::timestamptz, $5::text::timestamptz, $6::int4"
_DEAD_LETTER = (
    'select topic, group_id, dead_letter_topic, partition, "offset", origin_partition, origin_offset,'
    " (date_part('epoch', failed_at) * 1000)::int8,"
)
LIST_DEAD_LETTERS = (
    f"{_DEAD_LETTER} attempts, redriven, first_error, last_error, key, value, header_keys, header_values, codec"
    f" from pgq.dead_letters({_DEAD_LETTERS})"
)
REDRIVE_DEAD_LETTERS = (
    f"{_DEAD_LETTER} last_error, retry_topic from pgq.redrive_dead_letters({_DEAD_LETTERS}, $7::bool)"
)
PURGE_DEAD_LETTERS = f"{_DEAD_LETTER} last_error, null from pgq.purge_dead_letters({_DEAD_LETTERS}, $7::bool)"

PARK = "select held, busy from pgq._park($1::int4[], $2::bool)"
UNPARK = "select pgq._unpark($1::int4[], $2::bool)"
TOPIC_NAMES = "select n from pgq._topic_names() n"
NEWEST_TOPIC = "select pgq._newest_topic()"
LEADER_EPOCH = (
    "select case when not pg_is_in_recovery()"
    " then ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4 end"
)

CREATE_TOPIC = "select topic_id, name, partitions, config::text from pgq.create_topic($1::text, $2::int4, $3::jsonb)"
CREATE_TOPIC_STEP = "select pgq.create_topic_step($1::text, $2::int4, $3::jsonb)"
ADD_PARTITIONS_STEP = "select pgq.add_partitions_step($1::text, $2::int4)"
DELETE_TOPIC_STEP = "select pgq.delete_topic_step($1::text)"
DESCRIBE_TOPIC = "select topic_id, name, partitions, config::text from pgq.describe_topic($1::text)"
LIST_TOPICS = "select topic_id, name, partitions, config::text from pgq.list_topics()"
ALTER_TOPIC_CONFIG = "select topic_id, name, partitions, config::text from pgq.alter_topic_config($1::text, $2::jsonb)"
SEGMENTS_DUE = "select partition_id, due from pgq._segments_due($1::int4)"
NEXT_OFFSETS = "select partition_id, next_offset from pgq._next_offsets($1::int4)"
# Closed ones have their size, so these are few. The first says whether any was made; then the second, where.
OPEN_SEGMENTS = "select count(*), sum(s.base_offset + s.partition_id)::text from pgq.segment s where s.bytes is null"
LAST_SEGMENTS = "select s.partition_id, max(s.base_offset) from pgq.segment s where s.bytes is null group by 1"
RETENTION_DUE = "select partition_id, due, upkeep_due from pgq._retention_due($1::int4)"
APPLY_RETENTION = "select pgq._apply_retention($1::int4, clock_timestamp(), $2::int4)"
DROPPABLE = "select partition_id, base_offset, tree, leaf, state, holders from pgq._droppable()"
CLEAR_SEGMENT = "select pgq._clear_segment($1::int4, $2::int8, $3::int4)"
DROP_SEGMENT = "select pgq._drop_segment($1::int4, $2::int8, $3::int4)"
NOTE_HELD = "select partition_id, held_s from pgq._note_held($1::int4[])"
REMOVE_DEAD_MEMBERS = "select pgq._remove_dead_members()"
DELIVER_DUE = f"select delivered, next_due_ms from pgq.deliver_due($1::int4){_LOCAL}"
ROTATE_FLUSH_MARKERS = "select pgq.rotate_flush_markers()"
LEAD = "select pgq._lead($1::int4, $2::int4)"
REPORT_JOB = "select pgq._report_job($1::text, $2::float8, $3::text, $4::text, $5::int8)"
METRICS = "select metric, topic, partition, consumergroup, value from pgq._metrics()"
COMPACTION_DUE = (
    "select partition_id, due from pgq._compaction_due($1::int4, coalesce($2::timestamptz, clock_timestamp()))"
)
BEGIN_COMPACTION = "select pgq._begin_compaction($1::int4), coalesce($2::timestamptz, clock_timestamp())"
OPEN_COMPACTION_PLAN = "select pgq._open_compaction_plan($1::int4, $2::timestamptz)"
READ_COMPACTION_STEP = "select pgq._read_compaction_step()"
COMPACTION_PLAN = (
    "select bases, end_offset, removable_below, records, kept, tombstones from pgq._compaction_plan($1::int4)"
)
COMPACTION_HOLDERS = "select pgq._compaction_holders($1::int4, $2::int8[])"
COMPACTION_SURVIVORS = "select pgq._compaction_survivors($1::int4, $2::int8[], $3::int8)"
CREATE_COMPACTION_COPY = "select pgq._create_compaction_copy($1::int4, $2::int8, $3::int8)"
INDEX_COMPACTION_COPY = "select pgq._index_compaction_copy($1::text)"
SWAP_COMPACTED = f"select pgq._swap_compacted($1::int4, $2::int8[], $3::int8, $4::int4){_LOCAL}"
DROP_COMPACTION_COPIES = "select pgq._drop_compaction_copies($1::int4)"
END_COMPACTION = "select pgq._end_compaction($1::int4, $2::int8, $3::timestamptz, $4::int8)"
PARTITION_BYTES = "select pgq._partition_bytes($1::int4)"

DELETE_RECORDS = "select pgq.delete_records($1::text, $2::int4, $3::int8)"


SEGMENT_AT = "select base_offset, end_offset from pgq._segment_at($1::int4, $2::int8)"
_FETCH_WINDOW = (
    'select "offset", (date_part(\'epoch\', "timestamp") * 1000)::int8, key, value, header_keys, header_values, codec'
    ' from pgq_log.t{:d}_p{:d}_s{:d} where "offset" >= $1::int8 and "offset" < $2::int8'
    ' order by "offset" limit $3::int8'
)


def begin(idle_timeout_ms: int) -> str:
    """Return the BEGIN of a flush, which the server ends if the client falls silent: its locks hold up readers."""
    return f"begin isolation level read committed; set local idle_in_transaction_session_timeout = {idle_timeout_ms:d}"


def detach_segment(tree: str, leaf: str) -> str:
    """Return the statement that takes a segment out of the tree and keeps nobody waiting; of names that SQL gave.

    It cannot stand in a function or in a transaction.
    """
    return f"alter table {tree} detach partition {leaf} concurrently"


def finalize_detach(tree: str, leaf: str) -> str:
    """Return the statement that ends an interrupted detach_segment; it waits for all older snapshots."""
    return f"alter table {tree} detach partition {leaf} finalize"


def fetch_window(topic_id: int, partition: int, base_offset: int) -> str:
    """Return the SELECT of so many records of a segment within a range; never from the tree: see _segment_at.sql."""
    return _FETCH_WINDOW.format(topic_id, partition, base_offset)


@cache
def pyformat(statement: str) -> str:
    """Return a statement above in the notation of drivers that know no `$1`: argument 1 is `%(p1)s`."""
    return re.sub(r"\$(\d+)", r"%(p\1)s", statement.replace("%", "%%"))
