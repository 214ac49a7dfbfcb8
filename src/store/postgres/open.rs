//! Opening: where the database is, what it must be, and what to do where it isn't.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};
use tokio::time::timeout;

use super::clock::Clock;
use super::edge::{Breaks, Edge, Plans};
use super::notices::Ear;
use super::{CLIENTS, DRIVERS, MAINTAIN, NODES, Postgres, READ, READERS, TAKE_OVER, WRITE};

/// The oldest PostgreSQL on which this store was tried: it has what we ask of it, and is the oldest
/// that its makers keep.
const VERSION_MIN: i32 = 140_000;

/// How long opening waits for an answer.
const CONNECT: Duration = Duration::from_secs(5);

/// Within less, no connection can be made anew on a busy machine.
const BEAT_MIN: Duration = Duration::from_millis(250);

/// How long a start waits for another one that is changing the schema.
const SCHEMA_WAIT: &str = "set lock_timeout = '60s'";

/// How a [`Postgres`] is opened.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the addresses have passwords")]
pub struct PostgresOptions {
    /// Where the database is: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
    pub url: String,
    /// Where this node hears the others.
    pub listen: Listen,
    /// How long a node owns its runs from one heartbeat on.
    pub lease: Duration,
}

/// Where a node hears the others.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the address has a password")]
pub enum Listen {
    /// At the same address.
    Same,
    /// At another, because what stands at the first ends sessions that are silent for long.
    At(String),
    /// Nowhere: what others do is found by looking.
    Off,
}

impl Postgres {
    /// Opens the database, and brings its schema up to date.
    pub(in crate::store) async fn open(options: PostgresOptions) -> anyhow::Result<Postgres> {
        let PostgresOptions { url, listen, lease } = options;
        let address = parse(&url, "DATABASE_URL")?;
        let ear = match listen {
            Listen::Same => Ear::at(&address),
            Listen::At(url) => Ear::at(&parse(&url, "DATABASE_LISTEN_URL")?),
            Listen::Off => Ear::off(),
        };
        let place = place(&address);
        prepare(&address, &place).await?;
        let breaks = Breaks::default();
        let edge = |name: &'static str, connections, deadline| {
            Edge::new(&address, name, connections, (deadline, Plans::Usual), &breaks)
        };
        let planned = |name: &'static str, connections, deadline| {
            Edge::new(&address, name, connections, (deadline, Plans::Kept), &breaks)
        };
        let store = Postgres {
            place: Arc::from(place),
            lease,
            clock: Clock::new(),
            appends: planned("append", 1, WRITE),
            creates: planned("create", 1, WRITE),
            claims: edge("claim", 1, WRITE),
            // A beat that is later than that is not worth waiting for: the next may still be in time.
            beats: edge("heartbeat", 1, (lease / 3).clamp(BEAT_MIN, WRITE)),
            owned: edge("owned", 1, READ),
            nodes: edge("nodes", NODES, TAKE_OVER),
            notices: edge("notify", 1, READ),
            drivers: planned("drivers", DRIVERS, WRITE),
            readers: planned("readers", READERS, READ),
            clients: edge("clients", CLIENTS, READ),
            upkeep: edge("upkeep", 1, MAINTAIN),
            ear,
        };
        store.look_at_the_clock().await.context("can't read the database's clock")?;
        Ok(store)
    }

    async fn look_at_the_clock(&self) -> anyhow::Result<()> {
        let clock = self.clock.clone();
        let looking = self.beats.run(move |connection| {
            Box::pin(async move {
                let now = "select floor(extract(epoch from clock_timestamp()) * 1000000)::bigint";
                // Twice: the first finds out what the statement is.
                for _ in 0..2 {
                    let asked = Instant::now();
                    let (database_us,) = sqlx::query_as(now).fetch_one(&mut *connection).await?;
                    clock.learn(asked, database_us);
                }
                Ok(())
            })
        });
        Ok(looking.await?)
    }
}

/// Brings the schema up to date, and makes the first partitions.
pub(in crate::store) async fn migrate(url: &str) -> anyhow::Result<()> {
    let address = parse(url, "DATABASE_URL")?;
    prepare(&address, &place(&address)).await
}

fn parse(url: &str, setting: &str) -> anyhow::Result<PgConnectOptions> {
    let known = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    // The address itself is not told: it may have a password.
    let form = || {
        anyhow!(
            "{setting} is no address of a PostgreSQL database: it reads \
             postgres://USER:PASSWORD@HOST:PORT/DATABASE"
        )
    };
    if !known {
        return Err(form());
    }
    url.parse().map_err(|_error: sqlx::Error| form())
}

/// Host, port and database.
fn place(address: &PgConnectOptions) -> String {
    let database = address.get_database().unwrap_or(address.get_username());
    match address.get_socket() {
        Some(socket) => format!("{}/{database}", socket.display()),
        None => format!("{}:{}/{database}", address.get_host(), address.get_port()),
    }
}

async fn prepare(address: &PgConnectOptions, place: &str) -> anyhow::Result<()> {
    let mut connection = match timeout(CONNECT, address.connect()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(unreachable_for(&error, address, place)),
        Err(_late) => bail!(
            "PostgreSQL at {place} does not answer within {CONNECT:?}: is it running there, and is \
             nothing in between that drops what is sent?"
        ),
    };
    let (version, name): (i32, String) = sqlx::query_as(
        "select current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .fetch_one(&mut connection)
    .await
    .with_context(|| format!("can't ask {place} for its version"))?;
    if version < VERSION_MIN {
        bail!("{place} is PostgreSQL {name}: 14 is the oldest that will do");
    }
    warn_of_loss(&mut connection, place).await?;
    let prepared = bring_up_to_date(&mut connection, place).await;
    if let Err(error) = connection.close().await {
        tracing::debug!(error = %error, "a connection could not be closed");
    }
    prepared
}

/// Says so where the server acknowledges what a loss of power takes back. It is the operator's to turn
/// on: no session can.
async fn warn_of_loss(connection: &mut PgConnection, place: &str) -> anyhow::Result<()> {
    let (off,): (Option<String>,) = sqlx::query_as(
        "select string_agg(name, ' and ' order by name) from pg_settings
          where name in ('fsync', 'full_page_writes') and setting = 'off'",
    )
    .fetch_one(connection)
    .await
    .with_context(|| format!("can't ask {place} for its settings"))?;
    if let Some(off) = off {
        tracing::warn!(
            "PostgreSQL at {place} has {off} off: what it acknowledges, a loss of power may take back"
        );
    }
    Ok(())
}

async fn bring_up_to_date(connection: &mut PgConnection, place: &str) -> anyhow::Result<()> {
    sqlx::raw_sql(SCHEMA_WAIT).execute(&mut *connection).await?;
    let migrations = migrations();
    if !is_up_to_date(connection, &migrations).await? {
        change(connection, &migrations, place).await?;
    }
    sqlx::query("select make_days($1)")
        .bind(super::DAYS_AHEAD)
        .execute(connection)
        .await
        .with_context(|| format!("can't make partitions at {place}"))?;
    Ok(())
}

/// Whether there is nothing to change: then the user needs no right to.
async fn is_up_to_date(
    connection: &mut PgConnection,
    migrations: &Migrator,
) -> anyhow::Result<bool> {
    let (has_begun,): (bool,) =
        sqlx::query_as("select to_regclass('_sqlx_migrations') is not null")
            .fetch_one(&mut *connection)
            .await?;
    if !has_begun {
        return Ok(false);
    }
    let done: Vec<(i64, Vec<u8>, bool)> =
        sqlx::query_as("select version, checksum, success from _sqlx_migrations order by version")
            .fetch_all(connection)
            .await
            .context("can't see what was done to the schema")?;
    let ours = migrations.iter().map(|one| (one.version, one.checksum.to_vec(), true));
    Ok(ours.eq(done))
}

async fn change(
    connection: &mut PgConnection,
    migrations: &Migrator,
    place: &str,
) -> anyhow::Result<()> {
    // What `run` does; but the compiler can't see that its future may go from thread to thread.
    match migrations.run_direct(None, connection, false).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(version)) => bail!(
            "{place} was brought up to date by a newer release (schema {version}; this one knows \
             {}): start that release, or use another database",
            migrations.iter().map(|one| one.version).max().unwrap_or_default()
        ),
        Err(MigrateError::VersionMismatch(version)) => bail!(
            "{place} was made by a build that was never released (its schema {version} is another): \
             use another database"
        ),
        Err(error) => Err(unchanged_for(&error, place)),
    }
}

fn migrations() -> Migrator {
    let migration = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        migration(1, "runs", include_str!("../../../migrations/postgres/0001_runs.sql")),
        migration(2, "journal", include_str!("../../../migrations/postgres/0002_journal.sql")),
        migration(3, "ownership", include_str!("../../../migrations/postgres/0003_ownership.sql")),
        migration(4, "lists", include_str!("../../../migrations/postgres/0004_lists.sql")),
        migration(
            5,
            "one_update",
            include_str!("../../../migrations/postgres/0005_one_update.sql"),
        ),
    ])
}

/// Why there is no connection, and what to do.
fn unreachable_for(error: &sqlx::Error, address: &PgConnectOptions, place: &str) -> anyhow::Error {
    let user = address.get_username();
    let code = error.as_database_error().and_then(DatabaseError::code);
    match code.as_deref() {
        Some("28P01" | "28000") => anyhow!(
            "PostgreSQL at {place} refuses the user `{user}` ({error}): look at the user and the \
             password in DATABASE_URL"
        ),
        Some("3D000") => anyhow!(
            "there is no such database at {place}: create it (`createdb`), or name another in \
             DATABASE_URL"
        ),
        Some(_) => anyhow!("PostgreSQL at {place} takes no connection: {error}"),
        None => anyhow!(
            "can't reach PostgreSQL at {place} ({error}): is it running there, and is DATABASE_URL \
             right?"
        ),
    }
}

/// Why the schema could not be changed, and what to do.
fn unchanged_for(error: &MigrateError, place: &str) -> anyhow::Error {
    let code = match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            error.as_database_error().and_then(DatabaseError::code)
        }
        _of_the_migrations => None,
    };
    let advice = match code.as_deref() {
        Some("42501") => ": let a user do it who may create tables there, with `runledger migrate`",
        Some("55P03") => ": another start has been at it for too long",
        Some("42P07" | "42723") => ": there is something else of these names; use another database",
        Some(_) | None => "",
    };
    anyhow!("can't bring the schema of {place} up to date ({error}){advice}")
}
