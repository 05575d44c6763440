//! The kernel tells when a name in the runtime directory goes (`inotify(7)`), so that what is made again is made before anybody misses it.
//!
//! A convenience: where the kernel has no room for it, what is missing is found when somebody asks.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::thread;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// The stack of the thread that waits for the kernel, in bytes.
const STACK_BYTES: usize = 64 * 1024;

/// Calls `look` each time something that `matters` by its name is removed from `dir` or replaced there, and when `dir` itself goes. Ends
/// with the process, and costs nothing until then.
pub(super) fn watch(
    dir: &Path,
    matters: impl Fn(&[u8]) -> bool + Send + 'static,
    look: impl Fn() + Send + 'static,
) -> io::Result<()> {
    let queue = inotify::init(CreateFlags::CLOEXEC)?;
    let names = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    let flags = names | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
    inotify::add_watch(&queue, dir, flags)?;
    let tell = move || {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut told = inotify::Reader::new(&queue, &mut buffer);
        loop {
            match told.next().map(|event| event.file_name().map(CStr::to_bytes).is_none_or(&matters)) {
                Ok(true) => look(),
                Ok(false) | Err(rustix::io::Errno::INTR) => {}
                // What is missing is found when somebody asks, as without this.
                Err(_) => return,
            }
        }
    };
    thread::Builder::new().name("health-watch".to_owned()).stack_size(STACK_BYTES).spawn(tell).map(drop)
}
