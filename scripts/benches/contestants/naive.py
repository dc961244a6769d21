"""The importer that users come from: for each record a look-up by name, then an object, a flush; a commit per 1,000.

The table has its indexes from the start, as a live database has.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from benches.contestants import orm, task

_COMMIT = 1_000


def main() -> None:
    given = task.read()
    given.create()
    given.finish()
    engine, power = orm.mapped(given)
    with Session(engine) as session:
        for number, record in enumerate(given.records(), 1):
            found = session.scalar(select(power).where(power.internal_name == record["internal_name"]))
            if found is None:
                session.add(power(**record))
            else:
                for name, value in record.items():
                    setattr(found, name, value)
            session.flush()
            if number % _COMMIT == 0:
                session.commit()
        session.commit()
    engine.dispose()


if __name__ == "__main__":
    main()
