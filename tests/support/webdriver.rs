//! A real browser for the tests: chromium, driven through chromedriver by the `WebDriver` protocol (<https://www.w3.org/TR/webdriver2/>).
//!
//! Owns the two programs and the browser's temporary profile, and leaves none of them behind. Speaks only the handful of commands
//! that the tests need. Tests take turns: one browser at a time is enough for a small machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

use super::support::not_run;

/// How long anything may take before a test gives up. Generous: a loaded machine is slow, and a condition that holds costs no wait.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The Tab key, as the protocol names it (its section "Keyboard actions").
pub(crate) const TAB: &str = "\u{e004}";
/// The Enter key.
pub(crate) const ENTER: &str = "\u{e007}";

/// The key that scrolls up by a screen.
pub(crate) const PAGE_UP: &str = "\u{e00e}";

/// How often chromedriver is started before that is given up.
const DRIVER_STARTS_MAX: u32 = 5;

/// One browser at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Looks again and again until `condition` holds; panics with `what` when it does not within `limit`.
pub(crate) fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "gave up after {limit:?} waiting until {what}");
        thread::sleep(Duration::from_millis(30));
    }
}

/// A browser with one window. Dropping it ends the session and kills what is left of browser and driver.
pub(crate) struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    profile: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts a browser, or says that there is none and returns `None`. With `AUTOAPPDEV_REQUIRE_BROWSER=1` having none is a failure.
    pub(crate) fn start() -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let browser = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| find_on_path(name));
        let (Some(browser), Some(driver)) = (browser, find_on_path("chromedriver")) else {
            not_run(
                "chromium or chromedriver is not on PATH; to run it: apt-get install chromium chromium-driver",
                "AUTOAPPDEV_REQUIRE_BROWSER",
            );
            return None;
        };
        Some(Self::launch(&browser, &driver, turn))
    }

    fn launch(browser: &Path, driver: &Path, turn: MutexGuard<'static, ()>) -> Self {
        let profile = tempfile::Builder::new().prefix("autoappdev-browser-").tempdir().expect("a temporary folder can be made");
        let (driver, port) = start_driver(driver);
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(PATIENCE)).build();
        let mut this = Self { driver, agent: config.new_agent(), session: String::new(), profile, _turn: turn };

        let mut args: Vec<String> = [
            "--headless=new",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1100,900",
        ]
        .map(String::from)
        .into();
        if rustix::process::geteuid().is_root() {
            args.push("--no-sandbox".into());
        }
        args.push(format!("--user-data-dir={}", this.profile.path().display()));
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            // Where frames come slowly a script that waits for some of them needs more than the usual half a minute.
            "timeouts": {"script": PATIENCE.as_millis()},
            "goog:chromeOptions": {"binary": browser, "args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let server = format!("http://127.0.0.1:{port}/session");
        let session = this.request(Some(&capabilities), &server);
        this.session = format!("{server}/{}", session["sessionId"].as_str().expect("a session has an id"));
        this
    }

    /// Opens `url` and waits until it is loaded.
    pub(crate) fn open(&self, url: &str) {
        self.command("url", &json!({ "url": url }));
    }

    /// Opens one more window, which shows nothing yet, and goes on in it; the others stay open.
    pub(crate) fn open_window(&self) {
        let window = self.command("window/new", &json!({"type": "window"}));
        self.command("window", &json!({ "handle": window["handle"] }));
    }

    /// The window that commands go to.
    pub(crate) fn window(&self) -> Value {
        self.get("window")
    }

    /// Goes on in this window.
    pub(crate) fn go_to_window(&self, window: &Value) {
        self.command("window", &json!({ "handle": window }));
    }

    /// Runs the body of a function in the page and gives what it returns, or what it promises.
    pub(crate) fn script(&self, body: &str) -> Value {
        self.command("execute/sync", &json!({"script": body, "args": []}))
    }

    /// The text of the element with this id.
    pub(crate) fn text(&self, id: &str) -> String {
        let text = self.script(&format!("return document.getElementById('{id}').textContent"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// The pipeline's state as the page takes it: the API's word, `unknown` without a connection, empty before the first answer.
    pub(crate) fn state(&self) -> String {
        self.script("return document.body.dataset.state ?? ''").as_str().unwrap_or_default().to_owned()
    }

    /// Whether the element with this id can be seen.
    pub(crate) fn shows(&self, id: &str) -> bool {
        self.script(&format!("return document.getElementById('{id}').checkVisibility()")) == true
    }

    /// Clicks the middle of the element with this id, as a mouse does: it has to be visible and not covered.
    pub(crate) fn click(&self, id: &str) {
        let element = self.command("element", &json!({"using": "css selector", "value": format!("#{id}")}));
        let reference =
            element.as_object().and_then(|it| it.values().next()).and_then(Value::as_str).expect("an element has a reference");
        self.command(&format!("element/{reference}/click"), &json!({}));
    }

    /// Clicks a button that asks for confirmation, and then confirms.
    pub(crate) fn click_and_confirm(&self, id: &str) {
        self.click(id);
        wait_until("the question takes a yes", PATIENCE, || {
            self.script("return !document.getElementById('yes').disabled") == true
        });
        self.click("yes");
    }

    /// Presses and releases one key, wherever the focus is.
    pub(crate) fn press(&self, key: &str) {
        let strokes = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        self.command("actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}));
    }

    /// Types into the element with this id, which has to be visible, after what stands there was removed.
    pub(crate) fn type_into(&self, id: &str, text: &str) {
        let element = self.command("element", &json!({"using": "css selector", "value": format!("#{id}")}));
        let reference =
            element.as_object().and_then(|it| it.values().next()).and_then(Value::as_str).expect("an element has a reference");
        self.command(&format!("element/{reference}/clear"), &json!({}));
        self.command(&format!("element/{reference}/value"), &json!({ "text": text }));
    }

    /// Every cookie that the browser would send to this page, those that no script sees as well.
    pub(crate) fn cookies(&self) -> Value {
        let answer = self.command("goog/cdp/execute", &json!({"cmd": "Network.getCookies", "params": {}}));
        answer["cookies"].clone()
    }

    /// Takes every cookie away.
    pub(crate) fn forget_cookies(&self) {
        self.command("goog/cdp/execute", &json!({"cmd": "Network.clearBrowserCookies", "params": {}}));
    }

    /// Makes the window a phone's screen of this many CSS pixels (Chrome `DevTools` protocol, `Emulation`).
    pub(crate) fn be_a_phone(&self, width: u32, height: u32) {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": true});
        self.command("goog/cdp/execute", &json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": params}));
    }

    /// Lets the person prefer something, as a media feature and its value (Chrome `DevTools` protocol, `Emulation`).
    pub(crate) fn prefer(&self, feature: &str, value: &str) {
        let params = json!({"features": [{"name": feature, "value": value}]});
        self.command("goog/cdp/execute", &json!({"cmd": "Emulation.setEmulatedMedia", "params": params}));
    }

    /// Runs `script` before those of each page that is opened from now on (Chrome `DevTools` protocol, `Page`).
    pub(crate) fn before_each_page(&self, script: &str) {
        let params = json!({ "source": script });
        self.command("goog/cdp/execute", &json!({"cmd": "Page.addScriptToEvaluateOnNewDocument", "params": params}));
    }

    /// What the browser's console got since the last look: messages of the page and of the browser, violations of the policy among them.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.command("se/log", &json!({"type": "browser"}));
        entries.as_array().expect("a log is a list").iter().map(|it| format!("{}: {}", it["level"], it["message"])).collect()
    }

    fn get(&self, path: &str) -> Value {
        let mut answer = self.agent.get(format!("{}/{path}", self.session)).call().expect("the driver answers");
        let text = answer.body_mut().read_to_string().expect("text");
        let mut reply: Value = serde_json::from_str(&text).expect("JSON");
        reply["value"].take()
    }

    fn command(&self, path: &str, body: &Value) -> Value {
        self.request(Some(body), &format!("{}/{path}", self.session))
    }

    /// One command of the protocol; panics with the driver's message when it fails.
    fn request(&self, body: Option<&Value>, url: &str) -> Value {
        self.try_request(body, url).unwrap_or_else(|error| panic!("the browser did not do {url}: {error}"))
    }

    /// POST with a body, DELETE without.
    fn try_request(&self, body: Option<&Value>, url: &str) -> Result<Value, String> {
        let answer = match body {
            Some(body) => self.agent.post(url).content_type("application/json").send(body.to_string()),
            None => self.agent.delete(url).call(),
        };
        let mut answer = answer.map_err(|error| error.to_string())?;
        let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        let mut reply: Value = serde_json::from_str(&text).map_err(|error| format!("{error} in {text}"))?;
        if answer.status().is_success() { Ok(reply["value"].take()) } else { Err(reply["value"]["message"].to_string()) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            if thread::panicking() {
                let page = self.try_request(
                    Some(&json!({"script": "return document.body.innerText", "args": []})),
                    &format!("{}/execute/sync", self.session),
                );
                eprintln!("--- the page at the end:\n{}", page.unwrap_or_default().as_str().unwrap_or_default());
            }
            // A session that is already gone is as good as one that was ended.
            let _ = self.try_request(None, &self.session);
        }
        // The driver is not reaped yet, so its number is still its own, and so is its group.
        let _ = kill_process_group(Pid::from_child(&self.driver), Signal::KILL);
        let _ = self.driver.wait();
        // The browser's processes carry the path of its profile, which is ours alone.
        let begun = Instant::now();
        while !kill_naming(self.profile.path()) && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Starts chromedriver and waits for its port. It wants the same one of IPv4 and of IPv6, and ends where the second is taken: then it is
/// started again.
fn start_driver(driver: &Path) -> (Child, u16) {
    for _ in 0..DRIVER_STARTS_MAX {
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver starts");
        let output = driver.stdout.take().expect("its stdout is piped");
        let (send, ports) = mpsc::channel();
        // Reads to the end, so that the driver never blocks on a full pipe; ends with the driver.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(port) = port_of(&line) {
                    // Nobody listens any more after the first: that is all right.
                    let _ = send.send(port);
                }
            }
        });
        if let Ok(port) = ports.recv_timeout(PATIENCE) {
            return (driver, port);
        }
        // It has ended, or hangs.
        let _ = driver.kill();
        driver.wait().expect("it is ours");
    }
    panic!("chromedriver was started {DRIVER_STARTS_MAX} times and said no port");
}

/// Kills each process that has `path` in its command line. Returns whether there was none.
fn kill_naming(path: &Path) -> bool {
    let needle = path.as_os_str().as_encoded_bytes();
    let mut none = true;
    for entry in fs::read_dir("/proc").expect("/proc is readable").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
        // It may end while we look: then there is nothing to kill.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(needle.len()).any(|part| part == needle) {
            none = false;
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    none
}

/// The port in chromedriver's line `ChromeDriver was started successfully on port 12345.`
fn port_of(line: &str) -> Option<u16> {
    line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok()
}

fn find_on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}
