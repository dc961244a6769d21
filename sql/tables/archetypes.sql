-- One row per archetype key of the data, and per entry of an archetypes file. name is the key ("blaster", "npc").

-- create
create table {schema}.archetypes (
    id integer not null,
    name text not null,
    display_name text not null,
    description text,
    is_player boolean not null,
    primary_group text,
    secondary_group text,
    hit_points_base double precision,
    hit_points_max double precision,
    inherent_power_id bigint,
    modifiers jsonb not null default '{{}}',
    icon_path text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- index: archetypes_pkey
-- primary key
alter table {table} add constraint {index} primary key (id);

-- index: idx_archetype_name
create unique index {index} on {table} (name);
