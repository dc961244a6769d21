"""SQLAlchemy's unit of work: 1,000 ORM objects by add_all and a flush at a time, one transaction, psycopg 3."""

import itertools

from sqlalchemy.orm import Session

from benches.contestants import orm, task

_BATCH = 1_000


def main() -> None:
    given = task.read()
    given.create()
    engine, power = orm.mapped(given)
    records = given.records()
    with Session(engine) as session:
        while batch := list(itertools.islice(records, _BATCH)):
            session.add_all([power(**record) for record in batch])
            session.flush()
            session.expunge_all()
        session.commit()
    engine.dispose()
    given.finish()


if __name__ == "__main__":
    main()
