//! What the figures were measured on: a figure without its machine says little.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// Flushes of the probe: enough for a median, and done in a second on a slow disk.
const FLUSHES: usize = 200;

/// The machine, its disk, and the builds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// The median of one small append and `fdatasync`, where the databases' files are.
    pub(crate) fsync_ms: f64,
    /// How many wanted to run at the start, over one, five and fifteen minutes.
    pub(crate) load: String,
    pub(crate) postgres: String,
    /// What the binary calls itself, and the commit of the source beside it.
    pub(crate) binary: String,
    pub(crate) commit: String,
}

impl Machine {
    /// Looks at it. `folder` is on the disk that the databases use.
    pub(crate) fn look(folder: &Path, binary: &Path, postgres: String) -> Result<Machine> {
        let cpu = field("/proc/cpuinfo", "model name")?;
        let memory = field("/proc/meminfo", "MemTotal")?;
        let memory = memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
        Ok(Machine {
            cpu,
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: memory.context("memory is told in KiB")? / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            fsync_ms: fsync(folder)?.as_secs_f64() * 1e3,
            load: load()?,
            postgres,
            binary: said(Command::new(binary).arg("--version")).context("the binary runs")?,
            // A source that did not come by git has none.
            commit: said(Command::new("git").args(["describe", "--always", "--dirty"]))
                .unwrap_or_else(|_| "unknown".to_owned()),
        })
    }
}

/// How many wanted to run, over one, five and fifteen minutes.
pub(crate) fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn field(file: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    // Not every processor tells its name.
    Ok(value.map_or("unknown", |(_, value)| value.trim()).to_owned())
}

fn fsync(folder: &Path) -> Result<Duration> {
    let path = folder.join("fsync-probe");
    let mut file = fs::File::create(&path)?;
    let mut times = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        let began = Instant::now();
        file.write_all(&[0; 512])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    fs::remove_file(&path)?;
    times.sort_unstable();
    Ok(times[FLUSHES / 2])
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
