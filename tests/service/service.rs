//! A running service: the real binary on a port and in a folder of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::postgres::Database;
use crate::stub::Stub;
use crate::waiting::{until, within};

/// How a service is started.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Variables beside those that every test needs.
    pub env: Vec<(&'static str, String)>,
    pub args: Vec<String>,
    /// Where its log lines go; else they are the test's.
    pub log: Option<PathBuf>,
    /// The key that the client sends.
    pub key: Option<String>,
}

impl Setup {
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Setup {
        self.env.push((name, value.into()));
        self
    }

    /// The settings file: further providers and the like.
    pub fn file(mut self, folder: &Path, text: &str) -> Setup {
        let path = folder.join("test.toml");
        std::fs::write(&path, text).unwrap();
        self.args.extend(["--config".to_owned(), path.display().to_string()]);
        self
    }
}

/// The process and where to reach it. Killed when it is dropped.
pub struct Service {
    child: Child,
    pub client: Client,
    /// What it said at its start.
    pub greeting: String,
    setup: Setup,
    data: Data,
}

/// The data folder outlives each process that uses it.
type Data = Arc<TempDir>;

/// The binary: this build's, or the one that `RUNLEDGER_TEST_BINARY` names (a release, say).
pub fn binary() -> OsString {
    std::env::var_os("RUNLEDGER_TEST_BINARY").unwrap_or(env!("CARGO_BIN_EXE_runledger").into())
}

/// A command that runs the binary with nothing of this machine's settings in its environment.
pub fn command(data: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .env_clear()
        .env("RUNLEDGER_LOG", "warn")
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .current_dir(data)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The database that goes with a data folder, where `RUNLEDGER_TEST_STORE=postgres` asks for the tests
/// of one service to be tried on PostgreSQL.
async fn database_of(data: &Path) -> Option<String> {
    std::env::var("RUNLEDGER_TEST_STORE").ok().filter(|store| store == "postgres")?;
    let note = data.join("database_url");
    if !note.exists() {
        std::fs::write(&note, Database::new().await.url).unwrap();
    }
    std::fs::read_to_string(&note).ok()
}

impl Service {
    /// A service whose provider `openai` is the stub.
    pub async fn start(stub: &Stub) -> Service {
        Service::start_with(stub, Setup::default()).await
    }

    pub async fn start_with(stub: &Stub, setup: Setup) -> Service {
        let setup = setup.env("OPENAI_BASE_URL", &stub.base_url);
        Service::in_folder(Arc::new(tempfile::tempdir().unwrap()), setup).await
    }

    /// A service without any provider but the demo.
    pub async fn demo() -> Service {
        Service::in_folder(Arc::new(tempfile::tempdir().unwrap()), Setup::default()).await
    }

    pub async fn in_folder(data: Data, setup: Setup) -> Service {
        let started = Service::try_in_folder(data, setup).await;
        started.unwrap_or_else(|early| panic!("the service ended early: {early:?}"))
    }

    /// The same, where it may die before it serves.
    ///
    /// # Errors
    /// It has died.
    pub async fn try_in_folder(data: Data, setup: Setup) -> Result<Service, Early> {
        let mut command = command(data.path());
        command.args(&setup.args).stdout(Stdio::piped());
        if let Some(log) = &setup.log {
            command.stderr(std::fs::File::create(log).unwrap());
        }
        if let Some(url) = database_of(data.path()).await {
            command.env("DATABASE_URL", url).env("RUNLEDGER_LEASE", "5");
        }
        for (name, value) in &setup.env {
            command.env(name, value);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut greeting = String::new();
        let reading = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                greeting.push_str(&line);
                greeting.push('\n');
                if line.starts_with("try ") {
                    return true;
                }
            }
            false
        };
        if !within("the service's start", reading).await {
            let status = within("the service's end", child.wait()).await.unwrap();
            return Err(Early { status, greeting });
        }
        let url = greeting
            .lines()
            .find_map(|line| line.strip_prefix("address  "))
            .expect("the address is said")
            .to_owned();
        let client = Client::new(&url, setup.key.as_deref());
        Ok(Service { child, client, greeting, setup, data })
    }

    /// Waits until the process ends, however it does.
    pub async fn gone(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    pub fn folder(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Ends the process as a crash would.
    pub async fn kill(mut self) -> Stopped {
        self.child.kill().await.unwrap();
        Stopped { setup: self.setup, data: self.data }
    }

    /// `SIGTERM`; the service has to end by itself.
    pub async fn terminate(mut self) -> (ExitStatus, Stopped) {
        self.signal("TERM");
        let status = within("the end after SIGTERM", self.child.wait()).await.unwrap();
        (status, Stopped { setup: self.setup, data: self.data })
    }

    /// Waits until it ends by itself.
    pub async fn ends(mut self) -> (ExitStatus, Stopped) {
        let status = within("the end of the service", self.child.wait()).await.unwrap();
        (status, Stopped { setup: self.setup, data: self.data })
    }

    /// Waits until it may take work.
    pub async fn ready(&self) {
        let look = || async { (self.client.get("/readyz").await.status == 200).then_some(()) };
        until("readiness", look).await;
    }

    /// What the log of a run calls this process, for as long as it is one node.
    pub fn node_name(&self) -> &str {
        let line = self.greeting.lines().find_map(|line| line.strip_prefix("node     "));
        line.and_then(|line| line.split(',').next()).expect("the node is said")
    }

    pub fn signal(&self, name: &str) {
        let sent = std::process::Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.pid())])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// A line of `/proc/PID/status` in KiB: `VmRSS`, `VmHWM`.
    pub fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }
}

/// The end of a service that never served.
#[derive(Debug)]
pub struct Early {
    pub status: ExitStatus,
    /// What it had said by then.
    #[expect(dead_code, reason = "a test that fails shows it")]
    pub greeting: String,
}

/// What is left of a service that has ended: its data, to be started again.
pub struct Stopped {
    setup: Setup,
    data: Data,
}

impl Stopped {
    pub async fn start(self) -> Service {
        Service::in_folder(self.data, self.setup).await
    }

    pub fn folder(&self) -> PathBuf {
        self.data.path().to_owned()
    }
}
