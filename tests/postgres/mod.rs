//! A PostgreSQL of the tests' own: one cluster for each test program, started when the first test
//! asks for it, and a database for each test. `TEST_DATABASE_URL` names a server to use instead.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

/// PostgreSQL does not run as root; this user comes with Debian's package.
const USER: &str = "postgres";

/// A database that nobody else uses. Its name goes with it; the cluster's files go with the program.
pub(crate) struct Database {
    /// Where it is: `postgres://…`.
    pub(crate) url: String,
}

impl Database {
    /// An empty database.
    pub(crate) async fn new() -> Database {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("runledger_test_{}_{number}", std::process::id());
        let server = server();
        let mut admin = PgConnection::connect(&at(server, "postgres")).await.expect("it answers");
        let create = sqlx::AssertSqlSafe(format!("create database {name}"));
        admin.execute(sqlx::raw_sql(create)).await.expect("it makes a database");
        Database { url: at(server, &name) }
    }
}

/// The address of a database of the server that `url` names.
fn at(url: &str, database: &str) -> String {
    let (before, query) =
        url.split_once('?').map_or((url, None), |(url, query)| (url, Some(query)));
    let authority = before.find("://").map_or(0, |place| place + 3);
    let end = before[authority..].find('/').map_or(before.len(), |place| authority + place);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{database}{query}", &before[..end])
}

/// The address of the one server of this program.
fn server() -> &'static str {
    static SERVER: OnceLock<String> = OnceLock::new();
    SERVER.get_or_init(|| match std::env::var("TEST_DATABASE_URL") {
        Ok(url) => url,
        Err(_) => {
            static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);
            let cluster = Cluster::start();
            let url = cluster.url();
            *CLUSTER.lock().expect("nothing panics while it holds it") = Some(cluster);
            url
        }
    })
}

/// A server of one's own, with its data in a folder for temporary files. It ends when it is dropped,
/// and with the process that started it, however that ends: a shell waits on a pipe for it.
pub(crate) struct Cluster {
    folder: PathBuf,
    port: u16,
    /// Settings for its command line: `-c name=value …`.
    settings: String,
    keeper: Child,
}

impl Cluster {
    /// Makes a cluster and starts it. Its commits are not flushed: no test pulls the plug.
    pub(crate) fn start() -> Cluster {
        Cluster::start_in(&std::env::temp_dir(), "")
    }

    /// The same in this folder, with settings beside those that every test needs.
    pub(crate) fn start_in(parent: &Path, settings: &str) -> Cluster {
        let folder = Command::new("mktemp")
            .args(["-d", "-p"])
            .arg(parent)
            .arg("runledger-postgres-XXXXXX")
            .output()
            .expect("mktemp runs");
        let folder = PathBuf::from(String::from_utf8_lossy(&folder.stdout).trim());
        if is_root() {
            let owner = format!("{USER}:");
            run(Command::new("chown").arg(owner).arg(&folder));
        }
        run(command("initdb")
            .args(["-U", USER, "-A", "trust", "--no-sync", "-D"])
            .arg(data(&folder)));
        let port = free_port();
        let keeper = start(&folder, port, settings);
        Cluster { folder, port, settings: settings.to_owned(), keeper }
    }

    /// The address of its server.
    pub(crate) fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// Stops the server at once, as a crash would.
    pub(crate) fn stop(&mut self) {
        run(command("pg_ctl").args(["stop", "-m", "immediate", "-D"]).arg(data(&self.folder)));
        // Waiting closes the pipe, and its end means that the files may go: it is held meanwhile.
        let pipe = self.keeper.stdin.take();
        // It has seen its server end.
        let _ = self.keeper.wait();
        drop(pipe);
    }

    /// Starts a server that was stopped, or has ended by itself, with the data that it had.
    pub(crate) fn go_on(&mut self) {
        if self.keeper.try_wait().expect("it is our child").is_some() {
            self.keeper = start(&self.folder, self.port, &self.settings);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The pipe closes, the shell ends the server.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Starts the server below a shell that stops it, and removes its files, when its standard input
/// ends: also when this process is killed, or its whole group is.
fn start(folder: &Path, port: u16, settings: &str) -> Child {
    let script = r#"
        postgres=$1 folder=$2 port=$3 settings=$4; shift 4
        exec 3<&0
        "$@" "$postgres" -D "$folder/data" -k "$folder" -p "$port" \
            -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=1000 \
            -c shared_buffers=64MB -c log_min_messages=fatal $settings >>"$folder/log" 2>&1 </dev/null 3<&- &
        server=$!
        ( trap '' INT TERM HUP
          while read -r _; do :; done
          trap '' USR1
          kill -QUIT $server 2>/dev/null; rm -rf "$folder" ) <&3 &
        keeper=$!
        wait $server
        kill -USR1 $keeper 2>/dev/null
    "#;
    let mut keeper = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(binary("postgres"))
        .arg(folder)
        .arg(port.to_string())
        .arg(settings)
        .args(as_user())
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh runs");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let mut ready = Command::new(binary("pg_isready"));
        ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
        if ready.status().is_ok_and(|status| status.success()) {
            return keeper;
        }
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        let ended = keeper.try_wait().expect("it is our child");
        assert!(ended.is_none(), "PostgreSQL ended at its start:\n{}", log());
        assert!(std::time::Instant::now() < deadline, "PostgreSQL does not answer:\n{}", log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The program of this name, from the newest PostgreSQL of this machine.
fn binary(name: &str) -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = debian.map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| {
        let version = path.file_name().and_then(|name| name.to_str());
        version.and_then(|version| version.parse::<u32>().ok()).unwrap_or(0)
    });
    let newest =
        versions.into_iter().map(|path| path.join("bin").join(name)).rfind(|it| it.exists());
    newest.unwrap_or_else(|| PathBuf::from(name))
}

fn command(name: &str) -> Command {
    let mut words = as_user().into_iter();
    let mut command = match words.next() {
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg(binary(name));
            command
        }
        None => Command::new(binary(name)),
    };
    command.current_dir("/");
    command
}

/// What to put before a command so that it does not run as root.
fn as_user() -> Vec<String> {
    if !is_root() {
        return Vec::new();
    }
    let words = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"];
    words.map(str::to_owned).to_vec()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.trim_ascii() == b"0"
}

/// A port that nobody listens on, and that no connection is given for its own end: a server that is
/// started again needs the one it had.
fn free_port() -> u16 {
    let given = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = given.ok().and_then(|range| range.split_whitespace().next()?.parse::<u16>().ok());
    let first = first.unwrap_or(32_768).max(10_000);
    static ASKED: AtomicU64 = AtomicU64::new(1);
    let asked = u32::try_from(ASKED.fetch_add(1, Ordering::Relaxed)).expect("clusters are few");
    let mut seed = std::process::id().wrapping_mul(40_503).wrapping_mul(asked);
    loop {
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let span = u32::from(first) - 9_000;
        let port = u16::try_from(9_000 + (seed >> 8) % span).expect("it is below the first");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; PostgreSQL's programs are needed: `make setup` installs them")
    });
    // What it says is only of use where it failed.
    let _ = std::io::stderr().write_all(if output.status.success() { b"" } else { &output.stderr });
    assert!(output.status.success(), "{command:?} failed");
}
