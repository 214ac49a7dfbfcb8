//! What every case stands on: a database, a stub, and the service's nodes, each started by it and
//! gone with it.

pub(crate) mod machine;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod script;
pub(crate) mod service;
pub(crate) mod stub;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::machine::Machine;
use self::postgres::Postgres;
use self::service::{Node, Place, Setup};
use self::stub::Stub;
use crate::load::closed::Until;
use crate::{Size, Store};

/// What a command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) binary: PathBuf,
    pub(crate) store: Store,
    pub(crate) size: Size,
    /// How long a loop is measured, where it was said.
    pub(crate) seconds: Option<u64>,
    /// Whether to tell what a service's statements took.
    pub(crate) statements: bool,
}

/// The rig. Dropping it ends all that it has started.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) machine: Machine,
    /// B is its, whatever the store.
    pub(crate) postgres: Postgres,
    pub(crate) stub: Stub,
    pub(crate) options: Options,
    folder: Folder,
    services: AtomicU32,
}

/// A service: nodes on one store that is its own.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) nodes: Vec<Node>,
    pub(crate) place: Place,
    /// Its database in PostgreSQL.
    pub(crate) database: Option<String>,
}

impl Rig {
    pub(crate) async fn start(options: Options) -> Result<Rig> {
        let binary = std::path::absolute(&options.binary)?;
        ensure!(
            binary.exists(),
            "{}: there is no binary; `make bench` builds it, or `cargo build --release`",
            binary.display()
        );
        let postgres = Postgres::start(options.size, options.statements)?;
        let folder = Folder::new(postgres.folder())?;
        let machine = Machine::look(&folder.0, &binary, postgres.version()?)?;
        let stub = Stub::start().await?;
        let options = Options { binary, ..options };
        Ok(Rig { machine, postgres, stub, options, folder, services: AtomicU32::new(0) })
    }

    /// Starts so many nodes on an empty store of the kind that was asked for.
    pub(crate) async fn service(&self, nodes: usize, setup: &Setup) -> Result<Service> {
        self.service_on(self.options.store, nodes, setup).await
    }

    /// The same on a store of this kind.
    pub(crate) async fn service_on(
        &self,
        store: Store,
        nodes: usize,
        setup: &Setup,
    ) -> Result<Service> {
        let number = self.services.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.0.join(format!("service-{number}"));
        std::fs::create_dir(&folder)?;
        let database = match store {
            Store::Postgres => Some(self.postgres.database()?),
            Store::Sqlite => None,
        };
        let place = Place {
            binary: self.options.binary.clone(),
            folder,
            database_url: database.as_ref().map(|name| self.postgres.url(name)),
            model_url: self.stub.model_url(),
        };
        let mut service = Service { nodes: Vec::new(), place, database };
        for _ in 0..nodes {
            service.nodes.push(Node::start(&service.place, setup).await?);
        }
        Ok(service)
    }

    /// Ends a service as an operator would.
    pub(crate) async fn stop(&self, mut service: Service) -> Result<()> {
        for node in &mut service.nodes {
            let status = node.stop().await?;
            ensure!(status.success(), "a node stopped with {status}");
        }
        if let Some(database) = service.database.as_ref().filter(|_| self.options.statements) {
            eprintln!(
                "ms in all|calls|us a call|statement\n{}",
                self.postgres.statements(database)?
            );
        }
        Ok(())
    }

    /// B, now: to be measured beside a figure, before it and after it.
    pub(crate) fn bare(&self) -> Result<f64> {
        self.postgres.bare(self.options.size)
    }

    /// How long a closed loop of so many goes on.
    pub(crate) fn until(&self, in_flight: usize) -> Until {
        let seconds = match (self.options.size, self.options.seconds) {
            (Size::Smoke, None) => return Until::Count(in_flight * 2),
            (_, Some(seconds)) => seconds,
            (Size::Short, None) => 5,
            (Size::Whole, None) => 20,
        };
        let measured = Duration::from_secs(seconds);
        Until::Time { warm: measured / 4, measured }
    }

    /// CPU time that a service has used, its database included.
    pub(crate) fn cpu(&self, service: &Service) -> Result<Duration> {
        let mut roots: Vec<u32> = service.nodes.iter().map(Node::pid).collect();
        if service.database.is_some() {
            roots.push(self.postgres.pid()?);
        }
        process::cpu(&roots)
    }
}

impl Service {
    /// The only node, or the first.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.nodes[0].address
    }
}

/// A folder for temporary files that goes with its owner, on the disk of the databases.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new(beside: &Path) -> Result<Folder> {
        let mut name = beside.file_name().context("it has a name")?.to_owned();
        name.push("-service");
        let folder = beside.with_file_name(name);
        std::fs::create_dir(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
