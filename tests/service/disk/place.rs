//! A small file system of the test's own, which can be filled.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

/// A folder that holds only so much.
pub(super) struct SmallDisk {
    pub(super) folder: Arc<TempDir>,
    mounted: PathBuf,
}

impl SmallDisk {
    /// None where this machine lets nobody mount.
    pub(super) fn new(mebibytes: usize) -> Option<SmallDisk> {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let size = format!("size={mebibytes}m,mode=0755");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "runledger-test"])
            .arg(folder.path())
            .output();
        let mounted = folder.path().to_owned();
        mount.is_ok_and(|done| done.status.success()).then_some(SmallDisk { folder, mounted })
    }

    pub(super) fn path(&self) -> &Path {
        &self.mounted
    }

    /// Takes all the room that there is.
    pub(super) fn fill(&self) {
        let mut filler = std::fs::File::create(self.filler()).unwrap();
        for piece in [1024 * 1024, 4096] {
            while filler.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    /// Gives the room back.
    pub(super) fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.mounted.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Those that have files open go on until they end.
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}
