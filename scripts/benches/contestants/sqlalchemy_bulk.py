"""SQLAlchemy's bulk insert of ORM objects' values, 1,000 rows a statement, one transaction, psycopg 3."""

from sqlalchemy import insert

from benches.contestants import orm


def main() -> None:
    orm.load(lambda session, power, batch: session.execute(insert(power), batch))


if __name__ == "__main__":
    main()
