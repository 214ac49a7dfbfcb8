//! The data folder: whose it is, who may read it, and what is said where it can't be had.

use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Nobody else on the machine reads what people ask their agents.
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// Makes the folder where there is none. One that is there keeps its mode: it is the operator's.
pub(super) fn make(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() && !folder.is_dir() {
        bail!("{} is not a folder; choose another --data-dir", folder.display());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER)
        .create(folder)
        .with_context(|| format!("can't make the data folder {}", folder.display()))
}

/// Locks the folder for this process.
pub(super) fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("runledger.lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(PRIVATE_FILE)
        .open(&path)
        .with_context(|| format!("can't write in the data folder: {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another process has the data folder {}; SQLite is for one node, so stop that one or \
             choose another --data-dir",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock {}", path.display()))
        }
    }
}

/// Makes the database's file where there is none, and keeps it, with those that SQLite puts beside
/// it in the same mode, from other users.
pub(super) fn make_private(path: &Path) -> anyhow::Result<()> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(PRIVATE_FILE)
        .open(path)
        .with_context(|| format!("can't write {}", path.display()))?;
    for file in [path.to_owned(), wal(path), beside(path, "-shm")] {
        match std::fs::set_permissions(&file, Permissions::from_mode(PRIVATE_FILE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("can't keep {} from others", file.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Brings the names of new files, and of a new folder, to disk: SQLite does so for its own only.
pub(super) fn sync(folder: &Path) -> anyhow::Result<()> {
    let folder = folder
        .canonicalize()
        .with_context(|| format!("can't find the data folder {}", folder.display()))?;
    for one in [Some(folder.as_path()), folder.parent()].into_iter().flatten() {
        // A parent that may not be read was not made by us just now.
        if let Ok(opened) = File::open(one) {
            opened.sync_all().with_context(|| format!("can't sync {}", one.display()))?;
        }
    }
    Ok(())
}

/// Writes what the write-ahead log has once more, byte for byte, and brings it to disk.
///
/// Where a flush had failed, the last process said that its transaction was not committed; but the
/// system may have kept what was to be flushed in its memory and taken it for flushed. SQLite would
/// now read it as committed, and go on behind it: were the power cut, it and all behind it would be
/// gone. What is written anew is flushed anew.
pub(super) fn write_again(wal: &Path) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let file = match File::options().read(true).write(true).open(wal) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let (mut piece, mut at) = (vec![0; 1024 * 1024], 0);
        loop {
            let length = file.read_at(&mut piece, at)?;
            if length == 0 {
                return file.sync_data();
            }
            file.write_all_at(&piece[..length], at)?;
            at += length as u64;
        }
    };
    write().with_context(|| format!("can't bring {} to disk", wal.display()))
}

/// The write-ahead log of a database.
pub(super) fn wal(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
