-- One row per mention of a power or powerset in the condition under which a power may be taken (MidsReborn: of a class,
-- too). Rows of one group_no hold together, different ones are alternatives; a null group_no means that the condition
-- has no such form. powers.requires_expr is the truth, this is its index.

-- create
create table {schema}.power_prerequisites (
    id bigint not null,
    power_id bigint not null,
    required_power_id bigint,
    required_level integer,
    prerequisite_type text not null,
    group_no integer,
    required_uid text not null,
    required_kind text not null,
    negated boolean not null,
    min_count integer not null,
    created_at timestamptz not null default now()
);

-- index: power_prerequisites_pkey
-- primary key
alter table {table} add constraint {index} primary key (id);

-- index: idx_power_prerequisite_power
create index {index} on {table} (power_id);

-- index: idx_power_prerequisite_required
create index {index} on {table} (required_uid);
