//! A PostgreSQL of the benchmark's own, whose commits are flushed as in production, and B: what it
//! does bare.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::Size;

/// PostgreSQL does not run as root; this user comes with Debian's package.
const USER: &str = "postgres";

/// How long the server may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(60);

/// What differs from the server's own defaults: room for a thousand clients of the naive design, and
/// memory as one would give a server that has the machine. Commits are flushed, and checkpoints come
/// by time, so that a case is not hit by one that its neighbour does not meet.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "max_connections=1200",
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "checkpoint_timeout=15min",
    "log_min_messages=fatal",
];

/// Clients of B.
const BARE_CLIENTS: u32 = 32;

/// B's table and its statement: one row of the size of a small event.
const BARE_TABLE: &str = "create table if not exists bare (id bigserial primary key, data text)";
const BARE_INSERT: &str = "insert into bare (data) values (repeat('x', 170));\n";

/// The server, with its data in a folder for temporary files. It ends when this is dropped, and with
/// the process that started it, however that ends: a shell waits on a pipe for it.
#[derive(Debug)]
pub(crate) struct Postgres {
    folder: PathBuf,
    port: u16,
    keeper: Child,
    databases: AtomicU32,
}

/// What pgbench did with a script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pgbench {
    /// Scripts ended.
    pub(crate) done: u64,
    pub(crate) per_second: f64,
}

/// How long pgbench goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Seconds(u64),
    /// So many scripts a client.
    Count(u64),
}

impl Postgres {
    /// Makes a cluster and starts it. A smoke run's commits are not flushed: nothing is measured.
    /// Where it is to count statements, it is slower for it.
    pub(crate) fn start(size: Size, counts_statements: bool) -> Result<Postgres> {
        let folder = Command::new("mktemp").args(["-d", "-t", "runledger-bench-XXXXXX"]).output();
        let folder = said(folder.context("mktemp runs")?)?;
        let folder = PathBuf::from(folder.trim());
        if is_root() {
            let mut own = Command::new("chown");
            said(own.arg(format!("{USER}:")).arg(&folder).output()?)?;
        }
        let data = folder.join("data");
        let mut initdb = as_owner("initdb");
        initdb.args(["-U", USER, "-A", "trust", "-D"]).arg(data);
        if size == Size::Smoke {
            initdb.arg("--no-sync");
        }
        let made = initdb.output();
        said(made.context("PostgreSQL's programs are needed: `make setup` installs them")?)?;
        let port = free_port()?;
        let keeper = keep(&folder, port, size, counts_statements)?;
        let mut postgres = Postgres { folder, port, keeper, databases: AtomicU32::new(0) };
        postgres.answers()?;
        postgres.sql("postgres", BARE_TABLE)?;
        Ok(postgres)
    }

    fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let mut ready = Command::new(program("pg_isready"));
            ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            if ready.status()?.success() {
                return Ok(());
            }
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            if self.keeper.try_wait()?.is_some() {
                bail!("PostgreSQL ended at its start:\n{}", log());
            }
            ensure!(Instant::now() < deadline, "PostgreSQL does not answer:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The statements of a database that took the most time, since it is there: milliseconds in all,
    /// calls, microseconds a call, and the words.
    pub(crate) fn statements(&self, database: &str) -> Result<String> {
        self.sql("postgres", "create extension if not exists pg_stat_statements")?;
        let most = format!(
            "select round(total_exec_time), calls, round(mean_exec_time * 1000),
                    left(regexp_replace(query, '\\s+', ' ', 'g'), 90)
               from pg_stat_statements
              where dbid = (select oid from pg_database where datname = '{database}')
              order by total_exec_time desc limit 15"
        );
        self.sql("postgres", &most)
    }

    /// An empty database: its name.
    pub(crate) fn database(&self) -> Result<String> {
        let name = format!("bench_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("create database {name}"))?;
        Ok(name)
    }

    /// The address of a database of it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL; columns come back with `|` between them, rows as lines.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database)]);
        said(psql.args(["-c", sql]).output()?)
    }

    /// What the server calls itself.
    pub(crate) fn version(&self) -> Result<String> {
        Ok(self.sql("postgres", "show server_version")?.trim().to_owned())
    }

    /// Where its data stands.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process whose children are all other processes of the server.
    pub(crate) fn pid(&self) -> Result<u32> {
        let file = std::fs::read_to_string(self.folder.join("data/postmaster.pid"))?;
        file.lines().next().and_then(|line| line.parse().ok()).context("the server's pid is told")
    }

    /// Runs a script of pgbench.
    pub(crate) fn pgbench(
        &self,
        database: &str,
        script: &Path,
        clients: u32,
        until: Until,
    ) -> Result<Pgbench> {
        let mut pgbench = Command::new(program("pgbench"));
        pgbench.args(["-n", "-M", "prepared", "-j", "2", "-c", &clients.to_string(), "-f"]);
        pgbench.arg(script);
        match until {
            Until::Seconds(seconds) => pgbench.args(["-T", &seconds.to_string()]),
            Until::Count(count) => pgbench.args(["-t", &count.to_string()]),
        };
        let told = said(pgbench.arg(self.url(database)).output()?)?;
        let number = |start: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(start));
            let word = line.and_then(|line| line.split([' ', '/']).next());
            word.with_context(|| format!("pgbench tells {start}:\n{told}"))
        };
        Ok(Pgbench {
            done: number("number of transactions actually processed: ")?.parse()?,
            per_second: number("tps = ")?.parse()?,
        })
    }

    /// B: inserts of one row a transaction, 32 clients, each second. It says little in a smoke run.
    pub(crate) fn bare(&self, size: Size) -> Result<f64> {
        let script = self.folder.join("bare.sql");
        std::fs::write(&script, BARE_INSERT)?;
        let (clients, until) = match size {
            Size::Smoke => (2, Until::Count(1)),
            Size::Short => (BARE_CLIENTS, Until::Seconds(3)),
            Size::Whole => (BARE_CLIENTS, Until::Seconds(10)),
        };
        let done = self.pgbench("postgres", &script, clients, until)?;
        self.sql("postgres", "truncate bare")?;
        Ok(done.per_second)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The pipe closes, the shell ends the server and removes its files.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Starts the server below a shell that stops it, and removes its files, when its standard input
/// ends: also when this process is killed.
fn keep(folder: &Path, port: u16, size: Size, counts_statements: bool) -> Result<Child> {
    let script = r#"
        folder=$1; shift
        exec 3<&0
        "$@" >>"$folder/log" 2>&1 </dev/null 3<&- &
        server=$!
        ( trap '' INT TERM HUP
          while read -r _; do :; done
          trap '' USR1
          kill -QUIT $server 2>/dev/null; rm -rf "$folder" ) <&3 &
        keeper=$!
        trap '' INT
        wait $server
        kill -USR1 $keeper 2>/dev/null
    "#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(folder);
    shell.args(as_user()).arg(program("postgres")).arg("-D").arg(folder.join("data"));
    shell.arg("-k").arg(folder).args(["-p", &port.to_string()]);
    for setting in SETTINGS {
        shell.args(["-c", setting]);
    }
    if size == Size::Smoke {
        // The last of two that differ holds.
        shell.args(["-c", "fsync=off"]);
    }
    if counts_statements {
        shell.args(["-c", "shared_preload_libraries=pg_stat_statements"]);
    }
    shell.stdin(Stdio::piped()).spawn().context("sh runs")
}

/// The program of this name, from the newest PostgreSQL of this machine.
fn program(name: &str) -> PathBuf {
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

/// A command that has the rights of the server's owner.
fn as_owner(name: &str) -> Command {
    let mut words = as_user().into_iter();
    let mut command = match words.next() {
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg(program(name));
            command
        }
        None => Command::new(program(name)),
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
    rustix::process::geteuid().is_root()
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What a program wrote.
///
/// # Errors
/// What it wrote where it failed.
fn said(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
