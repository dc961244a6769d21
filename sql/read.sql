-- Named queries of etl.read, in the form of queries.sql. {schema} is the live schema; nothing else is read, so that a role
-- with USAGE of it and SELECT on its views can run them all. Each statement returns the generation that its data is of, and
-- all but one a single row: one statement is one snapshot. Data comes as JSON text, ready for msgspec and for Redis.

-- name: read_state
-- What is published, and what was changed since a generation that the reader knows.
select l.generation, l.base, l.build, l.origin, l.published_at,
       (
           select coalesce(json_agg(json_build_array(c.power_id, c.generation)), '[]')
           from {schema}.changes c
           where c.generation > greatest(l.base, %(known)s)
       ),
       (
           select coalesce(json_agg(json_build_array(c.powerset_id, c.generation)), '[]')
           from {schema}.powerset_changes c
           where c.generation > greatest(l.base, %(known)s)
       )
from {schema}.generation l;

-- name: read_place_by_id
-- The partition keys of a power: the way to its only leaf. Null where there is no such power.
select l.generation, d.id, d.archetype_id, d.powerset_id
from {schema}.generation l
left join {schema}.power_directory d on d.id = %(id)s;

-- name: read_place_by_name
-- The same by full name in lower case, through the registry's unique index.
select l.generation, d.id, d.archetype_id, d.powerset_id
from {schema}.generation l
left join (
    {schema}.power_names k
    join {schema}.power_directory d using (id)
) on k.uid = %(uid)s;

-- name: read_power_in_place
-- A power by id and partition keys: with these as values the planner looks at one leaf.
select l.generation, l.base,
       (select max(c.generation) from {schema}.changes c where c.power_id = %(id)s and c.generation > l.base),
       (
           select json_build_array({columns})
           from {schema}.powers p
           join {schema}.powersets s on s.id = p.powerset_id
           join {schema}.archetypes a on a.id = p.archetype_id
           where p.archetype_id = %(archetype)s
             and p.powerset_id = %(powerset)s
             and p.id = %(id)s
       )
from {schema}.generation l;

-- name: read_powers
-- Several powers, through the directory: an array of them, and an array of [id, generation of the last change].
select l.generation, l.base,
       (
           select json_agg(json_build_array(c.power_id, c.generation))
           from {schema}.changes c
           where c.power_id = any (%(ids)s)
             and c.generation > l.base
       ),
       (
           select json_agg(json_build_array({columns}))
           from {schema}.power_directory d
           join {schema}.powers p
               on p.archetype_id = d.archetype_id
              and p.powerset_id = d.powerset_id
              and p.id = d.id
           join {schema}.powersets s on s.id = p.powerset_id
           join {schema}.archetypes a on a.id = p.archetype_id
           where d.id = any (%(ids)s)
       )
from {schema}.generation l;

-- name: read_powerset_called
-- The ids of the powersets of a name: those of the full name, else those of the own or display name.
select l.generation,
       (
           select json_agg(s.id order by s.id)
           from {schema}.powersets s
           where lower(s.full_name) = lower(%(name)s)
       ),
       (
           select json_agg(s.id order by s.id)
           from {schema}.powersets s
           where lower(s.name) = lower(%(name)s)
              or lower(s.display_name) = lower(%(name)s)
       )
from {schema}.generation l;

-- name: read_powerset_place
-- Whether there is such a powerset, and the archetypes that its powers are under: one, in all known data.
select l.generation, s.id,
       (
           select array_agg(distinct d.archetype_id)
           from {schema}.power_directory d
           where d.powerset_id = s.id
       )
from {schema}.generation l
left join {schema}.powersets s on s.id = %(powerset)s;

-- name: read_powerset_in_place
-- The powers of a set, in no order: names of the set, names of its archetypes by id, and one array per column, which costs
-- the server and the client less than one per power. Beside them: state, last change, and how many powers the directory
-- has: if not so many were found, the places were out of date.
select l.generation, l.base,
       (
           select max(c.generation)
           from {schema}.powerset_changes c
           where c.powerset_id = %(powerset)s
             and c.generation > l.base
       ),
       (select count(*) from {schema}.power_directory d where d.powerset_id = %(powerset)s),
       s.id,
       json_build_array(s.name, s.full_name, s.display_name),
       (
           select coalesce(json_object_agg(a.id, a.name), '{{}}')
           from {schema}.archetypes a
           where a.id = any (%(archetypes)s)
       ),
       m.*
from {schema}.generation l
left join {schema}.powersets s on s.id = %(powerset)s
cross join (
    select count(*), {columns}
    from {schema}.powers p
    where {condition}
      and p.powerset_id = %(powerset)s
) m;

-- name: gathered
json_agg({column})

-- name: gathered_time
-- As seconds since 1970, which are faster to write than dates.
json_agg(date_part('epoch', {column}))

-- name: read_summary_of_powerset
-- The build summary of a set by level, from the materialized view or from the join.
select l.generation, l.base,
       (
           select max(c.generation)
           from {schema}.powerset_changes c
           where c.powerset_id = %(powerset)s
             and c.generation > l.base
       ),
       (
           select json_agg(t)
           from (
               select {columns}
               from {summary}
               where b.powerset_id = %(powerset)s
               order by b.level_available, b.display_order, b.id
           ) t
       )
from {schema}.generation l;

-- name: read_summary
-- The build summary by level: of an archetype (null: of all), up to a level (null: all).
select l.generation,
       (
           select json_agg(t)
           from (
               select {columns}
               from {summary}
               where {condition}
               order by b.level_available, b.display_order, b.id
           ) t
       )
from {schema}.generation l;

-- name: summary_view
{schema}.power_build_summary b

-- name: summary_join
-- What the view holds, where it is missing.
(
    select p.*, s.name as powerset_name, a.name as archetype_name
    from {schema}.powers p
    left join {schema}.powersets s on s.id = p.powerset_id
    left join {schema}.archetypes a on a.id = p.archetype_id
) b

-- name: read_search
-- Powers whose name holds a text: first those that are called so, then those that begin so, then the others. The display
-- name has an index of trigrams where the server has them.
select l.generation,
       (
           select json_agg(t)
           from (
               select {columns}
               from {summary}
               where b.display_name ilike %(pattern)s
                 and (%(archetype)s::text is null or b.archetype_name = %(archetype)s::text)
               order by lower(b.display_name) <> lower(%(text)s),
                        b.display_name not ilike %(prefix)s,
                        length(b.display_name), b.display_name, b.id
               limit %(limit)s
           ) t
       )
from {schema}.generation l;

-- name: read_with_effect
-- Powers that have an effect of a type or on an attribute, by the GIN indexes; from all archetypes or one.
select l.generation,
       (
           select json_agg(t)
           from (
               select {columns}
               from (
                   select p.*, s.name as powerset_name, a.name as archetype_name
                   from {schema}.powers p
                   join {schema}.powersets s on s.id = p.powerset_id
                   join {schema}.archetypes a on a.id = p.archetype_id
                   where (
                           p.effect_groups @> %(type)s::jsonb
                           or p.effects @> %(form_0)s::jsonb
                           or p.effects @> %(form_1)s::jsonb
                           or p.effects @> %(form_2)s::jsonb
                       )
                     and {condition}
                     and (%(level)s::integer is null or p.level_available <= %(level)s::integer)
               ) b
               order by b.level_available, b.id
               limit %(limit)s
           ) t
       )
from {schema}.generation l;

-- name: read_archetype_called
select l.generation, a.id
from {schema}.generation l
left join {schema}.archetypes a on a.name = lower(%(name)s);

-- name: read_powersets_to_warm
-- The powersets of an archetype (null: of all) with the ids of their powers, those of most powers first.
select d.powerset_id, array_agg(d.id), array_agg(lower(d.internal_name))
from {schema}.power_directory d
join {schema}.archetypes a on a.id = d.archetype_id
where %(archetype)s::text is null or a.name = lower(%(archetype)s::text)
group by d.powerset_id
order by count(*) desc;

-- name: read_powers_of_powerset
-- The ids of the powers in a set.
select d.id from {schema}.power_directory d where d.powerset_id = %(powerset)s;

-- name: read_powerset_of_power
select d.powerset_id from {schema}.power_directory d where d.id = %(id)s;

-- name: listen_generations
listen etl_live;

-- name: listen_invalidations
listen etl_cache;

-- name: notify_invalidation
-- For whoever keeps answers in memory.
select pg_notify('etl_cache', %(message)s);

-- name: read_prepare_session
-- For the rest of the session: a statement does not run for ever, and is planned once, not with each value anew: finding
-- the one leaf among all takes a planner longer than everything else, and an executor next to nothing. Times are UTC.
select set_config('statement_timeout', %(milliseconds)s::text, false),
       set_config('plan_cache_mode', 'force_generic_plan', false),
       set_config('timezone', 'UTC', false);

-- name: read_has_trigrams
-- Whether names have an index of trigrams.
select exists (select from pg_extension where extname = 'pg_trgm');

-- name: only_archetype
b.archetype_id = (select a.id from {schema}.archetypes a where a.name = lower(%(archetype)s))

-- name: only_archetype_id
b.archetype_id = %(archetype)s

-- name: only_level
b.level_available <= %(level)s

-- name: only_powers_of_archetype
p.archetype_id = %(archetype)s

-- name: only_powers_of_archetypes
-- Of several: a prepared plan then looks into all leaves that may have the set, which takes longer than most sets.
p.archetype_id = any (%(archetypes)s)
