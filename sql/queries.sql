-- Named queries. Each begins with "-- name: <name>" and a comment saying what it promises.
-- {holes} are identifiers or literals composed by psycopg.sql; values are parameters.

-- name: create_ledger
-- The schema and the table of migrations; may be run twice.
do $$
begin
    create schema if not exists etl;
    create table if not exists etl.migration (
        version integer primary key,
        name text not null,
        applied_at timestamptz not null default now()
    );
end
$$;

-- name: lock_ledger
-- Two migrators wait for each other.
lock table etl.migration in exclusive mode;

-- name: record_migration
-- In the transaction of the migration itself.
insert into etl.migration (version, name) values (%s, %s);

-- name: foreign_relations_in_ledger
-- Relations of a schema "etl" that is not ours: it has relations but no table of migrations.
select c.relname
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'etl'
  and c.relkind in ('r', 'p', 'v', 'm')
  and to_regclass('etl.migration') is null
order by 1;

-- name: foreign_relations_in_live_schema
-- Relations of the live schema that no publication made: anything but views that have the mark of ours in their comment.
select c.relname
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s
  and c.relname = any (%(names)s)
  and (c.relkind <> 'v' or not exists (select from etl.live where live_schema = %(schema)s))
order by 1;

-- name: try_run_lock
-- The lock of one coordinator per live schema; held by the session.
select pg_try_advisory_lock(%(space)s, hashtext(%(schema)s));

-- name: run_lock_holder
-- Who holds the coordinator's lock: application name, user, client, since when.
select a.application_name, a.usename, coalesce(a.client_addr::text, 'local'), a.backend_start
from pg_locks l
join pg_stat_activity a using (pid)
where l.locktype = 'advisory'
  and l.classid::bigint = %(space)s
  and l.objid::bigint = hashtext(%(schema)s)::bigint & 4294967295
  and l.mode = 'ExclusiveLock'
  and l.granted
  and l.database = (select oid from pg_database where datname = current_database());

-- name: live
-- The published build of a live schema with its generation; empty when nothing was published.
select l.build, l.generation, l.previous, l.flipped_at, b.split_id, b.tables, b.versions, b.format, b.game_version, b.store
from etl.live l
join etl.build b using (build)
where l.live_schema = %(schema)s;

-- name: unfinished_builds
-- Builds that were begun for a live schema and neither published nor dropped, newest first.
select build, split_id, tables, versions, plan
from etl.build
where live_schema = %(schema)s
  and published_at is null
  and dropped_at is null
order by build desc;

-- name: create_build
-- The next build number, with its plan.
insert into etl.build (build, live_schema, split_id, store, format, game_version, tables, versions, plan)
select coalesce(max(build), 0) + 1, %(schema)s, %(split_id)s, %(store)s, %(format)s, %(game_version)s, %(tables)s, %(versions)s, %(plan)s
from etl.build
returning build;

-- name: raise_epoch
-- From here on, workers of an older coordinator refuse to go on.
update etl.build
set epoch = epoch + 1
where build = %(build)s
returning epoch;

-- name: end_older_workers
-- Terminates the backends that hold the shared lock of a build: workers of a coordinator that is gone.
select pg_terminate_backend(l.pid)
from pg_locks l
where l.locktype = 'advisory'
  and l.classid::bigint = %(space)s + 1
  and l.objid::bigint = %(build)s
  and l.pid <> pg_backend_pid()
  and l.database = (select oid from pg_database where datname = current_database());

-- name: lock_build_alone
-- Waits until no worker of the build is left; released at the end of the transaction.
select pg_advisory_xact_lock(%(space)s + 1, %(build)s);

-- name: lock_build_shared
-- A worker's sign that it is at work on a build; held to the end of its transaction.
select pg_advisory_xact_lock_shared(%(space)s + 1, %(build)s);

-- name: build_epoch
-- The epoch a worker must have been started in.
select epoch from etl.build where build = %(build)s for key share;

-- name: stage_names
-- Names of one split on their way into the registry.
create temporary table staged_name (
    uid text not null,
    internal_name text not null,
    archetype text not null,
    powerset text not null
) on commit drop;

-- name: register_archetypes
-- Ids in uid order, dense; known ones stay.
insert into etl.archetype_key (id, uid)
select (select coalesce(max(id), 0) from etl.archetype_key) + row_number() over (order by uid collate "C"), uid
from unnest(%(uids)s::text[]) as wanted (uid)
where not exists (select from etl.archetype_key k where k.uid = wanted.uid);

-- name: register_powersets
-- Ids in uid order, dense; known ones stay.
insert into etl.powerset_key (id, uid)
select (select coalesce(max(id), 0) from etl.powerset_key) + row_number() over (order by uid collate "C"), uid
from unnest(%(uids)s::text[]) as wanted (uid)
where not exists (select from etl.powerset_key k where k.uid = wanted.uid);

-- name: register_powers
-- Ids in uid order, dense; known ones stay.
insert into etl.power_key (id, uid)
select (select coalesce(max(id), 0) from etl.power_key) + row_number() over (order by uid collate "C"), uid
from staged_name s
where not exists (select from etl.power_key k where k.uid = s.uid);

-- name: fill_directory
-- The way from a name or an id to its leaf, for every winner of the split.
insert into {schema}.power_directory (id, internal_name, archetype_id, powerset_id)
select k.id, s.internal_name, a.id, p.id
from staged_name s
join etl.power_key k using (uid)
join etl.archetype_key a on a.uid = s.archetype
join etl.powerset_key p on p.uid = s.powerset
order by k.id;

-- name: archetype_ids
-- Every archetype key with its id.
select uid, id from etl.archetype_key;

-- name: powerset_ids
-- The ids of the named powersets.
select uid, id from etl.powerset_key where uid = any (%(uids)s);

-- name: leaf_power_ids
-- The powers of a leaf's powersets: uid and id.
select k.uid, d.id
from {schema}.power_directory d
join etl.power_key k on k.id = d.id
where d.powerset_id = any (%(powersets)s);

-- name: resolve_powers
-- Those of the named powers that exist in this build.
select k.uid, k.id
from etl.power_key k
join {schema}.power_directory d on d.id = k.id
where k.uid = any (%(uids)s);

-- name: power_order
-- The members of each set in the order of the source's own list.
select s.power_order
from {schema}.powersets s
where s.id = any (%(powersets)s);

-- name: receipts
-- What is done of a build: table, leaf, digest of the input, version, rows.
select table_name, leaf, input_digest, version, rows, bytes
from etl.receipt
where build = %(build)s;

-- name: record_receipt
-- Committed with the rows it speaks of.
insert into etl.receipt (build, table_name, leaf, input_digest, version, rows, bytes, seconds, worker)
values (%(build)s, %(table)s, %(leaf)s, %(digest)s, %(version)s, %(rows)s, %(bytes)s, %(seconds)s, %(worker)s);

-- name: record_leaf_log
-- The import log's line for a leaf and table.
insert into etl.leaf_log (run_id, build, table_name, leaf, rows, bytes, seconds)
values (%(run)s, %(build)s, %(table)s, %(leaf)s, %(rows)s, %(bytes)s, %(seconds)s);

-- name: record_reject
-- A record set aside by a load; in the transaction of its leaf.
insert into etl.reject (build, leaf, source, file, ordinal, byte_offset, uid, stage, code, reason, raw)
values (%(build)s, %(leaf)s, %(source)s, %(file)s, %(ordinal)s, %(offset)s, %(uid)s, %(stage)s, %(code)s, %(reason)s, %(raw)s);

-- name: remove_from_directory
-- A power that was set aside has no place in the directory.
delete from {schema}.power_directory where id = any (%(ids)s);

-- name: unresolve_missing
-- References to powers that were set aside point nowhere again.
update {schema}.power_prerequisites p
set required_power_id = null
where required_power_id is not null
  and not exists (select from {schema}.power_directory d where d.id = p.required_power_id);

-- name: load_rejects
-- Records that a build set aside, by place.
select source, file, ordinal, byte_offset, uid, stage, code, reason, raw
from etl.reject
where build = %(build)s
order by source, ordinal;

-- name: begin_run
-- A line of the import log.
insert into etl.run (import_type, command, live_schema, source_file, source_hash, game_version, build, state, who, workers)
values (%(type)s, %(command)s, %(schema)s, %(source)s, %(hash)s, %(game_version)s, %(build)s, 'running', %(who)s, %(workers)s)
returning id;

-- name: end_run
-- The end of a line of the import log.
update etl.run
set state = %(state)s,
    records_seen = %(records)s,
    records_loaded = %(loaded)s,
    records_superseded = %(superseded)s,
    records_rejected = %(rejected)s,
    peak_memory_bytes = %(peak)s,
    timings = %(timings)s,
    import_data = %(data)s,
    message = %(message)s,
    completed_at = clock_timestamp()
where id = %(run)s;

-- name: close_lost_runs
-- Runs that ended without a word (killed): only the holder of the coordinator's lock may say so.
update etl.run
set state = 'stopped',
    message = 'ended without a word; its finished leaves are kept',
    completed_at = clock_timestamp()
where live_schema = %(schema)s
  and state = 'running';

-- name: finish_build
-- All tables, indexes and views of the build are there.
update etl.build set finished_at = clock_timestamp() where build = %(build)s;

-- name: flip
-- The publication: one row, with a word to whoever listens.
insert into etl.live as l (live_schema, build, generation)
values (%(schema)s, %(build)s, 1)
on conflict (live_schema) do update
set build = excluded.build,
    previous = l.build,
    generation = l.generation + 1,
    flipped_at = clock_timestamp()
returning generation;

-- name: mark_published
-- In the transaction of the flip.
update etl.build set published_at = clock_timestamp() where build = %(build)s;

-- name: notify_generation
-- In the transaction of the flip.
select pg_notify('etl_live', %(schema)s || ' ' || %(generation)s::text);

-- name: snapshots_before
-- Sessions of this database whose snapshot is older than a transaction id: they may still read the old build.
select count(*)
from pg_stat_activity
where datname = current_database()
  and pid <> pg_backend_pid()
  and backend_xmin is not null
  and age(backend_xmin) >= age(%(xid)s::text::xid);

-- name: drop_build_row
-- The build's schema is gone; its row stays for the history.
update etl.build set dropped_at = clock_timestamp() where build = %(build)s;

-- name: forget_build
-- Receipts and rejects of a dropped build.
with r as (delete from etl.receipt where build = %(build)s)
delete from etl.reject where build = %(build)s;

-- name: relations_of_schema
-- Tables and views of a schema in an order in which they can be dropped: children before parents, and what foreign
-- keys point to last.
select c.relname, c.relkind
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s
  and c.relkind in ('r', 'p', 'v', 'm')
order by c.relkind = 'm' desc,
         c.relispartition desc,
         (c.relispartition and c.relkind = 'r') desc,
         exists (select from pg_constraint k where k.confrelid = c.oid and k.contype = 'f'),
         c.relname desc;

-- name: outside_dependents
-- Objects outside a build schema that depend on its relations: (what, on what).
select distinct pg_describe_object(d.classid, d.objid, d.objsubid), t.relname
from pg_depend d
join pg_class t on t.oid = d.refobjid and d.refclassid = 'pg_class'::regclass
join pg_namespace tn on tn.oid = t.relnamespace
left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
left join pg_class v on v.oid = coalesce(r.ev_class, case when d.classid = 'pg_class'::regclass then d.objid end)
left join pg_namespace vn on vn.oid = v.relnamespace
where tn.nspname = %(schema)s
  and d.deptype in ('n', 'a')
  and v.oid is not null
  and vn.nspname <> %(schema)s;

-- name: latest_runs
-- The import log, newest first.
select id, import_type, source_file, game_version, build, state, who, workers,
       records_seen, records_loaded, records_superseded, records_rejected,
       peak_memory_bytes, started_at, completed_at, message, timings
from etl.run
where live_schema = %(schema)s
order by id desc
limit %(limit)s;

-- name: power_by_id
-- One power with its set and archetype, through the directory.
select p.*, s.name as powerset_name, s.display_name as powerset_display_name, a.name as archetype_name
from {schema}.power_directory d
join {schema}.powers p on p.archetype_id = d.archetype_id and p.powerset_id = d.powerset_id and p.id = d.id
join {schema}.powersets s on s.id = d.powerset_id
join {schema}.archetypes a on a.id = d.archetype_id
where d.id = %(id)s;

-- name: power_id_by_name
-- The id of a power by its full name, in any spelling of case.
select k.id
from etl.power_key k
join {schema}.power_directory d on d.id = k.id
where k.uid = lower(%(name)s);

-- name: powers_called
-- Powers whose own or display name is the given one: full names, for a person who did not give one.
select d.internal_name
from {schema}.powers p
join {schema}.power_directory d on d.id = p.id
where p.name = %(name)s or p.display_name = %(name)s
order by 1
limit 20;

-- name: powersets_called
-- Powersets by full name, own name or display name: id and full name.
select s.id, s.full_name
from {schema}.powersets s
where lower(s.full_name) = lower(%(name)s)
   or lower(s.name) = lower(%(name)s)
   or lower(s.display_name) = lower(%(name)s)
order by lower(s.full_name) <> lower(%(name)s), s.full_name;

-- name: powers_of_set
-- The powers of a set in the order of their level, up to a level.
select p.id, p.internal_name, p.display_name, p.level_available, p.power_type, p.target_type, p.accuracy,
       p.damage_scale, p.endurance_cost, p.recharge_time
from {schema}.powers p
where p.powerset_id = %(powerset)s
  and (%(level)s::integer is null or p.level_available <= %(level)s::integer)
order by p.level_available, p.display_order, p.internal_name;

-- name: extension
-- The schema an extension is installed in (null: not installed), and whether it could be installed.
select (select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = %(name)s),
       exists (
           select from pg_available_extension_versions v
           where v.name = %(name)s
             and (v.superuser is false or v.trusted or (select rolsuper from pg_roles where rolname = current_user))
             and has_database_privilege(current_database(), 'create')
       );

-- name: create_extension
-- Trusted extensions need no superuser.
create extension if not exists {name};

-- name: see_schema
-- For the rest of the transaction, names are looked up here.
select set_config('search_path', %s, true);

-- name: create_schema
-- A build's schema, which only its owner uses until it is published.
create schema {schema};

-- name: create_branch
-- The table of one archetype.
create table {branch} partition of {parent} for values in ({archetype}) partition by range (powerset_id);

-- name: create_leaf
-- Standalone, so that no lock is taken above it: columns, defaults and storage of the parent, no indexes yet.
create table {leaf} (like {parent} including defaults including storage including compression including constraints);

-- name: check_leaf
-- What the partition bounds will say, so that ATTACH need not scan.
alter table {leaf} add constraint {constraint} check ({condition});

-- name: attach_leaf
-- Bounds are proven by the CHECK; indexes are adopted.
alter table {branch} attach partition {leaf} for values from ({lower}) to ({upper});

-- name: drop_view
drop materialized view if exists {relation};

-- name: drop_table
drop table if exists {relation};

-- name: drop_schema
drop schema if exists {schema};

-- name: lock_registry
-- Ids are given out by one transaction at a time.
select pg_advisory_xact_lock(%(space)s + 2, 0);

-- name: analyze_directory
analyze {schema}.power_directory;

-- name: clear_entities
-- Archetypes and powersets are written whole.
truncate {schema}.archetypes, {schema}.powersets;

-- name: link_powersets
-- Every powerset has its archetype.
alter table {schema}.powersets
add constraint powersets_archetype_id_fkey foreign key (archetype_id) references {schema}.archetypes (id);

-- name: link_powers
-- Every power has its powerset.
alter table {schema}.powers
add constraint powers_powerset_id_fkey foreign key (powerset_id) references {schema}.powersets (id);

-- name: count_rows
select count(*) from {relation};

-- name: columns_of
-- The columns of a relation in order.
select a.attname
from pg_attribute a
where a.attrelid = format('%%I.%%I', %(schema)s::text, %(name)s::text)::regclass
  and a.attnum > 0
  and not a.attisdropped
order by a.attnum;

-- name: relation_exists
select to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text)) is not null;

-- name: create_live_schema
create schema if not exists {schema};

-- name: view_settled
-- What applications see when one build counts.
create or replace view {view} as
select {columns}
from {new};

-- name: view_widened
-- What applications see around a publication: the row in etl.live says which of the two builds.
create or replace view {view} as
select {columns}
from {old}
where (select l.build from etl.live l where l.live_schema = {live}) = {old_build}
union all
select {columns}
from {new}
where (select l.build from etl.live l where l.live_schema = {live}) = {new_build};

-- name: lock_timeout
-- For the rest of the transaction: how long to wait for a lock, in milliseconds.
select set_config('lock_timeout', %(milliseconds)s::text, true);

-- name: transactions_in_progress
-- The virtual transactions of this database that are open now, other than ours.
select l.virtualtransaction
from pg_locks l
join pg_stat_activity a using (pid)
where l.locktype = 'virtualxid'
  and l.pid <> pg_backend_pid()
  and a.datname = current_database();

-- name: import_logs_view
-- The run ledger under the names that applications know.
create or replace view {schema}.import_logs as
select r.id,
       r.import_type,
       r.source_file,
       r.game_version,
       r.records_seen as records_processed,
       r.records_loaded as records_imported,
       r.records_rejected as errors,
       r.import_data,
       r.started_at,
       r.completed_at,
       r.started_at as created_at
from etl.run r
where r.live_schema = {live};

-- name: analyze
analyze {relation};

-- name: builds_of
-- Builds of a live schema that have not been dropped.
select build
from etl.build
where live_schema = %(schema)s
  and dropped_at is null
order by build;

-- name: other_live_schemas
-- Live schemas that other builds serve.
select distinct live_schema
from etl.build
where live_schema <> %(schema)s
  and dropped_at is null
order by 1;

-- name: drop_live_view
drop view if exists {view};

-- name: drop_ledger
-- Everything durable: keys, receipts, the import log.
drop schema if exists etl cascade;

-- name: schema_is_empty
-- Whether a schema exists and holds no relation and no function.
select exists (select from pg_namespace where nspname = %(schema)s)
   and not exists (select from pg_class c where c.relnamespace = to_regnamespace(%(schema)s::text))
   and not exists (select from pg_proc p where p.pronamespace = to_regnamespace(%(schema)s::text));

-- name: build_overview
-- The builds of a live schema that still exist, newest first, with their size on disk.
select b.build,
       b.live_schema || '_b' || b.build,
       b.split_id,
       b.game_version,
       case
           when b.build = l.build then 'live'
           when b.build = l.previous then 'previous'
           when b.published_at is null then 'unfinished'
           else 'older'
       end,
       (
           select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
           from pg_class c
           where c.relnamespace = to_regnamespace(quote_ident(b.live_schema || '_b' || b.build))
             and c.relkind in ('r', 'm')
       ),
       to_char(b.published_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
from etl.build b
left join etl.live l on l.live_schema = b.live_schema
where b.live_schema = %(schema)s
  and b.dropped_at is null
order by b.build desc;

-- name: newest_unfinished
-- The newest build that is neither published nor dropped, with its plan and the records it has set aside so far.
select b.build, b.store, b.split_id, b.tables, b.plan,
       (select count(*) from etl.reject r where r.build = b.build)
from etl.build b
where b.live_schema = %(schema)s
  and b.published_at is null
  and b.dropped_at is null
order by b.build desc
limit 1;
