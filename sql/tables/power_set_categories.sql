-- One row per power and category of enhancement sets that it takes (MidsReborn: the number of the category, as text).

-- create
create table {schema}.power_set_categories (
    id bigint not null,
    power_id bigint not null,
    set_category text not null,
    created_at timestamptz not null default now()
);

-- index: power_set_categories_pkey
-- primary key
alter table {table} add constraint {index} primary key (id);

-- index: idx_power_set_category
create unique index {index} on {table} (power_id, set_category);
