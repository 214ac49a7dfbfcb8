//! Several nodes on one PostgreSQL, each a real process: one dies, freezes, leaves or is asked for what
//! another does, and every run goes on.

mod api;
mod cancel;
mod deploys;
mod faults;
mod fence;
mod late;
mod outage;
mod partition;
mod poison;
mod reconnects;
mod share;
mod storm;
mod takeover;

use std::sync::Arc;

use sqlx::{ConnectOptions, Connection};

use crate::postgres::{Cluster, Database};
use crate::service::{Service, Setup};
use crate::stub::Stub;

/// Seconds of a lease in these tests: soon over, and long enough for a loaded machine's heartbeats.
const LEASE: &str = "1.5";

/// A database, and how nodes on it are started.
pub struct Nodes {
    pub stub: Stub,
    pub url: String,
    pub setup: Setup,
}

impl Nodes {
    pub async fn new() -> Nodes {
        Nodes::at(Database::new().await.url).await
    }

    /// Nodes on a server of their own, which may be stopped.
    pub async fn on_a_server() -> (Nodes, Cluster) {
        let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
        (Nodes::at(cluster.url()).await, cluster)
    }

    pub async fn at(url: String) -> Nodes {
        let stub = Stub::start().await;
        let setup = Setup::default()
            // Below that, each start warns of a server that does not flush.
            .env("RUNLEDGER_LOG", "error")
            .env("DATABASE_URL", &url)
            .env("RUNLEDGER_LEASE", LEASE)
            .env("OPENAI_BASE_URL", &stub.base_url);
        Nodes { stub, url, setup }
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Nodes {
        self.setup = self.setup.env(name, value);
        self
    }

    pub async fn start(&self) -> Service {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Service::in_folder(folder, self.setup.clone()).await
    }

    pub async fn start_many<const COUNT: usize>(&self) -> [Service; COUNT] {
        let mut nodes = Vec::new();
        for _ in 0..COUNT {
            nodes.push(self.start().await);
        }
        nodes.try_into().unwrap_or_else(|_| unreachable!("there are so many"))
    }

    /// Changes the database behind the service's back.
    pub async fn execute(&self, statement: &str) {
        let options: sqlx::postgres::PgConnectOptions = self.url.parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// One number out of the database.
    pub async fn count(&self, query: &'static str) -> i64 {
        let options: sqlx::postgres::PgConnectOptions = self.url.parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        let (count,): (i64,) = sqlx::query_as(query).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        count
    }
}

/// Which of the nodes drives a run: where its last `run.started` says that it was begun.
async fn owner(nodes: &[Service], run: &str) -> usize {
    let client = &nodes[0].client;
    let log = client.log(run).await;
    let started = crate::client::of(&log, "run.started");
    let name = started.last().expect("it has started")["node"].as_str().unwrap().to_owned();
    let place = nodes.iter().position(|node| node.node_name() == name);
    place.unwrap_or_else(|| panic!("no node is called {name}"))
}
