-- Named queries. Each begins with "-- name: <name>" and a comment saying what it promises.
-- {holes} are identifiers or literals composed by psycopg.sql; values are parameters.

-- name: create_ledger
-- The schema and the table of migrations; may be run twice, also by two at once. The lock is db.LOCK_SPACE + 3.
do $$
begin
    perform pg_advisory_xact_lock(6648943, 0);
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

-- name: refuse_repetition
-- Before a migration, under the lock: another migrator may have been faster. The SQLSTATE is ours.
do $$
begin
    if exists (select from etl.migration where version = {version}) then
        raise sqlstate 'ETL01' using message = 'this migration is applied already';
    end if;
end
$$;

-- name: record_migration
-- In the transaction of the migration itself.
insert into etl.migration (version, name) values ({version}, {name});

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
-- Relations of the live schema that no publication made: anything but views that read schema "etl". The first publication
-- may have been killed before its flip, so that etl.live need not know of them.
select c.relname
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %(schema)s
  and c.relname = any (%(names)s)
  and not exists (
      select
      from pg_rewrite r
      join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
      left join pg_proc f on d.refclassid = 'pg_proc'::regclass and f.oid = d.refobjid
      left join pg_class t on d.refclassid = 'pg_class'::regclass and t.oid = d.refobjid
      where r.ev_class = c.oid
        and c.relkind = 'v'
        and 'etl'::regnamespace in (f.pronamespace, t.relnamespace)
  )
order by 1;

-- name: try_run_lock
-- The lock of one coordinator per live schema; held by the session.
select pg_try_advisory_lock(%(space)s, hashtext(%(schema)s));

-- name: own_backend
-- Which server process serves this connection, and since when.
select pid, backend_start from pg_stat_activity where pid = pg_backend_pid();

-- name: end_former_self
-- Ends the server process of a connection that is lost on our side, if it has not noticed yet; waits up to five seconds.
select pg_terminate_backend(pid, 5000)
from pg_stat_activity
where pid = %(pid)s
  and backend_start = %(since)s
  and pid <> pg_backend_pid();

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

-- name: next_build
-- The number of the next build: nobody else takes it, once lock_registry is had, to the end of the transaction.
select coalesce(max(build), 0) + 1 from etl.build;

-- name: create_build
-- A build with its plan.
insert into etl.build (build, live_schema, split_id, store, format, game_version, tables, versions, plan)
values (
    %(build)s, %(schema)s, %(split_id)s, %(store)s, %(format)s, %(game_version)s, %(tables)s, %(versions)s, %(plan)s
);

-- name: insert_rows
-- Rows from a JSON array of objects, whose keys are columns.
insert into {relation} ({columns})
select {columns} from json_populate_recordset(null::{relation}, %(rows)s::json);

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

-- name: bound_worker
-- What a worker's transaction, or its session, may take of the server: one process, and at most 256 MB for an index.
select set_config('max_parallel_maintenance_workers', '0', %(local)s),
       set_config(
           'maintenance_work_mem',
           least(pg_size_bytes(current_setting('maintenance_work_mem')), 268435456) / 1024 || 'kB',
           %(local)s
       );

-- name: build_is_ours
-- Whether a build is still there and nobody has taken it over.
select epoch = %(epoch)s and dropped_at is null from etl.build where build = %(build)s;

-- name: name_transaction
-- What the session is called to the end of its transaction.
select set_config('application_name', %(name)s, true);

-- name: lock_piece
-- One at a time works on a piece of a build: the transaction of a worker that was killed may still be on its way out.
select pg_advisory_xact_lock(%(space)s + 2, hashtext(%(build)s::text || ' ' || %(piece)s::text));

-- name: receipts_of_piece
-- The receipts of one piece of a build: table, rows, bytes, seconds.
select table_name, rows, bytes, seconds
from etl.receipt
where build = %(build)s
  and leaf = %(piece)s
  and table_name = any (%(tables)s);

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
-- Dense ids, partition by partition in the order of their ids, in uid order within each; known ones stay.
insert into etl.power_key (id, uid)
select
    (select coalesce(max(id), 0) from etl.power_key)
    + row_number() over (order by a.id, p.id, s.uid collate "C"),
    s.uid
from staged_name s
join etl.archetype_key a on a.uid = s.archetype
join etl.powerset_key p on p.uid = s.powerset
where not exists (select from etl.power_key k where k.uid = s.uid);

-- name: some_power_is_known
-- Whether any power ever had an id.
select exists (select from etl.power_key);

-- name: create_enrolment
-- Names and ids of a database's first powers, from the leaves on their way into the registry: where no power has an id.
do $$
begin
    if not exists (select from etl.power_key) then
        create table {enrolment} (
            id bigint not null,
            uid text not null
        ) with (autovacuum_enabled = off);
    end if;
end
$$;

-- name: close_enrolment
-- Nobody else has it from here on to the end of the transaction, in which it is dropped.
lock table {schema}.enrolment in access exclusive mode;

-- name: bytes_of_enrolment
-- What the leaves of a build have sent for its directory and for the registry, by the log.
select coalesce(sum(bytes), 0)::bigint
from etl.leaf_log
where build = %(build)s
  and table_name = 'power_directory';

-- name: resolve_enrolled
-- References to powers of other leaves; what is set aside loses them again when the build is finished.
update {schema}.power_prerequisites p
set required_power_id = e.id
from {schema}.enrolment e
where e.uid = p.required_uid
  and p.required_kind = 'power'
  and p.required_power_id is null;

-- name: take_keys_away
-- From the empty registry, for the rest of the transaction; nobody is waited for. Rows in its new file make no WAL where
-- wal_level is minimal.
lock table etl.power_key in access exclusive mode nowait;
alter table etl.power_key
drop constraint power_key_pkey,
drop constraint power_key_uid_key;
truncate etl.power_key;

-- name: give_keys_back
alter table etl.power_key
add constraint power_key_pkey primary key (id),
add constraint power_key_uid_key unique (uid);

-- name: enrol_powers
-- The first powers of a database, all at once.
insert into etl.power_key (id, uid)
select id, uid
from {schema}.enrolment
order by id;

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
-- The powers of a leaf's powersets: internal name and id. Their uids are in the registry, too, but joining that costs a
-- scan of it per leaf.
select internal_name, id
from {schema}.power_directory
where powerset_id = any (%(powersets)s);

-- name: resolve_powers
-- Those of the named powers that exist in this build.
select k.uid, k.id
from etl.power_key k
join {schema}.power_directory d on d.id = k.id
where k.uid = any (%(uids)s);

-- name: power_order
-- The members of each set in the order of the source's own list; where two lists have a power, the later name counts.
select s.power_order
from {schema}.powersets s
join etl.powerset_key k using (id)
where s.id = any (%(powersets)s)
order by k.uid collate "C";

-- name: receipts
-- What is done of a build: table, leaf, digest of the input, version, rows.
select table_name, leaf, input_digest, version, rows, bytes
from etl.receipt
where build = %(build)s;

-- name: record_receipt
-- Committed with the rows it speaks of; the seconds are those since the transaction began.
insert into etl.receipt (build, table_name, leaf, input_digest, version, rows, bytes, seconds, worker)
values (
    %(build)s, %(table)s, %(leaf)s, %(digest)s, %(version)s, %(rows)s, %(bytes)s,
    extract(epoch from clock_timestamp() - now()), %(worker)s
);

-- name: record_leaf_log
-- The import log's line for a leaf and table, beside its receipt.
insert into etl.leaf_log (run_id, build, table_name, leaf, rows, bytes, seconds)
values (
    %(run)s, %(build)s, %(table)s, %(leaf)s, %(rows)s, %(bytes)s,
    extract(epoch from clock_timestamp() - transaction_timestamp())
);

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
insert into etl.live as l (live_schema, build, generation, base)
values (%(schema)s, %(build)s, 1, 1)
on conflict (live_schema) do update
set build = excluded.build,
    previous = l.build,
    generation = l.generation + 1,
    base = l.generation + 1,
    flipped_at = clock_timestamp()
returning generation;

-- name: record_publication
-- In the transaction that raises the generation.
insert into etl.publication (live_schema, generation, kind, build, split_id, previous_split_id, whole, run_id)
values (%(schema)s, %(generation)s, %(kind)s, %(build)s, %(split_id)s, %(previous)s, %(whole)s, %(run)s);

-- name: mark_published
-- In the transaction of the flip.
update etl.build set published_at = clock_timestamp() where build = %(build)s;

-- name: notify_generation
-- In the transaction of the flip.
select pg_notify('etl_live', %(schema)s || ' ' || %(generation)s::text);

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
         c.relkind = 'v' desc,
         c.relispartition desc,
         (c.relispartition and c.relkind = 'r') desc,
         exists (select from pg_constraint k where k.confrelid = c.oid and k.contype = 'f'),
         c.relname desc;

-- name: outside_dependents
-- Objects outside a build schema that depend on its relations: (what, on what). Views, materialized views, foreign keys,
-- functions, tables with columns of a row type.
with inside as (
    select 'pg_class'::regclass as class, c.oid, c.relname, c.relnamespace
    from pg_class c
    where c.relnamespace = to_regnamespace(quote_ident(%(schema)s))
      and c.relkind not in ('i', 'I')
    union all
    select 'pg_type'::regclass, c.reltype, c.relname, c.relnamespace
    from pg_class c
    where c.relnamespace = to_regnamespace(quote_ident(%(schema)s))
      and c.reltype <> 0
)
select distinct
       case when v.oid is null then pg_describe_object(d.classid, d.objid, 0)
            else pg_describe_object('pg_class'::regclass, v.oid, 0)
       end,
       i.relname
from inside i
join pg_depend d on d.refclassid = i.class and d.refobjid = i.oid
left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
left join pg_class v on v.oid = case d.classid when 'pg_class'::regclass then d.objid else r.ev_class end
left join pg_constraint k on d.classid = 'pg_constraint'::regclass and k.oid = d.objid
left join pg_proc f on d.classid = 'pg_proc'::regclass and f.oid = d.objid
where d.deptype in ('n', 'a')
  and coalesce(v.relnamespace, k.connamespace, f.pronamespace) <> i.relnamespace
order by 1, 2;

-- name: latest_runs
-- The import log, newest first.
select id, import_type, source_file, game_version, build, state, who, workers,
       records_seen, records_loaded, records_superseded, records_rejected,
       peak_memory_bytes, started_at, completed_at, message, timings,
       (select sum(value::bigint)::bigint from jsonb_each_text(import_data->'bytes')) as bytes_sent
from etl.run
where live_schema = %(schema)s
order by id desc
limit %(limit)s;

-- name: place_of_power
-- The partition keys of a power, from the directory.
select archetype_id as archetype, powerset_id as powerset
from {schema}.power_directory
where id = %(id)s;

-- name: power_in_place
-- One power with its set and archetype. The keys are values, so that planning looks at one leaf and not at all of them.
select p.*, s.name as powerset_name, s.display_name as powerset_display_name, a.name as archetype_name
from {schema}.powers p
join {schema}.powersets s on s.id = p.powerset_id
join {schema}.archetypes a on a.id = p.archetype_id
where p.archetype_id = %(archetype)s
  and p.powerset_id = %(powerset)s
  and p.id = %(id)s;

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
-- The table of an archetype that has several leaves.
create table {branch} partition of {parent} for values in ({archetype}) partition by range (powerset_id);

-- name: create_leaf
-- Standalone, so that no lock is taken above it: columns, defaults and storage of the parent, no indexes yet. Its rows come
-- frozen, and with statistics: autovacuum, which would read all of it again within a minute, nested values too, waits
-- until there are changes as well.
create table {leaf} (like {parent} including defaults including storage including compression including constraints)
with (autovacuum_analyze_scale_factor = 2, autovacuum_vacuum_insert_threshold = -1);

-- name: check_leaf
-- What the partition bounds will say, so that ATTACH need not scan.
alter table {leaf} add constraint {constraint} check ({condition});

-- name: attach_leaf
-- Bounds are proven by the CHECK; indexes are adopted.
alter table {branch} attach partition {leaf} for values from ({lower}) to ({upper});

-- name: attach_only_leaf
-- The leaf of an archetype that has no other.
alter table {parent} attach partition {leaf} for values in ({archetype});

-- name: drop_view
drop materialized view if exists {relation};

-- name: drop_table
drop table if exists {relation};

-- name: drop_view_below
-- A view of what a build has from the one below it.
drop view if exists {relation};

-- name: create_view_below
-- What a renewal does not make anew is seen in the build below.
create view {view} as select * from {below};

-- name: home
-- The schema that holds the rows of a relation: of a view, that of the relation it reads.
select coalesce(
    (
        select n.nspname
        from pg_rewrite r
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
        join pg_class t on d.refclassid = 'pg_class'::regclass and t.oid = d.refobjid
        join pg_namespace n on n.oid = t.relnamespace
        where r.ev_class = v.oid
          and t.oid <> v.oid
        limit 1
    ),
    %(schema)s
)
from pg_class v
where v.oid = to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))
  and v.relkind = 'v';

-- name: builds_below
-- The builds that others have relations of: (which one has them, whose they are).
select distinct b.build, below.build
from etl.build b
join pg_class v on v.relnamespace = to_regnamespace(quote_ident(b.live_schema || '_b' || b.build))
join pg_rewrite r on r.ev_class = v.oid
join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
join pg_class t on d.refclassid = 'pg_class'::regclass and t.oid = d.refobjid
join etl.build below
    on t.relnamespace = to_regnamespace(quote_ident(below.live_schema || '_b' || below.build))
where b.live_schema = %(schema)s
  and v.relkind = 'v'
  and below.build <> b.build;

-- name: copy_receipts
-- What a renewal does not make anew is done already.
insert into etl.receipt (build, table_name, leaf, input_digest, version, rows, bytes, seconds, worker, created_at)
select %(build)s, table_name, leaf, input_digest, version, rows, bytes, seconds, worker, created_at
from etl.receipt
where build = %(base)s
  and table_name <> all (%(renewed)s);

-- name: copy_rejects
-- The records that the build below has set aside are in none of the tables.
insert into etl.reject (build, leaf, source, file, ordinal, byte_offset, uid, stage, code, reason, raw)
select %(build)s, leaf, source, file, ordinal, byte_offset, uid, stage, code, reason, raw
from etl.reject
where build = %(base)s;

-- name: drop_schema
drop schema if exists {schema};

-- name: lock_registry
-- Ids are given out by one transaction at a time.
select pg_advisory_xact_lock(%(space)s + 2, 0);

-- name: analyze_directory
analyze {schema}.power_directory;

-- name: link
-- A foreign key. A run that was stopped may have made it already; to drop it first would wait for readers.
do $$
begin
    alter table {table} add constraint {key} foreign key ({column}) references {other} (id);
exception when duplicate_object then null;
end
$$;

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

-- name: relation_names
-- The relations of a schema that may be read.
select c.relname
from pg_class c
where c.relnamespace = to_regnamespace(quote_ident(%(schema)s))
  and c.relkind in ('r', 'p', 'v', 'm');

-- name: relation_exists
select to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text)) is not null;

-- name: create_live_schema
create schema if not exists {schema};

-- name: lock_timeout
-- For the rest of the transaction: how long to wait for a lock, in milliseconds.
select set_config('lock_timeout', %(milliseconds)s::text, true);

-- name: transactions_in_progress
-- The virtual transactions of this database that are open now, other than ours and the server's own.
select l.virtualtransaction
from pg_locks l
join pg_stat_activity a using (pid)
where l.locktype = 'virtualxid'
  and l.pid <> pg_backend_pid()
  and a.backend_type is distinct from 'autovacuum worker'
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

-- name: generation_view
-- Which state is read: a reader takes it in the same statement as the data. origin is that of this database, and of no
-- other one, nor of this one before a reset.
create or replace view {schema}.generation as
select l.generation, l.base, l.build, l.flipped_at as published_at,
       concat_ws('.', l.origin, (select d.oid from pg_database d where d.datname = current_database()),
                 (select c.system_identifier from pg_control_system() c)) as origin
from etl.live l
where l.live_schema = {live};

-- name: changes_view
-- The powers that each update touched.
create or replace view {schema}.changes as
select c.generation, c.kind, c.power_id, c.internal_name, c.archetype_id, c.powerset_id
from etl.change c
where c.live_schema = {live};

-- name: powerset_changes_view
-- The powersets that each update touched.
create or replace view {schema}.powerset_changes as
select c.generation, c.powerset_id
from etl.powerset_change c
where c.live_schema = {live};

-- name: power_names_view
-- The durable id of every name, in lower case, that ever was.
create or replace view {schema}.power_names as
select k.id, k.uid
from etl.power_key k;

-- name: analyze
analyze {relation};

-- name: sample_lightly
-- To the end of the transaction: statistics of a part of the server's detail, but of no less than 5. A partitioned table
-- has them for each leaf, and ANALYZE samples as many rows of a small table as of a big one.
select set_config(
    'default_statistics_target',
    greatest(5, current_setting('default_statistics_target')::int / %(part)s::int)::text,
    true
);

-- name: part_of_detail
-- What sample_lightly would set.
select greatest(5, current_setting('default_statistics_target')::int / %(part)s::int);

-- name: change_detail
-- The detail of a partitioned table's own statistics, and not of its partitions'; -1 is the default again.
alter table only {relation} {changes};

-- name: builds_of
-- Builds of a live schema that have not been dropped, newest first: what stands on others comes before them.
select build
from etl.build
where live_schema = %(schema)s
  and dropped_at is null
order by build desc;

-- name: forget_live
-- Nothing is published in a live schema any more, and its generations begin anew.
with p as (delete from etl.publication where live_schema = %(schema)s)
delete from etl.live where live_schema = %(schema)s;

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

-- name: last_publication
-- What the present generation of a live schema was.
select p.generation, p.kind, p.build, p.split_id, p.previous_split_id, b.store
from etl.publication p
join etl.live l using (live_schema, generation)
join etl.build b on b.build = p.build
where p.live_schema = %(schema)s;

-- name: loaded_hashes
-- What a build holds of some powersets: uid, the digest of the record it came from, archetype, powerset. As a subquery,
-- because the planner compares each value with each leaf, which for thousands takes longer than to look.
select k.uid, p.source_hash, a.uid, s.uid
from {schema}.powers p
join etl.power_key k on k.id = p.id
join etl.archetype_key a on a.id = p.archetype_id
join etl.powerset_key s on s.id = p.powerset_id
where p.powerset_id = any (array(select id from etl.powerset_key where uid = any (%(powersets)s::text[])));

-- name: loaded_powersets
-- The powersets that a build has powers of, with their archetypes, and how many.
select a.uid, k.uid, d.powers
from (
    select archetype_id, powerset_id, count(*) as powers
    from {schema}.power_directory
    group by archetype_id, powerset_id
) d
join etl.powerset_key k on k.id = d.powerset_id
join etl.archetype_key a on a.id = d.archetype_id;

-- name: register_named_powers
-- Dense ids in the order of register_powers; known ones stay.
insert into etl.power_key (id, uid)
select
    (select coalesce(max(id), 0) from etl.power_key)
    + row_number() over (order by a.id, p.id, wanted.uid collate "C"),
    wanted.uid
from unnest(%(uids)s::text[], %(archetypes)s::text[], %(powersets)s::text[]) as wanted (uid, archetype, powerset)
join etl.archetype_key a on a.uid = wanted.archetype
join etl.powerset_key p on p.uid = wanted.powerset
where not exists (select from etl.power_key k where k.uid = wanted.uid);

-- name: registered_powers
-- Ids of powers, whether a build has them or not.
select uid, id
from etl.power_key
where uid = any (%(uids)s);

-- name: stage_powers_to_touch
-- Which powers an update touches, and how.
create temporary table staged_touch (
    id bigint primary key,
    uid text not null,
    kind text not null,
    archetype_id integer not null,
    powerset_id integer not null,
    was_archetype_id integer,
    was_powerset_id integer,
    created_at timestamptz
) on commit drop;

-- name: fill_touch
-- Ids of powers that exist in the registry by now; where they will be, or were last, and where they are until then.
insert into pg_temp.staged_touch (id, uid, kind, archetype_id, powerset_id, was_archetype_id, was_powerset_id)
select k.id, k.uid, wanted.kind, a.id, p.id, d.archetype_id, d.powerset_id
from unnest(%(uids)s::text[], %(kinds)s::text[], %(archetypes)s::text[], %(powersets)s::text[])
    as wanted (uid, kind, archetype, powerset)
join etl.power_key k on k.uid = wanted.uid
join etl.archetype_key a on a.uid = wanted.archetype
join etl.powerset_key p on p.uid = wanted.powerset
left join {schema}.power_directory d on d.id = k.id;

-- name: create_staged
-- Rows of the new records on their way into the published build.
create temporary table {staged} (like {parent} including defaults) on commit drop;

-- name: resolve_staged
-- References to powers that the build has once the update is done.
update pg_temp.staged_power_prerequisites s
set required_power_id = k.id
from etl.power_key k
where k.uid = s.required_uid
  and s.required_kind = 'power'
  and (
      exists (select from pg_temp.staged_touch t where t.id = k.id and t.kind <> 'gone')
      or (
          exists (select from {schema}.power_directory d where d.id = k.id)
          and not exists (select from pg_temp.staged_touch t where t.id = k.id)
      )
  );

-- name: upsert_archetypes
-- Entities that are new or differ.
insert into {schema}.archetypes as a ({columns})
select {columns}
from pg_temp.staged_archetypes
on conflict (id) do update
set ({assigned}, updated_at) = row({excluded}, now())
where ({present}) is distinct from ({excluded});

-- name: upsert_powersets
-- Entities that are new or differ.
insert into {schema}.powersets as a ({columns})
select {columns}
from pg_temp.staged_powersets
on conflict (id) do update
set ({assigned}, updated_at) = row({excluded}, now())
where ({present}) is distinct from ({excluded});

-- name: reorder_powers
-- Powers that stay, in sets whose own list changed.
with reordered as materialized (
    select s.id, s.power_order
    from pg_temp.staged_powersets s
    join {schema}.powersets b using (id)
    where s.power_order <> b.power_order
),
moved as (
    update {schema}.powers p
    set display_order = coalesce(array_position(s.power_order, k.uid) - 1, 0)
    from reordered s, etl.power_key k
    where p.powerset_id = s.id
      and k.id = p.id
      and p.display_order <> coalesce(array_position(s.power_order, k.uid) - 1, 0)
    returning p.id
)
insert into touched_around (power_id)
select id from moved;

-- name: find_equal
-- Those staged rows of changed powers that the table has already; partition keys are in the condition for the plan's sake.
-- Rows of a power that moves count for another leaf, so they come anew.
create temp table {equal} on commit drop as
select s.id
from {staged} s
join pg_temp.staged_touch t
    on t.id = s.power_id and t.kind = 'changed' and (t.archetype_id, t.powerset_id) = (t.was_archetype_id, t.was_powerset_id)
join {relation} r on r.power_id = t.id and r.id = s.id
where {same_leaf}
  and ({staged_columns}) is not distinct from ({present_columns});

-- name: unstage_equal
-- What is there already need not come.
delete from {staged} s
using {equal} e
where s.id = e.id;

-- name: delete_unequal
-- The rows that the touched powers have no more; returns how many were in which powerset.
with deleted as (
    delete from {relation} r
    using pg_temp.staged_touch t
    where r.power_id = t.id
      and not exists (select from {equal} e where e.id = r.id)
    returning coalesce(t.was_archetype_id, t.archetype_id) as archetype_id,
              coalesce(t.was_powerset_id, t.powerset_id) as powerset_id
)
select archetype_id, powerset_id, count(*)
from deleted
group by 1, 2;

-- name: delete_touched
-- The rows that the touched powers had; returns how many were in which powerset.
with deleted as (
    delete from {relation} r
    using pg_temp.staged_touch t
    where r.{key} = t.id
    returning t.archetype_id, t.powerset_id
)
select archetype_id, powerset_id, count(*)
from deleted
group by 1, 2;

-- name: delete_touched_powers
-- The same of powers; those that come again keep the time they first came, which is noted until then.
with deleted as (
    delete from {relation} r
    using pg_temp.staged_touch t
    where r.id = t.id
    returning r.id, r.created_at, r.archetype_id, r.powerset_id
),
noted as (
    update pg_temp.staged_touch s
    set created_at = d.created_at
    from deleted d
    where d.id = s.id
)
select archetype_id, powerset_id, count(*)
from deleted
group by 1, 2;

-- name: count_staged
-- How many rows come into which powerset.
select t.archetype_id, t.powerset_id, count(*)
from {staged} s
join pg_temp.staged_touch t on t.id = s.{key}
group by 1, 2;

-- name: insert_staged
-- The rows that they have now.
insert into {relation} ({columns})
select {columns}
from {staged};

-- name: insert_staged_powers
-- The same of powers.
insert into {relation} ({columns}, created_at)
select {columns}, coalesce(t.created_at, s.created_at)
from {staged} s
join (select id as touched, created_at from pg_temp.staged_touch) t on t.touched = s.id;

-- name: update_directory
-- The directory follows the powers.
insert into {schema}.power_directory (id, internal_name, archetype_id, powerset_id)
select p.id, p.internal_name, p.archetype_id, p.powerset_id
from pg_temp.staged_powers p;

-- name: resolve_new
-- References to powers that came find them.
update {schema}.power_prerequisites r
set required_power_id = t.id
from pg_temp.staged_touch t
join {schema}.power_directory d on d.id = t.id
where r.required_uid = t.uid
  and r.required_kind = 'power'
  and r.required_power_id is null;

-- name: unresolve_gone
-- References to powers that went point nowhere.
update {schema}.power_prerequisites r
set required_power_id = null
from pg_temp.staged_touch t
where r.required_power_id = t.id
  and not exists (select from {schema}.power_directory d where d.id = t.id);

-- name: delete_missing_powersets
-- Sets that the new source does not have, and that have no powers left.
delete from {schema}.powersets s
where not exists (select from pg_temp.staged_powersets n where n.id = s.id)
  and not exists (select from {schema}.power_directory d where d.powerset_id = s.id);

-- name: delete_missing_archetypes
-- Archetypes that the new source does not have, and that have no powersets left.
delete from {schema}.archetypes a
where not exists (select from pg_temp.staged_archetypes n where n.id = a.id)
  and not exists (select from {schema}.powersets s where s.archetype_id = a.id);

-- name: estimate_roughly
-- For the rest of the transaction: a refresh gathers statistics of its copy of the view, for one plan.
set local default_statistics_target = 1;

-- name: refresh_view
-- Readers are not blocked.
refresh materialized view concurrently {relation};

-- name: raise_generation
-- The same build in a new state.
update etl.live
set generation = generation + 1,
    flipped_at = clock_timestamp()
where live_schema = %(schema)s
  and build = %(build)s
returning generation;

-- name: record_changes
-- What this update touched; a touched power that was set aside on the way is gone.
insert into etl.change (live_schema, generation, kind, power_id, internal_name, archetype_id, powerset_id)
select %(schema)s, %(generation)s, case when d.id is null then 'gone' else t.kind end, t.id,
       coalesce(d.internal_name, t.uid), t.archetype_id, t.powerset_id
from pg_temp.staged_touch t
left join {schema}.power_directory d on d.id = t.id
where d.id is not null or t.kind <> 'new';

-- name: stage_touched_sets
-- The powersets that readers find changed: what the touched powers are in, and were in until now.
create temporary table touched_set on commit drop as
select t.powerset_id
from pg_temp.staged_touch t
union
select d.powerset_id
from pg_temp.staged_touch t
join {schema}.power_directory d using (id);

-- name: stage_powers_around
-- Powers that did not change themselves, but are read with the row of their powerset, or in another place of it.
create temporary table touched_around (power_id bigint not null) on commit drop;

-- name: touch_sets_around
-- Powersets whose own row will come, differ or go; before these rows are changed.
insert into touched_set (powerset_id)
select id
from pg_temp.staged_powersets n
full join {schema}.powersets s using (id)
where (n.name, n.full_name, n.display_name, n.archetype_id, n.powerset_type, n.power_order)
      is distinct from (s.name, s.full_name, s.display_name, s.archetype_id, s.powerset_type, s.power_order);

-- name: touch_powers_around
-- The powers of sets that will be called otherwise.
insert into touched_around (power_id)
select d.id
from pg_temp.staged_powersets n
join {schema}.powersets s using (id)
join {schema}.power_directory d on d.powerset_id = s.id
where (n.name, n.full_name, n.display_name) is distinct from (s.name, s.full_name, s.display_name);

-- name: record_powerset_changes
insert into etl.powerset_change (live_schema, generation, powerset_id)
select distinct %(schema)s, %(generation)s::bigint, powerset_id
from touched_set;

-- name: record_powers_around
insert into etl.change (live_schema, generation, kind, power_id, internal_name, archetype_id, powerset_id)
select distinct %(schema)s, %(generation)s::bigint, 'around', d.id, d.internal_name, d.archetype_id, d.powerset_id
from touched_around t
join {schema}.power_directory d on d.id = t.power_id
on conflict do nothing;

-- name: change_build
-- The split that the build is now a function of.
update etl.build
set split_id = %(split_id)s,
    store = %(store)s,
    game_version = %(game_version)s,
    plan = %(plan)s,
    versions = versions || %(versions)s::jsonb
where build = %(build)s;

-- name: forget_rejects
-- Records of touched powers that an earlier load set aside.
delete from etl.reject r
using pg_temp.staged_touch t
where r.build = %(build)s
  and r.uid = t.uid;

-- name: change_receipt
-- A receipt speaks of the rows that are there now.
insert into etl.receipt (build, table_name, leaf, input_digest, version, rows, bytes, seconds, worker)
values (%(build)s, %(table)s, %(leaf)s, %(digest)s, %(version)s, %(more)s, 0, 0, 0)
on conflict (build, table_name, leaf) do update
set input_digest = excluded.input_digest,
    version = excluded.version,
    rows = etl.receipt.rows + excluded.rows,
    created_at = clock_timestamp();

-- name: create_staged_reject
create temporary table staged_reject (like etl.reject) on commit drop;

-- name: stage_reject
-- A record that an update sets aside.
insert into pg_temp.staged_reject (build, leaf, source, file, ordinal, byte_offset, uid, stage, code, reason, raw)
values (%(build)s, %(leaf)s, %(source)s, %(file)s, %(ordinal)s, %(offset)s, %(uid)s, %(stage)s, %(code)s, %(reason)s, %(raw)s);

-- name: insert_staged_rejects
insert into etl.reject
select * from pg_temp.staged_reject;

-- name: build_plan
-- The leaves of a build.
select plan from etl.build where build = %(build)s;

-- name: notify_of_flip
-- In the transaction of the flip, behind it.
select pg_notify('etl_live', live_schema || ' ' || generation::text) from etl.live where live_schema = %(schema)s;

-- name: record_build
-- In the transaction of the flip, before it.
insert into etl.publication (live_schema, generation, kind, build, split_id, previous_split_id, run_id)
select %(schema)s, coalesce(l.generation, 0) + 1, %(kind)s, b.build, b.split_id, p.split_id, %(run)s
from etl.build b
left join etl.live l on l.live_schema = %(schema)s
left join etl.build p on p.build = l.build
where b.build = %(build)s;

-- name: replace_function
-- What a view of the live schema reads. The planner puts a function like this one in place of its call; it must be stable,
-- parallel safe and without settings for that.
create or replace function {function}() returns table ({columns})
language sql stable parallel safe
begin atomic
{branches};
end;

-- name: mark_function
-- Whose function it is.
comment on function {function}() is {live};

-- name: let_everybody_call
grant execute on function {function}() to public;

-- name: settled_branch
-- What applications see when one build counts.
select {columns}
from {relation} t

-- name: gated_branch
-- One build of those below; with a condition of its own the planner could not take it apart, see gated_branches.
select {columns}, {build} as build_of_row
from {relation} t

-- name: gated_branches
-- What applications see around a publication: the row in etl.live says which build counts. The planner takes branches
-- without conditions for partitions of one table, so that joins look rows up by their indexes, and puts the condition
-- above each of them, to be checked once.
select {names}
from (
{branches}
) b
where b.build_of_row = (select l.build from etl.live l where l.live_schema = {live})

-- name: let_everybody_read
-- Whoever reads a view reads the build's relation with his own rights; the build's schema is closed to him.
grant select on {relation} to public;

-- name: replace_view
-- A view of the live schema; later publications replace the function alone.
create or replace view {view} as
select {columns}
from {function}();

-- name: functions_read
-- The functions of schema etl that the views of a schema read: view and function.
select v.relname, f.proname
from pg_depend d
join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
join pg_class v on v.oid = r.ev_class
join pg_proc f on d.refclassid = 'pg_proc'::regclass and f.oid = d.refobjid
where v.relnamespace = to_regnamespace(quote_ident(%(schema)s))
  and f.pronamespace = 'etl'::regnamespace;

-- name: named_builds
-- The builds that the functions of a live schema read.
select distinct b.build
from pg_depend d
join pg_proc f on d.classid = 'pg_proc'::regclass and f.oid = d.objid
join pg_class t on d.refclassid = 'pg_class'::regclass and t.oid = d.refobjid
join pg_namespace n on n.oid = t.relnamespace
join etl.build b on n.nspname = b.live_schema || '_b' || b.build
where f.pronamespace = 'etl'::regnamespace
  and obj_description(f.oid, 'pg_proc') = %(schema)s
  and b.live_schema = %(schema)s
order by 1;

-- name: functions_are_widened
-- Whether a function of the live schema depends on etl.live.
select exists (
    select
    from pg_depend d
    join pg_proc f on d.classid = 'pg_proc'::regclass and f.oid = d.objid
    where f.pronamespace = 'etl'::regnamespace
      and obj_description(f.oid, 'pg_proc') = %(schema)s
      and d.refclassid = 'pg_class'::regclass
      and d.refobjid = 'etl.live'::regclass
);

-- name: unread_functions
-- Functions of a live schema that no view reads any more.
select f.proname
from pg_proc f
where f.pronamespace = 'etl'::regnamespace
  and obj_description(f.oid, 'pg_proc') = %(schema)s
  and not exists (
      select
      from pg_depend d
      where d.classid = 'pg_rewrite'::regclass
        and d.refclassid = 'pg_proc'::regclass
        and d.refobjid = f.oid
  );

-- name: drop_function
drop function if exists {function}();

-- name: shapes
-- Those of the named relations that schemas have, with their columns in order: schema, relation, column, type. A relation
-- without columns has one line, in which the last two are null.
select n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
from pg_namespace n
join pg_class c on c.relnamespace = n.oid
left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where n.nspname = any (%(schemas)s)
  and c.relname = any (%(names)s)
order by n.nspname, c.relname, a.attnum;

-- name: transactions_reading
-- The virtual transactions that hold a lock of a view of the live schema, other than ours: they have read it.
select distinct l.virtualtransaction
from pg_locks l
join pg_class v on v.oid = l.relation
where l.locktype = 'relation'
  and l.database = (select oid from pg_database where datname = current_database())
  and l.pid <> pg_backend_pid()
  and l.granted
  and v.relnamespace = to_regnamespace(quote_ident(%(schema)s));

-- name: commit_durably
-- This transaction's commit reaches the disk, and all WAL before it, whatever the server's default is.
select set_config('synchronous_commit', 'on', true)
where current_setting('synchronous_commit') = 'off';

-- name: commit_later
-- This transaction's commit does not wait for the disk.
select set_config('synchronous_commit', 'off', true);

-- name: build_is_finished
-- Whether a build's leaves are attached and its views are there.
select finished_at is not null from etl.build where build = %(build)s;

-- name: half_dropped_builds
-- Builds that a killed run had begun to drop.
select build
from etl.build
where live_schema = %(schema)s
  and dropped_at is not null
  and to_regnamespace(quote_ident(live_schema || '_b' || build)) is not null
order by build;

-- name: prepare_session
-- For the session: a statement ends soon after its client is gone (Linux servers), so that a killed run holds no lock for
-- long; each sees what others have committed by then, whatever the server's default is; and a session may wait for
-- workers, or for what is computed between two statements, without passing for idle.
select set_config(name, wanted.value, false)
from pg_settings
join (
    values ('client_connection_check_interval', '500ms', version() ~ 'linux'),
           ('default_transaction_isolation', 'read committed', true),
           ('idle_in_transaction_session_timeout', '0', true),
           ('idle_session_timeout', '0', true),
           ('transaction_timeout', '0', true)
) as wanted (name, value, fits) using (name)
where wanted.fits;

-- name: lock_build_session
-- A worker's sign that it is at work on a build, held by the session: CREATE INDEX CONCURRENTLY has no transaction.
select pg_advisory_lock_shared(%(space)s + 1, %(build)s);

-- name: indexes_of_schema
-- Every index of a schema: table, index, whether queries may use it.
select t.relname, i.relname, x.indisvalid
from pg_index x
join pg_class i on i.oid = x.indexrelid
join pg_class t on t.oid = x.indrelid
where i.relnamespace = to_regnamespace(quote_ident(%(schema)s));

-- name: partitions_of_schema
-- Every partition of a schema: partition, parent, whether it is a leaf.
select c.relname, p.relname, c.relkind = 'r'
from pg_inherits h
join pg_class c on c.oid = h.inhrelid
join pg_class p on p.oid = h.inhparent
where c.relnamespace = to_regnamespace(quote_ident(%(schema)s))
  and c.relkind in ('r', 'p')
order by c.relname;

-- name: attach_index
-- May be run twice.
alter index {parent} attach partition {child};

-- name: drop_index_concurrently
-- What an interrupted CREATE INDEX CONCURRENTLY has left.
drop index concurrently if exists {index};

-- name: see_schema_always
-- For the rest of the session, names are looked up here.
select set_config('search_path', %s, false);

-- name: export_snapshot
-- The state that this transaction sees, for other sessions to see as well.
select pg_export_snapshot();

-- name: import_snapshot
-- The first statement of a transaction.
set transaction snapshot {snapshot};

-- name: published_build
-- The build that counts, with the split that it is a function of.
select b.build, l.generation, b.split_id, b.store, b.tables, b.plan
from etl.live l
join etl.build b using (build)
where l.live_schema = %(schema)s;

-- name: expected_table
-- What a table should hold, made again from the store.
create temporary table {expected} (like {actual} including defaults) on commit drop;

-- name: expected_ids
-- The powers of one leaf: those that the store names and those that the leaf holds.
create temporary table expected_id (id bigint primary key) on commit drop;

-- name: add_expected_ids
insert into expected_id (id)
select id from unnest(%(ids)s::bigint[]) as wanted (id)
on conflict do nothing;

-- name: add_actual_ids
insert into expected_id (id)
select p.id from {relation} p
on conflict do nothing;

-- name: known_powers
-- Ids of powers by uid.
select k.uid, k.id from etl.power_key k where k.uid = any (%(uids)s);

-- name: resolve_published
-- Those of the named powers that the build has, even if either of the two places has lost its row.
select k.uid, k.id
from etl.power_key k
join {schema}.power_directory d on d.id = k.id
where k.uid = any (%(uids)s)
union
select k.uid, k.id
from etl.power_key k
join {schema}.powers p on p.id = k.id
where k.uid = any (%(uids)s);

-- name: checksum
-- Rows, and a sum over their contents that does not depend on their order.
select count(*), coalesce(sum(hashtextextended(row({columns})::text, 0)), 0)
from {relation} t
where {condition};

-- name: count_where
select count(*) from {relation} t where {condition};

-- name: differing_rows
-- Rows that only one side has, or that differ; a doubled row is one too many. With the number of them all.
with expected as (
    select id, owner, hash, row_number() over (partition by id order by hash) as copy
    from (
        select t.id, t.{owner} as owner, hashtextextended(row({columns})::text, 0) as hash
        from {expected} t
    ) e
),
actual as (
    select id, owner, hash, row_number() over (partition by id order by hash) as copy
    from (
        select t.id, t.{owner} as owner, hashtextextended(row({columns})::text, 0) as hash
        from {actual} t
        where {condition}
    ) a
),
found as (
    select id, coalesce(e.owner, a.owner) as owner, e.hash is null as extra, a.hash is null as missing,
           count(*) over () as total
    from expected e
    full join actual a using (id, copy)
    where e.hash is distinct from a.hash
    order by id
    limit %(limit)s
)
select f.id, k.uid, f.extra, f.missing, f.total
from found f
left join {registry} k on k.id = f.owner
order by f.id;

-- name: differing_columns
-- The columns in which two rows of one id differ.
select array_remove(array[{differences}]::text[], null)
from {expected} e
join {actual} a on a.id = e.id
where e.id = %(id)s
limit 1;

-- name: expected_directory
-- What the directory should hold: every winner of the split that was not set aside.
create temporary table expected_power_directory on commit drop as
select k.id, s.internal_name, a.id as archetype_id, p.id as powerset_id
from staged_name s
join etl.power_key k using (uid)
join etl.archetype_key a on a.uid = s.archetype
join etl.powerset_key p on p.uid = s.powerset
where not exists (select from etl.reject r where r.build = %(build)s and r.uid = s.uid);

-- name: unregistered_names
-- Winners of the split that have no key: the first of them, and how many.
select s.uid, count(*) over ()
from staged_name s
where not exists (select from etl.power_key k where k.uid = s.uid)
order by s.uid
limit %(limit)s;

-- name: strange_directory_rows
-- Rows of the directory whose id has no key, or the key of another name.
select d.id, d.internal_name, k.uid, count(*) over ()
from {schema}.power_directory d
left join etl.power_key k on k.id = d.id
where k.id is null
   or (d.internal_name ~ '^[ -~]*$' and lower(d.internal_name) <> k.uid)
order by d.id
limit %(limit)s;

-- name: orphan_rows
-- Rows of a plain table whose power is nowhere in the build: the first of them, and how many.
select t.id, t.power_id, count(*) over ()
from {relation} t
where not exists (select from {schema}.power_directory d where d.id = t.power_id)
  and not exists (select from {schema}.powers p where p.id = t.power_id)
order by t.id
limit %(limit)s;

-- name: server_refused
-- Those of the named powers that the server refused when they were loaded: no transform tells that again.
select r.uid
from etl.reject r
where r.build = %(build)s
  and r.code = 'server_refused'
  and r.uid = any (%(uids)s);

-- name: recorded_rejects
-- Those of the named powers that a build has set aside.
select r.uid from etl.reject r where r.build = %(build)s and r.uid = any (%(uids)s);

-- name: count_rejects
-- How many records a build has set aside.
select count(*) from etl.reject where build = %(build)s;

-- name: unsound_indexes
-- Of the indexes that a table must have: where one is missing or not attached (null), or not valid (false).
with member as (
    select to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)) as relid
    union
    select t.relid from pg_partition_tree(to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))) t
)
select w.name, c.relname, i.sound
from unnest(%(names)s::text[]) as w (name)
cross join member m
join pg_class c on c.oid = m.relid
left join lateral (
    select x.indisvalid and x.indisready and x.indislive as sound
    from pg_index x
    cross join to_regclass(format('%%I.%%I', %(schema)s::text, w.name)) as top (relid)
    where x.indrelid = m.relid
      and (
          x.indexrelid = top.relid
          or exists (select from pg_partition_ancestors(x.indexrelid) a where a.relid = top.relid)
      )
) i on true
where i.sound is not true
order by w.name, c.relkind <> 'p', c.relname;

-- name: leaves_attached
-- The leaves of a partitioned table with their bounds.
select c.relname, pg_get_expr(c.relpartbound, c.oid)
from pg_partition_tree(to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))) t
join pg_class c on c.oid = t.relid
where t.isleaf
  and c.relkind = 'r'
order by 1;

-- name: foreign_keys
-- The foreign keys of a build: table, name, whether all rows were checked.
select c.relname, k.conname, k.convalidated
from pg_constraint k
join pg_class c on c.oid = k.conrelid
where k.contype = 'f'
  and k.connamespace = to_regnamespace(quote_ident(%(schema)s))
order by 1, 2;

-- name: view_definition
-- The query of a view without its semicolon, and whether it was ever filled; null where there is none.
select rtrim(pg_get_viewdef(c.oid), '; '), c.relispopulated
from pg_class c
where c.oid = to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text))
  and c.relkind = 'm';

-- name: views_elsewhere
-- Relations that applications should see and do not: the live schema's view is missing, or reads another build, whether
-- by itself or by the function that it calls.
select w.name
from unnest(%(names)s::text[]) as w (name)
where not exists (
    select
    from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
    left join pg_depend f
        on d.refclassid = 'pg_proc'::regclass
       and f.classid = 'pg_proc'::regclass
       and f.objid = d.refobjid
       and f.refclassid = 'pg_class'::regclass
    where r.ev_class = to_regclass(format('%%I.%%I', %(live)s::text, w.name))
      and to_regclass(format('%%I.%%I', %(schema)s::text, w.name))
          in (f.refobjid, case when d.refclassid = 'pg_class'::regclass then d.refobjid end)
)
order by 1;

-- name: later_splits
-- Splits that parts of a build were renewed from, oldest first, and whether that was after its own split's last turn.
select p.split_id, bool_or(p.generation > coalesce(own.generation, 0))
from etl.publication p
join etl.build b using (build)
left join (
    select o.build, max(o.generation) as generation
    from etl.publication o
    join etl.build b on b.build = o.build and b.split_id = o.split_id
    group by o.build
) own using (build)
where p.build = %(build)s
  and p.kind = 'update'
  and p.split_id <> b.split_id
group by p.split_id
order by max(p.generation);

-- name: ids_of
select t.id from {relation} t;

-- name: renewed_powers
-- Powers of an archetype (null: of all) that were last touched by an update to another split than the build's own.
select uid, split_id
from (
    select distinct on (c.power_id) k.uid, p.split_id, b.split_id as own
    from etl.change c
    join etl.publication p using (live_schema, generation)
    join etl.build b using (build)
    join etl.power_key k on k.id = c.power_id
    where p.build = %(build)s
      and p.kind = 'update'
      and c.kind <> 'around'
      and (%(archetype)s::integer is null or c.archetype_id = %(archetype)s)
    order by c.power_id, c.generation desc
) last
where split_id <> own;

-- name: known_splits
-- Every split that this database was ever a function of, and whether it may need it again: those of the builds that are
-- there, those that parts of them were renewed from since, and of the last publications of each live schema with what they
-- went on from.
with needed as (
    select b.split_id
    from etl.build b
    where b.dropped_at is null
    union
    select p.split_id
    from etl.build b
    join etl.publication p using (build)
    where b.dropped_at is null
      and p.generation > (
          select max(o.generation) from etl.publication o where o.build = b.build and o.split_id = b.split_id
      )
    union
    select unnest(array[p.split_id, p.previous_split_id])
    from (
        select *, row_number() over (partition by live_schema order by generation desc) as age
        from etl.publication
    ) p
    where p.age < %(keep)s
),
known as (
    select split_id from etl.build
    union
    select unnest(array[split_id, previous_split_id]) from etl.publication
)
select k.split_id, exists (select from needed n where n.split_id = k.split_id)
from known k
where k.split_id is not null
order by 1;

-- name: expected_view
-- What a view's query gives now.
create temporary table {expected} on commit drop as {query};

-- name: powers_as_directory
-- What the directory says, by the powers themselves.
select p.id, p.internal_name, p.archetype_id, p.powerset_id from {schema}.powers p;

-- name: build_is_of_one_split
-- Whether every row of a build came from the split that its row names: no part of another one since the last whole one.
select not exists (
    select
    from etl.publication p
    where p.build = %(build)s
      and not p.whole
      and p.generation > (
          select coalesce(max(w.generation), 0)
          from etl.publication w
          where w.build = p.build
            and w.live_schema = p.live_schema
            and w.whole
            and w.kind = 'update'
      )
);

-- name: count_entities
-- The receipt of an entity table speaks of the rows that are there.
update etl.receipt
set rows = (select count(*) from {relation}),
    input_digest = %(digest)s,
    created_at = clock_timestamp()
where build = %(build)s
  and table_name = %(table)s
  and leaf = 'all';

-- name: build_of
-- The build that counts, or the named one: number, split, store.
select b.build, b.split_id, b.store
from etl.build b
where b.live_schema = %(schema)s
  and b.dropped_at is null
  and b.build = coalesce(%(build)s, (select l.build from etl.live l where l.live_schema = %(schema)s));

-- name: untouched_rejects
-- Names of records that a build set aside and that an update does not touch.
select distinct r.uid
from etl.reject r
where r.build = %(build)s
  and r.uid is not null
  and not exists (select from pg_temp.staged_touch t where t.uid = r.uid);

-- name: forget_named_rejects
-- Records that were set aside and that the split does not have any more.
delete from etl.reject where build = %(build)s and uid = any (%(uids)s);

-- name: count_staged_rejects
-- Records that an update sets aside, and those set aside before that it does not touch.
select (select count(*) from pg_temp.staged_reject)
     + (
         select count(*)
         from etl.reject r
         where r.build = %(build)s
           and not r.uid = any (%(gone)s)
           and not exists (select from pg_temp.staged_touch t where t.uid = r.uid)
     );

-- name: reject_codes_of
-- What a build set aside, by code.
select code, count(*) from etl.reject where build = %(build)s group by code;

-- name: record_audit
-- The audit trail's next line; time and database user are written by the server.
insert into etl.audit (who, host, command, live_schema, build, outcome, message)
values (%(who)s, %(host)s, %(command)s, %(schema)s, %(build)s, %(outcome)s, %(message)s);

-- name: record_audit_of_run
-- The audit trail's next line, of a run in the import log.
insert into etl.audit (who, host, command, live_schema, build, outcome, message)
select %(who)s, %(host)s, command, live_schema, build, %(outcome)s, %(message)s
from etl.run
where id = %(run)s;

-- name: latest_audit
-- The audit trail of a live schema, newest first.
select id, at, db_user, who, host, command, build, outcome, message
from etl.audit
where live_schema = %(schema)s
order by id desc
limit %(limit)s;

-- name: preflight_facts
-- What a load needs to know of the server and of its own rights, in one look.
select current_setting('server_version_num')::integer as version,
       current_setting('server_version') as version_name,
       current_user as role,
       current_database() as database,
       current_setting('server_encoding') as encoding,
       pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean as read_only,
       has_database_privilege(current_database(), 'create') as may_create,
       l.build is not null as has_ledger,
       coalesce(has_schema_privilege(l.home, 'usage') and has_schema_privilege(l.home, 'create')
                and has_table_privilege(l.build, 'insert') and has_table_privilege(l.build, 'update')
                and has_table_privilege(l.reject, 'delete'), false) as may_use_ledger,
       to_regnamespace(quote_ident(%(schema)s)) is null
           or has_schema_privilege(to_regnamespace(quote_ident(%(schema)s)), 'create') as may_use_live,
       current_setting('max_connections')::integer
           - current_setting('superuser_reserved_connections')::integer as connections,
       (select count(*) from pg_stat_activity where backend_type = 'client backend') as connected,
       (select rolconnlimit from pg_roles where rolname = session_user) as role_connections,
       current_setting('max_locks_per_transaction')::integer as locks,
       current_setting('max_locks_per_transaction')::bigint
           * (current_setting('max_connections')::integer + current_setting('max_prepared_transactions')::integer)
           as lock_table,
       case when pg_has_role(current_user, 'pg_read_all_settings', 'usage')
            then current_setting('data_directory', true) end as data_directory,
       exists (select from pg_available_extensions where name = 'pg_trgm') as has_trigrams
from (
    select to_regnamespace('etl')::oid as home,
           (select c.oid from pg_class c where c.relnamespace = to_regnamespace('etl') and c.relname = 'build') as build,
           (select c.oid from pg_class c where c.relnamespace = to_regnamespace('etl') and c.relname = 'reject') as reject
) l;

-- name: server_settings
-- Settings by name, as they are for this role: as shown, as bytes or seconds where they are such, what else they may be, and
-- who may change them when (pg_settings.context); with the server and the role, the same in every row.
select s.name,
       current_setting(s.name) as value,
       case
           when s.unit like '%%B' then pg_size_bytes(current_setting(s.name))
           when s.unit = 's' then s.setting::bigint
       end as amount,
       s.enumvals as choices,
       s.context,
       current_setting('server_version') as version,
       current_user as role,
       coalesce((select r.rolsuper from pg_roles r where r.rolname = current_user), false) as is_superuser
from pg_settings s
where s.name = any (%(names)s);
