//! What processes have used: CPU time and memory, of one or of a whole tree.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The unit of the times in `/proc/PID/stat`: hundredths of a second on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// What a process says of itself in `/proc/PID/stat`.
#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: u32,
    /// Its own, user and system.
    ticks: u64,
    /// That of its children that have ended.
    ended_ticks: u64,
}

/// CPU time of these processes and all below them, user and system, ended children included.
pub(crate) fn cpu(roots: &[u32]) -> Result<Duration> {
    let ticks = tree(roots)?.values().map(|stat| stat.ticks + stat.ended_ticks).sum::<u64>();
    Ok(TICK.mul_f64(ticks as f64))
}

/// Resident memory of one process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmRSS:")
}

/// The most that it ever was.
pub(crate) fn peak_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("process {pid} tells {name}"))
}

/// These processes and all below them.
fn tree(roots: &[u32]) -> Result<BTreeMap<u32, Stat>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        // It may have ended since it was listed.
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, stat(pid)?))) {
            all.insert(pid, stat);
        }
    }
    let mut open = roots.to_vec();
    let mut found = BTreeMap::new();
    while let Some(pid) = open.pop() {
        if let Some(stat) = all.get(&pid) {
            found.insert(pid, *stat);
            open.extend(all.iter().filter(|(_, child)| child.parent == pid).map(|(pid, _)| *pid));
        }
    }
    Ok(found)
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&text)
}

fn parse(text: &str) -> Option<Stat> {
    // The name, in parentheses, may hold anything; behind it stand a letter and numbers.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        ended_ticks: number(13)? + number(14)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "7 (a ) b) S 3 7 7 0 -1 4194304 100 0 0 0 11 22 33 44 20 0 1 0 5 6 7";
        let stat = parse(text).expect("it is understood");
        assert_eq!((stat.parent, stat.ticks, stat.ended_ticks), (3, 33, 77));
    }

    #[test]
    fn this_process_is_in_its_own_tree_and_has_memory() {
        let me = std::process::id();
        assert!(tree(&[me]).expect("it is read").contains_key(&me));
        let resident = resident_kib(me).expect("it is told");
        assert!(resident > 0 && peak_kib(me).expect("so is this") >= resident);
    }
}
