//! The place and time of the measurement.

use std::fs;
use std::process::Command;
use std::thread;

use time::OffsetDateTime;

/// Returns one line with cores, processor, kernel and day.
pub(crate) fn describe() -> String {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // Some architectures do not name their model there.
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model);
    let uname = rustix::system::uname();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!(
        "{cores} cores of {model}, Linux {}, {}; load average at the beginning {load}",
        uname.release().to_string_lossy(),
        OffsetDateTime::now_utc().date(),
    )
}

/// Returns whether a program can be started.
pub(crate) fn has(program: &str, harmless: &str) -> bool {
    Command::new(program).arg(harmless).output().is_ok()
}
