-- One row per power, the last one of a name in the order of the input. id is durable; internal_name is the full name in
-- the source's spelling. effects and activation_effects are the source's own JSON; effect_groups sums it up by effect
-- type (the numbers in "effects" are power_effects.seq). group_count counts effect groups: nested ones, those of
-- activation_effects, and those without templates.
--
-- The two jsonb indexes serve containment (@>) of values with the way to them: jsonb_path_ops has one entry for each, where
-- jsonb_ops has one per key and one per value; it is built in less time, answers as fast or faster, and has nothing to
-- recheck. Only jsonb_ops serves a structure without any value, which asks nothing about a power. They come last: first
-- or last makes no difference to the time. Measured by scripts/bench.py gin; the figures are in docs/performance.md.

-- create
create table {schema}.powers (
    id bigint not null,
    name text not null,
    internal_name text not null,
    display_name text not null,
    description text not null,
    powerset_id integer not null,
    archetype_id integer not null,
    level_available integer not null,
    power_type text not null,
    target_type text not null,
    accuracy double precision not null,
    damage_scale double precision,
    endurance_cost double precision not null,
    recharge_time double precision not null,
    activation_time double precision not null,
    range_feet double precision not null,
    radius_feet double precision not null,
    max_targets integer not null,
    effects jsonb not null,
    activation_effects jsonb not null,
    effect_groups jsonb not null,
    group_count integer not null,
    requires_line_of_sight boolean not null,
    modes_required jsonb not null,
    modes_disallowed jsonb not null,
    ai_report text,
    icon_path text,
    display_order integer not null,
    display_info jsonb not null,
    allowed_enhancements jsonb not null,
    activation_kind text not null,
    target_type_raw text,
    effect_area text,
    root_time double precision not null,
    interrupt_time double precision not null,
    activate_period double precision not null,
    range_secondary double precision not null,
    arc_degrees double precision not null,
    max_boosts integer not null,
    requires_expr text not null,
    activate_requires_expr text not null,
    target_requires_expr text not null,
    attack_types text[] not null,
    archetypes text[] not null,
    short_help text,
    source_hash bytea not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
) partition by list (archetype_id);

-- index: powers_pkey
-- primary key
alter table {table} add constraint {index} primary key (id, powerset_id, archetype_id);

-- index: idx_power_powerset_level
create index {index} on {table} (powerset_id, level_available);

-- index: idx_power_type_level
create index {index} on {table} (power_type, level_available);

-- index: idx_power_name_powerset
create index {index} on {table} (name, powerset_id);

-- index: idx_power_internal_name
create index {index} on {table} (internal_name);

-- index: idx_power_build_data
create index {index} on {table} (id, name, level_available, power_type)
    include (accuracy, damage_scale, endurance_cost, recharge_time);

-- index: idx_power_effects
create index {index} on {table} using gin (effects jsonb_path_ops);

-- index: idx_power_effect_groups
create index {index} on {table} using gin (effect_groups jsonb_path_ops);

-- index: idx_power_name_search
-- requires: pg_trgm
create index {index} on {table} using gin (display_name gin_trgm_ops);
