-- One row per power and kind of enhancement that may be slotted into it. enhancement_type is one vocabulary for all
-- formats; source_name is the word of the source.

-- create
create table {schema}.power_enhancement_compatibility (
    id bigint not null,
    power_id bigint not null,
    enhancement_type text not null,
    source_name text not null,
    allowed boolean not null,
    created_at timestamptz not null default now()
);

-- index: power_enhancement_compatibility_pkey
-- primary key
alter table {table} add constraint {index} primary key (id);

-- index: idx_power_enhancement_type
create unique index {index} on {table} (power_id, enhancement_type);
