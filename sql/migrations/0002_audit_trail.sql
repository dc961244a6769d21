-- An audit trail: who did what to the published data, from which host, by which command, and how it ended.
--
-- Append-only: rows come by INSERT, and nobody changes or removes one; the role that loads, if it does not own the table
-- (docs/security.md), cannot do away with that either, nor choose the time and the user that are written down.

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
