-- One row per powerset of the data, and per entry of a powersets file. full_name is "Category.Set", unique in any case.

-- create
create table {schema}.powersets (
    id integer not null,
    name text not null,
    full_name text not null,
    display_name text not null,
    description text,
    archetype_id integer not null,
    powerset_type text not null,
    icon_path text,
    category text not null,
    available_levels integer[] not null default '{{}}',
    power_order text[] not null default '{{}}',
    requires_expr text not null default '',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- index: powersets_pkey
-- primary key
alter table {table} add constraint {index} primary key (id);

-- index: idx_powerset_full_name
create unique index {index} on {table} (lower(full_name));

-- index: idx_powerset_archetype
create index {index} on {table} (archetype_id, powerset_type);

-- index: idx_powerset_name
create index {index} on {table} (lower(name));
