"""Table power_prerequisites: one row per reference in the condition under which a power may be taken."""

from etl.tables.spec import TableSpec

SPEC = TableSpec(
    name="power_prerequisites",
    version=1,
    partitioned=False,
    columns={
        "id": "int8",
        "power_id": "int8",
        "required_power_id": "int8",
        "required_level": "int4",
        "prerequisite_type": "text",
        "group_no": "int4",
        "required_uid": "text",
        "required_kind": "text",
        "negated": "bool",
        "min_count": "int4",
    },
)
