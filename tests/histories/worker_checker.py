"""What must not be in the history of a group of workers that call `run`, and the triggers that note its commits. Pure.

Anomalies:
    lost             an acknowledged record that was never processed, and is no dead letter
    altered          another key, value or header than was sent
    too many         an attempt after the last one that the policy allows
    out of turn      an attempt that began before the one before it had failed
    early            an attempt or a delivery before the record was due; or it was due sooner than it should have been
    late             an attempt that began more than late_s after the record was due, while all was calm
    delivered twice  a delayed record that was appended twice
    moved twice      an attempt after which the record was put into the retry topic or the dead letter topic twice
    groundless       a record in one of them after an attempt that has not failed
    given up         a dead letter that was neither tried max_attempts times nor rejected
    not in place     of workers that block: a record in the retry topic
    committed early  an offset that was committed before the records below it were done
    crowd            more calls at a time in a worker than its concurrency
    overlap          two calls at a time in a worker for records of one key
    disorder         a worker's calls for records of one key, not in the order of offsets
    misordered       records of one key that were first done in another order than that of offsets
    overtaken        of workers that block: a record begun while an earlier one of its partition had to be tried again
    cut off          a worker that was told to stop, and left a call unfinished
"""

from __future__ import annotations

import heapq
import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pgq.core.retries import RetryPolicy

from . import group_checker

CLOCK_S = 0.005
"""By how much a program's clock and the server's may differ, both on one machine."""

AUDIT = (
    group_checker.AUDIT
    + "alter table audit_commit add column committed_at timestamptz not null default clock_timestamp();"
)


class Place(NamedTuple):
    """Where a record is."""

    topic: str
    partition: int
    offset: int


class Sent(NamedTuple):
    """What a producer has sent, and was acknowledged."""

    key: str | None
    value: str


@dataclass(slots=True)
class Call:
    """A call of a handler. `began` and `ended` are monotonic, `…_at` by the clock: both in seconds."""

    worker: int
    place: Place
    """Where the record was read."""
    origin: Place
    """Where it was first."""
    sent: Sent
    attempt: int
    """From 1."""
    due: int | None
    """In ms since 1970."""
    began: float
    began_at: float
    claim: int = 0
    """How often the worker had been given the partition by then."""
    ended: float | None = None
    ended_at: float = 0.0
    outcome: str | None = None
    """done, failed, later (RetryLater) or rejected (Reject); None: the worker was killed meanwhile."""
    wait_s: float = 0.0
    """How long the next attempt has to wait at least."""

    @property
    def has_failed(self) -> bool:
        """Whether it has ended, by an exception."""
        return self.outcome not in (None, "done")

    def __str__(self) -> str:
        return f"attempt {self.attempt} of {_name(self.origin)} in worker {self.worker}"


class Copy(NamedTuple):
    """A record in the group's retry topic or dead letter topic."""

    dead: bool
    place: Place
    origin: Place
    sent: Sent
    attempt: int
    due: int | None
    failed: int
    """When the attempt had failed: ms since 1970."""
    appended: int
    """When it was appended: ms since 1970."""
    error: str

    def __str__(self) -> str:
        return f"{_name(self.origin)} after {self.attempt} attempts, at {_name(self.place)}"


class Commit(NamedTuple):
    """A committed offset."""

    topic: str
    partition: int
    offset: int
    committed_at: float


@dataclass(slots=True)
class Log:
    """What a worker has written down."""

    worker: int
    calls: list[Call] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    """How often it has called `run`."""
    returns: int = 0
    """How often that has come to an end."""


@dataclass(slots=True)
class History:
    """All that is judged."""

    policy: RetryPolicy
    concurrency: int
    acknowledged: Mapping[Place, Sent]
    logs: Sequence[Log]
    copies: Sequence[Copy]
    commits: Sequence[Commit] = ()
    """In the order in which they were made."""
    stopped: Sequence[int] = ()
    """The workers that were told to stop, and did."""
    calm: tuple[float, float] = (0.0, 0.0)
    """From when to when, by the clock, nothing happened to anybody."""
    late_s: float = 1.0

    @property
    def calls(self) -> list[Call]:
        """The calls of all workers."""
        return [call for log in self.logs for call in log.calls]


def read_log(worker: int, lines: Iterable[str]) -> Log:
    """Read what worker_process writes: a line of JSON for each thing that happens. A kill may have cut the last off."""
    log = Log(worker)
    open_calls: dict[int, Call] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        match entry["op"]:
            case "begin":
                call = Call(
                    worker,
                    Place(*entry["at"]),
                    Place(*entry["of"]),
                    Sent(entry["key"], entry["value"]),
                    entry["attempt"],
                    entry["due"],
                    entry["mono"],
                    entry["wall"],
                    entry["claim"],
                )
                log.calls.append(call)
                open_calls[entry["call"]] = call
            case "end":
                call = open_calls.pop(entry["call"])
                call.ended, call.ended_at = entry["mono"], entry["wall"]
                call.outcome, call.wait_s = entry["outcome"], entry["wait"]
            case "error":
                log.errors[entry["error"]] += 1
            case "run":
                log.runs += 1
            case "returned":
                log.returns += 1
    return log


def check(history: History) -> list[str]:
    """Return all anomalies."""
    calls, policy = history.calls, history.policy
    places = [*history.acknowledged, *(copy.place for copy in history.copies)]
    found = [
        *check_outcomes(history.acknowledged, calls, history.copies),
        *check_contents(history.acknowledged, calls, history.copies),
        *check_attempts(calls, policy),
        *check_due(calls, history.copies, policy),
        *check_late(calls, history.calm, history.late_s),
        *check_copies(calls, history.copies, policy),
        *check_commits(history.commits, calls, places, policy),
        *check_keys(history.logs, history.concurrency),
        *check_order(calls, policy),
        *check_stops(history.logs, history.stopped),
    ]
    return found + check_blocking(history.logs) if policy.blocking else found


def check_outcomes(acknowledged: Iterable[Place], calls: Iterable[Call], copies: Iterable[Copy]) -> list[str]:
    """See that every acknowledged record was processed, or is a dead letter."""
    through = {call.origin for call in calls if call.outcome == "done"} | {copy.origin for copy in copies if copy.dead}
    return [f"lost: {_name(place)}" for place in sorted(set(acknowledged) - through)]


def check_contents(acknowledged: Mapping[Place, Sent], calls: Iterable[Call], copies: Iterable[Copy]) -> list[str]:
    """See that records are what was sent, wherever they are. What was not acknowledged may be there, too."""
    seen: Iterable[Call | Copy] = (*calls, *copies)
    return [
        f"altered: {one}: {one.sent}, not {acknowledged[one.origin]}"
        for one in seen
        if one.origin in acknowledged and one.sent != acknowledged[one.origin]
    ]


def check_attempts(calls: Iterable[Call], policy: RetryPolicy) -> list[str]:
    """See that attempts are counted, come one after another, and end."""
    calls = list(calls)
    anomalies = [f"too many: {call}" for call in calls if call.attempt > policy.max_attempts]
    if policy.blocking:  # then the worker that makes them counts them
        return anomalies
    failed: dict[tuple[Place, int], float] = {}
    for call in calls:
        if call.has_failed and call.ended is not None:
            at = call.origin, call.attempt
            failed[at] = min(call.ended, failed.get(at, call.ended))
    return anomalies + [
        f"out of turn: {call}"
        for call in calls
        if call.attempt > 1 and call.began < failed.get((call.origin, call.attempt - 1), float("inf"))
    ]


def check_due(calls: Iterable[Call], copies: Iterable[Copy], policy: RetryPolicy) -> list[str]:
    """See that nothing is tried again before its time, and that its time is what it should be."""
    calls = list(calls)
    anomalies = []
    soonest: dict[tuple[Place, int], float] = {}
    for call in calls:
        if call.due is not None and call.began_at < call.due / 1000 - CLOCK_S:
            anomalies.append(f"early: {call} began {call.due - call.began_at * 1000:.0f} ms before it was due")
        if call.has_failed:
            at = call.origin, call.attempt
            soonest[at] = min(call.ended_at + call.wait_s, soonest.get(at, float("inf")))
    for copy in copies:
        if copy.due is None:
            continue
        if copy.appended < copy.due:
            anomalies.append(f"early: {copy}, delivered {copy.due - copy.appended} ms before it was due")
        if (over := soonest.get((copy.origin, copy.attempt), 0.0) - CLOCK_S - copy.due / 1000) > 0:
            anomalies.append(f"early: {copy}, due {over * 1000:.0f} ms too soon")
    if policy.blocking:
        for before, call in _repeats(calls):
            if before.ended is not None and call.began < before.ended + before.wait_s - CLOCK_S:
                anomalies.append(f"early: {call} began {call.began - before.ended:.3f} s after the one before it")
    return anomalies


def delays_s(calls: Iterable[Call], calm: tuple[float, float] | None = None) -> list[float]:
    """Return how long after they were due records were begun, sorted; only of those due in calm times, if given."""
    first: dict[Place, Call] = {}
    for call in calls:
        if call.due is not None and (call.place not in first or call.began < first[call.place].began):
            first[call.place] = call
    return sorted(
        call.began_at - call.due / 1000
        for call in first.values()
        if call.due is not None and (calm is None or calm[0] <= call.due / 1000 <= calm[1])
    )


def check_late(calls: Iterable[Call], calm: tuple[float, float], late_s: float) -> list[str]:
    """See that what was due in calm times was begun soon."""
    late = [delay for delay in delays_s(calls, calm) if delay > late_s]
    return [f"late: {len(late)} records, by up to {late[-1]:.2f} s"] if late else []


def check_copies(calls: Iterable[Call], copies: Iterable[Copy], policy: RetryPolicy) -> list[str]:
    """See that what is in the retry topic and the dead letter topic belongs there, and is there once."""
    anomalies = []
    failed = {(call.origin, call.attempt) for call in calls if call.has_failed}
    seen: dict[tuple[bool, Place, int], Copy] = {}
    for copy in sorted(copies, key=lambda copy: (copy.appended, copy.place)):
        at = copy.dead, copy.origin, copy.attempt
        if at in seen:
            same = (copy.due, copy.failed) == (seen[at].due, seen[at].failed)
            anomalies.append(
                f"{'delivered' if same and not copy.dead else 'moved'} twice: {copy}, and at {_name(seen[at].place)}"
            )
        seen[at] = copy
        if (copy.origin, copy.attempt) not in failed:
            anomalies.append(f"groundless: {copy}")
        if copy.dead and copy.attempt < policy.max_attempts and not copy.error.startswith("Reject"):
            anomalies.append(f"given up: {copy}: {copy.error}")
        if policy.blocking and not copy.dead:
            anomalies.append(f"not in place: {copy}")
    return anomalies


def check_commits(
    commits: Iterable[Commit], calls: Iterable[Call], places: Iterable[Place], policy: RetryPolicy
) -> list[str]:
    """See that no offset was committed before what lies below it was done: a call had ended, and was not to be
    repeated in place.

    Args:
        places: where there are records.
    """
    done: dict[Place, float] = {}
    for call in calls:
        if is_final(call, policy):
            done[call.place] = min(call.ended_at, done.get(call.place, float("inf")))
    steps: dict[tuple[str, int], list[Commit]] = defaultdict(list)
    for commit in commits:
        of_partition = steps[commit[:2]]
        if not of_partition or commit.offset > of_partition[-1].offset:
            of_partition.append(commit)
    anomalies = []
    for place in sorted(set(places)):
        of_partition = steps[place[:2]]
        index = bisect_right(of_partition, place.offset, key=lambda commit: commit.offset)
        if index == len(of_partition):
            continue  # nothing was committed beyond it
        early_s = done.get(place, float("inf")) - of_partition[index].committed_at
        if early_s > CLOCK_S:
            when = "never done" if early_s == float("inf") else f"done {early_s:.3f} s later"
            anomalies.append(f"committed early: {_name(place)} was {when}")
    return anomalies


def is_final(call: Call, policy: RetryPolicy) -> bool:
    """Whether the record need not be processed again where it is."""
    if call.outcome is None:
        return False
    return not policy.blocking or call.outcome in ("done", "rejected") or call.attempt >= policy.max_attempts


def check_keys(logs: Iterable[Log], concurrency: int) -> list[str]:
    """See that each worker takes the records of a key one by one, in order, and not too many at a time."""
    anomalies = []
    for log in logs:
        running: list[float] = []
        last: dict[tuple[str, int, str], Call] = {}
        for call in sorted(log.calls, key=lambda call: call.began):
            while running and running[0] <= call.began:
                heapq.heappop(running)
            heapq.heappush(running, _end(call))
            if len(running) > concurrency:
                anomalies.append(f"crowd: {len(running)} calls in worker {log.worker}")
            if call.sent.key is None:
                continue
            at = call.place.topic, call.place.partition, call.sent.key
            before, last[at] = last.get(at), call
            if before is None:
                continue
            if call.began < _end(before):
                anomalies.append(f"overlap: {call} and {before}")
            if call.claim == before.claim and call.place.offset < before.place.offset:
                anomalies.append(f"disorder: {call} after {before}")
    return anomalies


def check_order(calls: Iterable[Call], policy: RetryPolicy) -> list[str]:
    """See that the records of a key in a partition are first done in the order of offsets, whatever is repeated."""
    done: dict[tuple[str, int, str], dict[int, float]] = defaultdict(dict)
    for call in calls:
        if call.sent.key is not None and is_final(call, policy):
            of_key = done[call.place.topic, call.place.partition, call.sent.key]
            of_key[call.place.offset] = min(_end(call), of_key.get(call.place.offset, float("inf")))
    anomalies = []
    for (topic, partition, key), of_key in done.items():
        latest, latest_offset = float("-inf"), -1
        for offset, ended in sorted(of_key.items()):
            if ended < latest:
                place = Place(topic, partition, offset)
                anomalies.append(f"misordered: {_name(place)} before {latest_offset}, of key {key}")
            else:
                latest, latest_offset = ended, offset
    return anomalies


def check_blocking(logs: Iterable[Log]) -> list[str]:
    """See that nothing of a partition is begun while an earlier record of it waits to be tried again.

    What others had begun before does not count, even if they try it again themselves, nor what they begin in the moment
    in which the failure is not known yet: so only first attempts in the second half of the wait do.
    """
    anomalies = []
    for log in logs:
        begun: dict[tuple[str, int], list[Call]] = defaultdict(list)
        for call in sorted(log.calls, key=lambda call: call.began):
            begun[call.place[:2]].append(call)
        for before, again in _repeats(log.calls):
            of_partition = begun[again.place[:2]]
            first = bisect_right(of_partition, again.began - before.wait_s / 2, key=lambda call: call.began)
            for call in of_partition[first:]:
                if call.began >= again.began:
                    break
                if call.place.offset > again.place.offset and call.attempt == 1:
                    anomalies.append(f"overtaken: {again}, by {_name(call.place)}")
    return anomalies


def check_stops(logs: Iterable[Log], stopped: Iterable[int]) -> list[str]:
    """See that workers which were told to stop have brought to an end what they had begun."""
    told = set(stopped)
    anomalies = []
    for log in logs:
        if log.worker not in told:
            continue
        anomalies += [f"cut off: {call}" for call in log.calls if call.outcome is None]
        if log.returns + log.errors.total() < log.runs:
            anomalies.append(f"cut off: run() of worker {log.worker} did not return")
    return anomalies


def repetitions(calls: Iterable[Call], policy: RetryPolicy) -> int:
    """Return how many calls were made for records that were done where they were."""
    counts = Counter(call.place for call in calls if is_final(call, policy))
    return counts.total() - len(counts)


def share(delays: Sequence[float], percent: float) -> float:
    """Return a percentile of sorted numbers; 0 of none."""
    return delays[min(len(delays) - 1, int(len(delays) * percent / 100))] if delays else 0.0


def _repeats(calls: Iterable[Call]) -> list[tuple[Call, Call]]:
    """Return calls that failed, each with the next one for the record in its place, by the worker that held it."""
    last: dict[tuple[int, Place, int], Call] = {}
    found = []
    for call in sorted(calls, key=lambda call: call.began):
        at = call.worker, call.place, call.claim
        before = last.get(at)
        if before is not None and before.has_failed:
            found.append((before, call))
        last[at] = call
    return found


def _end(call: Call) -> float:
    return float("inf") if call.ended is None else call.ended


def _name(place: Place) -> str:
    return f"{place.topic}-{place.partition}@{place.offset}"
