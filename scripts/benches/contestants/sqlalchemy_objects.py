"""SQLAlchemy's unit of work: 1,000 ORM objects by add_all and a flush at a time, one transaction, psycopg 3."""

from typing import Any

from sqlalchemy.orm import Session

from benches.contestants import orm


def main() -> None:
    orm.load(_add)


def _add(session: Session, power: Any, batch: list[dict[str, Any]]) -> None:
    session.add_all([power(**record) for record in batch])
    session.flush()
    session.expunge_all()


if __name__ == "__main__":
    main()
