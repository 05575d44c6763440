//! A separate control group for a run (`cgroups(7)`, version 2). A process that is created in it cannot leave it unnoticed, and
//! all of its processes are stopped and killed together.
//!
//! It needs no controller, only a directory in which this user may write: `cgroup.freeze` (Linux 5.2) and `cgroup.kill` (Linux
//! 5.14) are part of every group (<https://docs.kernel.org/admin-guide/cgroup-v2.html>, "Core Interface Files").
//!
//! If killed here: the directory stays. Either it is empty, or a journal names it, and the next server kills its processes and
//! removes it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::shortage::is_shortage;
use crate::absent::if_there;

/// The list of mounts, as this process sees them.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The maximum number of groups that one scan lists: a pipeline may create some of its own, within reason.
const GROUPS_MAX: usize = 1000;

/// One control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Creates an empty group called `name` below this process's own group. `None` if version 2 is not mounted, this user may
    /// not write there, the kernel is too old, or a group of that name contains a process. Then only signals are used.
    pub fn create(name: &str) -> Option<Self> {
        let group = Self::below_own(name)?;
        match fs::create_dir(&group.dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A group that was left behind. If it were not empty, it could not be removed.
                group.remove().and_then(|()| fs::create_dir(&group.dir)).ok()?;
            }
            other => other.ok()?,
        }
        let can_all = ["cgroup.freeze", "cgroup.kill"].iter().all(|file| fs::metadata(group.dir.join(file)).is_ok());
        if !can_all {
            // It is ours and empty, and no other process knows it yet.
            let _still_there = group.remove();
        }
        can_all.then_some(group)
    }

    /// Returns the group called `name` below this process's own group, whether or not it exists. `None` if version 2 is not
    /// mounted.
    pub fn below_own(name: &str) -> Option<Self> {
        let (mounts, groups) = (read_lossy(MOUNTS).ok()?, read_lossy("/proc/self/cgroup").ok()?);
        Some(Self { dir: own_dir(&mounts, &groups)?.join(name) })
    }

    /// Returns this process's own group. `None` if version 2 is not mounted.
    pub fn own() -> Option<Self> {
        Self::below_own("")
    }

    /// Returns the group in the directory `dir`, whether or not it exists. `None` if `dir` is outside version 2: a journal that
    /// came with an archive can name any path, and at most paths there are no groups but other directories, pipes and links.
    ///
    /// # Errors
    /// The kernel's list of mounts cannot be read.
    pub fn at(dir: PathBuf) -> io::Result<Option<Self>> {
        Ok(is_in_version_2(&read_lossy(MOUNTS)?, &dir).then_some(Self { dir }))
    }

    /// Returns its directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Opens its `cgroup.events` and reads it once. From then on, it polls as urgent when the group freezes, thaws, or gets its
    /// first process or loses its last one.
    pub fn events(&self) -> io::Result<File> {
        File::open(self.dir.join("cgroup.events"))
    }

    /// Returns the processes in it and in the groups below it. A process that ends meanwhile can be in the list; zombies are
    /// not.
    pub fn members(&self) -> io::Result<Vec<u32>> {
        let mut members = Vec::new();
        for dir in self.dirs()? {
            // A group below it that was removed after it was listed contains no process.
            let list = match fs::read_to_string(dir.join("cgroup.procs")) {
                Err(error) if is_shortage(&error) => return Err(error),
                Err(_) => continue,
                Ok(list) => list,
            };
            members.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        Ok(members)
    }

    /// Returns whether a process is alive in it or below it.
    pub fn is_populated(&self) -> io::Result<bool> {
        self.event("populated")
    }

    /// Returns whether every process in it is frozen.
    pub fn is_frozen(&self) -> io::Result<bool> {
        self.event("frozen")
    }

    /// Freezes or thaws all of its processes. A process that is also stopped by a signal stays stopped.
    pub fn freeze(&self, is_to_freeze: bool) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.freeze"), if is_to_freeze { "1" } else { "0" })
    }

    /// Sends SIGKILL to all of its processes, including children that are being created at that moment.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.kill"), "1")
    }

    /// Removes it and the groups below it, however many there are; it must be empty. A group that does not exist counts as
    /// removed.
    pub fn remove(&self) -> io::Result<()> {
        loop {
            let Some(dirs) = if_there(self.dirs())? else { return Ok(()) };
            // The deepest first. A group can have groups below it that this scan did not reach; the next one does.
            let (mut any_gone, mut last) = (false, Ok(()));
            for dir in dirs.iter().rev() {
                last = fs::remove_dir(dir);
                any_gone |= last.is_ok();
            }
            if last.is_ok() || !any_gone {
                return last;
            }
        }
    }

    /// Returns the CPU time that all processes in it and below it have used, in milliseconds. Every group counts that, whatever
    /// its controllers.
    pub fn cpu_ms(&self) -> io::Result<u64> {
        let stat = fs::read_to_string(self.dir.join("cpu.stat"))?;
        let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "cpu.stat has no usage_usec");
        Ok(value_of(&stat, "usage_usec").ok_or_else(unreadable)? / 1000)
    }

    /// Returns the memory of all processes in it and below it. `None` if no memory controller counts it.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.number("memory.current")
    }

    /// Returns the most memory that it ever had (Linux 5.19). `None` if no memory controller counts it.
    pub fn memory_peak_bytes(&self) -> Option<u64> {
        self.number("memory.peak")
    }

    /// Returns how many processes in it and below it the kernel has killed because memory ran out. `None` if no memory
    /// controller counts them.
    pub fn oom_kills(&self) -> Option<u64> {
        value_of(&fs::read_to_string(self.dir.join("memory.events")).ok()?, "oom_kill")
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.dir.join(file)).ok()?.trim().parse().ok()
    }

    fn event(&self, name: &str) -> io::Result<bool> {
        Ok(has_event(&fs::read_to_string(self.dir.join("cgroup.events"))?, name))
    }

    /// Returns the directory of this group and those of all groups below it, each after its parent.
    fn dirs(&self) -> io::Result<Vec<PathBuf>> {
        fs::metadata(&self.dir)?;
        let mut dirs = vec![self.dir.clone()];
        let mut read = 0;
        while read < dirs.len() && dirs.len() < GROUPS_MAX {
            match fs::read_dir(&dirs[read]) {
                Ok(entries) => {
                    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
                    dirs.extend(entries.filter_map(Result::ok).filter(is_dir).map(|entry| entry.path()));
                }
                Err(error) if is_shortage(&error) => return Err(error),
                Err(_) => {}
            }
            read += 1;
        }
        Ok(dirs)
    }
}

/// Returns whether the group to which these [`Cgroup::events`] belong has thawed. After this read, the file reports the next
/// change.
pub fn has_thawed(mut events: &File) -> bool {
    let mut text = String::new();
    let read = events.seek(SeekFrom::Start(0)).and_then(|_| events.read_to_string(&mut text));
    read.is_ok() && !has_event(&text, "frozen")
}

fn has_event(events: &str, name: &str) -> bool {
    value_of(events, name) == Some(1)
}

/// Returns the number after `name`, in a file with one name and number per line.
fn value_of(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Reads a file and replaces bytes that are not UTF-8. In other names this is harmless; a path of one of our groups would lead
/// to no directory.
fn read_lossy(path: &str) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns this process's group as a directory, from the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn own_dir(mounts: &str, groups: &str) -> Option<PathBuf> {
    let group = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::"))?);
    // A path with `..` is outside of what is mounted here.
    version_2(mounts)
        .find_map(|(root, point)| group.strip_prefix(root).ok().filter(|below| !climbs(below)).map(|below| point.join(below)))
}

/// Returns whether `dir` is below a mount point of version 2. Only the paths are compared, so nothing outside version 2 is
/// accessed. Inside it there are no symbolic links, and every file belongs to the kernel.
fn is_in_version_2(mounts: &str, dir: &Path) -> bool {
    !climbs(dir) && version_2(mounts).any(|(_, point)| dir.starts_with(point))
}

/// Returns the mounts of version 2: which of its groups is mounted, and at which path. From the text of `/proc/self/mountinfo`.
fn version_2(mounts: &str) -> impl Iterator<Item = (&str, PathBuf)> {
    mounts.lines().filter_map(|line| {
        // `36 35 98:0 ROOT MOUNTPOINT options tags.. - TYPE ..`: proc_pid_mountinfo(5).
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        Some((fields.next()?, unescape(fields.next()?).into()))
    })
}

fn climbs(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

/// Blanks and backslashes in a path are written as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cgroup_is_found_in_any_version_2_mount() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let dir = |mounts: &str, groups: &str| own_dir(mounts, groups).map(|dir| dir.display().to_string());
        assert_eq!(dir(hybrid, "4:memory:/x\n0::/\n").as_deref(), Some("/sys/fs/cgroup/unified/"));
        assert_eq!(
            dir(hybrid, "0::/system.slice/autoappdev.service\n").as_deref(),
            Some("/sys/fs/cgroup/unified/system.slice/autoappdev.service")
        );
        let container = "30 23 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
        assert_eq!(dir(container, "0::/docker/abc/job\n").as_deref(), Some("/sys/fs/cgroup/job"));
        assert_eq!(dir(container, "0::/elsewhere\n"), None);
        assert_eq!(dir(hybrid, "0::/../above\n"), None);
        assert_eq!(dir(hybrid, "4:memory:/x\n"), None, "no version 2");
        assert_eq!(dir("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n", "0::/\n"), None, "not mounted");
        let odd = "41 31 0:38 / /mnt/a\\040b rw - cgroup2 none rw\n";
        assert_eq!(dir(odd, "0::/x\n").as_deref(), Some("/mnt/a b/x"));
    }

    /// A directory with the same files stands in for a group with a memory controller, because few machines give a run's group
    /// one.
    #[test]
    fn cgroup_metrics_are_read_and_missing_ones_are_absent() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let group = Cgroup { dir: dir.path().to_owned() };
        assert_eq!((group.memory_bytes(), group.memory_peak_bytes(), group.oom_kills()), (None, None, None));
        assert_eq!(group.cpu_ms().expect_err("no file").kind(), io::ErrorKind::NotFound);
        for (file, text) in [
            ("cpu.stat", "usage_usec 2412999\nuser_usec 1\nsystem_usec 2\n"),
            ("memory.current", "1048576\n"),
            ("memory.peak", "2097152\n"),
            ("memory.events", "low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\noom_group_kill 0\n"),
        ] {
            fs::write(dir.path().join(file), text).expect("writes");
        }
        assert_eq!((group.memory_bytes(), group.memory_peak_bytes()), (Some(1 << 20), Some(2 << 20)));
        assert_eq!((group.cpu_ms().expect("there"), group.oom_kills()), (2412, Some(3)));
        fs::write(dir.path().join("memory.events"), "oom_kill_disable 0\n").expect("writes");
        assert_eq!(group.oom_kills(), None);
    }

    #[test]
    fn only_a_path_in_version_2_names_a_group() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      37 31 0:34 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
                      42 31 0:39 / /mnt rw - fuse.cgroup2 cgroup2 rw\n";
        let is_in = |dir: &str| is_in_version_2(mounts, Path::new(dir));
        assert!(is_in("/sys/fs/cgroup/uni fied/a/autoappdev-1-2-3"));
        for dir in [
            "/sys/fs/cgroup/autoappdev-1-2-3",
            "/sys/fs/cgroup/freezer/autoappdev-1-2-3",
            "/sys/fs/cgroup/uni fied-not/autoappdev-1-2-3",
            "/sys/fs/cgroup/uni fied/../../../../home/autoappdev-1-2-3",
            "/mnt/autoappdev-1-2-3",
            "sys/fs/cgroup/uni fied/autoappdev-1-2-3",
            "",
        ] {
            assert!(!is_in(dir), "{dir}");
        }
        assert!(!is_in_version_2("", Path::new("/")), "nothing is mounted");
    }
}
