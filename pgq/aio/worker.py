"""The loop of `run`: gives records to the application's handler, and says how far all of them are done.

The loop polls, commits and takes part in the group, as iteration does. Lanes beside it (tasks, or threads) take records
from `_ready` and call the handler. A record holds its key from when it stands in `_ready` until it is done; later ones
of the same key wait in `_waiting`. What is below the first record of a partition that is not done may be committed.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from random import random
from typing import TYPE_CHECKING, Any

from pgq import errors
from pgq.aio.failures import MOST_FAILURES
from pgq.aio.reader import AWAY
from pgq.core.positions import PartitionState
from pgq.core.retries import Reject, RetryLater, RetryPolicy, error_text, one_line
from pgq.drivers.signals import stopping
from pgq.drivers.tasks import (
    Event,
    Lock,
    Worker,
    check_handler,
    ends_program,
    handle,
    is_failure,
    logger,
    sleep,
)
from pgq.types import ConsumerRecord, Deserializer, TopicPartition

if TYPE_CHECKING:
    from pgq.aio.consumer import AsyncConsumer

Handler = Callable[[ConsumerRecord], Any]
DEFAULT_RETRY = RetryPolicy()
"""What `run` goes by if neither it nor the consumer was given a policy."""

_POLL_S = 0.2
"""The longest wait for records: within that `stop` is seen."""
_BUSY_S = 0.05
"""How often the group is looked after while there is no room for more records."""
_BREATH_S = 0.01
"""For how long a lane goes on without letting others run."""
_STORE_AGAIN_S = 1.0
"""How often that is tried where it fails."""
_MOST_LOST = 1_000
"""Of how many partitions that were lost it is kept what was made of their records."""


class _Track:
    """One partition, for as long as it is read."""

    __slots__ = ("attempts", "dead", "given_up_at", "held", "high", "pending", "running", "state", "tp")

    def __init__(self, state: PartitionState) -> None:
        self.state = state
        self.tp = state.tp
        self.pending: dict[int, None] = {}
        """The offsets that are not done, in order."""
        self.high = -1
        """The highest offset that has begun."""
        self.running: dict[int, _Item] = {}
        """What handlers are at, by offset."""
        self.attempts: dict[int, int] = {}
        """Records that block the partition -> how often they were processed in vain."""
        self.held: deque[_Item] = deque()
        """Records that wait for those."""
        self.given_up_at = 0.0
        """Since when it is to be another member's, so that no more of its records are begun; 0 if it is not."""
        self.dead = False
        """Whether it is read no more, or from another offset: what becomes of its records is of no interest."""


class _Malformed:
    """Stands for a key or a value that could not be read: the record has failed, as if its handler raised."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


_Item = tuple[_Track, ConsumerRecord, Any]
"""A record, and which key it holds; None where no order has to be kept."""


class _Unstored:
    """What was made of a record of a partition that was lost, and could not be stored. It counts for when the record
    is read again.
    """

    __slots__ = ("again", "attempts", "done", "due_at", "error", "running")

    def __init__(
        self, attempts: int, *, error: str | None = None, due_at: float = 0.0, running: _Item | None = None
    ) -> None:
        self.attempts = attempts
        """How often it was processed in vain."""
        self.error = error
        self.due_at = due_at
        """When it was to be tried again in place."""
        self.running = running
        """The record, as long as a handler is still at it."""
        self.again: _Item | None = None
        """The record, read again meanwhile: what becomes of the one counts for the other."""
        self.done = False


class _Lost:
    """A partition that was lost, or given up, and what could not be stored of it."""

    __slots__ = ("committed", "leader_epoch", "records")

    def __init__(self, committed: int, leader_epoch: int | None) -> None:
        self.committed = committed
        self.leader_epoch = leader_epoch
        self.records: dict[int, _Unstored] = {}


class AsyncRunner:
    """One call of `run`."""

    def __init__(self, consumer: AsyncConsumer, handler: Handler, retry: RetryPolicy | None, concurrency: int) -> None:
        check_handler(handler)
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise errors.InvalidRequestError(f"retry must be a RetryPolicy or None, not {retry!r}")
        if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
            raise errors.InvalidRequestError(f"concurrency must be 1 or more, not {concurrency!r}")
        self._consumer = consumer
        self._handler = handler
        self._retry = retry
        self._concurrency = concurrency
        self._deserializes = False
        self._most = max(consumer._max_poll_records, 2 * concurrency)
        self._lock = Lock()
        """Guards what follows; lanes may be threads."""
        self._tracks: dict[TopicPartition, _Track] = {}
        self._ready: deque[_Item] = deque()
        self._waiting: dict[Any, deque[_Item]] = {}
        """Keys that are held -> further records of them."""
        self._waiting_count = 0
        self._lost: dict[int, _Lost] = {}
        """By partition_id."""
        self._later: list[tuple[float, int, _Item]] = []
        """A heap of records that are to be tried again in place: when."""
        self._serial = 0
        self._running = 0
        self._moved_at = 0.0
        """When a record was begun, or done, last."""
        self._ending = False
        self._failure: BaseException | None = None
        """What ends it."""
        self.closes = False
        """Whether all has ended, so that the consumer may be closed."""
        self._wake, self._moved = Event(), Event()
        """That lanes find something new; that the loop may."""

    async def run(self) -> None:
        """Work until it is stopped; then close the consumer."""
        consumer = self._consumer
        if consumer._group_id is None:
            raise errors.InvalidGroupIdError("run() commits offsets: give the consumer a group_id")
        if consumer._closed:
            raise errors.IllegalStateError("the consumer is closed: make a new one")
        if consumer._runner is not None:
            raise errors.IllegalStateError("the consumer runs already")
        if self._retry is DEFAULT_RETRY and consumer._retry is not None:
            self._retry = consumer._retry
        if self._retry is not None:
            if consumer._manual and not self._retry.blocking:
                _check_assigned(consumer.assignment(), consumer._group_id)
            if consumer._retry is None:
                consumer._retry_again()
            consumer._retry = self._retry
        consumer._given, consumer._auto_commit = None, True
        consumer._runner = self
        self._deserializes = consumer._key_deserializer is not None or consumer._value_deserializer is not None
        consumer._key_deserializer = _forgiving(consumer._key_deserializer)
        consumer._value_deserializer = _forgiving(consumer._value_deserializer)
        consumer._broken = self._break
        with stopping(consumer.stop):
            lanes = [Worker(self._lane, f"pgq-run-{n}") for n in range(self._concurrency)]
            try:
                await self._poll()
            finally:
                try:
                    await self._end(lanes)
                finally:
                    self.closes = True
                    await consumer.close()
                    consumer._runner = None
        if self._failure is not None:
            raise self._failure

    # what the consumer asks

    def done(self, reached: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Return for each partition how far everything is done, given how far records were handed out."""
        with self._lock:
            for tp, track in self._tracks.items():
                if track.pending and tp in reached:
                    reached[tp] = next(iter(track.pending))
        return reached

    def in_flight(self) -> int:
        """Return how many records it has and is not done with."""
        with self._lock:
            return sum(len(track.pending) for track in self._tracks.values())

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Take no more interest in the records of these partitions."""
        with self._lock:
            gone = {self._tracks.pop(tp) for tp in partitions if tp in self._tracks}
            self._drop(gone)
            for track in gone:
                track.dead = True
                self._keep_unstored(track)

    def finished(self, surplus: set[TopicPartition]) -> set[TopicPartition]:
        """Return which of these can be given up: no handler is at a record of theirs, or one is for too long.

        No more of their records are begun. What was not begun stays undone, so that nothing behind it is committed.
        """
        with self._lock:
            busy = self._unfinished()
            stay = [
                track
                for tp, track in self._tracks.items()
                if track.given_up_at and tp not in surplus and tp not in busy
            ]
            firsts = {track.tp: next(iter(track.pending), None) for track in stay}
        for tp, first in firsts.items():  # they are not given up after all
            self.forget([tp])
            if first is not None and tp in self._consumer._assignment:
                state = self._consumer._assignment[tp]
                restart = state.restart
                self._consumer._move(tp, first)
                state.restart = restart  # what is done before it is not committed yet: nobody has sought to it
        return surplus - self._busy(surplus)

    async def finish(self, partitions: set[TopicPartition]) -> None:
        """Wait until these partitions can be given up."""
        while self._busy(partitions):
            await self._wait(_BUSY_S)

    def _busy(self, partitions: set[TopicPartition]) -> set[TopicPartition]:
        """Begin no more records of these partitions but those with a later one that has begun; return where some have
        not ended.
        """
        now = time.monotonic()
        with self._lock:
            leaving = [track for tp, track in self._tracks.items() if tp in partitions]
            fresh = [track for track in leaving if not track.given_up_at]
            for track in fresh:
                track.given_up_at = now
            self._drop(fresh, behind=True)
            busy = self._unfinished()
            late = now - self._consumer._max_poll_interval_s
            return {track.tp for track in leaving if track.tp in busy and track.given_up_at > late}

    def _unfinished(self) -> set[TopicPartition]:
        """Return the partitions with records that have begun, or are about to."""
        busy = {track.tp for track in self._tracks.values() if track.running}
        busy.update(item[0].tp for item in self._ready)
        busy.update(item[0].tp for behind in self._waiting.values() for item in behind)
        unstored = [record for lost in self._lost.values() for record in lost.records.values()]
        busy.update(record.again[0].tp for record in unstored if record.again is not None)
        return busy

    def _break(self, error: Exception) -> _Malformed:
        self._deserializes = True
        return _Malformed(error)

    # the loop

    async def _poll(self) -> None:
        consumer, failures = self._consumer, 0
        named = not consumer._manual or self._retry is None
        while not consumer._stopping and self._failure is None:
            try:
                if self._is_stuck():
                    await self._sit_out()
                    continue
                if not named:
                    await consumer._make_retry_topics({tp.topic for tp in consumer.assignment()})
                    named = True
                self._moved.clear()
                self._shed()
                partitions, room = self._wanted()
                if room > 0:
                    self._place(await consumer._getmany(partitions, room, _POLL_S))
                else:
                    await consumer._prepare()
                    await self._moved.wait(_BUSY_S)
                if self._has_many_failures():
                    await consumer._commit_delivered(consumer._delivered())
                failures = 0
            except AWAY as error:
                failures += 1
                await consumer._excuse(error, failures, 60)

    def _wanted(self) -> tuple[set[TopicPartition], int]:
        """Return of which partitions to read, all if none, and how many records."""
        with self._lock:
            blocked = {track.tp for track in self._tracks.values() if track.attempts or track.given_up_at}
            room = self._room() if self._has_room() else 0
        if not blocked:
            return set(), room
        partitions = self._consumer.assignment() - blocked
        return partitions, room if partitions else 0

    def _room(self) -> int:
        taken = len(self._ready) + self._waiting_count + self._running + len(self._later)
        taken += len(self._consumer._failures)
        if self._later:
            taken += sum(len(track.held) for track in self._tracks.values())
        return self._most - taken

    def _has_many_failures(self) -> bool:
        """Whether so many are noted that they should be committed."""
        consumer = self._consumer
        if len(consumer._failures) < max(1, min(MOST_FAILURES, self._most // 2)):
            return False
        return not consumer._commit_failed or time.monotonic() - consumer._committed_at >= _STORE_AGAIN_S

    def _has_room(self) -> bool:
        """Whether it is worth while to read more."""
        room = self._room()
        return room > 0 and (not self._ready or 2 * room >= self._most)

    def _place(self, batches: dict[TopicPartition, list[ConsumerRecord]]) -> None:
        """Give records to the lanes."""
        if not batches:
            return
        with self._lock:
            for tp, batch in batches.items():
                track = self._tracks.get(tp)
                if track is None:
                    track = self._tracks[tp] = _Track(self._consumer._assignment[tp])
                    self._compare_lost(track, batch[0].offset)
                track.pending.update(dict.fromkeys([record.offset for record in batch]))
                if track.given_up_at or self._ending or self._consumer._stopping:
                    continue  # they stay undone
                if self._lost:
                    batch = [record for record in batch if not self._has_end(track, record)]
                if self._concurrency == 1:
                    self._ready.extend([(track, record, None) for record in batch])
                else:
                    for record in batch:
                        self._queue((track, record, _order(record)))
            self._wake.set()

    def _compare_lost(self, track: _Track, first: int) -> None:
        """Drop what was kept of a partition that is read again from an offset on, as far as it is about other records:
        the group's offsets were set back meanwhile, or a failover has lost the end of the log.
        """
        lost = self._lost.get(track.state.partition_id)
        if lost is None:
            return
        if first < lost.committed or lost.leader_epoch != self._consumer._leader_epoch:
            lost.records.clear()
        lost.records = {offset: unstored for offset, unstored in lost.records.items() if offset >= first}
        if not lost.records:
            del self._lost[track.state.partition_id]

    def _has_end(self, track: _Track, record: ConsumerRecord) -> bool:
        """Whether a record that is read again needs no handler of its own: what an earlier one has made, or makes, of
        it counts.
        """
        unstored = self._unstored(track, record.offset)
        if unstored is None:
            return False
        if unstored.running is not None:
            unstored.again = (track, record, unstored.running[2])
            track.high = max(track.high, record.offset)
            return True
        policy = self._retry
        spent = policy is not None and unstored.attempts >= policy.max_attempts
        if not unstored.done and not spent:
            return self._blocks_again(track, record, unstored)
        if not unstored.done:
            self._consumer._note_failure(record, None, unstored.error, unstored.attempts)
            logger.warning(
                "group %s: offset %d of %s-%d, read again after %d attempts: dead letter",
                self._consumer._group_id,
                record.offset,
                record.topic,
                record.partition,
                unstored.attempts,
            )
        track.pending.pop(record.offset, None)
        self._forget_unstored(track, record.offset)
        return True

    def _blocks_again(self, track: _Track, record: ConsumerRecord, unstored: _Unstored) -> bool:
        """Let a record that is read again wait as it did before, in place; not if others have to be done first."""
        if unstored.due_at <= time.monotonic() or next(iter(track.pending)) != record.offset:
            return False
        order = None if self._concurrency == 1 else _order(record)
        if order is not None:
            if order in self._waiting:
                return False
            self._waiting[order] = deque()
        track.high = max(track.high, record.offset)
        track.attempts[record.offset] = unstored.attempts
        self._serial += 1
        heapq.heappush(self._later, (unstored.due_at, self._serial, (track, record, order)))
        return True

    def _keep_unstored(self, track: _Track) -> None:
        """Keep what was made of records of a partition that is lost: what is noted on them is about to be dropped."""
        running = {o: _Unstored(self._made(track, item[1]), running=item) for o, item in track.running.items()}
        for _, offset, noted in self._consumer._failures.before({track.tp: 2**63}):
            self._keep(track, offset, _Unstored(noted.attempt, error=noted.error))
        for offset, unstored in running.items():
            self._keep(track, offset, unstored)
        lost = self._lost.get(track.state.partition_id)
        if lost is not None:
            lost.committed = max(lost.committed, track.state.committed or 0)
            for unstored in lost.records.values():
                if unstored.again is not None and unstored.again[0] is track:
                    unstored.again = None

    def _keep(self, track: _Track, offset: int, unstored: _Unstored) -> None:
        partition_id = track.state.partition_id
        lost = self._lost.get(partition_id)
        if lost is None:
            lost = self._lost[partition_id] = _Lost(track.state.committed or 0, self._consumer._leader_epoch)
            if len(self._lost) > _MOST_LOST:
                del self._lost[next(iter(self._lost))]
        lost.records[offset] = unstored

    def _unstored(self, track: _Track, offset: int) -> _Unstored | None:
        lost = self._lost.get(track.state.partition_id)
        return None if lost is None else lost.records.get(offset)

    def _forget_unstored(self, track: _Track, offset: int) -> None:
        lost = self._lost.get(track.state.partition_id)
        if lost is not None and lost.records.pop(offset, None) is not None and not lost.records:
            del self._lost[track.state.partition_id]

    def _made(self, track: _Track, record: ConsumerRecord) -> int:
        """Return how often a record was processed in vain before."""
        if (here := track.attempts.get(record.offset)) is not None:
            return here
        unstored = self._unstored(track, record.offset)
        return max(self._consumer._attempts_made(record), 0 if unstored is None else unstored.attempts)

    def _counts_for(self, item: _Item) -> _Item:
        """Return the record for which counts what a handler has made of one: the same, read again, where its partition
        was lost meanwhile and this member has it again.
        """
        track, offset = item[0], item[1].offset
        if track.dead:
            unstored = self._unstored(track, offset)
            if unstored is not None and unstored.running is item:
                unstored.running = None
                if unstored.again is not None:
                    item, unstored.again = unstored.again, None
        return item

    def _queue(self, item: _Item) -> None:
        order = item[2]
        if order is None:
            self._ready.append(item)
        elif (behind := self._waiting.get(order)) is None:
            self._waiting[order] = deque()
            self._ready.append(item)
        else:
            behind.append(item)
            self._waiting_count += 1

    def _release(self, order: Any) -> None:
        """Let the next record have the key."""
        behind = self._waiting[order]
        if behind:
            self._ready.append(behind.popleft())
            self._waiting_count -= 1
        else:
            del self._waiting[order]

    def _drop(self, gone: Collection[_Track], *, behind: bool = False) -> None:
        """Take away what has not begun; if `behind`, only what lies behind all that has, so that all of that is done
        in the end, and committed. Where a record is tried again in place, nothing may overtake it.
        """
        if not gone:
            return
        spared = {track for track in gone if behind and not track.attempts}
        due = {(item[0].tp, item[1].offset): due_at for due_at, _, item in self._later}
        self._remove(gone, lambda item: item[0] not in spared or item[1].offset > item[0].high)
        for track in gone:
            for offset, made in track.attempts.items():
                self._keep(track, offset, _Unstored(made, due_at=due.get((track.tp, offset), 0.0)))
            track.attempts.clear()

    def _remove(self, tracks: Collection[_Track], goes: Callable[[_Item], bool]) -> None:
        """Take away items of these partitions that have not begun."""
        keys: list[Any] = []

        def kept(items: Iterable[_Item]) -> deque[_Item]:
            stay: deque[_Item] = deque()
            for item in items:
                if item[0] in tracks and goes(item):
                    keys.append(item[2])
                else:
                    stay.append(item)
            return stay

        for behind_key, behind in self._waiting.items():
            self._waiting[behind_key] = left = kept(behind)
            self._waiting_count -= len(behind) - len(left)
        keys.clear()  # they waited for theirs
        for track in tracks:
            track.held = kept(track.held)
        self._ready = kept(self._ready)
        later = [entry for entry in self._later if not (entry[2][0] in tracks and goes(entry[2]))]
        keys += [entry[2][2] for entry in self._later if entry[2][0] in tracks and goes(entry[2])]
        self._later = later
        heapq.heapify(self._later)
        for key in keys:
            if key is not None:
                self._release(key)
        self._wake.set()

    def _shed(self) -> None:
        """Give back what waits behind records that are tried again in place, where it leaves no room for others: it is
        read again later.
        """
        firsts: dict[TopicPartition, int] = {}
        with self._lock:
            if not self._later or self._has_room():
                return
            blocked = [track for track in self._tracks.values() if track.attempts and not track.given_up_at]
            for track in blocked:
                behind = [offset for offset in track.pending if offset > track.high]
                for offset in behind:
                    del track.pending[offset]
                if behind:
                    firsts[track.tp] = behind[0]
            self._remove(blocked, lambda item: item[1].offset > item[0].high)
        for tp, first in firsts.items():
            self._consumer._step_back(tp, first)

    def _is_stuck(self) -> bool:
        return self._running > 0 and time.monotonic() - self._moved_at > self._consumer._max_poll_interval_s

    async def _sit_out(self) -> None:
        """Leave the group, since no handler comes to an end; wait until one does.

        What it has done then is committed before the member joins again, if nobody has claimed the partition meanwhile.
        """
        before = self._moved_at
        await self._leave()
        while self._moved_at == before and not self._consumer._stopping:
            self._moved.clear()
            await self._moved.wait(_POLL_S)

    async def _wait(self, seconds: float) -> None:
        """Wait until something is begun or done; commit if it is time."""
        consumer = self._consumer
        self._moved.clear()
        await self._moved.wait(seconds)
        if consumer._is_time_to_commit():
            await consumer._commit_delivered(consumer._delivered())

    async def _leave(self) -> None:
        consumer, membership = self._consumer, self._consumer._membership
        if membership is not None and membership.member_id is not None:
            reason = "no record was begun or done for max_poll_interval_ms"
            logger.warning("group %s: left, since %s", consumer._group_id, reason)
            now = time.monotonic()
            with self._lock:
                self._drop(list(self._tracks.values()))  # they are others' now
                for track in self._tracks.values():
                    track.given_up_at = track.given_up_at or now
            await consumer._commit_delivered(consumer._delivered())
            await membership.leave(reason, commits_on=True)
            if consumer._parking.parked:
                await consumer._parking.unpark_quietly()

    async def _end(self, lanes: list[Worker]) -> None:
        """Begin no more than has to be done so that all that is done can be committed, and wait for it."""
        with self._lock:
            self._ending = True
            self._wake.set()
        while (self._running or self._ready) and any(lane.running for lane in lanes):
            if self._is_stuck():
                try:
                    await self._leave()
                except errors.PgqError as error:
                    logger.warning("group %s: %s", self._consumer._group_id, error)
                break
            await self._wait(_POLL_S)
        for lane in lanes:
            await lane.join()

    # the lanes

    async def _lane(self) -> None:
        breath = time.monotonic()
        try:
            while True:
                wait_s: float | None = None
                with self._lock:
                    ends = self._ending or self._consumer._stopping
                    item = None if self._failure is not None else self._take(ends=ends)
                    if item is None:
                        if ends:
                            return
                        if self._later:
                            wait_s = max(0.0, self._later[0][0] - time.monotonic())
                        self._wake.clear()
                if item is None:
                    await self._wake.wait(wait_s)
                    breath = time.monotonic()
                    continue
                error: BaseException | None = None
                started = time.monotonic()
                try:
                    if self._deserializes:
                        _check(item[1])
                    wrong = await handle(self._handler, item[1])
                except BaseException as caught:
                    if not is_failure(caught):
                        with self._lock:
                            self._over(item, time.monotonic() - started)
                        raise
                    error = caught
                else:
                    if wrong is not None:
                        with self._lock:
                            self._over(item, time.monotonic() - started)
                        raise errors.InvalidRequestError(wrong)
                now = time.monotonic()
                if error is None:
                    self._settle(item, now - started)
                else:
                    self._settle_failed(item, now - started, error)
                if now - breath > _BREATH_S:
                    await sleep(0)
                    breath = time.monotonic()
        except BaseException as error:
            with self._lock:
                self._failure, self._ending = self._failure or error, True
                self._wake.set()
                self._moved.set()
            if ends_program(error):
                raise

    def _take(self, *, ends: bool) -> _Item | None:
        """Return the next record to begin.

        Args:
            ends: only one that keeps a later one, which has begun, from being committed.
        """
        if not ends and self._later and self._later[0][0] <= time.monotonic():
            item = heapq.heappop(self._later)[2]
            self._begin(item)
            return item
        ready = self._ready
        while ready:
            item = ready.popleft()
            track = item[0]
            if track.attempts:
                track.held.append(item)
                continue
            if ends and item[1].offset > track.high:
                if item[2] is not None:
                    self._release(item[2])
                continue  # it stays undone
            self._begin(item)
            return item
        return None

    def _begin(self, item: _Item) -> None:
        track, offset = item[0], item[1].offset
        if offset > track.high:
            track.high = offset
        track.running[offset] = item
        self._running += 1
        self._moved_at = time.monotonic()

    def _settle(self, item: _Item, seconds: float) -> None:
        """Take note that a record is done."""
        counts = self._consumer._counts
        with self._lock:
            self._over(item, seconds)
            counts["records_processed_total"] += 1
            track, record, order = self._counts_for(item)
            if track.attempts:
                self._unblock(track, record.offset)
            if not track.dead:
                track.pending.pop(record.offset, None)
                if self._lost:
                    self._forget_unstored(track, record.offset)
            elif (unstored := self._unstored(track, record.offset)) is not None:
                unstored.done = True
            if order is not None:
                self._go_on(order)
            if self._has_room():
                self._moved.set()

    def _settle_failed(self, item: _Item, seconds: float, error: BaseException) -> None:
        """Take note that a record has failed, and say what becomes of it."""
        consumer, policy = self._consumer, self._retry
        text = error_text(error)  # the application's code
        with self._lock:
            self._over(item, seconds)
            item = self._counts_for(item)
            track, record, order = item
            made = self._made(track, record) + 1
            dead = policy is not None and (isinstance(error, Reject) or made >= policy.max_attempts)
            consumer._counts["records_failed_total"] += 1
            self._moved.set()
            blocks, wait_s = False, 0.0
            if policy is not None and not dead:
                wait_s = error.seconds if isinstance(error, RetryLater) else policy.delay_s(made, random())
            if policy is None:
                self._failure, self._ending = self._failure or error, True
                outcome = "ends"
            elif track.dead or (policy.blocking and not dead and track.given_up_at):
                # another member's to try again, or this one's when it reads it again
                outcome = "again when it is read again"
                if not track.dead:
                    self._drop([track])  # nothing may overtake it
                self._count(track, record.offset, made, text, wait_s if policy.blocking else 0.0)
            else:
                outcome = "dead letter" if dead else f"again in {wait_s:.3g} s"
                blocks = policy.blocking and not dead
                if blocks:
                    self._block(item, wait_s, made)
                else:
                    consumer._note_failure(record, None if dead else wait_s * 1000, text, made)
                    track.pending.pop(record.offset, None)
                    self._forget_unstored(track, record.offset)
                    if consumer._membership is not None and consumer._membership.member_id is None:
                        outcome += ", if nobody else has its partition by now"
            if not blocks:
                self._unblock(track, record.offset)
                if order is not None:
                    self._go_on(order)
        logger.warning(
            "group %s: offset %d of %s-%d failed, attempt %d: %s: %s",
            consumer._group_id,
            record.offset,
            record.topic,
            record.partition,
            made,
            one_line(text),
            outcome,
            exc_info=error if dead or logger.isEnabledFor(logging.DEBUG) else None,
        )

    def _count(self, track: _Track, offset: int, made: int, error: str | None, wait_s: float) -> None:
        """Count an attempt in vain for when the record is read again."""
        unstored = self._unstored(track, offset)
        if unstored is None and track.dead:
            return  # it is about another record by now, or was dropped for others
        if unstored is None:
            unstored = _Unstored(made)
            self._keep(track, offset, unstored)
        unstored.attempts, unstored.error = max(made, unstored.attempts), error
        unstored.due_at = time.monotonic() + wait_s

    def _over(self, item: _Item, seconds: float) -> None:
        track = item[0]
        track.running.pop(item[1].offset, None)
        self._running -= 1
        self._moved_at = time.monotonic()
        counts = self._consumer._counts
        counts["handler_seconds_total"] += seconds
        if seconds > counts["handler_seconds_max"]:
            counts["handler_seconds_max"] = seconds
        if track.dead or not track.running:
            self._moved.set()

    def _go_on(self, order: Any) -> None:
        self._release(order)
        if self._ready:
            self._wake.set()

    def _block(self, item: _Item, wait_s: float, made: int) -> None:
        """Try a record again in place; its partition waits for it."""
        track, record, _ = item
        track.attempts[record.offset] = made
        self._consumer._counts["records_retried_total"] += 1
        self._serial += 1
        heapq.heappush(self._later, (time.monotonic() + wait_s, self._serial, item))
        self._wake.set()

    def _unblock(self, track: _Track, offset: int) -> None:
        """Go on with a partition when the last record that it waited for is through."""
        if track.attempts.pop(offset, None) is not None and not track.attempts and track.held:
            self._ready.extendleft(reversed(track.held))
            track.held.clear()
            self._wake.set()


def _check_assigned(partitions: Collection[TopicPartition], group_id: str) -> None:
    """Refuse partitions without those of the retry topics, which nobody would read."""
    suffix, topics = f".{group_id}.retry", {tp.topic for tp in partitions}
    missing = sorted(t for t in topics if not t.endswith(suffix) and t + suffix not in topics)
    if missing:
        raise errors.IllegalStateError(
            f"what fails in {missing[0]} would go to {missing[0] + suffix}, of which no partition is assigned: assign"
            " some, or give run() retry=None or RetryPolicy(blocking=True), or subscribe instead"
        )


def _forgiving(deserialize: Deserializer | None) -> Deserializer | None:
    """Return a deserializer that does not raise, so that one record does not keep all others from being read."""
    if deserialize is None:
        return None

    def deserialize_or_keep_error(raw: Any) -> Any:
        if type(raw) is _Malformed:
            return raw
        try:
            return deserialize(raw)
        except Exception as error:  # noqa: BLE001 - raised when its turn comes
            return _Malformed(error)

    return deserialize_or_keep_error


def _check(record: ConsumerRecord) -> None:
    """Raise what deserializing the record has raised."""
    for part in (record.key, record.value):
        if type(part) is _Malformed:
            raise part.error


def _order(record: ConsumerRecord) -> Any:
    """Return what records have in common that must be processed one after another; None if it may be at any time."""
    topic, partition, key = record[0], record[1], record[5]
    if key is None:
        return None
    if type(key) is bytes:
        return topic, partition, key
    kind: Any = type(key)
    if kind.__hash__ is object.__hash__:
        return topic, partition  # equal keys cannot be told: all of the partition, then
    try:
        hash(key)
    except TypeError:
        return topic, partition
    return topic, partition, key
