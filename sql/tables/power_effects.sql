-- One row per template of a power's effect groups (City of Data), or per effect (flat, MidsReborn), in document order:
-- seq from 0 within the power, group_seq the number of its group. id is (power_id << 20) | seq. Null duration_s means
-- until killed where until_killed, else not said.

-- create
create table {schema}.power_effects (
    id bigint not null,
    power_id bigint not null,
    powerset_id integer not null,
    archetype_id integer not null,
    seq integer not null,
    group_seq integer not null,
    parent_group_seq integer,
    depth integer not null,
    phase text not null,
    chance double precision not null,
    ppm double precision not null,
    pvp text not null,
    requires_expr text not null,
    tags text[] not null,
    attribs text[] not null,
    effect_type text not null,
    damage_type text,
    aspect text,
    kind text,
    application text,
    target text,
    table_name text,
    scale double precision not null,
    magnitude double precision not null,
    duration_s double precision,
    until_killed boolean not null,
    delay_s double precision not null,
    period_s double precision not null,
    tick_chance double precision not null,
    stack text,
    stack_limit integer,
    stack_key text,
    flags text[] not null,
    params jsonb
) partition by list (archetype_id);

-- index: power_effects_pkey
-- primary key
alter table {table} add constraint {index} primary key (id, powerset_id, archetype_id);

-- index: idx_power_effect_power
create index {index} on {table} (power_id);
