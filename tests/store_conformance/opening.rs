//! Opening a PostgreSQL store: what it needs, what it makes, and what it says where it can't.

use runledger::run::RunId;
use runledger::store::{Create, Created, Listen, PostgresOptions, Store, StoreError};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::bench::{Bench, intent, options};
use crate::postgres_server::Database;

async fn execute(url: &str, sql: &'static str) {
    let mut session = PgConnection::connect(url).await.expect("it connects");
    sqlx::raw_sql(sql).execute(&mut session).await.expect("it is done");
}

/// What opening says where it fails.
async fn refusal(options: PostgresOptions) -> String {
    match Store::open_postgres(options).await {
        Ok(store) => panic!("{} opened", store.describe()),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_nodes_open_an_empty_database_at_once() {
    let url = Database::new().await.url;
    let mut opens = JoinSet::new();
    for name in 0..8 {
        let options = options(&url);
        opens.spawn(async move {
            let store = Store::open_postgres(options).await.expect("it opens");
            store.register(&format!("node {name}")).await.expect("it registers").0
        });
    }
    let mut nodes = opens.join_all().await;
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 8, "each has a number of its own");
    Store::migrate_postgres(&url).await.expect("there is nothing left to do");
}

#[tokio::test]
async fn who_it_is_is_told_without_the_password() {
    let url = Database::new().await.url.replace("postgres@", "postgres:hunter2@");
    let store = Store::open_postgres(options(&url)).await.expect("it opens");
    let told = store.describe();
    let place = url.split_once('@').expect("it has a user").1;
    assert_eq!((told.as_str(), store.kind()), (&*format!("PostgreSQL, {place}"), "PostgreSQL"));
    assert!(!format!("{store:?}").contains("hunter2"), "nor to those who debug");
}

#[tokio::test]
async fn what_can_not_be_opened_is_told_with_what_to_do() {
    let url = Database::new().await.url;
    let nobody = url.replace("postgres@", "nobody:hunter2@");
    let nowhere = "postgres://postgres:hunter2@127.0.0.1:1/runledger".to_owned();
    let no_database = format!("{url}_not");
    for (url, expected) in [
        (nowhere, "can't reach PostgreSQL at 127.0.0.1:1/runledger"),
        (no_database, "create it (`createdb`)"),
        (nobody, "look at the user and the password in DATABASE_URL"),
        ("mysql://root:hunter2@db/x".to_owned(), "postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("postgres://root:hunter2@db:port/x".to_owned(), "DATABASE_URL is no address"),
    ] {
        let told = refusal(options(&url)).await;
        assert!(told.contains(expected), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
        let told = Store::migrate_postgres(&url).await.expect_err("nor is it migrated");
        assert!(format!("{told:#}").contains(expected), "{told:#}");
    }
    let listen = Listen::At("db.example".to_owned());
    let told = refusal(PostgresOptions { listen, ..options(&url) }).await;
    assert!(told.contains("DATABASE_LISTEN_URL is no address"), "{told}");
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_left_alone() {
    let url = Database::new().await.url;
    Store::migrate_postgres(&url).await.expect("it is made");
    execute(
        &url,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'of the future', true, '', 0)",
    )
    .await;
    let told = refusal(options(&url)).await;
    assert!(told.contains("a newer release (schema 9999; this one knows 5)"), "{told}");
}

#[tokio::test]
async fn partitions_are_made_ahead_and_a_missing_one_is_told() {
    let bench = Bench::postgres().await;
    let mut session = bench.session().await;
    let mut count = async || -> i64 {
        let parts = "select count(*) from pg_inherits
                      where inhparent in ('runs'::regclass, 'events'::regclass)";
        sqlx::query_scalar(sqlx::AssertSqlSafe(parts))
            .fetch_one(&mut session)
            .await
            .expect("it counts")
    };
    assert_eq!(count().await, 18, "yesterday, today, and 7 days, of two tables");
    let mut other = bench.session().await;
    let drop_last = "do $$ begin
             execute 'drop table ' || (select max(inhrelid::regclass::text) from pg_inherits
                                        where inhparent = 'events'::regclass); end $$";
    sqlx::raw_sql(drop_last).execute(&mut other).await.expect("it is dropped");
    assert_eq!(count().await, 17);
    bench.store.maintain().await.expect("it is made again");
    bench.store.maintain().await.expect("there is nothing to do");
    assert_eq!(count().await, 18);
    let detach_last = "do $$ begin
             execute 'alter table runs detach partition '
                 || (select max(inhrelid::regclass::text) from pg_inherits
                      where inhparent = 'runs'::regclass); end $$";
    sqlx::raw_sql(detach_last).execute(&mut other).await.expect("it is detached");
    let told = bench.store.maintain().await.expect_err("its name is taken").to_string();
    assert!(told.contains("can't be made") && told.contains("already exists"), "{told}");
}

#[tokio::test]
async fn a_run_of_a_day_without_a_partition_is_refused_in_words() {
    let bench = Bench::postgres().await;
    let of_2020 =
        uuid::Builder::from_unix_timestamp_millis(1_577_836_800_000, &[7; 10]).into_uuid();
    let refused = bench.store.create(vec![Create { id: RunId(of_2020), ..intent("old") }]).await;
    let Err(StoreError::Data(told)) = refused else { panic!("{refused:?}") };
    assert!(told.contains("a day for which the database has no partition"), "{told}");
    let now = Create { id: RunId(Uuid::now_v7()), ..intent("new") };
    assert_eq!(bench.create_one(now).await, Created::New);
}

#[tokio::test]
async fn the_time_is_the_databases() {
    let bench = Bench::postgres().await;
    let mut session = bench.session().await;
    let mut theirs = async || -> i64 {
        sqlx::query_scalar("select now_ms()").fetch_one(&mut session).await.expect("it is read")
    };
    let node = bench.node().await;
    for _ in 0..20 {
        let (before, ours, after) = (theirs().await, bench.store.now_ms(), theirs().await);
        assert!(ours <= after && ours > before - 100, "{before} {ours} {after}");
        bench.owned(node.id).await;
    }
    assert!(bench.store.clock_skew_ms().abs() < 1000, "it is the same machine's");
}

#[tokio::test]
async fn a_database_that_is_not_ours_is_left_as_it_is() {
    let url = Database::new().await.url;
    execute(&url, "create table events (theirs text)").await;
    let told = refusal(options(&url)).await;
    assert!(told.contains("use another database"), "{told}");
    let mut session = PgConnection::connect(&url).await.expect("it connects");
    let tables: i64 = sqlx::query_scalar(
        "select count(*) from pg_tables where schemaname = 'public' and tablename <> '_sqlx_migrations'",
    )
    .fetch_one(&mut session)
    .await
    .expect("it counts");
    assert_eq!(tables, 1, "nothing is half made");
    execute(&url, "drop table events").await;
    Store::migrate_postgres(&url).await.expect("now it is made");
    execute(&url, "update _sqlx_migrations set checksum = 'x' where version = 2").await;
    let told = refusal(options(&url)).await;
    assert!(told.contains("a build that was never released"), "{told}");
}

#[tokio::test]
async fn a_user_who_may_change_no_schema_serves_where_it_is_up_to_date() {
    let url = Database::new().await.url;
    let made = "do $$ begin create role keeps_runs login;
                   exception when duplicate_object then null; end $$";
    execute(&url, made).await;
    let theirs = url.replace("postgres@", "keeps_runs@");
    let told = refusal(options(&theirs)).await;
    assert!(told.contains("with `runledger migrate`"), "{told}");
    Store::migrate_postgres(&url).await.expect("the owner may");
    let granted =
        "grant select, insert, update, delete on all tables in schema public to keeps_runs";
    execute(&url, granted).await;
    let store = Store::open_postgres(options(&theirs)).await.expect("it opens");
    let (node, _) = store.register("guest").await.expect("it registers");
    let created = store.create(vec![Create { owner: Some(node), ..intent("theirs") }]).await;
    assert_eq!(created.expect("it is created"), [Created::New]);
    let drop_last = "do $$ begin
             execute 'drop table ' || (select max(inhrelid::regclass::text) from pg_inherits
                                        where inhparent = 'events'::regclass); end $$";
    execute(&url, drop_last).await;
    store.maintain().await.expect("it may make days all the same");
}
