//! The status page in a real browser, on the real binary with real pipelines: what a person sees and clicks is what the API, the
//! kernel and the database say and do.
//!
//! Where chromium or chromedriver is missing, each test says that it did not run; `AUTOAPPDEV_REQUIRE_BROWSER=1` makes that a failure.

#[path = "support/webdriver.rs"]
mod webdriver;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use webdriver::{Browser, ENTER, PATIENCE, TAB, wait_until};

const SCRIPT: &str = "tree.sh";

/// A leader with children of each kind that is easily missed: in a session of its own, and orphaned by a double fork.
const TREE: &str = r#"#!/bin/bash
echo "the tree begins"
echo '<b id="injected">no markup</b>'
setsid sleep 1000 &
( sleep 1000 & )
step=0
while :; do
  step=$((step + 1))
  echo "step $step"
  echo "warning $step" >&2
  sleep 0.2
done
"#;

/// Does not end by TERM, and neither do its children.
const STUBBORN: &str = "trap '' TERM\necho \"not going\"\nwhile :; do sleep 0.2; done\n";

const ACTIONS: [&str; 4] = ["start", "pause", "resume", "stop"];

#[test]
fn the_page_the_api_ps_and_the_database_agree_at_each_step() {
    let Some((browser, server)) = set_up(TREE) else { return };

    agree(&browser, &server, "stopped");
    assert_eq!(browser.text("pid"), "–", "nothing has run yet");

    browser.click("start");
    let pid = agree(&browser, &server, "running").expect("a running pipeline has a pid");
    wait_until("the whole tree runs", PATIENCE, || server.tree().len() >= 3);
    wait_until("the log shows both streams", PATIENCE, || {
        let log = browser.text("log");
        log.contains("the tree begins") && log.contains("step 2") && log.contains("warning 2")
    });
    assert!(browser.text("log").contains(r#"<b id="injected">no markup</b>"#), "a line is shown as it was written");
    assert_eq!(browser.script("return document.getElementById('injected')"), Value::Null, "a line is never markup");
    assert_eq!(browser.script("return document.title"), "running · tree.sh — AutoAppDev");

    browser.click("pause");
    assert_eq!(agree(&browser, &server, "paused"), Some(pid));
    let tree = server.tree();
    assert!(tree.len() >= 3 && tree.iter().all(|process| process.state == 'T'), "paused, so every process is stopped: {tree:?}");

    browser.click("resume");
    assert_eq!(agree(&browser, &server, "running"), Some(pid));
    let tree = server.tree();
    assert!(tree.iter().all(|process| process.state != 'T'), "running, so no process is stopped: {tree:?}");
    let shown = browser.text("log").len();
    wait_until("the log goes on", PATIENCE, || browser.text("log").len() > shown);

    browser.click("stop");
    assert_eq!(agree(&browser, &server, "stopped"), None);
    let tree = server.tree();
    assert!(tree.is_empty(), "stopped, so nothing is left: {tree:?}");
    assert!(browser.text("status").contains("stopped on request"), "{}", browser.text("status"));
}

#[test]
fn a_stop_and_a_continue_from_outside_show_by_themselves() {
    let Some((browser, server)) = set_up(TREE) else { return };
    let pid = server.start();
    agree(&browser, &server, "running");

    kill_process(pid, Signal::STOP).expect("the leader can be stopped");
    agree(&browser, &server, "paused");

    kill_process(pid, Signal::CONT).expect("the leader can be continued");
    agree(&browser, &server, "running");

    kill_process(pid, Signal::KILL).expect("the leader can be killed");
    agree(&browser, &server, "stopped");
    assert!(browser.text("status").contains("ended by signal 9 (SIGKILL)"), "{}", browser.text("status"));
}

#[test]
fn a_killed_server_shows_and_the_page_recovers_by_itself() {
    let Some((browser, mut server)) = set_up(TREE) else { return };
    server.start();
    let pid = agree(&browser, &server, "running");

    server.kill();
    wait_until("the page says that the server is away", PATIENCE, || {
        browser.shows("connection") && browser.text("connection").starts_with("No connection to the server since ")
    });
    assert_eq!(browser.text("state"), "unknown", "an old state is not shown as the present one");
    assert_eq!(enabled(&browser), Vec::<String>::new());

    server.restart();
    wait_until("the page is connected again", PATIENCE, || !browser.shows("connection"));
    assert_eq!(agree(&browser, &server, "running"), pid, "the pipeline went on, and the page shows it again");
}

#[test]
fn an_end_is_told_in_words() {
    let Some((browser, server)) = set_up("echo \"about to fail\"\nexit 3\n") else { return };
    browser.click("start");
    wait_until("the page tells the end", PATIENCE, || browser.text("status").contains("failed with exit code 3"));
    wait_until("the log has the last line", PATIENCE, || browser.text("log").contains("about to fail"));
    agree(&browser, &server, "stopped");
}

#[test]
fn a_stop_that_takes_long_says_so_and_can_be_made_a_kill() {
    let Some((browser, server)) = set_up(STUBBORN) else { return };
    let (status, answer) = server.post("start", &json!({"grace_s": 3600}));
    assert_eq!(status, 200, "{answer}");
    agree(&browser, &server, "running");
    wait_until("the script ignores TERM", PATIENCE, || browser.text("log").contains("not going"));

    browser.click("stop");
    wait_until("the stop button kills", PATIENCE, || browser.text("stop") == "Kill now" && enabled(&browser) == ["stop"]);
    assert_eq!(browser.text("pending"), "stopping…");
    assert_eq!(browser.text("state"), "running", "it is not stopped before it is");

    browser.click("stop");
    agree(&browser, &server, "stopped");
    assert!(!browser.shows("pending"));
    assert_eq!(browser.text("stop"), "Stop");
}

#[test]
fn a_refusal_is_told_in_words_and_can_be_dismissed() {
    let Some((browser, server)) = set_up(TREE) else { return };
    agree(&browser, &server, "stopped");
    fs::remove_file(server.root.join(SCRIPT)).expect("the script is there");

    browser.click("start");
    wait_until("the page shows the error", PATIENCE, || browser.shows("error"));
    let (status, answer) = server.post("start", &json!({}));
    assert_eq!((status, answer["error"].as_str()), (404, Some("script_not_found")), "{answer}");
    let detail = answer["detail"].as_str().expect("a refusal has a detail").to_lowercase();
    assert!(browser.text("error").to_lowercase().contains(&detail), "{detail:?} is not in {:?}", browser.text("error"));
    agree(&browser, &server, "stopped");

    browser.click("dismiss");
    wait_until("the error is gone", PATIENCE, || !browser.shows("error") && browser.text("error").is_empty());
}

#[test]
fn the_page_fits_a_phone() {
    let Some((browser, server)) = set_up(TREE) else { return };
    browser.be_a_phone(360, 740);
    server.start();
    agree(&browser, &server, "running");
    wait_until("the log has lines", PATIENCE, || browser.text("log").contains("step 1"));
    let widths = browser.script("return [document.documentElement.scrollWidth, innerWidth]");
    assert_eq!(widths, json!([360, 360]), "no scrolling sideways");
    for action in ACTIONS {
        let size = browser.script(&format!(
            "const it = document.getElementById('{action}').getBoundingClientRect(); return [it.width, it.height]"
        ));
        let big = size.as_array().is_some_and(|sides| sides.iter().all(|side| side.as_f64() >= Some(44.0)));
        assert!(big, "{action} is too small for a thumb: {size}");
    }
}

#[test]
fn the_keyboard_alone_is_enough() {
    let Some((browser, server)) = set_up(TREE) else { return };
    agree(&browser, &server, "stopped");
    let focus = || browser.script("return document.activeElement.id");

    tab_to(&browser, "start");
    browser.press(ENTER);
    agree(&browser, &server, "running");
    assert_eq!(focus(), "controls", "the focus of a button that was disabled stays with its group");
    tab_to(&browser, "pause");
    tab_to(&browser, "stop");
    let ring = browser.script("return getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(ring, "solid", "the focus can be seen");
    browser.press(ENTER);
    agree(&browser, &server, "stopped");
}

#[test]
fn the_console_stays_empty_and_the_policy_holds() {
    let Some((browser, server)) = set_up(TREE) else { return };
    agree(&browser, &server, "stopped");
    browser.click("start");
    agree(&browser, &server, "running");
    browser.click("stop");
    agree(&browser, &server, "stopped");
    assert_eq!(browser.console(), Vec::<String>::new());

    // The same look sees a violation where there is one.
    browser
        .script("const it = document.createElement('script'); it.textContent = 'window.intruder = 1'; document.body.append(it)");
    assert_eq!(browser.script("return window.intruder ?? null"), Value::Null, "an inline script does not run");
    wait_until("the violation is in the console", PATIENCE, || {
        browser.console().iter().any(|line| line.contains("Content Security Policy"))
    });
}

/// A server whose script has this text, and a browser that shows its page. `None` where there is no browser.
fn set_up(script: &str) -> Option<(Browser, Server)> {
    let browser = Browser::start()?;
    let server = Server::new(script);
    browser.open(&server.url(""));
    Some((browser, server))
}

/// Waits until the page shows `state`, then asserts that the API, /proc and the database say the same. Gives the leader's pid.
fn agree(browser: &Browser, server: &Server, state: &str) -> Option<i64> {
    wait_until(&format!("the page says {state}"), PATIENCE, || browser.text("state") == state);
    let pipeline = server.pipeline();
    assert_eq!(pipeline["state"], state, "the API says what the page says");

    let (pid, run_id) = (pipeline["pid"].as_i64(), pipeline["run_id"].as_i64());
    let or_dash = |number: Option<i64>| number.map_or("–".to_owned(), |number| number.to_string());
    assert_eq!((browser.text("pid"), browser.text("run-id")), (or_dash(pid), or_dash(run_id)));
    for time in ["started", "paused", "resumed", "stopped"] {
        let shown = browser.script(&format!("return document.getElementById('{time}-at').getAttribute('datetime')"));
        assert_eq!(shown, pipeline[format!("{time}_at")], "{time}_at");
    }
    assert_eq!(server.stored(), (state.to_owned(), pid, run_id), "the database says what the API says");

    match pid {
        None => assert_eq!(state, "stopped"),
        Some(pid) => {
            let kernel = process_state(&Path::new("/proc").join(pid.to_string())).expect("the leader is alive");
            assert_eq!(kernel == 'T', state == "paused", "the kernel says {kernel} of the leader, the API {state}");
            assert_ne!(state, "stopped");
        }
    }
    // A moment after a click the page lets no button work; then it is what the API says.
    wait_until("the buttons are what the API allows", PATIENCE, || {
        let mut allowed: Vec<String> =
            serde_json::from_value(server.pipeline()["allowed"].clone()).expect("allowed is a list of words");
        allowed.sort_unstable();
        enabled(browser) == allowed
    });
    pid
}

/// The enabled ones of the four buttons, sorted.
fn enabled(browser: &Browser) -> Vec<String> {
    let mut enabled: Vec<String> = serde_json::from_value(
        browser.script("return [...document.querySelectorAll('#controls button:enabled')].map((it) => it.id)"),
    )
    .expect("ids are a list of texts");
    enabled.sort_unstable();
    enabled
}

/// Presses Tab until the element with this id has the focus; no page has a hundred stops.
fn tab_to(browser: &Browser, id: &str) {
    for _ in 0..100 {
        browser.press(TAB);
        if browser.script("return document.activeElement.id") == id {
            return;
        }
    }
    panic!("Tab does not reach {id}");
}

/// A process of the pipeline's tree.
#[derive(Debug)]
struct Process {
    pid: Pid,
    state: char,
}

/// The real binary, serving on a port that the kernel picked, in a folder of its own. Dropping it leaves no process behind.
struct Server {
    child: Child,
    port: u16,
    agent: ureq::Agent,
    /// Without links in it, so that it can be compared with what processes carry.
    root: PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    fn new(script: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("autoappdev-page-").tempdir().expect("a temporary folder can be made");
        let root = folder.path().canonicalize().expect("the folder exists");
        fs::write(root.join(SCRIPT), script).expect("the folder is writable");
        let (child, port) = serve(&root, 0);
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(PATIENCE)).build();
        Self { child, port, agent: config.new_agent(), root, _folder: folder }
    }

    /// As a power cut does it: no handler runs.
    fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server can be reaped");
    }

    /// A new server in the same folder, on the same port.
    fn restart(&mut self) {
        (self.child, self.port) = serve(&self.root, self.port);
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    fn pipeline(&self) -> Value {
        let mut answer = self.agent.get(self.url("api/pipeline")).call().expect("the server answers");
        let text = answer.body_mut().read_to_string().expect("the answer is text");
        serde_json::from_str::<Value>(&text).expect("the answer is JSON")["pipeline"].take()
    }

    fn post(&self, action: &str, body: &Value) -> (u16, Value) {
        let url = self.url(&format!("api/pipeline/{action}"));
        let mut answer =
            self.agent.post(url).content_type("application/json").send(body.to_string()).expect("the server answers");
        let text = answer.body_mut().read_to_string().expect("the answer is text");
        (answer.status().as_u16(), serde_json::from_str(&text).expect("the answer is JSON"))
    }

    /// Starts the pipeline as another client and gives the leader's pid.
    fn start(&self) -> Pid {
        let (status, answer) = self.post("start", &json!({}));
        assert_eq!(status, 200, "{answer}");
        answer["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a start gives a pid")
    }

    /// State, pid and run id as the database has them.
    fn stored(&self) -> (String, Option<i64>, Option<i64>) {
        let file = self.root.join("runtime/autoappdev.db");
        let database = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the database opens");
        database.busy_timeout(PATIENCE).expect("a timeout can be set");
        database
            .query_row("SELECT state, pid, run_id FROM pipeline_state WHERE id = 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .expect("the state is stored")
    }

    /// The pipeline's living processes: those that carry its environment, but are not our binary (the shim has the server's).
    fn tree(&self) -> Vec<Process> {
        let runtime = format!("AUTOAPPDEV_RUNTIME_DIR={}", self.root.display());
        let ours = Path::new(env!("CARGO_BIN_EXE_autoappdev")).canonicalize().expect("the binary exists");
        processes()
            .filter(|(_, folder)| {
                let environment = fs::read(folder.join("environ")).unwrap_or_default();
                let has = |start: &str| environment.split(|&byte| byte == 0).any(|one| one.starts_with(start.as_bytes()));
                has("AUTOAPPDEV_RUN_ID=") && has(&runtime) && fs::read_link(folder.join("exe")).ok().as_ref() != Some(&ours)
            })
            .filter_map(|(pid, folder)| Some(Process { pid, state: process_state(&folder)? }))
            .filter(|process| !matches!(process.state, 'Z' | 'X'))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server first, so that nothing is started any more; then what outlives it: everything that carries our folder's name.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in self.tree() {
            let _ = kill_process(process.pid, Signal::KILL);
        }
        let needle = self.root.as_os_str().as_encoded_bytes();
        for (pid, folder) in processes() {
            let named =
                |file: &str| fs::read(folder.join(file)).unwrap_or_default().windows(needle.len()).any(|part| part == needle);
            if named("environ") || named("cmdline") {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if thread::panicking() {
            eprintln!("--- the server's log:\n{}", fs::read_to_string(self.root.join("server.log")).unwrap_or_default());
        }
    }
}

/// Starts `autoappdev serve` in `root` (port 0: the kernel picks) and waits until it listens. Its log goes to `server.log` there.
fn serve(root: &Path, port: u16) -> (Child, u16) {
    let log = File::options().create(true).append(true).open(root.join("server.log")).expect("the folder is writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoappdev"));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"AUTOAPPDEV_") || name == "DATABASE_URL" || name == "PORT" {
            command.env_remove(name);
        }
    }
    let mut child = command
        .arg("serve")
        .current_dir(root)
        .env("AUTOAPPDEV_HOST", "127.0.0.1")
        .env("AUTOAPPDEV_PORT", port.to_string())
        .env("AUTOAPPDEV_RUNTIME_DIR", root.join("runtime"))
        .env("AUTOAPPDEV_PIPELINE_CWD", root)
        .env("AUTOAPPDEV_PIPELINE_SCRIPT", SCRIPT)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    let output = child.stdout.take().expect("its stdout is piped");
    let (send, ports) = mpsc::channel();
    // Reads to the end, so that the server never writes to a closed pipe; ends with the server.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(port) = line.strip_prefix("autoappdev listens on http://127.0.0.1:") {
                // Nobody listens any more after a timeout: that is all right.
                let _ = send.send(port.trim_end_matches('/').parse().expect("a port is a number"));
            }
        }
    });
    let Ok(port) = ports.recv_timeout(PATIENCE) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("the server did not listen:\n{}", fs::read_to_string(root.join("server.log")).unwrap_or_default());
    };
    (child, port)
}

/// Every process there is, with its folder in /proc.
fn processes() -> impl Iterator<Item = (Pid, PathBuf)> {
    fs::read_dir("/proc").expect("/proc is readable").flatten().filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        Some((pid, entry.path()))
    })
}

/// The state letter in `/proc/<pid>/stat` (`proc_pid_stat(5)`): the first after the name's closing bracket. `None` when it is gone.
fn process_state(folder: &Path) -> Option<char> {
    fs::read_to_string(folder.join("stat")).ok()?.rsplit_once(") ")?.1.chars().next()
}
