"""Table power_set_categories: one row per power and category of enhancement sets that it takes."""

from etl.tables.spec import TableSpec

SPEC = TableSpec(
    name="power_set_categories",
    version=1,
    partitioned=False,
    columns={"id": "int8", "power_id": "int8", "set_category": "text"},
)
