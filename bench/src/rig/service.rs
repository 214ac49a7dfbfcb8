//! The service under load: nodes of the real binary, each a process, on one store.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::load::client::Connection;

/// How long a node may take to be ready, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often what changes by itself is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How nodes are started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// Settings beside those that every node has.
    pub(crate) env: Vec<(&'static str, String)>,
    /// The settings file, where there is one.
    pub(crate) file: Option<String>,
}

/// One node. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    pub(crate) address: SocketAddr,
    /// From the start of the process until it could take work.
    pub(crate) start: Duration,
    /// A closed pipe would end the node at its next word.
    _said: BufReader<ChildStdout>,
}

/// What every node of a service has in common.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) binary: PathBuf,
    /// Its own: the database of SQLite, and what the nodes log.
    pub(crate) folder: PathBuf,
    /// PostgreSQL, or SQLite in the folder.
    pub(crate) database_url: Option<String>,
    /// The stub's.
    pub(crate) model_url: String,
}

impl Place {
    fn command(&self, setup: &Setup, log: &Path) -> Result<Command> {
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .env("RUNLEDGER_LOG", "warn")
            .env("OPENAI_BASE_URL", &self.model_url)
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&self.folder)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(log)?);
        if let Some(url) = &self.database_url {
            command.env("DATABASE_URL", url);
        }
        if let Some(text) = &setup.file {
            let path = self.folder.join("bench.toml");
            std::fs::write(&path, text)?;
            command.arg("--config").arg(path);
        }
        for (name, value) in &setup.env {
            command.env(name, value);
        }
        Ok(command)
    }

    /// What the nodes logged: warnings and errors.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("service.log")
    }
}

impl Node {
    /// Starts one and waits until it may take work.
    pub(crate) async fn start(place: &Place, setup: &Setup) -> Result<Node> {
        let log = place.log();
        let began = Instant::now();
        let child = place.command(setup, &log)?.spawn();
        let mut child = child.with_context(|| format!("{} starts", place.binary.display()))?;
        let mut said = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let address = loop {
            let mut line = String::new();
            if said.read_line(&mut line)? == 0 {
                let status = child.wait()?;
                let log = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the service ended at its start, {status}:\n{log}");
            }
            if let Some(address) = line.strip_prefix("address  http://") {
                break address.trim().parse()?;
            }
        };
        let mut node = Node { child, address, start: Duration::ZERO, _said: said };
        node.ready(began + PATIENCE).await?;
        node.start = began.elapsed();
        Ok(node)
    }

    async fn ready(&mut self, deadline: Instant) -> Result<()> {
        loop {
            if let Ok(mut connection) = Connection::open(self.address).await
                && connection.get("/readyz").await.is_ok_and(|answer| answer.status == 200)
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the service ended before it was ready, {status}");
            }
            ensure!(Instant::now() < deadline, "the service does not become ready");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process as a crash would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// `SIGTERM`; it has to end by itself.
    pub(crate) async fn stop(&mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("no process has number 0")?;
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the service does not stop");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
