-- Schema etl as all migrations leave it, to read at one place what they say one after the other. A database is never made
-- from this file: etl db migrate does that. tests/test_migrations.py applies both and demands that nothing differs.

create schema etl;

create table etl.migration (
    version integer primary key,
    name text not null,
    applied_at timestamptz not null default now()
);

create table etl.archetype_key (
    id integer primary key,
    uid text not null unique
);
comment on table etl.archetype_key is 'Durable ids of archetype keys; an id is never changed and never reused.';

create table etl.powerset_key (
    id integer primary key,
    uid text not null unique
);
comment on table etl.powerset_key is 'Durable ids of powersets by lower-case "category.set".';

create table etl.power_key (
    id bigint primary key,
    uid text not null unique
);
comment on table etl.power_key is 'Durable ids of powers by lower-case full name; foreign keys from outside may point here.';

create table etl.build (
    build integer primary key,
    live_schema text not null,
    split_id text not null,
    store text not null,
    format text not null,
    game_version text,
    tables text[] not null,
    versions jsonb not null,
    plan jsonb not null,
    epoch integer not null default 0,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    published_at timestamptz,
    dropped_at timestamptz
);
comment on table etl.build is 'One row per build schema; plan is its leaves, versions those of transforms and DDL.';

create table etl.live (
    live_schema text primary key,
    build integer not null references etl.build,
    previous integer references etl.build,
    generation bigint not null,
    flipped_at timestamptz not null default clock_timestamp(),
    origin uuid not null default gen_random_uuid(),
    base bigint not null default 1
);
comment on column etl.live.base is 'The generation that was published whole; since then only etl.change and etl.powerset_change changed.';
comment on table etl.live is 'Which build counts for a live schema; changing this row is the publication.';
-- Whoever reads a view reads this row with his own rights while builds change; schema etl is closed to him.
grant select on etl.live to public;

create table etl.receipt (
    build integer not null references etl.build,
    table_name text not null,
    leaf text not null,
    input_digest text not null,
    version text not null,
    rows bigint not null,
    bytes bigint not null,
    seconds double precision not null,
    worker integer not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (build, table_name, leaf)
);
comment on table etl.receipt is 'Committed in one transaction with the rows it speaks of: plan = wanted - receipts.';

create table etl.reject (
    build integer not null references etl.build,
    leaf text not null,
    source text not null,
    file text,
    ordinal bigint not null,
    byte_offset bigint not null,
    uid text,
    stage text not null,
    code text not null,
    reason text not null,
    raw text not null
);
create index reject_build on etl.reject (build, leaf);
comment on table etl.reject is 'Records set aside by a load; those set aside by the split are in the store.';

create table etl.run (
    id bigint generated always as identity primary key,
    import_type text not null,
    command text not null,
    live_schema text not null,
    source_file text not null,
    source_hash text not null,
    game_version text,
    build integer,
    state text not null,
    who text not null,
    workers integer not null,
    records_seen bigint not null default 0,
    records_loaded bigint not null default 0,
    records_superseded bigint not null default 0,
    records_rejected bigint not null default 0,
    peak_memory_bytes bigint,
    timings jsonb not null default '{}',
    import_data jsonb not null default '{}',
    message text,
    started_at timestamptz not null default clock_timestamp(),
    completed_at timestamptz
);
comment on table etl.run is 'The import log: one row per run, ended with its state (done, stopped, failed).';

create table etl.leaf_log (
    run_id bigint not null references etl.run on delete cascade,
    build integer not null,
    table_name text not null,
    leaf text not null,
    rows bigint not null,
    bytes bigint not null,
    seconds double precision not null,
    at timestamptz not null default clock_timestamp()
);
create index leaf_log_run on etl.leaf_log (run_id);
comment on table etl.leaf_log is 'One row per leaf and table that a run loaded.';

create table etl.publication (
    live_schema text not null,
    generation bigint not null,
    kind text not null check (kind in ('build', 'update', 'rollback')),
    build integer not null references etl.build,
    split_id text not null,
    previous_split_id text,
    whole boolean not null default true,
    run_id bigint,
    at timestamptz not null default clock_timestamp(),
    primary key (live_schema, generation)
);
comment on table etl.publication is 'One row per generation of a live schema: what was published, and what the way back is.';

create table etl.change (
    live_schema text not null,
    generation bigint not null,
    kind text not null check (kind in ('changed', 'new', 'gone', 'renewed', 'around')),
    power_id bigint not null,
    internal_name text not null,
    archetype_id integer not null,
    powerset_id integer not null,
    primary key (live_schema, generation, power_id),
    foreign key (live_schema, generation) references etl.publication on delete cascade
);
create index change_power on etl.change (live_schema, power_id, generation);
comment on table etl.change is 'The powers that each update touched; around: only the row of their powerset or archetype changed.';

create table etl.powerset_change (
    live_schema text not null,
    generation bigint not null,
    powerset_id integer not null,
    primary key (live_schema, powerset_id, generation),
    foreign key (live_schema, generation) references etl.publication on delete cascade
);
create index powerset_change_generation on etl.powerset_change (live_schema, generation);
comment on table etl.powerset_change is 'The powersets that each update touched: a power of theirs, their own row, their archetype.';

create table etl.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    db_user text not null default session_user,
    client inet default inet_client_addr(),
    who text not null,
    host text not null,
    command text not null,
    live_schema text not null,
    build integer,
    outcome text not null,
    message text
);
comment on table etl.audit is 'Append-only: one row when a command begins to change something, one when it ended.';

create function etl.refuse_to_rewrite() returns trigger
language plpgsql
as $$
begin
    raise exception 'etl.audit is append-only: % is refused', lower(tg_op) using errcode = 'insufficient_privilege';
end
$$;
comment on function etl.refuse_to_rewrite() is 'Keeps etl.audit append-only.';

create trigger audit_is_append_only
before update or delete or truncate on etl.audit
for each statement execute function etl.refuse_to_rewrite();
