"""Short storms over workers; and the checker that judges them: it proves something only if it catches what it names."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import pgq
from tests.plugins.sessions import Connection

from .lab import Edit, install
from .worker_checker import (
    Call,
    Commit,
    Copy,
    History,
    Log,
    Place,
    Sent,
    check,
    check_blocking,
    check_commits,
    check_late,
    check_stops,
    delays_s,
    read_log,
    repetitions,
    share,
)
from .workers import Settings, execute, storm

if TYPE_CHECKING:
    from pgq.embedded import EmbeddedServer


@pytest.mark.slow
@pytest.mark.parametrize("blocking", [False, True], ids=["retry topic", "blocking"])
def test_storm(own_server: EmbeddedServer, *, blocking: bool) -> None:
    """Whatever happens to workers and server: nothing is lost, nothing fails more often than it may, order is kept."""
    # late: other tests run beside this one
    settings = Settings(seed=1, seconds=8, blocking=blocking, maintenance=blocking, calm_s=2, late_s=2)
    result = execute(own_server, "workers", settings)
    assert result.passed, "\n".join([result.summary(), *result.anomalies[:10], *result.unexpected[:10]])
    assert result.acknowledged > 500, result.summary()
    assert result.failed > 50, result.summary()
    assert result.dead, result.summary()
    assert result.commits > 50, result.summary()


POLICY = pgq.RetryPolicy(max_attempts=2, initial=1, jitter=0)
BLOCKING = replace(POLICY, blocking=True)
A, B, C = (Place("t", 0, offset) for offset in (0, 1, 2))
AGAIN, DEAD = Place("t.g.retry", 0, 0), Place("t.g.dlq", 0, 0)
SENT = Sent("k", "v")


def call(place: Place, began: float, took: float = 0.1, outcome: str | None = "done", **fields: Any) -> Call:
    """A call; clock and monotonic time are the same here."""
    given: dict[str, Any] = {"worker": 0, "origin": place, "sent": SENT, "attempt": 1, "due": None} | fields
    ended = None if outcome is None else began + took
    return Call(place=place, began=began, began_at=began, ended=ended, ended_at=ended or 0.0, outcome=outcome, **given)


FAILED = call(A, 0, outcome="failed", wait_s=1)
TRIED_AGAIN = call(AGAIN, 1.2, origin=A, attempt=2, due=1100)
RETRIED = Copy(False, AGAIN, A, SENT, 1, 1100, 100, 1110, "Error: no")
DEAD_LETTER = Copy(True, DEAD, A, SENT, 2, None, 1300, 1310, "Error: no")


def kinds(
    calls: list[Call],
    copies: tuple[Copy, ...] = (),
    *,
    acknowledged: tuple[Place, ...] = (A,),
    policy: pgq.RetryPolicy = POLICY,
    commits: tuple[Commit, ...] = (),
    concurrency: int = 2,
) -> list[str]:
    """Which anomalies a history has."""
    logs = [Log(worker, [c for c in calls if c.worker == worker]) for worker in {c.worker for c in calls}]
    history = History(policy, concurrency, dict.fromkeys(acknowledged, SENT), logs, copies, commits)
    return sorted(anomaly.split(":")[0] for anomaly in check(history))


class TestCleanHistories:
    def test_done_at_once(self) -> None:
        assert kinds([call(A, 0), call(B, 1)], acknowledged=(A, B)) == []

    def test_done_after_a_retry(self) -> None:
        assert kinds([FAILED, TRIED_AGAIN], (RETRIED,)) == []

    def test_dead_after_all_attempts(self) -> None:
        assert kinds([FAILED, replace(TRIED_AGAIN, outcome="failed")], (RETRIED, DEAD_LETTER)) == []

    def test_rejected(self) -> None:
        rejected = DEAD_LETTER._replace(attempt=1, error="Reject: no")
        assert kinds([replace(FAILED, outcome="rejected")], (rejected,)) == []

    def test_done_again_after_a_kill(self) -> None:
        calls = [call(A, 0, outcome=None), call(A, 1, worker=1), call(A, 2, worker=2)]
        assert kinds(calls) == []
        assert repetitions(calls, POLICY) == 1

    def test_tried_again_in_place(self) -> None:
        calls = [FAILED, call(A, 1.2, attempt=2), call(B, 1.4)]
        assert kinds(calls, policy=BLOCKING) == []

    def test_done_and_committed(self) -> None:
        assert kinds([call(A, 0), call(B, 1)], commits=(Commit("t", 0, 1, 0.2), Commit("t", 0, 2, 1.2))) == []

    def test_record_that_was_not_acknowledged(self) -> None:
        assert kinds([call(A, 0), call(B, 1)], acknowledged=(A,)) == []


class TestOutcomes:
    def test_never_begun(self) -> None:
        assert kinds([]) == ["lost"]

    def test_begun_and_never_done(self) -> None:
        assert kinds([call(A, 0, outcome=None)]) == ["lost"]

    def test_failed_and_not_tried_again(self) -> None:
        assert kinds([FAILED]) == ["lost"]

    def test_in_the_retry_topic_only(self) -> None:
        assert kinds([FAILED], (RETRIED,)) == ["lost"]

    def test_altered_when_it_came(self) -> None:
        assert kinds([call(A, 0, sent=Sent("k", "w"))]) == ["altered"]

    def test_altered_in_the_dead_letter_topic(self) -> None:
        calls = [FAILED, replace(TRIED_AGAIN, outcome="failed")]
        assert kinds(calls, (RETRIED, DEAD_LETTER._replace(sent=Sent(None, "v")))) == ["altered"]


class TestAttempts:
    def test_one_too_many(self) -> None:
        calls = [FAILED, replace(TRIED_AGAIN, outcome="failed"), call(AGAIN, 9, origin=A, attempt=3)]
        assert kinds(calls, (RETRIED,)) == ["too many"]

    def test_one_left_out(self) -> None:
        assert kinds([call(AGAIN, 1.2, origin=A, attempt=2)]) == ["out of turn"]

    def test_before_the_one_before_it(self) -> None:
        calls = [FAILED, call(AGAIN, 0.05, origin=A, attempt=2), call(AGAIN, 1.2, origin=A, attempt=2)]
        assert kinds(calls, (RETRIED,)) == ["out of turn"]

    def test_one_too_many_in_place(self) -> None:
        calls = [FAILED, call(A, 1.2, attempt=2, outcome="failed"), call(A, 2.4, attempt=3)]
        assert kinds(calls, policy=BLOCKING) == ["too many"]


class TestTimes:
    def test_begun_before_it_was_due(self) -> None:
        calls = [FAILED, replace(TRIED_AGAIN, began_at=1.09)]
        assert kinds(calls, (RETRIED,)) == ["early"]

    def test_delivered_before_it_was_due(self) -> None:
        assert kinds([FAILED, TRIED_AGAIN], (RETRIED._replace(appended=1099),)) == ["early"]

    def test_due_too_soon(self) -> None:
        calls = [FAILED, replace(TRIED_AGAIN, due=1090)]
        assert kinds(calls, (RETRIED._replace(due=1090),)) == ["early"]

    def test_too_soon_in_place(self) -> None:
        assert kinds([FAILED, call(A, 1.05, attempt=2)], policy=BLOCKING) == ["early"]

    def test_late_in_calm_times_only(self) -> None:
        calls = [replace(TRIED_AGAIN, began=began, began_at=began) for began in (2.2, 2.3)]
        assert check_late(calls[:1], (1.0, 3.0), 1.0) == ["late: 1 records, by up to 1.10 s"]
        assert check_late(calls[:1], (1.0, 3.0), 1.2) == []
        assert check_late(calls[:1], (1.2, 3.0), 1.0) == []
        assert [round(delay, 3) for delay in delays_s([calls[1], calls[0]])] == [1.1]  # the first time counts

    def test_percentiles(self) -> None:
        delays = [n / 100 for n in range(100)]
        assert (share(delays, 50), share(delays, 99), share([], 50)) == (0.5, 0.99, 0.0)


class TestCopies:
    def test_delivered_twice(self) -> None:
        twice = RETRIED._replace(place=Place("t.g.retry", 0, 1), appended=1200)
        assert kinds([FAILED, TRIED_AGAIN], (RETRIED, twice)) == ["delivered twice"]

    def test_moved_twice(self) -> None:
        twice = RETRIED._replace(place=Place("t.g.retry", 0, 1), failed=150, due=1150, appended=1200)
        assert kinds([FAILED, TRIED_AGAIN], (RETRIED, twice)) == ["moved twice"]

    def test_two_dead_letters(self) -> None:
        calls = [FAILED, replace(TRIED_AGAIN, outcome="failed")]
        twice = DEAD_LETTER._replace(place=Place("t.g.dlq", 0, 1))
        assert kinds(calls, (RETRIED, DEAD_LETTER, twice)) == ["moved twice"]

    def test_without_a_failure(self) -> None:
        assert kinds([call(A, 0)], (RETRIED,)) == ["groundless"]

    def test_given_up_too_soon(self) -> None:
        assert kinds([FAILED], (DEAD_LETTER._replace(attempt=1),)) == ["given up"]

    def test_not_in_place(self) -> None:
        assert kinds([FAILED, call(A, 1.2, attempt=2)], (RETRIED,), policy=BLOCKING) == ["not in place"]


class TestCommits:
    def test_before_it_was_done(self) -> None:
        assert kinds([call(A, 0)], commits=(Commit("t", 0, 1, 0.05),)) == ["committed early"]

    def test_beyond_one_that_was_never_done(self) -> None:
        assert check_commits([Commit("t", 0, 2, 5.0)], [call(B, 0)], [A, B], POLICY) == [
            "committed early: t-0@0 was never done"
        ]

    def test_beyond_one_that_is_to_be_tried_again_in_place(self) -> None:
        calls = [FAILED, call(A, 1.2, attempt=2)]
        assert kinds(calls, policy=BLOCKING, commits=(Commit("t", 0, 1, 0.5),)) == ["committed early"]

    def test_an_offset_below_and_another_partition_do_not_count(self) -> None:
        commits = [Commit("t", 0, 1, 0.2), Commit("t", 1, 9, 0.2), Commit("t", 0, 2, 1.2)]
        assert check_commits(commits, [call(A, 0), call(B, 1)], [A, B, C], POLICY) == []


class TestOrder:
    def test_two_of_a_key_at_a_time(self) -> None:
        assert kinds([call(A, 0), call(B, 0.05)]) == ["overlap"]

    def test_two_of_two_keys_and_two_without_a_key(self) -> None:
        assert kinds([call(A, 0), call(B, 0.05, sent=Sent("other", "v"))]) == []
        none = Sent(None, "v")
        calls = [call(B, 0, sent=none), call(C, 0.05, sent=none)]
        assert kinds(calls, acknowledged=()) == []

    def test_more_than_its_concurrency(self) -> None:
        calls = [call(place, 0.01 * n, sent=Sent(None, "v")) for n, place in enumerate((B, C, AGAIN))]
        assert kinds(calls, acknowledged=()) == ["crowd"]
        assert kinds(calls, acknowledged=(), concurrency=3) == []

    def test_offsets_go_back(self) -> None:
        assert kinds([call(B, 0), call(A, 1)]) == ["disorder", "misordered"]
        # it was given the partition again
        assert kinds([call(A, 0), call(B, 1), call(A, 2, claim=1), call(B, 3, claim=1)]) == []

    def test_another_worker_is_first(self) -> None:
        assert kinds([call(B, 0), call(A, 1, worker=1)]) == ["misordered"]
        assert kinds([call(A, 0), call(B, 1, worker=1), call(A, 2, worker=1, claim=1)]) == []

    def test_done_while_one_before_it_is_to_be_tried_again_in_place(self) -> None:
        other = call(B, 0.9, sent=Sent("other", "v"))
        calls = [FAILED, other, call(A, 1.2, attempt=2)]
        assert kinds(calls, policy=BLOCKING) == ["overtaken"]
        assert kinds([FAILED, replace(other, began=0.15), call(A, 1.2, attempt=2)], policy=BLOCKING) == []
        elsewhere = replace(other, place=Place("t", 1, 1))
        assert check_blocking([Log(0, [FAILED, elsewhere, call(A, 1.2, attempt=2)])]) == []


class TestStops:
    def test_a_call_without_an_end(self) -> None:
        log = Log(0, [call(A, 0, outcome=None)], runs=1, returns=1)
        assert check_stops([log], [1]) == []  # it was killed
        assert check_stops([log], [0]) == ["cut off: attempt 1 of t-0@0 in worker 0"]

    def test_run_that_does_not_return(self) -> None:
        assert check_stops([Log(0, runs=2, returns=1)], [0]) == ["cut off: run() of worker 0 did not return"]


def test_logs_are_read_as_far_as_they_go() -> None:
    begin = {
        "op": "begin",
        "call": 0,
        "at": A,
        "of": A,
        "claim": 1,
        "key": "k",
        "value": "v",
        "attempt": 1,
        "due": None,
    }
    lines = [
        {"op": "run"},
        begin | {"mono": 0, "wall": 0},
        {"op": "end", "call": 0, "outcome": "failed", "wait": 1, "mono": 0.1, "wall": 0.1},
        begin | {"call": 1, "at": B, "of": B, "mono": 1, "wall": 1},
        {"op": "error", "error": "BrokerNotAvailableError"},
    ]
    log = read_log(0, [*map(json.dumps, lines), '{"op": "en'])
    assert (log.runs, log.returns, log.errors.total()) == (1, 0, 1)
    assert log.calls == [replace(FAILED, claim=1), call(B, 1, outcome=None, claim=1)]


ANYTHING = r"((?:.|\n)*?)"
MUTATIONS: dict[str, tuple[list[Edit], set[str]]] = {
    "as it is": ([], set()),
    "failures are forgotten": (
        [Edit("fail_records.sql", r"for i in 1 \.\. cardinality\(topics\) loop", "for i in 1 .. 0 loop")],
        {"lost"},
    ),
    "none is tried again": (
        [Edit("fail_records.sql", r"if due_ats\[i\] is not null then", "if false then")],
        {"given up"},
    ),
    "attempts are not counted": ([Edit("fail_records.sql", r"attempts\[i\]\)", "1)")], {"moved twice"}),
    "delivered and kept": (
        [
            Edit(
                "_deliver.sql",
                rf'delete from %s d using (unnest{ANYTHING}) where {ANYTHING} returning (d\.\*, r\."offset")',
                r"select \4 from %s d, \1 where \3",
            )
        ],
        {"delivered twice", "stuck"},
    ),
    "commits run ahead": (
        [Edit("commit_offsets.sql", r"(values \(id, part\.partition_id, offsets\[i\])", r"\1 + 1")],
        {"committed early"},
    ),
    "delivered too soon": (
        [
            Edit(
                "deliver_due.sql",
                r"(until := date_trunc\('milliseconds', clock_timestamp\(\))\)",
                r"\1 + interval '50 ms')",
            )
        ],
        {"early"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations(dsn: str, conn: Connection, name: str) -> None:
    """Functions that do another thing than they should are found out, by workers to which nothing happens."""
    edits, expected = MUTATIONS[name]
    install(conn, edits)
    patience_s = 1 if edits else 60
    settings = Settings(1, 0.5, faults=False, fewest=2, most=2, maintenance=False, calm_s=0, patience_s=patience_s)
    result = storm(dsn, settings)
    kinds = {anomaly.split(":")[0] for anomaly in result.anomalies}
    assert expected <= kinds if edits else not kinds, result.summary()
    assert not result.unexpected
