//! The ids of the runs that have a directory, and the link `latest-run` in the runtime directory, which leads to the latest
//! run's directory.
//!
//! Level 0. The link saves listing `runs/`, which takes longer with each run in the history. It is set after a run directory
//! was created and before any process can live in it, so it never names an earlier run than the latest one that may be alive.
//! It is a hint, not a record: it is not synced, a link that could not be set is removed, and a caller that finds no link lists
//! the directory.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The folder of all run directories, in the runtime directory.
pub const RUNS_DIR: &str = "runs";

/// The highest id of a run. The page reads ids as JavaScript numbers, which are exact up to 2^53. A directory with a higher number as its
/// name is not that of a run, and such a directory can come with a copied folder.
pub const RUN_ID_MAX: i64 = 1 << 52;

const LINK: &str = "latest-run";

/// Returns the id of the latest run, if the link names one.
pub fn latest_run(runtime_dir: &Path) -> Option<i64> {
    let target = fs::read_link(runtime_dir.join(LINK)).ok()?;
    target.to_str()?.strip_prefix(RUNS_DIR)?.strip_prefix('/')?.parse().ok().filter(|&id| is_run_id(id))
}

/// Returns the ids that have a run directory, in ascending order. The list is empty if `runs/` does not exist yet.
pub fn run_ids(runtime_dir: &Path) -> io::Result<Vec<i64>> {
    let entries = match fs::read_dir(runtime_dir.join(RUNS_DIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        ids.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()).filter(|&id| is_run_id(id)));
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Checks whether a number can be the id of a run.
fn is_run_id(id: i64) -> bool {
    (1..=RUN_ID_MAX).contains(&id)
}

/// Makes the link lead to this run. After an error there is no link, unless it cannot be removed either.
pub fn set_latest_run(runtime_dir: &Path, run_id: i64) -> io::Result<()> {
    let link = runtime_dir.join(LINK);
    let new = runtime_dir.join(format!("{LINK}.new"));
    // A server that was killed between the two steps may have left this link.
    let _was_none = fs::remove_file(&new);
    let made = symlink(format!("{RUNS_DIR}/{run_id}"), &new).and_then(|()| fs::rename(&new, &link));
    if made.is_err() {
        // A link to an earlier run would be trusted. If it cannot be removed, no run directory can be created either.
        let _is_missing_or_stuck = fs::remove_file(&link);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_the_run_that_was_set_last() {
        let dir = tempfile::tempdir().expect("a temp folder");
        assert_eq!(latest_run(dir.path()), None);
        for id in [1, 2, 12] {
            set_latest_run(dir.path(), id).expect("sets");
            assert_eq!(latest_run(dir.path()), Some(id));
        }
        // The state after a kill between the two steps.
        symlink("runs/13", dir.path().join("latest-run.new")).expect("links");
        set_latest_run(dir.path(), 14).expect("sets");
        assert_eq!(latest_run(dir.path()), Some(14));
    }

    #[test]
    fn link_is_removed_if_it_cannot_be_updated() {
        let dir = tempfile::tempdir().expect("a temp folder");
        set_latest_run(dir.path(), 1).expect("sets");
        fs::create_dir(dir.path().join("latest-run.new")).expect("creates");
        set_latest_run(dir.path(), 2).expect_err("a folder is in the way");
        assert_eq!(latest_run(dir.path()), None);
    }

    #[test]
    fn foreign_links_name_no_run() {
        for target in ["7", "runs/", "runs/x", "runs/-1", "runs/0", "/runs/7", "runs7"] {
            let dir = tempfile::tempdir().expect("a temp folder");
            symlink(target, dir.path().join("latest-run")).expect("links");
            assert_eq!(latest_run(dir.path()), None, "{target}");
        }
    }
}
