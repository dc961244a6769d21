-- One row per power with the names around it and none of its effects; read by build planners. Outer joins: powers of
-- shared groups have rows too. The unique index is what a refresh without blocking readers needs.

-- create
create materialized view {schema}.power_build_summary as
select
    p.id,
    p.name,
    p.internal_name,
    p.display_name,
    p.powerset_id,
    s.name as powerset_name,
    p.archetype_id,
    a.name as archetype_name,
    p.level_available,
    p.power_type,
    p.target_type,
    p.accuracy,
    p.damage_scale,
    p.endurance_cost,
    p.recharge_time,
    p.activation_time,
    p.range_feet,
    p.max_targets,
    p.icon_path,
    p.display_order
from {schema}.powers p
left join {schema}.powersets s on s.id = p.powerset_id
left join {schema}.archetypes a on a.id = p.archetype_id;

-- index: idx_power_build_summary_id
create unique index {index} on {table} (id);

-- index: idx_power_build_summary_archetype_level
create index {index} on {table} (archetype_id, level_available);

-- index: idx_power_build_summary_powerset_level
create index {index} on {table} (powerset_id, level_available);

-- index: idx_power_build_summary_type_level
create index {index} on {table} (power_type, level_available);
