//! A real browser for the tests: chromium, controlled through chromedriver with the `WebDriver` protocol
//! (<https://www.w3.org/TR/webdriver2/>). Only the few commands that the tests need exist. `chromium.rs` has the processes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::chromium::{Driver, Programs, Turn, runner};

/// The time limit for any wait. It is generous, because a loaded machine is slow and a condition that holds ends the wait at
/// once.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The Tab key, as the protocol names it (its section "Keyboard actions").
pub(crate) const TAB: &str = "\u{e004}";
/// The Enter key.
pub(crate) const ENTER: &str = "\u{e007}";

/// The keys that scroll by a screen or to an end, and the arrow keys.
pub(crate) const PAGE_UP: &str = "\u{e00e}";
pub(crate) const END: &str = "\u{e010}";
pub(crate) const HOME: &str = "\u{e011}";
pub(crate) const UP: &str = "\u{e013}";
pub(crate) const DOWN: &str = "\u{e015}";

/// Checks `condition` repeatedly until it holds. Panics with `what` if that takes longer than `limit`.
pub(crate) fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "gave up after {limit:?} waiting until {what}");
        thread::sleep(Duration::from_millis(30));
    }
}

/// A browser with one window. Dropping the shared browser closes what the test has opened, and leaves it to the next test. If the
/// test failed or this cleanup fails, the browser ends.
pub(crate) struct Browser {
    driver: Driver,
    session: Session,
    /// The lock of the browser. `None` only while this value is dropped or handed on.
    turn: Option<Turn>,
    is_shared: bool,
    /// The origins that have been opened.
    origins: RefCell<BTreeSet<String>>,
}

impl Browser {
    /// Returns the browser that the tests of this run share, without cookies, caches and stored data. Returns `None` if no
    /// browser is installed.
    pub(crate) fn start() -> Option<Self> {
        Some(Self::take_over(&Programs::find()?, Turn::wait()))
    }

    /// Starts a separate browser with a new profile. Returns `None` if no browser is installed.
    pub(crate) fn fresh() -> Option<Self> {
        Self::fresh_with(&[])
    }

    /// Like [`Self::fresh`], with additional arguments.
    pub(crate) fn fresh_with(arguments: &[&str]) -> Option<Self> {
        Some(Self::launch(&Programs::find()?, Turn::wait(), false, arguments))
    }

    /// Takes the shared browser over. Starts a new one if none exists yet or it does not respond.
    pub(crate) fn take_over(programs: &Programs, mut turn: Turn) -> Self {
        if let Some((driver, url)) = turn.take() {
            let session = Session::new(url);
            match session.clean() {
                Ok(()) => return Self { driver, session, turn: Some(turn), is_shared: true, origins: RefCell::default() },
                Err(error) => {
                    eprintln!("the browser of the tests before is replaced: {error}");
                    driver.end();
                }
            }
        }
        Self::launch(programs, turn, true, &[])
    }

    fn launch(programs: &Programs, mut turn: Turn, is_shared: bool, more: &[&str]) -> Self {
        let driver = Driver::start(programs, if is_shared { runner() } else { std::process::id() });
        if is_shared {
            turn.write(&driver, None);
        }
        let server = format!("http://127.0.0.1:{}/session", driver.port);
        let session = Session::new(server.clone());
        let mut this = Self { driver, session, turn: Some(turn), is_shared, origins: RefCell::default() };
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
        args.extend(more.iter().map(|argument| (*argument).to_owned()));
        if rustix::process::geteuid().is_root() {
            args.push("--no-sandbox".into());
        }
        args.push(format!("--user-data-dir={}", this.driver.profile().display()));
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            // If frames are slow, a script that waits for some of them needs more than the default of 30 seconds.
            "timeouts": {"script": PATIENCE.as_millis()},
            "goog:chromeOptions": {"binary": programs.browser, "args": args},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let started = this.session.post("", &capabilities).unwrap_or_else(|error| panic!("no browser starts: {error}"));
        this.session.url = format!("{server}/{}", started["sessionId"].as_str().expect("a session has an id"));
        this
    }

    /// Leaves the shared browser to the next test, and keeps the lock.
    pub(crate) fn give_on(mut self) -> Turn {
        self.leave();
        self.turn.take().expect("it has the turn until it is dropped")
    }

    /// Returns the browser's driver, which knows its folder.
    pub(crate) fn driver(&self) -> &Driver {
        &self.driver
    }

    fn leave(&mut self) {
        let cleaned = if self.is_shared && !thread::panicking() { self.session.clean() } else { Err(String::new()) };
        match (cleaned, &mut self.turn) {
            (Ok(()), Some(turn)) => turn.write(&self.driver, Some(&self.session.url)),
            _ => self.driver.end(),
        }
    }

    /// Opens `url` and waits until it is loaded.
    pub(crate) fn open(&self, url: &str) {
        let origin = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        // A server of an earlier test may have used this port.
        if self.origins.borrow_mut().insert(origin.clone()) && origin.starts_with("http") {
            let kinds = "local_storage,indexeddb,cache_storage,service_workers";
            self.devtools("Storage.clearDataForOrigin", &json!({"origin": origin, "storageTypes": kinds}));
        }
        self.command("url", &json!({ "url": url }));
    }

    /// Opens another window, which is empty, and continues in it. The others stay open.
    pub(crate) fn open_window(&self) {
        let window = self.command("window/new", &json!({"type": "window"}));
        self.command("window", &json!({ "handle": window["handle"] }));
    }

    /// Returns the window that receives the commands.
    pub(crate) fn window(&self) -> Value {
        self.session.get("window").unwrap_or_else(|error| panic!("the browser tells no window: {error}"))
    }

    /// Continues in this window.
    pub(crate) fn go_to_window(&self, window: &Value) {
        self.command("window", &json!({ "handle": window }));
    }

    /// Presses and releases the mouse button at a point, `[x, y]`.
    pub(crate) fn click_at(&self, at: &Value) {
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.devtools("Input.dispatchMouseEvent", &params);
        }
    }

    /// Turns the mouse wheel at a point, `[x, y]`, by this many pixels.
    pub(crate) fn wheel(&self, at: &Value, pixels: i32) {
        let params = json!({"type": "mouseWheel", "x": at[0], "y": at[1], "deltaX": 0, "deltaY": pixels});
        self.devtools("Input.dispatchMouseEvent", &params);
    }

    /// Runs `body` as a function in the page. Returns its result, or the result of the promise that it returned.
    pub(crate) fn script(&self, body: &str) -> Value {
        self.command("execute/sync", &json!({"script": body, "args": []}))
    }

    /// Returns the text of the element with this id.
    pub(crate) fn text(&self, id: &str) -> String {
        let text = self.script(&format!("return document.getElementById('{id}').textContent"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Returns the pipeline's state as the page understands it: the API's word, `unknown` without a connection, or an empty text
    /// before the first response.
    pub(crate) fn state(&self) -> String {
        self.script("return document.body.dataset.state ?? ''").as_str().unwrap_or_default().to_owned()
    }

    /// Returns whether the element with this id is visible.
    pub(crate) fn shows(&self, id: &str) -> bool {
        self.script(&format!("return document.getElementById('{id}').checkVisibility()")) == true
    }

    /// Clicks the middle of the element with this id once clicks take effect. As with a mouse, the element must not be covered.
    ///
    /// The page shows some buttons only once it knows its role. It enables them a moment after it was loaded, and ignores clicks
    /// right after it got the focus.
    pub(crate) fn click(&self, id: &str) {
        self.wait_for_presses(id);
        let element = self.command("element", &json!({"using": "css selector", "value": format!("#{id}")}));
        let reference =
            element.as_object().and_then(|it| it.values().next()).and_then(Value::as_str).expect("an element has a reference");
        self.command(&format!("element/{reference}/click"), &json!({}));
    }

    /// Like [`Self::click`], for a button of the page's menu.
    pub(crate) fn click_in_menu(&self, id: &str) {
        wait_until(&format!("{id} is in the menu"), PATIENCE, || {
            self.script("const menu = document.getElementById('menu'); if (!menu.matches(':popover-open')) menu.showPopover()");
            self.shows(id)
        });
        self.click(id);
    }

    /// Waits until a click on the element with this id takes effect.
    pub(crate) fn wait_for_presses(&self, id: &str) {
        let takes = format!(
            "const it = document.getElementById('{id}');
             return it.checkVisibility() && !it.disabled && !document.body.hasAttribute('data-settling')"
        );
        wait_until(&format!("{id} takes a press"), PATIENCE, || self.script(&takes) == true);
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

    /// Types into the element with this id, which must be visible, after clearing it.
    pub(crate) fn type_into(&self, id: &str, text: &str) {
        let element = self.command("element", &json!({"using": "css selector", "value": format!("#{id}")}));
        let reference =
            element.as_object().and_then(|it| it.values().next()).and_then(Value::as_str).expect("an element has a reference");
        self.command(&format!("element/{reference}/clear"), &json!({}));
        self.command(&format!("element/{reference}/value"), &json!({ "text": text }));
    }

    /// Returns every cookie that the browser would send to this page, including those that scripts cannot read.
    pub(crate) fn cookies(&self) -> Value {
        let answer = self.devtools("Network.getCookies", &json!({}));
        answer["cookies"].clone()
    }

    /// Deletes all cookies.
    pub(crate) fn forget_cookies(&self) {
        self.devtools("Network.clearBrowserCookies", &json!({}));
    }

    /// Gives the window a phone's screen of this many CSS pixels (Chrome `DevTools` protocol, `Emulation`).
    pub(crate) fn be_a_phone(&self, width: u32, height: u32) {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": true});
        self.devtools("Emulation.setDeviceMetricsOverride", &params);
    }

    /// Gives the window a screen of this many CSS pixels. A phone's screen has two device pixels for each of them.
    pub(crate) fn be_a_screen(&self, width: u32, height: u32, is_phone: bool) {
        let scale = if is_phone { 2 } else { 1 };
        let params = json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone});
        self.devtools("Emulation.setDeviceMetricsOverride", &params);
    }

    /// Waits until two consecutive pictures of the page, up to a second apart, are the same, so that fonts are loaded and
    /// animations have ended.
    pub(crate) fn settle(&self) {
        let mut before = self.picture();
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(300));
            let now = self.picture();
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// Returns a picture of the window, as PNG.
    pub(crate) fn picture(&self) -> Vec<u8> {
        let shot = self.devtools("Page.captureScreenshot", &json!({"format": "png"}));
        decode_base64(shot["data"].as_str().expect("text"))
    }

    /// Sets one of the user's preferences, as a media feature and its value (Chrome `DevTools` protocol, `Emulation`).
    pub(crate) fn prefer(&self, feature: &str, value: &str) {
        self.prefer_all(&[(feature, value)]);
    }

    /// Sets several preferences at once. Each call replaces all earlier ones.
    pub(crate) fn prefer_all(&self, features: &[(&str, &str)]) {
        let features: Vec<Value> = features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// Runs `script` before the scripts of each page that is opened from now on (Chrome `DevTools` protocol, `Page`).
    pub(crate) fn before_each_page(&self, script: &str) {
        let params = json!({ "source": script });
        self.devtools("Page.addScriptToEvaluateOnNewDocument", &params);
    }

    /// Returns what was added to the browser's console since the last call: messages of the page and the browser, including
    /// policy violations.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.command("se/log", &json!({"type": "browser"}));
        entries.as_array().expect("a log is a list").iter().map(|it| format!("{}: {}", it["level"], it["message"])).collect()
    }

    /// Runs a command of the Chrome `DevTools` protocol.
    pub(crate) fn devtools(&self, command: &str, params: &Value) -> Value {
        self.command("goog/cdp/execute", &json!({"cmd": command, "params": params}))
    }

    /// Runs one command of the protocol. Panics with the driver's message if it fails.
    fn command(&self, path: &str, body: &Value) -> Value {
        self.session.post(path, body).unwrap_or_else(|error| panic!("the browser did not do {path}: {error}"))
    }
}

/// Decodes base64 (RFC 4648, section 4).
fn decode_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0_u32, |bits, &byte| bits << 6 | u32::from(value(byte))) << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

impl Drop for Browser {
    fn drop(&mut self) {
        if thread::panicking() {
            let page = self.session.post("execute/sync", &json!({"script": "return document.body.innerText", "args": []}));
            eprintln!("--- the page at the end:\n{}", page.unwrap_or_default().as_str().unwrap_or_default());
        }
        if self.turn.is_some() {
            self.leave();
        }
    }
}

/// A session of chromedriver, identified by its URL.
struct Session {
    agent: ureq::Agent,
    url: String,
}

impl Session {
    fn new(url: String) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).timeout_global(Some(PATIENCE)).build();
        Self { agent: config.new_agent(), url }
    }

    /// Leaves one empty window, without cookies, caches and console messages.
    fn clean(&self) -> Result<(), String> {
        let old = self.get("window/handles")?;
        let new = self.post("window/new", &json!({"type": "tab"}))?;
        for window in old.as_array().into_iter().flatten() {
            self.post("window", &json!({ "handle": window }))?;
            answer_of(self.agent.delete(format!("{}/window", self.url)).call())?;
        }
        self.post("window", &json!({ "handle": new["handle"] }))?;
        for command in ["Network.clearBrowserCookies", "Network.clearBrowserCache"] {
            self.post("goog/cdp/execute", &json!({"cmd": command, "params": {}}))?;
        }
        self.post("se/log", &json!({"type": "browser"})).map(drop)
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        answer_of(self.agent.get(format!("{}/{path}", self.url)).call())
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let url = format!("{}/{path}", self.url);
        answer_of(self.agent.post(url.trim_end_matches('/')).content_type("application/json").send(body.to_string()))
    }
}

/// Returns the value of a response, or the driver's message.
fn answer_of(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, String> {
    let mut answer = answer.map_err(|error| error.to_string())?;
    let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
    let mut reply: Value = serde_json::from_str(&text).map_err(|error| format!("{error} in {text}"))?;
    if answer.status().is_success() { Ok(reply["value"].take()) } else { Err(reply["value"]["message"].to_string()) }
}
