-- What a reader needs to tell whether an answer still holds: which generation was published whole, which powersets each
-- update touched, and an index by power and by powerset. Views that show it in the live schemas that there are.

-- Random once, so that the generations of another database, or those after a reset, are never taken for these.
alter table etl.live add column origin uuid not null default gen_random_uuid();
alter table etl.live add column base bigint not null default 1;
update etl.live set base = generation;
comment on column etl.live.base is 'The generation that was published whole; since then only etl.change and etl.powerset_change changed.';

create index change_power on etl.change (live_schema, power_id, generation);

create table etl.powerset_change (
    live_schema text not null,
    generation bigint not null,
    powerset_id integer not null,
    primary key (live_schema, powerset_id, generation),
    foreign key (live_schema, generation) references etl.publication on delete cascade
);
create index powerset_change_generation on etl.powerset_change (live_schema, generation);
comment on table etl.powerset_change is 'The powersets that each update touched: a power of theirs, their own row, their archetype.';

alter table etl.change drop constraint change_kind_check;
alter table etl.change add constraint change_kind_check check (kind in ('changed', 'new', 'gone', 'renewed', 'around'));
comment on table etl.change is 'The powers that each update touched; around: only the row of their powerset or archetype changed.';

do $$
declare
    live text;
begin
    for live in select live_schema from etl.live order by 1 loop
        execute format(
            'create or replace view %1$I.generation as
             select l.generation, l.base, l.build, l.flipped_at as published_at,
                    concat_ws(''.'', l.origin, (select d.oid from pg_database d where d.datname = current_database()),
                              (select c.system_identifier from pg_control_system() c)) as origin
             from etl.live l
             where l.live_schema = %2$L', live, live);
        execute format(
            'create or replace view %1$I.changes as
             select c.generation, c.kind, c.power_id, c.internal_name, c.archetype_id, c.powerset_id
             from etl.change c
             where c.live_schema = %2$L', live, live);
        execute format(
            'create or replace view %1$I.powerset_changes as
             select c.generation, c.powerset_id
             from etl.powerset_change c
             where c.live_schema = %2$L', live, live);
        execute format(
            'create or replace view %1$I.power_names as
             select k.id, k.uid
             from etl.power_key k', live);
    end loop;
end
$$;
