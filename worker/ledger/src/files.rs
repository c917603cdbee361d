//! The files: whose they are, and who may have them.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A ledger that nobody has touched for this long belongs to a deployment that is gone.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Makes a directory of our own below `dir`, or checks that nobody else can have put ledgers into it: their ack subjects
/// are published to. `dir` itself may be anybody's, as temporary directories and volumes are.
pub(crate) fn own_dir(dir: &Path) -> io::Result<PathBuf> {
    // SAFETY: takes nothing and always succeeds.
    let us = unsafe { libc::geteuid() };
    let own = dir.join(format!("gristmill-{us}"));
    DirBuilder::new().recursive(true).mode(0o700).create(&own)?;
    let metadata = own.symlink_metadata()?;
    let is_private = metadata.is_dir() && metadata.uid() == us && metadata.mode() & 0o022 == 0;
    let why = format!("{own:?} belongs to user {}, or others may write to it; we are user {us}", metadata.uid());
    if is_private { Ok(own) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, why)) }
}

/// The numbers of this key's ledgers, in order.
pub(crate) fn numbers(dir: &Path, key: &str) -> io::Result<BTreeSet<u64>> {
    let number = |name: &str| name.strip_prefix(key)?.strip_prefix('-')?.strip_suffix(".ledger")?.parse().ok();
    let names = dir.read_dir()?.map(|entry| Ok(entry?.file_name().to_str().and_then(number)));
    names.filter_map(io::Result::transpose).collect()
}

pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Opens and locks a ledger; `None` where a living process has it.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes ledgers of other keys that nobody has touched for long. What cannot be removed stays.
pub(crate) fn forget(dir: &Path, key: &str, now: SystemTime) {
    for entry in dir.read_dir().into_iter().flatten().flatten() {
        let path = entry.path();
        let is_other = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.ends_with(".ledger") && !name.starts_with(&format!("{key}-")));
        let changed = entry.metadata().and_then(|meta| meta.modified());
        let is_old = changed.is_ok_and(|changed| now.duration_since(changed).is_ok_and(|age| age > FORGOTTEN));
        if is_other
            && is_old
            && let Ok(Some(_file)) = lock(&path)
        {
            drop(std::fs::remove_file(&path));
        }
    }
}
