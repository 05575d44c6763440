//! A run's log as text, on the whole binary: byte for byte, during the run, and when the log is removed while it is sent.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use crate::support::footprint::Footprint;
use crate::support::{DEADLINE, Place, signal, until, until_true};
use serde_json::json;

/// A response whose body is not JSON.
struct Text {
    status: u16,
    headers: Vec<(String, String)>,
    bytes: Vec<u8>,
}

impl Text {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str())
    }
}

fn fetch_with(place: &Place, path: &str, headers: &[(&str, &str)]) -> Text {
    let mut request = ureq::http::Request::builder().uri(format!("http://127.0.0.1:{}{path}", place.port()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(DEADLINE)).build();
    let response = ureq::Agent::new_with_config(config).run(request.body(()).expect("a request")).expect("an answer");
    let (parts, mut body) = response.into_parts();
    let text = |value: &ureq::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let bytes = body.with_config().limit(1 << 30).read_to_vec().expect("the whole body");
    Text { status: parts.status.as_u16(), headers, bytes }
}

fn fetch(place: &Place, path: &str) -> Text {
    let text = fetch_with(place, path, &[]);
    assert_eq!(text.status, 200, "{path}: {}", String::from_utf8_lossy(&text.bytes));
    text
}

/// Returns a run's segments, in order.
fn segments(place: &Place, run_id: i64) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.run_dir(run_id).join("log")).expect("there").flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    // A segment that is still being packed has another name.
    paths.retain(|path| name(path).starts_with(|first: char| first.is_ascii_digit()));
    paths.sort();
    paths
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("plain names")
}

/// Returns the records as they are stored on the disk.
fn on_disk(place: &Place, run_id: i64) -> Vec<u8> {
    let start = |path: &PathBuf| name(path)[..20].to_owned();
    until("no segment is packed while they are read", || {
        let before = segments(place, run_id);
        let output = std::process::Command::new("zcat").arg("-f").args(&before).output().expect("zcat is everywhere");
        // For a moment, a segment exists in both forms.
        let is_each_once = before.windows(2).all(|pair| start(&pair[0]) != start(&pair[1]));
        (is_each_once && segments(place, run_id) == before).then_some(output.stdout)
    })
}

/// Removes a run's directory, in which the server may be packing.
fn remove(place: &Place, run_id: i64) {
    let dir = place.run_dir(run_id);
    assert!(dir.exists());
    until_true("nothing comes in while it is removed", || fs::remove_dir_all(&dir).is_ok() || !dir.exists());
}

/// Opens a connection on which a log was requested and `count` bytes of the response were read.
fn begin(place: &Place, path: &str, count: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", place.port())).expect("the server accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).expect("sends");
    let mut begun = vec![0; count];
    stream.read_exact(&mut begun).expect("an answer");
    stream
}

/// Reads until the connection ends. Returns the number of bytes.
fn read_rest(stream: &mut TcpStream) -> usize {
    let mut count = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return count,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return count,
            Err(error) => panic!("the connection stays open: {error}"),
        }
    }
}

/// Returns a script that prints `bytes` bytes between two words.
fn much(bytes: u32) -> String {
    format!("#!/bin/bash\necho first\nhead -c {bytes} /dev/zero | tr '\\0' x | fold -w 1000\necho\necho last\n")
}

/// Creates a place with a finished run that printed this much, in segments of 1 MB.
fn a_place_with(bytes: u32) -> (Place, i64) {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
    place.script("much.sh", &much(bytes));
    place.start_server();
    let (_, run_id) = place.start_with(json!({"script": "much.sh"}));
    place.until_settled(run_id);
    until_true("the shim has left", || place.get(&format!("/api/logs/tail?run={run_id}&limit=1")).ok()["end"].is_u64());
    (place, run_id)
}

#[test]
fn log_text_returns_output_byte_for_byte_in_every_form() {
    let place = Place::serving("odd.sh");
    place.script(
        "odd.sh",
        "#!/bin/bash\nawait() { while [ ! -e $1 ]; do sleep 0.01; done; }\nprintf 'one\\0\\r\\n\\xff\\xfe two\\n'\n\
         await two\necho oops >&2\nawait oops\nprintf 'half'\nawait half\nprintf ' a line\\nno newline'\n",
    );
    let (_, run_id) = place.start();
    // Two streams have no order except that in which they are read, and half a line is shown after a short wait.
    for (said, word) in [("\u{fffd}\u{fffd} two", "two"), ("oops", "oops"), ("half", "half")] {
        place.until_line(said);
        fs::write(place.root().join(word), "").expect("writes");
    }
    place.until_settled(run_id);
    let records = fetch(&place, &format!("/api/runs/{run_id}/log"));
    assert!(records.bytes == on_disk(&place, run_id));
    assert_eq!(records.header("Content-Type"), "text/plain; charset=utf-8");
    assert_eq!((records.header("Accept-Ranges"), records.header("AutoAppDev-Log-Gone")), ("", "0"));
    assert_eq!((records.header("Content-Disposition"), records.header("X-Content-Type-Options")), ("", "nosniff"));
    let stdout = b"one\0\r\n\xff\xfe two\nhalf a line\nno newline\n";
    let both = b"one\0\r\n\xff\xfe two\noops\nhalf a line\nno newline\n";
    for (query, wanted) in [("", &both[..]), ("&stream=stdout", stdout), ("&stream=stderr", b"oops\n")] {
        let path = format!("/api/runs/{run_id}/log?timestamps=0{query}");
        let text = fetch(&place, &path);
        assert!(text.bytes == wanted, "{path}: {}", String::from_utf8_lossy(&text.bytes));
    }
    let lines = fetch(&place, &format!("/api/runs/{run_id}/log?stream=stderr&download=1"));
    assert!(lines.bytes.ends_with(b"Z e. oops\n") && lines.bytes.split(|&byte| byte == b'\n').count() == 2);
    // The downloads have different names, so that several fit into one folder.
    for (query, name) in [
        ("", ""),
        ("&stream=stdout", "-stdout"),
        ("&stream=stderr", "-stderr"),
        ("&timestamps=0", "-plain"),
        ("&timestamps=0&stream=stdout", "-stdout-plain"),
        ("&timestamps=0&stream=stderr", "-stderr-plain"),
    ] {
        let saved = fetch(&place, &format!("/api/runs/{run_id}/log?download=1{query}"));
        assert_eq!(saved.header("Content-Disposition"), format!("attachment; filename=\"run-{run_id}{name}.log\""));
    }
    for query in ["timestamps=2", "timestamps=", "stream=both", "stream=", "download=yes"] {
        assert_eq!(place.get(&format!("/api/runs/{run_id}/log?{query}")).error(), "invalid_query", "{query}");
    }
    for path in ["/api/runs/99/log", "/api/runs/x/log", "/api/runs/-1/log", "/api/runs/+1/log", "/api/runs//log"] {
        assert_eq!((place.get(path).status, place.get(path).error()), (404, "not_found"), "{path}");
    }
    assert_eq!(place.get("/api/runs/1/log/").status, 404);
}

#[test]
fn log_text_has_length_and_stable_etag() {
    let (place, run_id) = a_place_with(6_000_000);
    let path = format!("/api/runs/{run_id}/log");
    let whole = fetch(&place, &path);
    let (bytes, len) = (&whole.bytes, whole.bytes.len());
    assert!(len > 6_000_000 && *bytes == on_disk(&place, run_id));
    assert_eq!(whole.header("Content-Length"), len.to_string());
    let tag = whole.header("ETag").to_owned();
    assert_eq!(fetch_with(&place, &path, &[("If-None-Match", &tag)]).status, 304);
    // Ranges are not supported: a client that asks for one gets everything (RFC 9110, section 14.2).
    let asked = fetch_with(&place, &path, &[("Range", "bytes=5-9")]);
    assert!(asked.status == 200 && asked.bytes == *bytes);
    let mut wire = place.wire();
    wire.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let head = wire.answer_to_head();
    assert_eq!((head.status, head.header("Content-Length")), (200, Some(&*len.to_string())));
    assert_eq!((head.header("ETag"), wire.get("/api/version").status), (Some(&*tag), 200), "nothing follows it");

    // Its length is known only after all of it was read, so it is sent in chunks. Packing does not change it.
    let said = format!("{path}?timestamps=0");
    let joined = fetch(&place, &said);
    let wanted = [b"first\n", "x".repeat(1_000).as_bytes(), b"\n"].concat();
    assert!(joined.bytes.starts_with(&wanted) && joined.bytes.len() == 6_006_011);
    assert_ne!(joined.header("ETag"), tag);
    assert_eq!((joined.header("Content-Length"), joined.header("Transfer-Encoding")), ("", "chunked"));
    let is_packed = |path: &PathBuf| path.extension().is_some_and(|end| end == "gz");
    // The size of the newest segment depends on how much the shim read at a time. A small segment is not packed.
    let is_small = |path: &PathBuf| path.metadata().is_ok_and(|metadata| metadata.len() < 64 * 1024);
    let plain = || segments(&place, run_id).iter().filter(|path| !is_packed(path) && !is_small(path)).count();
    // Packing gives way to all other work, so on a busy machine each file takes a while.
    while let before @ 1.. = plain() {
        until_true("one more is packed", || plain() < before);
    }
    assert!(segments(&place, run_id).iter().filter(|path| is_packed(path)).count() > 2);
    let packed = fetch_with(&place, &path, &[("If-None-Match", "\"other\"")]);
    assert!(packed.header("ETag") == tag && packed.bytes == *bytes);
    assert!(fetch(&place, &said).bytes == joined.bytes);
}

/// A client that has the text of the first must not use it as the text of the second.
#[test]
fn log_text_of_another_database_has_another_etag() {
    let mut place = Place::new();
    place.script("one.sh", "#!/bin/bash\necho one\n");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "one.sh");
    let mut tags = Vec::new();
    for _ in 0..2 {
        place.start_server();
        let (_, run_id) = place.start();
        place.until_ended(run_id);
        place.until_no_shim();
        let text = fetch(&place, &format!("/api/runs/{run_id}/log"));
        assert_eq!((run_id, text.bytes.len()), (1, 32));
        tags.push(text.header("ETag").to_owned());
        place.stop_server();
        fs::remove_dir_all(place.runtime()).expect("removes");
    }
    assert_ne!(tags[0], tags[1]);
}

#[test]
fn log_text_of_live_run_grows_and_of_silent_run_is_empty() {
    let place = Place::serving("count.sh");
    let (_, run_id) = place.start();
    place.until_line("line 9");
    let path = format!("/api/runs/{run_id}/log?timestamps=0");
    let first = fetch(&place, &path);
    until_true("it goes on", || fetch(&place, &path).header("ETag") != first.header("ETag"));
    let text = String::from_utf8(fetch(&place, &path).bytes).expect("text");
    assert!(text.as_bytes().starts_with(&first.bytes) && text.ends_with('\n'));
    for (n, line) in text.lines().enumerate() {
        assert_eq!(line, format!("line {n}"));
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();

    place.script("bad.sh", "echo a text with an execute bit and nothing that runs it\n");
    let failed = place.post("/api/pipeline/start", json!({"script": "bad.sh"}));
    assert_eq!(failed.error(), "spawn_failed");
    place.script("mute.sh", "#!/bin/bash\nexit 0\n");
    let (_, mute) = place.start_with(json!({"script": "mute.sh"}));
    place.until_settled(mute);
    for run_id in [failed.body["run_id"].as_i64().expect("an id"), mute] {
        for query in ["", "?timestamps=0"] {
            let path = format!("/api/runs/{run_id}/log{query}");
            let empty = fetch(&place, &path);
            assert_eq!((empty.bytes.len(), empty.header("AutoAppDev-Log-Gone")), (0, "0"), "{path}");
        }
    }
}

#[test]
fn missing_bytes_are_reported_in_first_line_and_header() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
    place.set_env("AUTOAPPDEV_LOG_RUN_MB", "2");
    place.script("much.sh", &much(40_000_000));
    place.start_server();
    let (_, run_id) = place.start_with(json!({"script": "much.sh"}));
    place.until_settled(run_id);
    let gone = place.get(&format!("/api/logs?run={run_id}&limit=1")).ok()["gone"].as_u64().expect("a number");
    assert!(gone > 10_000_000);
    for query in ["", "?timestamps=0", "?stream=stdout"] {
        let text = fetch(&place, &format!("/api/runs/{run_id}/log{query}"));
        assert_eq!(text.header("AutoAppDev-Log-Gone"), gone.to_string());
        let mark = format!("[autoappdev: the first {gone} bytes of this log were removed]\n");
        assert!(text.bytes.starts_with(mark.as_bytes()) && text.bytes.ends_with(b"last\n"), "{query}");
    }
    // If the directory of a finished run was removed, the number of missing bytes is known. For a lost run it is not.
    remove(&place, run_id);
    let text = fetch(&place, &format!("/api/runs/{run_id}/log"));
    let all: u64 = text.header("AutoAppDev-Log-Gone").parse().expect("a number");
    assert!(all > gone && text.bytes.starts_with(format!("[autoappdev: the first {all} bytes").as_bytes()));
    let page = place.get(&format!("/api/logs?run={run_id}")).ok();
    assert_eq!((&page["gone"], &page["first"]), (&json!(all), &page["end"]), "of its lines too: {page}");
    let (_, lost) = place.start_with(json!({"script": "count.sh"}));
    place.until_line("line 3");
    place.kill_server();
    signal(place.shim_pid(lost), "KILL");
    place.start_server();
    until_true("it is lost", || place.run(lost)["status"] == "lost");
    assert!(fetch(&place, &format!("/api/runs/{lost}/log?timestamps=0")).bytes.starts_with(b"line 0\nline 1\n"));
    remove(&place, lost);
    let text = fetch(&place, &format!("/api/runs/{lost}/log"));
    assert_eq!((text.bytes.as_slice(), text.header("AutoAppDev-Log-Gone")), (&b"[autoappdev: this log was removed]\n"[..], ""));
}

#[test]
fn log_removed_during_download_ends_response_early() {
    let (place, run_id) = a_place_with(40_000_000);
    let path = format!("/api/runs/{run_id}/log");
    let len: usize = fetch(&place, &path).header("Content-Length").parse().expect("a length");
    let mut records = begin(&place, &path, 1_000);
    let mut chunks = begin(&place, &format!("{path}?timestamps=0"), 1_000);
    remove(&place, run_id);
    assert!(read_rest(&mut records) < len);
    // In a response without a length, the last chunk says whether the text is complete. Here it says how many bytes are missing.
    let mut rest = Vec::new();
    chunks.read_to_end(&mut rest).expect("it ends");
    let said = String::from_utf8_lossy(&rest);
    assert!(rest.len() < len && said.contains(" bytes of this log are missing here]\n"), "{} bytes", rest.len());
    assert!(place.server_log().contains("log ends early"));
    assert_eq!(place.get("/api/version").status, 200);
}

#[test]
fn concurrent_downloads_stay_within_memory_limit() {
    let (place, run_id) = a_place_with(40_000_000);
    let path = format!("/api/runs/{run_id}/log?timestamps=0");
    let before = Footprint::of(place.server_pid());
    let mut open: Vec<TcpStream> = (0..16).map(|_| begin(&place, &path, 1_000)).collect();
    let refused = place.get(&path);
    assert_eq!((refused.status, refused.error()), (503, "too_many_downloads"));
    assert!(refused.header("Retry-After").is_some());
    // Pages are served meanwhile.
    assert_eq!(place.get("/api/logs/tail?limit=1").status, 200);
    let during = Footprint::of(place.server_pid());
    assert!(during.pss_kb < before.pss_kb + 16 * 1024, "before: {before}, with sixteen on their way: {during}");
    // Two descriptors for each download, which is less than a third of all, and some for the server itself, which packs
    // meanwhile.
    assert!(during.descriptors <= before.descriptors + 2 * 16 + 14, "before: {before}, with sixteen on their way: {during}");
    assert!(read_rest(&mut open[0]) > 40_000_000);
    open.truncate(8);
    until("there is room again", || Some(fetch_with(&place, &path, &[])).filter(|text| text.status == 200));
    drop(open);
    until_true("their threads are gone", || Footprint::of(place.server_pid()).threads <= before.threads + 1);
}
