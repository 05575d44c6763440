//! The browsers for the tests: one that the tests of a run share, and new ones with their own profile. Only one is used at a
//! time.
//!
//! Each browser has a folder below `target/tmp` with its profile, the output of chromedriver and a file `wanted`. A shell runs
//! beside the browser. When `wanted` is removed or the process that uses the browser exits, the shell ends the browser's
//! processes and removes the folder. So neither a test that is killed nor the end of the run leaves anything behind.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::not_run;

/// The time limit for the start or the end of a browser. It is generous, because a loaded machine is slow.
const LIMIT: Duration = Duration::from_mins(1);

/// How often the start of chromedriver is tried.
const DRIVER_STARTS_MAX: u32 = 5;

/// The shell script that runs chromedriver in its own process group, which the browser stays in. Its arguments are the process
/// that uses the browser, the folder, and chromedriver.
const KEEPER: &str = r#"
( setsid "$3" --port=0 "--log-path=$2/errors.log" > "$2/driver.log" &
  driver=$!
  while [ -e "$2/wanted" ] && kill -0 "$1" && kill -0 "$driver"; do sleep 0.2; done
  # Also the driver itself, which may not have its group yet.
  kill -KILL "$driver" "-$driver"
  # A dying process may still write.
  for round in {1..200}; do
    rm -rf "$2" && break
    sleep 0.02
  done
) &
"#;

/// The paths of chromium and chromedriver.
pub(crate) struct Programs {
    pub(crate) browser: PathBuf,
    driver: PathBuf,
}

impl Programs {
    /// Finds both programs, or reports that a test did not run. With `AUTOAPPDEV_REQUIRE_BROWSER=1`, a missing program is a
    /// failure.
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

/// Returns the process that ends with the test run: nextest, or this process if it runs all tests as threads.
pub(crate) fn runner() -> u32 {
    if std::env::var_os("NEXTEST").is_some() { std::os::unix::process::parent_id() } else { std::process::id() }
}

/// A running chromedriver and the folder of its browser.
#[derive(Debug, PartialEq)]
pub(crate) struct Driver {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
}

impl Driver {
    /// Starts a chromedriver that ends with the process `whom`. chromedriver needs the same port for IPv4 and IPv6, and exits if
    /// the second is in use. Then it is started again.
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

    /// Returns the folder of the browser's profile.
    pub(crate) fn profile(&self) -> PathBuf {
        self.folder.join("profile")
    }

    /// Ends the driver and the browser. Returns once nothing is left of them.
    pub(crate) fn end(&self) {
        // The driver may have ended by itself.
        let _ = fs::remove_file(self.folder.join("wanted"));
        let begun = Instant::now();
        while self.folder.exists() {
            if begun.elapsed() > LIMIT {
                // Not a panic, because a failed test also cleans up in this way.
                eprintln!("a browser does not end: {}", self.folder.display());
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The lock that allows a test to use a browser. Its file names the browser that the tests of the run share.
pub(crate) struct Turn(File);

impl Turn {
    /// Waits until no other test uses a browser.
    pub(crate) fn wait() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser.lock");
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path).expect("it can be opened");
        file.lock().expect("it can be locked");
        Self(file)
    }

    /// Returns the browser that an earlier test of this run left, with its session. A browser that was taken and not returned is
    /// ended, because its test was killed.
    pub(crate) fn take(&mut self) -> Option<(Driver, String)> {
        let mut text = String::new();
        self.0.rewind().and_then(|()| self.0.read_to_string(&mut text)).expect("text");
        // The file is empty before the first test.
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

    /// Records the browser that the run shares, with its session if the next test may use it.
    pub(crate) fn write(&mut self, driver: &Driver, session: Option<&str>) {
        let text = json!({"runner": runner(), "folder": driver.folder, "port": driver.port, "session": session}).to_string();
        let written = self.0.set_len(0).and_then(|()| self.0.rewind()).and_then(|()| self.0.write_all(text.as_bytes()));
        written.expect("the file is ours");
    }
}

/// Returns the port from chromedriver's line `ChromeDriver was started successfully on port 12345.`
fn port_of(line: &str) -> Option<u16> {
    line.split_once("started successfully on port ")?.1.strip_suffix('.')?.parse().ok()
}

fn find_on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}
