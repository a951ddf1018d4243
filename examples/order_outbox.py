"""An order service: rows and records in one transaction, invoices made once, a reminder that is cancelled on payment.

    python examples/order_outbox.py

- Placing an order writes its row, announces it (`pgq.outbox`), and sends a reminder to pay for later (`deliver_at`), in
  one transaction of SQLAlchemy. An order that fails leaves neither row nor record.
- Invoices are rows, committed together with the offsets of the orders that they are for: none is missing or double.
- Paying cancels the reminder in the transaction that notes the payment.

Runs on a PostgreSQL of its own, or in the database that PGQ_DSN names;
needs `pip install 'pgq-log[embedded]' 'sqlalchemy>=2'`.
"""

import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
from database import database
from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import pgq
from pgq import Admin, Consumer, ConsumerRecord, Producer

ORDERS, REMINDERS = "orders", "payment-reminders"
REMIND_AFTER = timedelta(seconds=3)  # days, in production
VAT = Decimal("1.19")
COUNT = 'select (select count(*) from pgq_topic.orders), (select count(*) from pgq_topic."payment-reminders")'


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "customer_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    amount: Mapped[int]
    paid: Mapped[bool] = mapped_column(default=False)
    reminder: Mapped[str | None]


class Invoice(Base):
    __tablename__ = "invoice"
    order_id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[Decimal]


class OutOfStockError(Exception):
    """The order cannot be placed after all."""


class Shop:
    def __init__(self, engine: Engine, producer: Producer) -> None:
        self.engine = engine
        self.producer = producer

    def place(self, customer: str, amount: int) -> int:
        """Place an order and return its number."""
        with Session(self.engine) as session, session.begin():
            outbox = pgq.outbox(session, key_serializer="str", value_serializer="json")
            order = Order(customer=customer, amount=amount)
            session.add(order)
            session.flush()  # gives it a number
            outbox.send(ORDERS, {"order": order.id, "amount": amount}, key=customer)  # appended just before the commit
            # At once, since its id is wanted. It holds nobody up: it waits in a table until it is due.
            due = datetime.now(UTC) + REMIND_AFTER
            reminder = self.producer.send(REMINDERS, {"order": order.id}, connection=session, deliver_at=due)
            order.reminder = reminder.result().delayed_id
            if amount > 1_000:
                raise OutOfStockError
            return order.id

    def pay(self, number: int) -> bool:
        """Note a payment; return whether the reminder could be cancelled."""
        with Session(self.engine) as session, session.begin():
            order = session.get_one(Order, number)
            order.paid = True
            return bool(session.scalar(select(func.pgq.cancel_delayed(order.reminder))))


def write_invoices(engine: Engine, orders: int) -> None:
    """Make an invoice of each order, in the transaction that commits how far was read."""
    with Consumer(
        ORDERS, group_id="invoicing", auto_offset_reset="earliest", enable_auto_commit=False, value_deserializer="json"
    ) as consumer:
        written = 0
        while written < orders:
            batch = [record.value for records in consumer.getmany(timeout_ms=1000).values() for record in records]
            with Session(engine) as session:
                session.add_all(Invoice(order_id=order["order"], total=order["amount"] * VAT) for order in batch)
                session.flush()
                consumer.commit(connection=session)  # last: from here on the partitions cannot change hands
                session.commit()
            written += len(batch)


def remind(engine: Engine, unpaid: int) -> set[int]:
    """Remind of so many orders."""
    reminded: set[int] = set()
    consumer = Consumer(REMINDERS, group_id="reminders", auto_offset_reset="earliest", value_deserializer="json")

    def send_letter(record: ConsumerRecord) -> None:
        with Session(engine) as session:
            if not session.get_one(Order, record.value["order"]).paid:  # a reminder may be due just when it is paid
                reminded.add(record.value["order"])
        if len(reminded) == unpaid:
            consumer.stop()  # a real one runs until SIGTERM

    consumer.run(send_letter)
    return reminded


def serve(dsn: str) -> int:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    Base.metadata.create_all(engine)
    with Admin() as admin, Producer(value_serializer="json") as producer:
        admin.create_topic(ORDERS, partitions=3)
        admin.create_topic(REMINDERS)
        shop = Shop(engine, producer)
        placed = [shop.place(f"customer-{number}", amount=10 * number) for number in range(1, 9)]
        try:
            shop.place("customer-9", amount=2_000)
        except OutOfStockError:
            print("one order was rolled back")
        paid = placed[::2]
        cancelled = sum(shop.pay(number) for number in paid)
        write_invoices(engine, len(placed))
        reminded = remind(engine, len(placed) - len(paid))

    with Session(engine) as session:
        invoices, total = session.execute(select(func.count(), func.sum(Invoice.total))).one()
        announced, reminders = session.execute(text(COUNT)).one()  # a topic is a view
    engine.dispose()
    print(f"{len(placed)} orders placed, {announced} announced, {invoices} invoices over {total:.2f} in all")
    print(f"{len(paid)} paid, {cancelled} reminders cancelled, {len(reminded)} reminded: orders {sorted(reminded)}")
    well = announced == invoices == len(placed) and reminders == len(reminded) and reminded == set(placed) - set(paid)
    print("every order has one invoice, and only who has not paid is reminded" if well else "something is WRONG")
    return 0 if well else 1


if __name__ == "__main__":
    with database() as dsn:
        sys.exit(serve(dsn))
