//! The cost of idling: wake-ups, memory, and bytes on the disk.

use std::fs;
use std::time::Duration;

use crate::counted::wake_ups;
use crate::report;
use crate::support::{Place, until};

/// The time for which wake-ups are counted.
const WATCHED: Duration = Duration::from_secs(30);

/// Measures and prints.
pub(crate) fn bench() {
    println!("## EndState still\n");
    let place = Place::serving("sleep.sh");
    place.start();
    let server = place.server_pid();
    let shim = until("the shim is there", || parent(u32::try_from(place.pipeline()["pid"].as_u64()?).ok()?));
    // The work after the start is complete once neither process has run for a second.
    let mut before = [server, shim].map(wake_ups);
    until("they have settled", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = [server, shim].map(wake_ups);
        std::mem::replace(&mut before, now).eq(&now).then_some(())
    });
    eprintln!("counting wake-ups for {WATCHED:?}");
    std::thread::sleep(WATCHED);
    let after = [server, shim].map(wake_ups);
    let binary = fs::metadata(env!("CARGO_BIN_EXE_autoappdev")).map_or(0, |data| data.len());
    report::table(
        &["with a run alive that does nothing", "server", "its shim"],
        &[
            vec!["wake-ups in 30 s".to_owned(), (after[0] - before[0]).to_string(), (after[1] - before[1]).to_string()],
            vec!["memory (PSS), MB".to_owned(), pss_mb(server), pss_mb(shim)],
            vec!["threads".to_owned(), threads(server).to_string(), threads(shim).to_string()],
        ],
    );
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let megabytes = binary as f64 / 1e6;
    println!("The binary has {megabytes:.2} MB.\n");
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().count()
}

fn pss_mb(pid: u32) -> String {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kilobytes =
        rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kilobytes.map_or("?".to_owned(), |kilobytes| format!("{:.2}", kilobytes / 1024.0))
}
