//! A directory for each running job, and the slots that limit how many run at once.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error};
use crate::executor::kill_marked;
use crate::progress::Progress;
use crate::store::{Lock, Store, remove_tree, wait};

/// The environment variable that names a job's directory, and marks its processes.
pub(crate) const JOB_VARIABLE: &str = "LAB_JOB";

/// A job's own directory below `runs/`; it goes when this is dropped. One whose owner was killed goes at the next run.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    _lock: Lock,
}

impl RunDir {
    /// Makes one, and clears away those that nobody owns any more.
    pub(crate) fn create(store: &Store) -> Result<Self, Error> {
        let runs = store.dir("runs")?;
        clear_abandoned(&runs);
        let temporary =
            tempfile::Builder::new().prefix("job-").tempdir_in(&runs).at("create a directory in", &runs)?;
        // From here on the lock says whether it is in use; somebody who clears away at this very moment may be faster.
        let lock = Lock::try_exclusive(&temporary.path().join("lock"))?;
        let lock = lock.ok_or_else(|| Error::Job("another lab run has taken this run's directory".into()))?;
        Ok(Self { path: temporary.keep(), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that the command starts in when it runs on the host.
    pub(crate) fn job(&self) -> PathBuf {
        self.path.join("job")
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = remove_tree(&self.path);
    }
}

/// "LAB_JOB=directory".
pub(crate) fn marker(job: &Path) -> String {
    format!("{JOB_VARIABLE}={}", job.display())
}

fn clear_abandoned(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let path = entry.path();
        let lock = path.join("lock");
        // Without a lock file it is either just being made, or half removed: then it is empty.
        if !lock.exists() {
            let _ = fs::remove_dir(&path);
        } else if let Ok(Some(_lock)) = Lock::try_exclusive(&lock) {
            kill_marked(&marker(&path.join("job")));
            let _ = remove_tree(&path);
        }
    }
}

/// Waits until fewer than the allowed number of emulated machines run for this store, and counts as one until dropped.
///
/// The number is `DRYSTONE_LAB_SLOTS`, else 2.
pub(crate) fn take_slot(store: &Store, progress: &Progress) -> Result<Lock, Error> {
    const NAME: &str = "DRYSTONE_LAB_SLOTS";
    let given = std::env::var(NAME).ok().filter(|value| !value.is_empty());
    let slots = match given {
        None => 2,
        Some(value) => match value.parse::<u32>() {
            Ok(slots) if slots > 0 => slots,
            _ => {
                return Err(Error::Environment {
                    name: NAME,
                    value,
                    expected: "how many machines may run at once, 1 or more",
                });
            }
        },
    };
    take_one_of(slots, store, progress)
}

fn take_one_of(slots: u32, store: &Store, progress: &Progress) -> Result<Lock, Error> {
    let dir = store.dir("slots")?;
    wait(progress, &format!("one of the {slots} machines that may run at once"), || {
        for slot in 0..slots {
            if let Some(lock) = Lock::try_exclusive(&dir.join(slot.to_string()))? {
                return Ok(Some(lock));
            }
        }
        Ok(None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_directory_goes_and_one_in_use_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::at(root.path());
        let used = RunDir::create(&store).unwrap();
        let abandoned = root.path().join("runs/job-dead");
        fs::create_dir_all(abandoned.join("job")).unwrap();
        fs::write(abandoned.join("lock"), "").unwrap();
        let second = RunDir::create(&store).unwrap();
        assert!(used.path().is_dir() && second.path().is_dir());
        assert!(!abandoned.exists());
        let path = used.path().to_path_buf();
        drop(used);
        assert!(!path.exists());
    }

    #[test]
    fn slots_are_counted() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::at(root.path());
        let progress = Progress::silent();
        let first = take_one_of(2, &store, &progress).unwrap();
        let _second = take_one_of(2, &store, &progress).unwrap();
        let waiting = std::thread::spawn(move || take_one_of(2, &store, &Progress::silent()).map(drop));
        std::thread::sleep(std::time::Duration::from_millis(150));
        assert!(!waiting.is_finished(), "a third one has to wait");
        drop(first);
        waiting.join().unwrap().unwrap();
    }
}
