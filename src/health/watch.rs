//! A watch on names in the runtime directory. The kernel reports their removal (`inotify(7)`), so that files are recreated
//! before a client misses them.
//!
//! This is a convenience: if the kernel has no room for the watch, a missing file is noticed at the next request.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::thread;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// The stack of the thread that waits for the kernel, in bytes.
const STACK_BYTES: usize = 64 * 1024;

/// Calls `look` each time one of the names is removed from `dir` or replaced there, and when `dir` itself is removed. The watch
/// lasts until the process ends, and costs nothing between events.
pub(super) fn watch(dir: &Path, names: Vec<String>, look: impl Fn() + Send + 'static) -> io::Result<()> {
    let queue = inotify::init(CreateFlags::CLOEXEC)?;
    let of_names = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    let flags = of_names | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
    inotify::add_watch(&queue, dir, flags)?;
    let matters = move |name: &CStr| names.iter().any(|known| known.as_bytes() == name.to_bytes());
    let tell = move || {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut told = inotify::Reader::new(&queue, &mut buffer);
        loop {
            match told.next().map(|event| event.file_name().is_none_or(&matters)) {
                Ok(true) => look(),
                Ok(false) | Err(rustix::io::Errno::INTR) => {}
                // From here on, a missing file is noticed at the next request.
                Err(_) => return,
            }
        }
    };
    thread::Builder::new().name("health-watch".to_owned()).stack_size(STACK_BYTES).spawn(tell).map(drop)
}
