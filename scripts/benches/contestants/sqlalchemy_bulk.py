"""SQLAlchemy's bulk insert of ORM objects' values, 1,000 rows a statement, one transaction, psycopg 3."""

import itertools

from sqlalchemy import insert
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
            session.execute(insert(power), batch)
        session.commit()
    engine.dispose()
    given.finish()


if __name__ == "__main__":
    main()
