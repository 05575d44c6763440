//! The usage of a run is sampled, reported and kept, and costs nothing while the run is paused.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;

use crate::support::sse::{Event, EventStream};
use crate::support::{
    Place, assert_keys, assert_time, can_make_cgroups, not_run, own_cgroup, serve_with_made_up_kills, stat_field, until,
    until_true,
};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rustix::param::clock_ticks_per_second;
use serde_json::{Value, json};

/// Creates a place that samples the usage of its run every second.
fn looking(script: &str, text: &str, containment: &str) -> Place {
    let mut place = Place::new();
    place.script(script, text);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", script);
    place.set_env("AUTOAPPDEV_USAGE_S", "1");
    place.set_env("AUTOAPPDEV_CONTAINMENT", containment);
    place.start_server();
    place
}

fn usage(place: &Place, run_id: i64) -> Value {
    place.get(&format!("/api/runs/{run_id}/usage")).ok()["usage"].take()
}

fn samples(place: &Place, run_id: i64) -> Vec<Value> {
    usage(place, run_id)["samples"].as_array().expect("a list").clone()
}

/// Waits for `more` further samples. Returns all samples.
fn until_more(place: &Place, run_id: i64, more: usize) -> Vec<Value> {
    let before = samples(place, run_id).len();
    until("more samples", || Some(samples(place, run_id)).filter(|samples| samples.len() >= before + more))
}

fn containments() -> Vec<&'static str> {
    if can_make_cgroups() { vec!["tree", "auto"] } else { vec!["tree"] }
}

const BUSY: &str = "#!/bin/bash\necho ready\nwhile :; do :; done\n";

/// No duration is compared. The usage that a sample reports lies between what the kernel reported of the process before and after
/// it.
#[test]
fn usage_of_busy_loop_matches_kernel_figures() {
    for containment in containments() {
        let place = looking("busy.sh", BUSY, containment);
        let (pid, run_id) = place.start();
        let ms = || {
            let ticks = u32::try_from(stat_field(pid, 14) + stat_field(pid, 15)).expect("a short time");
            f64::from(ticks) * 1000.0 / f64::from(u32::try_from(clock_ticks_per_second()).expect("a hundred"))
        };
        until_more(&place, run_id, 2);
        let before = ms();
        // The first of them may have been taken before.
        let samples = until_more(&place, run_id, 2);
        let after = ms();
        let (mut at, mut used) = (0.0, 0.0);
        for sample in &samples {
            let [t, percent, memory, processes] = [0, 1, 2, 3].map(|index| sample[index].as_f64().expect("a number"));
            assert!(t > at && memory > 100_000.0 && processes >= 1.0, "{samples:?}");
            used += percent / 100.0 * (t - at);
            at = t;
        }
        let (least, most) = (before * 0.9 - 50.0, after * 1.1 + 50.0);
        assert!((least..most).contains(&used), "{containment}: {used} ms by the samples, {before} to {after} by the kernel");
        assert!(before > 0.0);
        let told = usage(&place, run_id);
        assert_keys(&told, &["interval_ms", "samples", "peak", "cores", "memory_total", "oom_kills"]);
        assert_eq!((&told["interval_ms"], &told["oom_kills"]), (&json!(1000), &json!(0)));
        assert!(told["peak"]["cpu_percent"].as_f64() > Some(0.0) && told["peak"]["memory_bytes"].as_u64() > Some(100_000));
        assert!(told["cores"].as_u64() >= Some(1) && told["memory_total"].as_u64() > Some(1 << 24), "{told}");
        let now = until("it is told", || Some(place.pipeline()["usage"].take()).filter(|usage| !usage.is_null()));
        assert_keys(&now, &["at", "cpu_percent", "memory_bytes", "processes"]);
        assert_time(&now["at"]);
        place.act("stop").ok();
        assert_eq!(place.pipeline()["usage"], Value::Null);
        let run = until("its figures", || Some(place.run(run_id)).filter(|run| run["memory_peak_bytes"].is_u64()));
        assert!(run["memory_peak_bytes"].as_u64() >= told["peak"]["memory_bytes"].as_u64(), "{run}");
        assert_eq!(usage(&place, run_id)["peak"]["memory_bytes"], run["memory_peak_bytes"]);
    }
}

const FILL: u64 = 64 << 20;

#[test]
fn allocation_is_reported_in_memory_and_peak() {
    let text = "#!/bin/bash\necho ready\nx=$(head -c 67108864 /dev/zero | tr '\\0' x)\necho full\n\
                while [ ! -e go ]; do sleep 0.05; done\nx=\nwhile [ ! -e end ]; do sleep 0.05; done\n";
    for containment in containments() {
        let place = looking("fill.sh", text, containment);
        let (_, run_id) = place.start();
        let until_memory = |fits: &dyn Fn(u64) -> bool| {
            until("the memory", || place.pipeline()["usage"]["memory_bytes"].as_u64().filter(|bytes| fits(*bytes)))
        };
        place.until_line("full");
        let most = until_memory(&|bytes| bytes >= FILL);
        assert!(most < 4 * FILL, "{most}");
        fs::write(place.root().join("go"), "").expect("writes");
        until_memory(&|bytes| bytes < FILL);
        fs::write(place.root().join("end"), "").expect("writes");
        place.until_ended(run_id);
        let run = until("its figures", || Some(place.run(run_id)).filter(|run| run["memory_peak_bytes"].is_u64()));
        assert!(run["memory_peak_bytes"].as_u64() >= Some(most), "{run}");
        let detail = place.event(run_id, "usage")["detail"].to_string();
        assert!(detail.contains(" KiB in all"), "{detail}");
    }
}

/// Returns how often a thread went to sleep.
fn sleeps(status: &str) -> u64 {
    let text = fs::read_to_string(status).expect("it lives");
    let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("it is told");
    line.trim().parse().expect("a number")
}

fn supervisor_status(server: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{server}/task")).expect("it lives").flatten();
    let mut paths = threads.map(|thread| thread.path());
    let is_it = |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "supervisor");
    paths.find(is_it).expect("it has one").join("status").display().to_string()
}

/// Another server with its own run, which is sampled every second and followed by a client. It proves that enough time has passed
/// for what did not happen.
struct Ticks {
    place: Place,
    run_id: i64,
    stream: EventStream,
}

impl Ticks {
    fn begin() -> Self {
        let place = looking("sleep.sh", "#!/bin/bash\necho ready\nexec sleep 600\n", "tree");
        let (_, run_id) = place.start();
        let stream = EventStream::open(place.port(), "", None);
        Self { place, run_id, stream }
    }

    /// Waits until the other run was sampled `count` more times, and its clients received each sample. Returns the milliseconds
    /// from the first of these samples to the last.
    fn pass(&mut self, count: usize) -> u64 {
        let before = samples(&self.place, self.run_id).len();
        let mut told = Value::Null;
        for _ in 0..=count {
            let new = |event: &Event| event.kind == "usage" && !event.data["usage"].is_null() && event.data != told;
            told = self.stream.until("usage of the other run", new).pop().expect("it").data;
        }
        let all = until("its samples", || Some(samples(&self.place, self.run_id)).filter(|all| all.len() > before + count));
        let at = |index: usize| all[index][0].as_u64().expect("a time");
        at(before + count) - at(before)
    }
}

#[test]
fn paused_run_is_not_sampled_and_causes_no_wakeups() {
    let containment = containments().pop().expect("at least one");
    let place = looking("sleep.sh", "#!/bin/bash\necho ready\nexec sleep 600\n", containment);
    let (_, run_id) = place.start();
    let mut stream = EventStream::open(place.port(), "", None);
    stream.until("it is told", |event| event.kind == "usage" && !event.data["usage"].is_null());
    until_more(&place, run_id, 1);
    place.act("pause").ok();
    assert_eq!(place.pipeline()["usage"], Value::Null);
    stream.until("the pause", |event| event.kind == "state" && event.data["state"] == "paused");
    let before = samples(&place, run_id);
    let count = || [sleeps(&format!("/proc/{}/status", place.shim_pid(run_id))), sleeps(&supervisor_status(place.server_pid()))];
    let mut ticks = Ticks::begin();
    // The pause itself may still cause messages.
    until("it is quiet for a tick", || {
        let before = count();
        ticks.pass(1);
        (count() == before || containment == "tree").then_some(())
    });
    let quiet = count();
    // Meanwhile the other server has told its shim at least once more that a client watches, which it does every five seconds.
    let pause_ms = ticks.pass(7);
    if containment == "auto" {
        assert_eq!(count(), quiet, "the shim or the supervisor woke");
    }
    assert_eq!(samples(&place, run_id), before);
    assert_eq!(place.pipeline()["usage"], Value::Null);
    place.act("resume").ok();
    stream.until("it is told again", |event| event.kind == "usage" && !event.data["usage"].is_null());
    let after = until_more(&place, run_id, 2);
    assert_eq!(after[..before.len()], before);
    let at = |index: usize| after[index][0].as_u64().expect("a time");
    assert!(at(before.len()) - at(before.len() - 1) >= pause_ms, "the pause is a gap of {pause_ms} ms and more: {after:?}");
}

#[test]
fn usage_is_streamed_each_second_and_kept_once_per_interval() {
    let mut place = looking("sleep.sh", "#!/bin/bash\necho ready\nexec sleep 600\n", "tree");
    place.set_env("AUTOAPPDEV_USAGE_S", "3600");
    place.restart_server();
    let (_, run_id) = place.start();
    assert_eq!(place.pipeline()["usage"], Value::Null, "nobody looks");
    assert_eq!(usage(&place, run_id)["samples"], json!([]));
    until_true("who asks makes it be looked at", || !place.pipeline()["usage"].is_null());
    let version = place.pipeline()["version"].clone();
    let tag = place.get("/api/pipeline").header("ETag").expect("a tag").to_owned();
    let mut stream = EventStream::open(place.port(), "", None);
    let mut told = Vec::new();
    while told.len() < 3 {
        let event = stream.until("usage", |event| event.kind == "usage").pop().expect("it");
        assert_keys(&event.data, &["run_id", "usage"]);
        assert_eq!(event.data["run_id"], run_id);
        if told.last() != Some(&event.data) && !event.data["usage"].is_null() {
            told.push(event.data);
        }
    }
    assert_eq!(place.pipeline()["version"], version, "it is no change of the state");
    let again = place.request("GET", "/api/pipeline", &[("If-None-Match", &tag)], None);
    assert_eq!(again.status, 200, "it is another answer");
    let kept = usage(&place, run_id);
    assert_eq!((&kept["samples"], &kept["interval_ms"]), (&json!([]), &json!(0)));
    assert_eq!(kept["peak"], json!({"cpu_percent": null, "memory_bytes": null}));
    assert!(!place.run_dir(run_id).join("usage").exists());
}

#[test]
fn usage_samples_survive_server_and_shim_kill() {
    let mut place = looking("sleep.sh", "#!/bin/bash\necho ready\nexec sleep 600\n", "auto");
    let (_, run_id) = place.start();
    let before = until_more(&place, run_id, 2);
    place.kill_server();
    let file = place.run_dir(run_id).join("usage");
    let len = || fs::metadata(&file).expect("there").len();
    let then = len();
    until_true("it is looked at without a server", || len() >= then + 64);
    let records = usize::try_from(len() / 32).expect("small");
    place.start_server();
    let after = samples(&place, run_id);
    assert!(after.len() >= records && after[..before.len()] == before, "{records} records: {before:?}, {after:?}");
    until_true("the next server is told", || !place.pipeline()["usage"].is_null());
    // A shim that was killed leaves the samples that it has written.
    crate::support::signal(place.shim_pid(run_id), "KILL");
    until_true("the run is lost", || place.run(run_id)["status"] == "lost");
    let kept = samples(&place, run_id);
    assert_eq!(kept[..after.len()], after);
    let mut bytes = fs::read(&file).expect("there");
    bytes.truncate(bytes.len() - 5);
    fs::write(&file, bytes).expect("writes");
    assert_eq!(samples(&place, run_id), kept[..kept.len() - 1], "a torn one is none");
}

#[test]
fn usage_is_not_kept_if_disabled_or_unwritable() {
    let mut place = looking("short.sh", "#!/bin/bash\necho ready\nwhile [ ! -e end ]; do sleep 0.05; done\nrm end\n", "tree");
    let (_, run_id) = place.start();
    // As on a disk that does not accept the file.
    fs::create_dir(place.run_dir(run_id).join("usage")).expect("something is in the way");
    until_true("it is told all the same", || !place.pipeline()["usage"].is_null());
    assert_eq!((place.degraded(), place.pipeline()["conditions"].take()), (None, json!([])));
    fs::write(place.root().join("end"), "").expect("writes");
    assert_eq!(place.until_ended(run_id)["status"], "completed");
    assert_eq!(usage(&place, run_id)["samples"], json!([]), "what is no file has none");
    place.set_env("AUTOAPPDEV_USAGE_S", "0");
    place.restart_server();
    let (_, run_id) = place.start();
    let _looker = EventStream::open(place.port(), "", None);
    // Another run is sampled meanwhile.
    Ticks::begin().pass(2);
    assert_eq!(place.pipeline()["usage"], Value::Null);
    fs::write(place.root().join("end"), "").expect("writes");
    place.until_ended(run_id);
    let run = until("its figures", || Some(place.run(run_id)).filter(|run| run["max_rss_kb"].is_u64()));
    assert_eq!(run["memory_peak_bytes"], Value::Null);
    assert!(!place.run_dir(run_id).join("usage").exists());
    for path in ["/api/runs/99/usage", "/api/runs/x/usage", "/api/runs//usage", "/api/runs/-1/usage"] {
        let answer = place.get(path);
        assert_eq!((answer.status, answer.error()), (404, "not_found"), "{path}");
    }
    assert_eq!(place.get(&format!("/api/runs/{run_id}/usage?x=1")).error(), "invalid_query");
}

/// Another program can put anything in place of the file. Its run is still reported, with the samples up to the damage or without
/// any.
#[test]
fn usage_history_is_served_despite_damaged_or_odd_file() {
    let place = looking("sleep.sh", "#!/bin/bash\necho ready\nexec sleep 600\n", "auto");
    let (_, run_id) = place.start();
    let kept = until_more(&place, run_id, 3).len();
    place.act("stop").ok();
    place.until_settled(run_id);
    let peak = place.run(run_id)["memory_peak_bytes"].clone();
    let file = place.run_dir(run_id).join("usage");
    let whole = fs::read(&file).expect("there");
    let kept = samples(&place, run_id).len().max(kept);
    let empty = |dir: &Path| if dir.is_dir() { fs::remove_dir(dir) } else { fs::remove_file(dir) }.expect("ours");
    let is_told = |what: &str, count: usize, reason: &str| {
        let said = place.server_log().len();
        let told = usage(&place, run_id);
        assert_eq!(told["samples"].as_array().map(Vec::len), Some(count), "{what}: {told}");
        assert!(told["peak"]["memory_bytes"].as_u64() >= peak.as_u64(), "{what}: {told}");
        assert_eq!(told["interval_ms"].as_u64() > Some(0), reason.is_empty(), "{what}: {told}");
        let log = &place.server_log()[said..];
        let warning = format!("run {run_id}: its usage is unknown: failed to read its file `usage`: ");
        assert_eq!((log.contains(&warning), log.contains(reason)), (!reason.is_empty(), true), "{what}: {log}");
    };
    is_told("whole", kept, "");
    let strange = "it is not a usage file that this version knows";
    let reversed: Vec<u8> = whole[..16].iter().chain(whole[16..].rchunks_exact(32).flatten()).copied().collect();
    for (what, bytes, count, reason) in [
        ("torn in its second record", &whole[..16 + 32 + 31], 1, ""),
        ("a header alone", &whole[..16], 0, ""),
        ("torn in its header", &whole[..15], 0, strange),
        ("empty", &[], 0, strange),
        ("text", b"AADusage is a file of another program\n", 0, strange),
        ("records backwards", &reversed, 1, ""),
    ] {
        fs::write(&file, bytes).expect("writes");
        is_told(what, count, reason);
    }
    fs::write(&file, &whole).and_then(|()| fs::File::options().write(true).open(&file)?.set_len(1 << 30)).expect("a hole");
    is_told("a gigabyte", 0, "it is larger than");
    let other = place.folder().join("other");
    fs::write(&other, &whole).expect("writes");
    for to in [other.as_path(), file.as_path(), Path::new("/dev/zero")] {
        empty(&file);
        symlink(to, &file).expect("links");
        is_told("a link", 0, "it is a symbolic link");
    }
    empty(&file);
    mkfifo(&file, Mode::S_IRWXU).expect("creates");
    is_told("a pipe", 0, "it is not a regular file");
    empty(&file);
    fs::create_dir(&file).expect("creates");
    is_told("a folder", 0, "it is not a regular file");
    empty(&file);
    fs::write(&file, &whole).expect("writes");
    if fs::metadata(&file).expect("there").uid() == 0 {
        chown(&file, Some(65534), None).expect("we are root");
        is_told("another user's", 0, "it belongs to");
    }
}

/// The memory of a process that ends before the first sample counts.
#[test]
fn peak_between_two_looks_is_that_of_the_largest_process() {
    let script =
        "#!/bin/bash\nbash -c 'x=$(head -c 62914560 /dev/zero | tr \"\\0\" x)'\nwhile [ ! -e end ]; do sleep 0.1; done\n";
    let place = looking("brief.sh", script, "tree");
    let (_, run_id) = place.start();
    until_more(&place, run_id, 1);
    fs::write(place.root().join("end"), "").expect("writes");
    let run = place.until_ended(run_id);
    let [peak, largest_kb] = ["memory_peak_bytes", "max_rss_kb"].map(|key| run[key].as_u64().expect("a number"));
    assert!(peak >= largest_kb * 1024 && peak > 60 << 20, "{run}");
}

/// The script itself sets the number of killed processes.
#[test]
fn oom_kills_are_counted_since_start() {
    let mut place = Place::new();
    place.script("killed.sh", "#!/bin/bash\necho \"oom_kill $2\" >\"$1\"\nkill -KILL $$\n");
    let Some(events) = serve_with_made_up_kills(&mut place) else { return };
    for (count, killed, told) in
        [(7, 2, "; 2 processes were killed because memory ran out"), (8, 1, "; 1 process was killed"), (8, 0, "")]
    {
        let (_, run_id) = place.start_with(json!({"script": "killed.sh", "args": [events, count.to_string()]}));
        let run = place.until_ended(run_id);
        assert_eq!((&run["oom_kills"], &run["signal"]), (&json!(killed), &json!(9)), "{run}");
        assert_eq!(place.pipeline()["oom_kills"], killed);
        let exited = place.event(run_id, "exited");
        assert_eq!(exited["oom_kills"], killed);
        let detail = exited["detail"].as_str().expect("a sentence");
        assert!(
            detail.starts_with(&format!("signal 9{told}")) && detail.contains("because memory ran out") == (killed > 0),
            "{detail}"
        );
        assert_eq!(usage(&place, run_id)["oom_kills"], killed);
    }
}

/// The memory limit of the runs below, in MiB.
const LIMIT_MIB: u64 = 100;

/// The kernel kills a process itself: the server and its run are in a group with a memory limit, if a memory controller is
/// available.
#[test]
fn oom_kill_is_reported() {
    let lacks = |what: &str| not_run(what, "AUTOAPPDEV_REQUIRE_MEMORY_CONTROLLER");
    let Some(own) = own_cgroup() else { return lacks("there are no control groups of version 2") };
    let group = own.join(format!("autoappdev-memory-{}", std::process::id()));
    if fs::create_dir(&group).is_err() {
        return lacks("this user may make no control group");
    }
    if fs::write(group.join("memory.max"), format!("{LIMIT_MIB}M")).is_err() {
        fs::remove_dir(&group).expect("our own, and empty");
        return lacks("the memory controller is not available in this process's control group");
    }
    // With swap, the kernel would first move pages out for a long time.
    let _has_no_swap = fs::write(group.join("memory.swap.max"), "0");
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_USAGE_S", "1");
    // The pauses leave time for a usage sample, which a faster kill could prevent.
    place.script("leader.sh", "#!/bin/bash\nsleep 2\nexec tail /dev/zero\n");
    place.script("child.sh", "#!/bin/bash\ntail /dev/zero\nsleep 2\nexit $1\n");
    place.script("modest.sh", "#!/bin/bash\n");
    let mut command = place.command_of(Path::new("sh"));
    let enter = "echo $$ >\"$1/cgroup.procs\" && shift && exec \"$@\"";
    command.args(["-c", enter, "sh", group.to_str().expect("text"), env!("CARGO_BIN_EXE_autoappdev")]);
    place.start_server_with(command);
    for (script, exit, kind, end, kills) in [
        ("leader.sh", "", "killed", "signal 9", 1),
        ("child.sh", "3", "failed", "exit code 3", 1),
        ("child.sh", "0", "completed", "exit code 0", 1),
        ("modest.sh", "", "completed", "exit code 0", 0),
    ] {
        let (_, run_id) = place.start_with(json!({"script": script, "args": [exit]}));
        let run = place.until_ended(run_id);
        assert_eq!((&run["oom_kills"], &run["outcome"]["kind"]), (&json!(kills), &json!(kind)), "{script} {exit}: {run}");
        let told = if kills > 0 { format!("{end}; 1 process was killed because memory ran out") } else { end.to_owned() };
        assert_eq!(place.event(run_id, "exited")["detail"], told);
        if kills > 0 {
            let run = until("its figures", || Some(place.run(run_id)).filter(|run| run["memory_peak_bytes"].is_u64()));
            let peak_mib = run["memory_peak_bytes"].as_u64().expect("a number") >> 20;
            assert!((LIMIT_MIB * 4 / 5..=LIMIT_MIB * 6 / 5).contains(&peak_mib), "{script} {exit}: {run}");
        }
    }
    place.until_no_shim();
    drop(place);
    until_true("nothing is left in it", || fs::remove_dir(&group).is_ok());
}
