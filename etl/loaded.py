"""What a build was loaded from: the digests of the records behind its powers, which an update compares."""

from collections.abc import Sequence

from etl import db


def digests(
    connection: db.Connection, schema: str, partitions: Sequence[tuple[str, str]]
) -> dict[str, tuple[bytes, str, str]]:
    """Return what a build holds of some (archetype, powerset) pairs: uid -> (digest, archetype, powerset)."""
    query = db.query("loaded_hashes", schema=db.identifier(schema))
    rows = connection.execute(query, {"powersets": [powerset for _, powerset in partitions]}).fetchall()
    wanted = set(partitions)
    return {
        uid: (bytes(digest), archetype, powerset)
        for uid, digest, archetype, powerset in rows
        if (archetype, powerset) in wanted
    }
