//! Paths without links. The kernel never follows a link to find them.
//!
//! Level 0. The kernel follows a link in `/proc` such as `/proc/PID/root` into the file systems of that process, whose user can
//! make a call to them wait for ever. Here each link is read and its text is followed, so every step stays in the file systems
//! of this process.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

/// The maximum number of links that the kernel follows in a path (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// A step along a path.
#[derive(Debug)]
pub enum Step<'p> {
    /// A directory in which the next name is looked up.
    Dir(&'p Path),
    /// A link that is followed.
    Link(&'p Path, &'p Metadata),
}

/// Returns `path` without links. The path does not have to exist. Each step must pass `check`.
pub fn follow(path: &Path, mut check: impl FnMut(Step<'_>) -> io::Result<()>) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut real = PathBuf::new();
    let mut left: VecDeque<OsString> = path.components().map(|part| part.as_os_str().to_owned()).collect();
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if !real.as_os_str().is_empty() {
            check(Step::Dir(&real))?;
        }
        // The target of a link can be an absolute path, and `..` leaves the directory to which the links have led.
        if part == ".." {
            if !fs::symlink_metadata(&real)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            real.pop();
            continue;
        }
        real.push(part);
        let found = match fs::symlink_metadata(&real) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if left.iter().any(|part| part == "..") {
                    return Err(io::Error::new(error.kind(), format!("{} does not exist", real.display())));
                }
                real.extend(left);
                return Ok(real);
            }
            found => found?,
        };
        if !found.is_symlink() {
            continue;
        }
        check(Step::Link(&real, &found))?;
        links += 1;
        if links > LINKS_MAX {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = fs::read_link(&real)?;
        real.pop();
        for part in target.components().rev() {
            left.push_front(part.as_os_str().to_owned());
        }
    }
    Ok(real)
}

/// Returns the path of an existing file or directory, without links.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let real = follow(path, |_| Ok(()))?;
    fs::symlink_metadata(&real)?;
    Ok(real)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn real_path_equals_kernel_path_without_proc_links() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let dir = dir.path().canonicalize().expect("there");
        fs::create_dir_all(dir.join("a/b")).and_then(|()| fs::write(dir.join("a/file"), "")).expect("creates");
        for (target, link) in [("a/b", "to-b"), ("loop", "loop"), ("missing", "dangling"), ("to-b/../file", "second")] {
            symlink(target, dir.join(link)).expect("links");
        }
        for path in
            ["a/b", "to-b", "to-b/..", "second", "a/./b", "loop", "dangling", "a/file/x", "a/file/..", "missing/..", "to-b/none"]
        {
            let (ours, kernels) = (real_path(&dir.join(path)), dir.join(path).canonicalize());
            assert_eq!(ours.map_err(|error| error.kind()), kernels.map_err(|error| error.kind()), "{path}");
        }
    }

    #[test]
    fn proc_link_resolves_to_a_path_of_this_process() {
        // The file is removed, so only the kernel can find it, through the descriptor.
        let file = tempfile::tempfile().expect("a file");
        let link = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        fs::metadata(&link).expect("the kernel follows it");
        assert_eq!(real_path(&link).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
        assert_eq!(real_path(Path::new("/proc/self/root/etc")).expect("there"), real_path(Path::new("/etc")).expect("there"));
    }
}
