"""Schemas of a database told by its catalogs, so that two ways of making them can be compared."""

from typing import Any

import psycopg

_RELATIONS = """
select c.relname, c.relkind, c.relpersistence, c.reloptions, obj_description(c.oid, 'pg_class'), i.seqtypid::regtype::text,
       i.seqincrement, i.seqstart
from pg_class c
left join pg_sequence i on i.seqrelid = c.oid
where c.relnamespace = %s::regnamespace
  and c.relkind not in ('i', 'I')
"""
_COLUMNS = """
select c.relname, row_number() over (partition by c.oid order by a.attnum), a.attname,
       format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, a.attcollation::regcollation::text,
       a.attstorage, a.attcompression, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = %s::regnamespace
  and c.relkind in ('r', 'p', 'v', 'm')
"""
_CONSTRAINTS = """
select k.conrelid::regclass::text, k.conname, k.contype, k.convalidated, k.condeferrable, pg_get_constraintdef(k.oid),
       obj_description(k.oid, 'pg_constraint')
from pg_constraint k
where k.connamespace = %s::regnamespace
"""
_INDEXES = """
select x.indrelid::regclass::text, pg_get_indexdef(x.indexrelid), x.indisunique, x.indisvalid,
       obj_description(x.indexrelid, 'pg_class')
from pg_index x
join pg_class c on c.oid = x.indexrelid
where c.relnamespace = %s::regnamespace
"""
_OTHERS = """
select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid)
from pg_proc p
where p.pronamespace = %s::regnamespace
union all
select 'trigger', t.tgrelid::regclass::text, pg_get_triggerdef(t.oid)
from pg_trigger t
join pg_class c on c.oid = t.tgrelid
where c.relnamespace = %s::regnamespace
  and not t.tgisinternal
union all
select 'view', c.relname, pg_get_viewdef(c.oid)
from pg_class c
where c.relnamespace = %s::regnamespace
  and c.relkind in ('v', 'm')
union all
select 'type', t.typname, t.typtype::text
from pg_type t
where t.typnamespace = %s::regnamespace
  and t.typtype in ('e', 'd', 'r')
union all
select 'schema', n.nspname, obj_description(n.oid, 'pg_namespace')
from pg_namespace n
where n.oid = %s::regnamespace
"""


def describe(dsn: str, schema: str) -> set[tuple[Any, ...]]:
    """Return everything the catalogs say of a schema: relations, columns, constraints, indexes and the rest."""
    found: set[tuple[Any, ...]] = set()
    with psycopg.connect(dsn) as connection:
        connection.execute("set search_path = pg_catalog")
        for kind, query in (
            ("relation", _RELATIONS),
            ("column", _COLUMNS),
            ("constraint", _CONSTRAINTS),
            ("index", _INDEXES),
            ("other", _OTHERS),
        ):
            values = [schema] * query.count("%s")
            for row in connection.execute(query, values):  # type: ignore[call-overload]
                found.add((kind, *(tuple(value) if isinstance(value, list) else value for value in row)))
    return found
