"""The outbox of a Session of SQLAlchemy: by the session's events, what was sent is appended just before its commit."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from pgq import errors
from pgq.core.outbox import BaseOutbox, OutboxDelivery, calls
from pgq.drivers.sqlalchemy import connection_of, fetch, refuse_autocommit
from pgq.types import Serializer

_KEY = "pgq.outbox"


class SessionOutbox(BaseOutbox):
    """Collects records and appends them when the Session, or AsyncSession, commits: just before, in one call.

    A rollback drops what was collected, that to a savepoint (`begin_nested`) what was collected in it, and closing the
    session all of it. It lives as long as the session, for one transaction after the other. A session may have
    several; all append together, in the order sent. `pgq.outbox` makes one.
    """

    def __init__(
        self,
        session: Session,
        *,
        key_serializer: Serializer | str | type | None = None,
        value_serializer: Serializer | str | type | None = None,
        partitioner: str = "murmur2",
    ) -> None:
        super().__init__(
            key_serializer=key_serializer,
            value_serializer=value_serializer,
            partitioner=partitioner,
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )
        self._session = session
        if _KEY not in session.info:
            session.info[_KEY] = _Collected(session)
        self._collected: _Collected = session.info[_KEY]

    def _add(self, delivery: OutboxDelivery[Any]) -> None:
        self._collected.add(self._session, delivery)


class _Collected:
    """What was sent in a session's transaction. One a session, kept in its `info`, whatever the number of outboxes."""

    def __init__(self, session: Session) -> None:
        self._sent: dict[SessionTransaction | None, list[OutboxDelivery[Any]]] = {}
        """By the savepoint that it was sent in; None is none."""
        self._committing = False
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_transaction_end", self._after_transaction_end)

    def add(self, session: Session, delivery: OutboxDelivery[Any]) -> None:
        if not session.in_transaction():
            # as session.add does, so that closing the session tells us
            if not session.autobegin:
                raise errors.IllegalStateError("the Session has no transaction: call session.begin() first")
            session.begin()
        self._sent.setdefault(session.get_nested_transaction(), []).append(delivery)
        if self._committing:
            self._append(session)  # by an event that came after ours: the commit will not ask again

    def _append(self, session: Session) -> None:
        sent = self._sent.get(None)
        if sent:
            connection = connection_of(session)
            refuse_autocommit(connection)
            for statement, arguments, settle in calls(sent):
                settle(fetch(connection, statement, *arguments))
            sent.clear()

    def _before_commit(self, session: Session) -> None:
        if session.in_nested_transaction():
            return  # a savepoint's release
        session.flush()  # so that its statements, and what its events send, come before the offsets are taken
        self._append(session)
        self._committing = True

    def _after_commit(self, session: Session) -> None:
        savepoint = session.get_nested_transaction()
        sent = self._sent.pop(savepoint, None) if savepoint is not None else None
        if savepoint is not None and sent:
            outer = savepoint.parent
            while outer is not None and not outer.nested:
                outer = outer.parent
            self._sent.setdefault(outer, []).extend(sent)

    def _after_transaction_end(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            self._drop(transaction)
        elif transaction.parent is None:
            self._committing = False
            for savepoint in list(self._sent):
                self._drop(savepoint)

    def _drop(self, savepoint: Any) -> None:
        for delivery in self._sent.pop(savepoint, ()):
            delivery.drop()
