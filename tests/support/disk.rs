//! A small file system in memory for one test, which can be filled to the last byte and made read-only.
//!
//! Mounting needs root, or a user namespace in which the test is root. Without either, the test reports that it did not run.
//! `AUTOAPPDEV_REQUIRE_TMPFS=1` makes that a failure.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Place, full_name, not_run, until_true};

/// Set in a test that runs in its own user namespace.
const WITHIN_VAR: &str = "AUTOAPPDEV_TEST_WITHIN_NAMESPACE";

/// A place whose runtime directory is on its own small disk. The place is dropped first, because its processes have files open on
/// the disk.
pub struct SmallDisk {
    pub place: Place,
    pub disk: Disk,
}

/// A mounted file system, which is unmounted on drop.
pub struct Disk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a disk of `kib` KiB and creates a place whose runtime directory is on it.
    ///
    /// Returns `None` if this user cannot mount it. Then the test called `test` has run in its own namespace, or has reported
    /// that it could not run.
    pub fn of_kib(kib: u32, test: &str) -> Option<Self> {
        Self::with(&format!("size={kib}k"), test)
    }

    /// Like [`Self::of_kib`], for a test with more than one part: only returns `None` if this user cannot mount the disk.
    pub fn if_it_mounts(kib: u32) -> Option<Self> {
        Self::try_mounted(&["-t", "tmpfs", "-o", &format!("mode=700,size={kib}k")])
    }

    /// Like [`Self::of_kib`], with other options for the tmpfs.
    pub fn with(options: &str, test: &str) -> Option<Self> {
        Self::mounted(&["-t", "tmpfs", "-o", &format!("mode=700,{options}")], test)
    }

    /// Like [`Self::of_kib`], on a file system that mount(8) creates from `args`.
    pub fn mounted(args: &[&str], test: &str) -> Option<Self> {
        let small = Self::try_mounted(args);
        if small.is_none() {
            run_within_a_namespace(test);
        }
        small
    }

    fn try_mounted(args: &[&str]) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("autoappdev-disk-").tempdir().expect("a temp folder");
        if !mount(&[args, &["autoappdev-test"]].concat(), dir.path()) {
            return None;
        }
        let disk = Disk { dir };
        let place = Place::with_runtime(disk.path().join("runtime").to_str().expect("a temp folder has a plain name"));
        Some(Self { place, disk })
    }
}

impl Disk {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn filler(&self) -> PathBuf {
        self.dir.path().join("filler")
    }

    /// Fills the disk to the last byte.
    pub fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.filler()).expect("opens");
        for size in [64 * 1024, 4096, 256, 1] {
            let block = vec![b'x'; size];
            while let Ok(count) = file.write(&block) {
                if count < size {
                    break;
                }
            }
        }
    }

    /// Fills the disk up to about `bytes` free bytes.
    pub fn fill_but(&self, bytes: u64) {
        self.fill();
        let file = File::options().write(true).open(self.filler()).expect("opens");
        let len = file.metadata().expect("there").len();
        file.set_len(len - bytes).expect("it is larger than that");
    }

    /// Returns the free space in bytes.
    pub fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Removes what `fill` wrote.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    /// Makes the disk read-only, or writable again. Waits for processes that have a file open for writing, because the kernel
    /// refuses the remount until they close it.
    pub fn set_read_only(&self, is_read_only: bool) {
        let mode = if is_read_only { "remount,ro" } else { "remount,rw" };
        // With the type and the source. Otherwise mount(8) passes all options again, including an owner that the user namespace
        // does not know.
        until_true("the disk is remounted", || mount(&["-t", "tmpfs", "-o", mode, "autoappdev-test"], self.dir.path()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, because a killed process may not have exited yet.
        let _shown_by_the_leftover = Command::new("umount").arg("-l").arg(self.dir.path()).stderr(Stdio::null()).status();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    Command::new("mount").args(args).arg(at).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs the test again as root of a user namespace that has its own mounts.
fn run_within_a_namespace(test: &str) {
    let is_possible = std::env::var_os(WITHIN_VAR).is_none()
        && Command::new("unshare")
            .args(["-Urm", "mount", "-t", "tmpfs", "autoappdev-test", "/mnt"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
    if !is_possible {
        not_run("nothing can be mounted here, neither as this user nor in a user namespace", "AUTOAPPDEV_REQUIRE_TMPFS");
        return;
    }
    let this = std::env::current_exe().expect("it runs");
    let name = full_name(test);
    let output =
        Command::new("unshare").arg("-Urm").arg(this).args(["--exact", &name, "--nocapture"]).env(WITHIN_VAR, "1").output();
    let output = output.expect("it ran a moment ago");
    let said = String::from_utf8_lossy(&output.stdout);
    // A NOT RUN line must be visible outside the namespace too.
    io::stderr().write_all(&output.stderr).expect("stderr is writable");
    // A name that matches no test would succeed with 0 tests.
    let is_good = output.status.success() && said.contains("test result: ok. 1 passed");
    assert!(is_good, "{test} failed in its namespace; it said, beside what stands above:\n{said}");
}
