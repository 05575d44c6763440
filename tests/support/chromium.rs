//! The browsers behind the tests: one that the tests of a run share, and fresh ones with a profile of their own. One is used at a time.
//!
//! A browser has a folder below `target/tmp`, with its profile, what chromedriver printed, and a file `wanted`. A shell beside it ends its
//! processes and removes the folder when that file or the process that the browser is for has gone. So a test that is killed leaves
//! nothing behind, and neither does the run.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::not_run;

/// How long a browser may take to start or to end. Generous: a loaded machine is slow.
const LIMIT: Duration = Duration::from_mins(1);

/// How often chromedriver is started before that is given up.
const DRIVER_STARTS_MAX: u32 = 5;

/// The driver has a process group of its own, which the browser stays in. The arguments: the process that the browser is for, the folder,
/// chromedriver.
const KEEPER: &str = r#"
( setsid "$3" --port=0 "--log-path=$2/errors.log" > "$2/driver.log" &
  driver=$!
  while [ -e "$2/wanted" ] && kill -0 "$1" && kill -0 "$driver"; do sleep 0.2; done
  # The driver alone where it has no group yet.
  kill -KILL "$driver" "-$driver"
  # What is dying may still write.
  for round in {1..200}; do
    rm -rf "$2" && break
    sleep 0.02
  done
) &
"#;

/// Where the two programs are.
pub(crate) struct Programs {
    pub(crate) browser: PathBuf,
    driver: PathBuf,
}

impl Programs {
    /// Finds them, or says that a test did not run. With `AUTOAPPDEV_REQUIRE_BROWSER=1` having none is a failure.
    pub(crate) fn find() -> Option<Self> {
        let browser = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| find_on_path(name));
        let (Some(browser), Some(driver)) = (browser, find_on_path("chromedriver")) else {
            not_run(
                "chromium or chromedriver is not on PATH; to run it: apt-get install chromium chromium-driver",
                "AUTOAPPDEV_REQUIRE_BROWSER",
            );
            return None;
        };
        Some(Self { browser, driver })
    }
}

/// The process that ends when the run of the tests does: nextest, or this one, where all tests are threads of one process.
pub(crate) fn runner() -> u32 {
    if std::env::var_os("NEXTEST").is_some() { std::os::unix::process::parent_id() } else { std::process::id() }
}

/// A chromedriver that runs, and the folder of its browser.
#[derive(Debug, PartialEq)]
pub(crate) struct Driver {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
}

impl Driver {
    /// Starts one that ends with the process `whom`. It wants the same port of IPv4 and of IPv6, and ends where the second is taken: then
    /// it is started again.
    pub(crate) fn start(programs: &Programs, whom: u32) -> Self {
        for _ in 0..DRIVER_STARTS_MAX {
            let folder =
                tempfile::Builder::new().prefix("browser-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("it can be made");
            let folder = folder.keep();
            fs::write(folder.join("wanted"), "").expect("ours");
            let begun = Command::new("bash")
                .args(["-c", KEEPER, "browser", &whom.to_string()])
                .args([&folder, &programs.driver])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            assert!(begun.is_ok_and(|status| status.success()), "bash starts chromedriver");
            let begun = Instant::now();
            while folder.exists() && begun.elapsed() < LIMIT {
                let said = fs::read_to_string(folder.join("driver.log")).unwrap_or_default();
                if let Some(port) = said.lines().find_map(port_of) {
                    return Self { folder, port };
                }
                thread::sleep(Duration::from_millis(10));
            }
            Self { folder, port: 0 }.end();
        }
        panic!("chromedriver was started {DRIVER_STARTS_MAX} times and printed no port");
    }

    /// Where the browser keeps its profile.
    pub(crate) fn profile(&self) -> PathBuf {
        self.folder.join("profile")
    }

    /// Ends driver and browser. Returns when nothing of them is left.
    pub(crate) fn end(&self) {
        // It may have ended by itself.
        let _ = fs::remove_file(self.folder.join("wanted"));
        let begun = Instant::now();
        while self.folder.exists() {
            if begun.elapsed() > LIMIT {
                // Not a panic: this is also how a test cleans up that has failed.
                eprintln!("a browser does not end: {}", self.folder.display());
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The turn to use a browser. Its file tells the browser that the run shares.
pub(crate) struct Turn(File);

impl Turn {
    /// Waits until no other test uses a browser.
    pub(crate) fn wait() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser.lock");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path).expect("it can be opened");
        file.lock().expect("it can be locked");
        Self(file)
    }

    /// The browser that was left for this run, with its session. One that was taken and not left again is ended: its test was killed.
    pub(crate) fn take(&mut self) -> Option<(Driver, String)> {
        let mut text = String::new();
        self.0.rewind().and_then(|()| self.0.read_to_string(&mut text)).expect("text");
        // Empty before the first.
        let left: Value = serde_json::from_str(&text).unwrap_or_default();
        if left["runner"] != runner() {
            return None;
        }
        let driver = Driver {
            folder: left["folder"].as_str().expect("a path").into(),
            port: left["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port"),
        };
        let Some(session) = left["session"].as_str() else {
            driver.end();
            return None;
        };
        self.write(&driver, None);
        Some((driver, session.to_owned()))
    }

    /// Notes the browser that the run shares: with its session where the next test may use it.
    pub(crate) fn write(&mut self, driver: &Driver, session: Option<&str>) {
        let text = json!({"runner": runner(), "folder": driver.folder, "port": driver.port, "session": session}).to_string();
        let written = self.0.set_len(0).and_then(|()| self.0.rewind()).and_then(|()| self.0.write_all(text.as_bytes()));
        written.expect("the file is ours");
    }
}

/// The port in chromedriver's line `ChromeDriver was started successfully on port 12345.`
fn port_of(line: &str) -> Option<u16> {
    line.split_once("started successfully on port ")?.1.strip_suffix('.')?.parse().ok()
}

fn find_on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}
