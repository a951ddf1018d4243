"""The checker finds each anomaly where one was planted, by its name, and nothing in a clean history."""

from __future__ import annotations

import pytest

from .checker import Crash, Event, Kind, Outcome, Poll, Report, Seek, Send, Truth, check


def send(
    value: int,
    offset: int | None = None,
    *,
    outcome: Outcome = Outcome.OK,
    partition: int = 0,
    process: str = "producer",
    invoked: float = 0.0,
    asynchronous: bool = False,
) -> Send:
    return Send(process, f"transaction of {value}", partition, value, outcome, offset, invoked, asynchronous)


def read(*records: tuple[int, int], position: int | None = None, reader: str = "reader", partition: int = 0) -> Poll:
    return Poll(reader, partition, records, position)


def seek(offset: int = 0, *, reader: str = "reader", partition: int = 0) -> Seek:
    return Seek(reader, partition, offset)


def log(*records: tuple[int, int], start: int = 0) -> Truth:
    return Truth([(0, offset, value) for offset, value in records], {0: start})


def kinds(report: Report) -> set[Kind]:
    return {anomaly.kind for anomaly in report.anomalies}


def verdict(events: list[Event], truth: Truth) -> set[Kind]:
    return kinds(check(events, truth))


THREE: list[Event] = [send(10, 0), send(11, 1), send(12, 2)]
THREE_IN_LOG = log((0, 10), (1, 11), (2, 12))


class TestCleanHistories:
    def test_empty(self) -> None:
        report = check([], Truth([]))
        assert not report.anomalies
        assert report.summary() == "ok 0 fail 0 info 0 (vanished 0) log 0 read 0: no anomalies"

    def test_everything_read_across_polls_by_two_readers(self) -> None:
        events = [
            *THREE,
            seek(),
            read((0, 10)),
            read((1, 11), (2, 12)),
            seek(reader="b"),
            read(*zip(range(3), (10, 11, 12), strict=True), reader="b"),
        ]
        assert verdict(events, THREE_IN_LOG) == set()

    def test_counts(self) -> None:
        events: list[Event] = [
            *THREE,
            send(13, outcome=Outcome.FAIL),
            send(14, outcome=Outcome.INFO),
            send(15, outcome=Outcome.INFO),
            seek(),
            read((0, 10), (1, 11), (2, 12), (4, 15)),
        ]
        report = check(events, log((0, 10), (1, 11), (2, 12), (4, 15)))
        assert not report.anomalies
        assert (report.ok, report.fail, report.info, report.read, report.log) == (3, 1, 2, 4, 4)

    def test_hole_of_a_rollback_is_stepped_over(self) -> None:
        events: list[Event] = [send(10, 0), send(11, outcome=Outcome.FAIL), send(12, 2), seek(), read((0, 10), (2, 12))]
        assert verdict(events, log((0, 10), (2, 12))) == set()

    def test_position_over_a_trailing_hole(self) -> None:
        events: list[Event] = [
            send(10, 0),
            send(11, outcome=Outcome.FAIL),
            seek(),
            read((0, 10), position=2),
            read(position=2),
        ]
        assert verdict(events, log((0, 10))) == set()

    def test_reading_again_after_a_seek(self) -> None:
        events = [*THREE, seek(), read((0, 10), (1, 11)), seek(0), read((0, 10), (1, 11), (2, 12))]
        assert verdict(events, THREE_IN_LOG) == set()

    def test_unknown_outcome_that_was_committed(self) -> None:
        assert verdict([send(10, outcome=Outcome.INFO), seek(), read((0, 10))], log((0, 10))) == set()

    def test_unknown_outcome_that_was_not_committed(self) -> None:
        assert verdict([send(10, outcome=Outcome.INFO), seek(), read()], log()) == set()

    def test_reader_that_has_not_come_so_far(self) -> None:
        assert verdict([*THREE, seek(), read((0, 10))], THREE_IN_LOG) == set()

    def test_seek_over_records(self) -> None:
        assert verdict([*THREE, seek(), read((0, 10)), seek(2), read((2, 12))], THREE_IN_LOG) == set()

    def test_acknowledged_records_below_the_log_start(self) -> None:
        assert verdict([*THREE, seek(2), read((2, 12))], log((2, 12), start=2)) == set()

    def test_asynchronous_commit_that_vanishes_in_a_crash_and_whose_offset_is_issued_again(self) -> None:
        events: list[Event] = [
            send(10, 0, asynchronous=True, invoked=1.0),
            Crash(2.0),
            send(11, 0, invoked=3.0, process="other"),
            seek(),
            read((0, 11)),
        ]
        report = check(events, log((0, 11)))
        assert not report.anomalies
        assert (report.ok, report.info, report.vanished) == (1, 1, 1)

    def test_partitions_are_apart(self) -> None:
        events: list[Event] = [
            send(10, 5, partition=0),
            send(11, 5, partition=1),
            seek(partition=0),
            seek(partition=1),
            read((5, 10), partition=0),
            read((5, 11), partition=1),
        ]
        assert verdict(events, Truth([(0, 5, 10), (1, 5, 11)])) == set()


class TestLostWrite:
    def test_acknowledged_and_not_in_the_log(self) -> None:
        report = check([send(10, 0), seek()], log())
        assert kinds(report) == {Kind.LOST_WRITE}
        assert (report.anomalies[0].offset, report.anomalies[0].value) == (0, 10)

    def test_acknowledged_without_offset_and_not_in_the_log(self) -> None:
        assert verdict([send(10)], log()) == {Kind.LOST_WRITE}

    def test_a_reader_went_past_it_and_never_read_it(self) -> None:
        assert verdict([*THREE, seek(), read((0, 10)), read((2, 12))], THREE_IN_LOG) == {
            Kind.LOST_WRITE,
            Kind.POLL_SKIP,
        }

    def test_another_reader_having_read_it_does_not_help(self) -> None:
        events = [
            *THREE,
            seek(reader="a"),
            read((0, 10), (1, 11), (2, 12), reader="a"),
            seek(reader="b"),
            read((2, 12), reader="b"),
        ]
        found = [a for a in check(events, THREE_IN_LOG).anomalies if a.kind is Kind.LOST_WRITE]
        assert {(a.reader, a.value) for a in found} == {("b", 10), ("b", 11)}

    def test_skipped_and_read_after_a_rewind_is_not_lost(self) -> None:
        events = [*THREE, seek(), read((0, 10), (2, 12)), seek(0), read((0, 10), (1, 11), (2, 12))]
        assert verdict(events, THREE_IN_LOG) == {Kind.POLL_SKIP}

    def test_asynchronous_commit_vanishes_without_a_crash(self) -> None:
        assert verdict([send(10, 0, asynchronous=True)], log()) == {Kind.LOST_WRITE}

    def test_asynchronous_commit_vanishes_that_began_after_the_crash(self) -> None:
        assert verdict([Crash(1.0), send(10, 0, asynchronous=True, invoked=2.0)], log()) == {Kind.LOST_WRITE}

    def test_synchronous_commit_vanishes_in_a_crash(self) -> None:
        assert verdict([send(10, 0), Crash(2.0)], log()) == {Kind.LOST_WRITE}

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_record_that_a_reader_was_given_is_gone(self, asynchronous: bool) -> None:
        outcome = Outcome.OK if asynchronous else Outcome.INFO
        events: list[Event] = [
            send(10, 0, outcome=outcome, asynchronous=asynchronous),
            seek(),
            read((0, 10)),
            Crash(1.0),
        ]
        assert verdict(events, log()) == {Kind.LOST_WRITE}

    def test_at_or_above_the_log_start(self) -> None:
        assert verdict([send(10, 5)], log(start=5)) == {Kind.LOST_WRITE}


class TestDuplicate:
    def test_one_value_at_two_offsets_of_the_log(self) -> None:
        assert verdict([send(10)], log((0, 10), (1, 10))) == {Kind.DUPLICATE}

    def test_one_value_at_two_offsets_of_a_reader(self) -> None:
        assert Kind.DUPLICATE in verdict([send(10, 0), seek(), read((0, 10), (1, 10))], log((0, 10)))

    def test_one_record_read_twice_without_a_seek(self) -> None:
        found = verdict([send(10, 0), seek(), read((0, 10)), read((0, 10))], log((0, 10)))
        assert found == {Kind.DUPLICATE, Kind.NONMONOTONIC_POLL}

    def test_two_readers_disagree_where_it_stands(self) -> None:
        events: list[Event] = [
            send(10, outcome=Outcome.INFO),
            seek(reader="a"),
            read((0, 10), reader="a"),
            seek(reader="b"),
            read((1, 10), reader="b"),
        ]
        assert Kind.DUPLICATE in verdict(events, log((0, 10)))


class TestPollSkip:
    def test_within_one_poll(self) -> None:
        assert Kind.POLL_SKIP in verdict([*THREE, seek(), read((0, 10), (2, 12))], THREE_IN_LOG)

    def test_between_two_polls(self) -> None:
        assert Kind.POLL_SKIP in verdict([*THREE, seek(), read((0, 10)), read((2, 12))], THREE_IN_LOG)

    def test_before_the_first_record(self) -> None:
        assert Kind.POLL_SKIP in verdict([*THREE, seek(), read((1, 11), (2, 12))], THREE_IN_LOG)

    def test_position_moves_over_a_record_without_any(self) -> None:
        report = check([*THREE, seek(), read(position=1)], THREE_IN_LOG)
        (skip,) = [a for a in report.anomalies if a.kind is Kind.POLL_SKIP]
        assert (skip.reader, skip.partition, skip.offset, skip.value) == ("reader", 0, 0, 10)

    def test_record_of_unknown_outcome_that_is_in_the_log(self) -> None:
        events: list[Event] = [send(10, 0), send(11, outcome=Outcome.INFO), send(12, 2), seek(), read((0, 10), (2, 12))]
        assert verdict(events, THREE_IN_LOG) == {Kind.POLL_SKIP}

    def test_record_deleted_before_the_reader_came(self) -> None:
        events = [*THREE, seek(), read((0, 10)), read((2, 12))]
        assert Kind.POLL_SKIP in verdict(events, log((2, 12), start=2))

    def test_record_deleted_and_the_reader_told(self) -> None:
        events = [*THREE, seek(), read((0, 10)), seek(2), read((2, 12))]
        assert verdict(events, log((2, 12), start=2)) == set()


class TestNonmonotonicPoll:
    def test_within_one_poll(self) -> None:
        assert Kind.NONMONOTONIC_POLL in verdict([*THREE, seek(), read((0, 10), (2, 12), (1, 11))], THREE_IN_LOG)

    def test_between_two_polls(self) -> None:
        events = [*THREE, seek(), read((0, 10), (1, 11)), read((0, 10), (1, 11), (2, 12))]
        assert Kind.NONMONOTONIC_POLL in verdict(events, THREE_IN_LOG)

    def test_position_goes_back(self) -> None:
        events = [*THREE, seek(), read((0, 10), (1, 11), (2, 12)), read(position=1)]
        assert verdict(events, THREE_IN_LOG) == {Kind.NONMONOTONIC_POLL}


class TestInconsistentOffsets:
    def test_reader_and_log(self) -> None:
        events: list[Event] = [send(10, outcome=Outcome.INFO), send(11, 0), seek(), read((0, 10))]
        assert Kind.INCONSISTENT_OFFSETS in verdict(events, log((0, 11)))

    def test_two_readers(self) -> None:
        events: list[Event] = [
            send(10, outcome=Outcome.INFO),
            send(11, outcome=Outcome.INFO),
            seek(reader="a"),
            read((0, 10), reader="a"),
            seek(reader="b"),
            read((0, 11), reader="b"),
        ]
        assert verdict(events, log((0, 10))) == {Kind.INCONSISTENT_OFFSETS, Kind.LOST_WRITE}

    def test_two_values_at_one_offset_of_the_log(self) -> None:
        assert Kind.INCONSISTENT_OFFSETS in verdict([send(10), send(11)], log((0, 10), (0, 11)))

    def test_asynchronous_record_that_a_reader_saw_before_it_vanished(self) -> None:
        events: list[Event] = [
            send(10, 0, asynchronous=True, invoked=1.0),
            seek(),
            read((0, 10)),
            Crash(2.0),
            send(11, 0, invoked=3.0, process="other"),
        ]
        assert verdict(events, log((0, 11))) == {Kind.INCONSISTENT_OFFSETS, Kind.LOST_WRITE}

    def test_acknowledged_at_another_offset(self) -> None:
        assert Kind.INCONSISTENT_OFFSETS in verdict([send(10, 0)], log((1, 10)))

    def test_acknowledged_in_another_partition(self) -> None:
        assert Kind.INCONSISTENT_OFFSETS in verdict([send(10, 0, partition=1)], log((0, 10)))

    def test_two_acknowledgements_of_one_offset(self) -> None:
        events: list[Event] = [send(10, 0, process="a"), send(11, 0, process="b")]
        assert Kind.INCONSISTENT_OFFSETS in verdict(events, log((0, 10)))


class TestAbortedRead:
    def test_by_a_reader(self) -> None:
        report = check([send(10, outcome=Outcome.FAIL), seek(), read((0, 10))], log())
        assert kinds(report) == {Kind.ABORTED_READ}
        assert "transaction of 10" in str(report.anomalies[0])

    def test_in_the_final_log(self) -> None:
        assert verdict([send(10, outcome=Outcome.FAIL)], log((0, 10))) == {Kind.ABORTED_READ}


class TestNonmonotonicSend:
    def test_two_records_of_a_process_in_the_wrong_order(self) -> None:
        assert verdict([send(10, 1), send(11, 0)], log((0, 11), (1, 10))) == {Kind.NONMONOTONIC_SEND}

    def test_two_processes_have_no_order(self) -> None:
        assert verdict([send(10, 1, process="a"), send(11, 0, process="b")], log((0, 11), (1, 10))) == set()


class TestPhantom:
    def test_by_a_reader(self) -> None:
        assert verdict([seek(), read((0, 99))], log()) == {Kind.PHANTOM}

    def test_in_the_final_log(self) -> None:
        assert verdict([], log((0, 99))) == {Kind.PHANTOM}


class TestUnusableHistories:
    def test_value_sent_twice(self) -> None:
        with pytest.raises(ValueError, match="unique"):
            check([send(10), send(10)], log())

    def test_poll_before_the_first_seek(self) -> None:
        with pytest.raises(ValueError, match="before its first Seek"):
            check([read((0, 10))], log((0, 10)))
