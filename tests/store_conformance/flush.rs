//! A flush of the embedded store fails, and its process dies: the system may have taken what it could
//! not write for written. The next start relies on none of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use runledger::store::{BatchNumber, Create, Store, StoreError};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::bench::{intent, texts};
use crate::scale::scaled;

/// Where the child finds the store, and what it does there.
const FOLDER: &str = "RUNLEDGER_FLUSH_FOLDER";
const PART: &str = "RUNLEDGER_FLUSH_PART";

/// The system's unit of what is written and not flushed.
const PAGE: u64 = 4096;

/// Runs the child under strace; gives what it called, or nothing where strace can't watch.
fn traced(folder: &Path, part: &str, inject: Option<&str>) -> Option<String> {
    let told = folder.join(format!("{part}.strace"));
    let calls = "trace=pwrite64,fsync,fdatasync,ftruncate";
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-s", "0", "-e", calls, "-o"]).arg(&told);
    if let Some(inject) = inject {
        strace.args(["-e", &format!("inject={inject}")]);
    }
    strace
        .arg(std::env::current_exe().expect("it has a path"))
        .args(["flush::the_child_that_is_watched", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(PART, part)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // How it ends is a part of the test.
    let _ = strace.status().ok()?;
    let told = std::fs::read_to_string(told).ok()?;
    told.contains("-wal>").then_some(told)
}

/// What a file system knows of the write-ahead log that does as Linux's do: pages whose flush has failed
/// count as clean, and are not written before somebody changes them again.
#[derive(Default)]
struct Disk {
    /// Written, and not flushed.
    dirty: BTreeSet<u64>,
    /// Neither on the disk nor going to be.
    lost: BTreeSet<u64>,
    failed: usize,
    flushed: usize,
    /// Flushes that succeeded though something before their end is lost.
    relied: usize,
}

impl Disk {
    fn see(&mut self, trace: &str) {
        let mut open: BTreeMap<&str, String> = BTreeMap::new();
        for line in trace.lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let rest = rest.trim_start();
            if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
                open.insert(thread, begun.to_owned());
            } else if let Some((_, end)) = rest.split_once(" resumed>") {
                let begun = open.remove(thread).unwrap_or_default();
                self.call(&format!("{begun}{end}"));
            } else {
                self.call(rest);
            }
        }
    }

    fn call(&mut self, call: &str) {
        if !call.contains("-wal>") {
            return;
        }
        let (asked, answer) = call.rsplit_once(" = ").expect("it has an answer");
        let numbers: Vec<u64> = asked
            .trim_end()
            .trim_end_matches(')')
            .split(", ")
            .filter_map(|word| word.trim().parse().ok())
            .collect();
        let is_done = !answer.starts_with('-');
        match (asked.split('(').next().unwrap_or_default(), &numbers[..]) {
            ("pwrite64", [length, at]) if is_done => {
                for page in at / PAGE..=(at + length - 1) / PAGE {
                    self.dirty.insert(page);
                    self.lost.remove(&page);
                }
            }
            ("ftruncate", [length]) if is_done => {
                self.dirty.retain(|page| *page < length.div_ceil(PAGE));
                self.lost.retain(|page| *page < length.div_ceil(PAGE));
            }
            ("fsync" | "fdatasync", _) if is_done => {
                self.flushed += 1;
                let end = self.dirty.last().copied().unwrap_or_default();
                self.relied += usize::from(self.lost.range(..end).next().is_some());
                self.dirty.clear();
            }
            ("fsync" | "fdatasync", _) => {
                self.failed += 1;
                self.lost.append(&mut self.dirty);
            }
            _no_change => {}
        }
    }
}

/// A process whose flush fails dies, and another goes on with the file.
fn after_a_failed_flush(next: &str, which: usize) -> Option<Disk> {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("runledger-flush-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("it is made");
    let fault = format!("fsync,fdatasync:error=EIO:when={which}+");
    let traces = [traced(&folder, "first", Some(&fault)), traced(&folder, next, None)];
    let _ = std::fs::remove_dir_all(&folder);
    let mut disk = Disk::default();
    for trace in traces {
        disk.see(&trace?);
    }
    Some(disk)
}

#[test]
fn nothing_is_acknowledged_on_the_strength_of_what_a_failed_flush_has_lost() {
    let (mut failed, mut flushed, mut relied) = (0, 0, 0);
    for which in 0..scaled(1, 8) {
        let Some(disk) = after_a_failed_flush("ours", 12 + which) else {
            println!("row=10 not_possible=strace-can-not-watch");
            return;
        };
        failed += disk.failed;
        flushed += disk.flushed;
        relied += disk.relied;
    }
    println!(
        "row=10 store=sqlite fault=failed-flush-and-death faults_fired={failed} ops_ok={flushed} \
         value={relied}"
    );
    assert!(failed >= scaled(1, 8) && flushed >= 5 * failed, "too little: {failed} {flushed}");
    assert_eq!(relied, 0);
}

/// The control: SQLite alone goes on behind what the dead process could not flush.
#[test]
fn a_start_that_trusts_the_file_relies_on_what_is_lost() {
    let Some(disk) = after_a_failed_flush("trusting", 12) else {
        println!("row=10 not_possible=strace-can-not-watch");
        return;
    };
    println!(
        "row=10 control=true fault=failed-flush-and-death faults_fired={} value={}",
        disk.failed, disk.relied
    );
    assert!(disk.failed > 0 && disk.relied > 0, "{} {}", disk.failed, disk.relied);
}

#[tokio::test]
#[ignore = "others run it, under strace"]
async fn the_child_that_is_watched() {
    let Ok(folder) = std::env::var(FOLDER) else { panic!("only others run it") };
    let folder = PathBuf::from(folder);
    match std::env::var(PART).as_deref() {
        Ok("first") => {
            write_until_refused(&folder, u64::MAX).await;
            // At once, before anything is written in the place of what failed.
            std::process::abort()
        }
        Ok("ours") => write_until_refused(&folder, 6).await,
        Ok("trusting") => {
            let file = SqliteConnectOptions::new().filename(folder.join("runledger.db"));
            let mut session = file.connect().await.expect("it connects");
            sqlx::query("insert into secrets (name, value) values ('a', x'00')")
                .execute(&mut session)
                .await
                .expect("it is written");
            session.close().await.expect("it is closed");
        }
        other => panic!("{other:?} is no part"),
    }
}

async fn write_until_refused(folder: &Path, most: u64) {
    let store = Store::open_sqlite(folder).await.expect("it opens");
    let (node, _) = store.register("child").await.expect("it registers");
    let create = Create { owner: Some(node), ..intent("flush") };
    let run = create.id;
    store.create(vec![create]).await.expect("it is created");
    for number in 1..=most {
        let batch = Arc::new(vec![texts(run, number + 1..=number + 1)]);
        match store.append(node, BatchNumber(number), batch).await {
            Ok(_) => {}
            Err(StoreError::Unavailable(_)) => return,
            Err(other) => panic!("{other}"),
        }
    }
}
