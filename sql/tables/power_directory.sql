-- One row per power of the build: the way from a name or an id to its leaf. A unique index on internal_name alone cannot
-- exist on the partitioned table, so names and ids are unique here.

-- create
create table {schema}.power_directory (
    id bigint not null,
    internal_name text not null,
    archetype_id integer not null,
    powerset_id integer not null
);

-- index: power_directory_pkey
-- primary key
alter table {table} add constraint {index} primary key (id);

-- index: idx_power_directory_name
create unique index {index} on {table} (internal_name);

-- index: idx_power_directory_powerset
create index {index} on {table} (powerset_id);
