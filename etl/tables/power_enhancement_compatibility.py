"""Table power_enhancement_compatibility: one row per power and kind of enhancement that it takes."""

from etl.tables.spec import TableSpec

SPEC = TableSpec(
    name="power_enhancement_compatibility",
    version=1,
    partitioned=False,
    columns={
        "id": "int8",
        "power_id": "int8",
        "enhancement_type": "text",
        "source_name": "text",
        "allowed": "bool",
    },
)
