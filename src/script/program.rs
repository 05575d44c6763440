//! How a script is run, and why it cannot be run: all error sentences about that are here.
//!
//! Reads only, and changes nothing. A start checks before its run is committed, so that a detectable problem leaves no failed run behind; the shim
//! checks again after execve(2) has failed, because a file can change in between and only the kernel can detect some problems.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::elf::Elf;
use super::first_line::{Beginning, HEAD_BYTES, beginning};
use super::shell_word::quoted;

/// Where a program without a slash in its name is searched for if there is no `PATH`, as in `process/spawn.rs`.
const PATH_DEFAULT: &str = "/bin:/usr/bin";

/// The longest `PATH` that a sentence shows, in characters.
const SHOWN_PATH_CHARS: usize = 300;

/// What runs a text that names no interpreter.
const SHELL: &str = "bash";

/// File name endings of scripts that a shell cannot run, with their interpreters.
const OTHER_LANGUAGES: [(&str, &str); 9] = [
    ("py", "python3"),
    ("js", "node"),
    ("mjs", "node"),
    ("rb", "ruby"),
    ("pl", "perl"),
    ("php", "php"),
    ("lua", "lua"),
    ("R", "Rscript"),
    ("r", "Rscript"),
];

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file, absolute and without links; or its interpreter: as the first line names it, or `bash` from `PATH`.
    pub program: PathBuf,
    /// The arguments before the client's if the program is an interpreter: its own argument, if the first line has one, and
    /// the script.
    pub args: Vec<PathBuf>,
}

/// A script that is about to be run, or could not be.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The file, absolute and without links.
    pub file: &'a Path,
    /// As it was named, for people.
    pub name: &'a str,
    /// Where it is to run.
    pub cwd: &'a Path,
    /// The `PATH` that it is to have; `None` where it has none.
    pub search_path: Option<&'a OsStr>,
}

/// Why an existing file cannot be run. Each text is a sentence that says what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrunnable {
    /// The first line ends with CR LF.
    #[error(
        "the script {0} has Windows line endings, which neither the kernel nor a shell understands; convert it with `sed -i 's/\\r$//' {0}`"
    )]
    WindowsLines(String),
    /// A byte order mark hides the first line.
    #[error(
        "the script {0} begins with a byte order mark, which hides its first line from the kernel and from a shell; remove it with `sed -i '1s/^\\xEF\\xBB\\xBF//' {0}`"
    )]
    ByteOrderMark(String),
    /// It is UTF-16.
    #[error(
        "the script {0} is saved as UTF-16, which neither the kernel nor a shell understands; save it as UTF-8, without a byte order mark"
    )]
    Utf16(String),
    /// `#!` without a usable name.
    #[error("the first line of {0} names no interpreter; write a line such as `#!/bin/bash`")]
    NoInterpreter(String),
    /// The name of the interpreter is cut off.
    #[error(
        "the first line of {0} does not name its interpreter within the first 256 bytes, which is all that the kernel reads; use a shorter path, for example a link to the interpreter"
    )]
    LongInterpreter(String),
    /// The interpreter is not there.
    #[error("{interpreter}, named in the first line of {script}, does not exist; install it, or correct that line")]
    MissingInterpreter {
        /// As the first line names it.
        interpreter: String,
        /// The script.
        script: String,
    },
    /// The interpreter may not be executed.
    #[error("{interpreter}, named in the first line of {script}, cannot be executed: {reason}")]
    BadInterpreter {
        /// As the first line names it.
        interpreter: String,
        /// The script.
        script: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `env` would not find it.
    #[error(
        "{interpreter}, named in the first line of {script}, was not found in PATH ({path}); install it, or set PATH for the server or for this start"
    )]
    NotInPath {
        /// The program that `env` is to run.
        interpreter: String,
        /// The script.
        script: String,
        /// Where it was searched for.
        path: String,
    },
    /// `env` takes one name there, and the line has more.
    #[error(
        "the first line of {script} passes {name:?} to env as one name; to pass arguments to {interpreter}, write `#!/usr/bin/env -S {name}`"
    )]
    EnvNeedsSplit {
        /// All that follows `env`.
        name: String,
        /// Its first word.
        interpreter: String,
        /// The script.
        script: String,
    },
    /// There is no shell.
    #[error(
        "{script} has neither an execute bit nor a first line that names an interpreter, so bash would run it, and bash was not found in PATH ({path})"
    )]
    NoShell {
        /// The script.
        script: String,
        /// Where it was searched for.
        path: String,
    },
    /// A text of another language, which would be given to bash.
    #[error(
        "{script} does not name its interpreter, and bash would treat it as a shell script; add a first line such as `#!/usr/bin/env {interpreter}`"
    )]
    OtherLanguage {
        /// The script.
        script: String,
        /// What probably runs it.
        interpreter: &'static str,
    },
    /// A program without its execute bit.
    #[error("{0} is a program, not a script, and its execute bit is not set; set it with `chmod +x {0}`")]
    NoExecuteBit(String),
    /// Its execute bit is for others.
    #[error("the server's user cannot execute {0}; allow it with `chmod a+x {0}`, or give the file to that user")]
    NotAllowed(String),
    /// The file system forbids it.
    #[error("{script} is on a file system that is mounted noexec; {advice}")]
    NoExec {
        /// The script.
        script: String,
        /// What to do.
        advice: String,
    },
    /// The loader of a program is not there.
    #[error(
        "{program} needs the loader {loader}, which does not exist: the program was built for another system or C library; build it for this one, or statically"
    )]
    MissingLoader {
        /// The program.
        program: String,
        /// The path in its header.
        loader: String,
    },
    /// It could not be read.
    #[error("{script} could not be read: {reason}; give the server's user permission to read it")]
    Unreadable {
        /// The script.
        script: String,
        /// The kernel's error.
        reason: String,
    },
}

impl Attempt<'_> {
    /// How it is run: directly if it has its execute bit, otherwise by the interpreter that its first line names, otherwise by `bash`.
    pub fn program(&self) -> Result<Program, Unrunnable> {
        let script = || quoted(self.name);
        let unreadable = |error: &io::Error| Unrunnable::Unreadable { script: script(), reason: error.to_string() };
        let opened = open(self.file);
        let mode = match &opened {
            Ok(file) => file.metadata(),
            Err(_) => fs::metadata(self.file),
        };
        let has_execute_bit = mode.map_err(|error| unreadable(&error))?.permissions().mode() & 0o111 != 0;
        if has_execute_bit {
            self.check_executable()?;
        }
        let file = match opened {
            Ok(file) => file,
            // The kernel needs no permission to read a program; a script's interpreter does, and says so itself.
            Err(_) if has_execute_bit => return Ok(self.as_it_is()),
            Err(error) => return Err(unreadable(&error)),
        };
        let head = read_head(&file).map_err(|error| unreadable(&error))?;
        match beginning(&head) {
            Beginning::WindowsLine => Err(Unrunnable::WindowsLines(script())),
            Beginning::ByteOrderMark => Err(Unrunnable::ByteOrderMark(script())),
            Beginning::Utf16 => Err(Unrunnable::Utf16(script())),
            Beginning::NoInterpreter => Err(Unrunnable::NoInterpreter(script())),
            Beginning::LongInterpreter => Err(Unrunnable::LongInterpreter(script())),
            Beginning::Interpreter { path, argument } => {
                self.check_interpreter(path, argument)?;
                Ok(if has_execute_bit { self.as_it_is() } else { self.by(path, argument) })
            }
            Beginning::Elf if has_execute_bit => self.check_loader(&file).map(|()| self.as_it_is()),
            // Only the kernel knows whether it has a handler for it, for example in binfmt_misc.
            Beginning::Text { .. } | Beginning::Binary if has_execute_bit => Ok(self.as_it_is()),
            Beginning::Elf | Beginning::Binary => Err(Unrunnable::NoExecuteBit(script())),
            Beginning::Text { .. } => self.by_shell(),
        }
    }

    /// Why execve(2) has failed, as a sentence: the cause if it can be found, else the kernel's error.
    pub fn explain(&self, error: &io::Error) -> String {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        // The file itself does not explain these errors.
        let is_its_fault = !matches!(errno, Some(Errno::TOOBIG | Errno::NOMEM | Errno::AGAIN | Errno::TXTBSY | Errno::IO));
        if is_its_fault && let Err(why) = self.program() {
            return why.to_string();
        }
        let script = quoted(self.name);
        let advice = match errno {
            Some(Errno::NOEXEC) => return self.explain_no_format(),
            Some(Errno::NOENT | Errno::NOTDIR) if !self.cwd.is_dir() => {
                format!("its working directory {} no longer exists", self.cwd.display())
            }
            Some(Errno::NOENT | Errno::NOTDIR) => "it may just have been removed".to_owned(),
            Some(Errno::ACCESS | Errno::PERM) => {
                "check that the server's user can execute it and can enter its folder and its working directory".to_owned()
            }
            Some(Errno::TOOBIG) => "its arguments and environment are too long".to_owned(),
            Some(Errno::TXTBSY) => "another process has it open for writing; wait until it is closed".to_owned(),
            Some(Errno::LOOP) => {
                "its interpreter is a script whose interpreter is also a script, and so on, too many levels deep".to_owned()
            }
            _ => return format!("{script} could not be run: {error}"),
        };
        format!("{script} could not be run: {error}; {advice}")
    }

    fn explain_no_format(&self) -> String {
        let script = quoted(self.name);
        let file = open(self.file).ok();
        let head = file.as_ref().and_then(|file| read_head(file).ok()).unwrap_or_default();
        let elf = file.as_ref().filter(|_| beginning(&head) == Beginning::Elf).map(Elf::read);
        let reason = match (elf, beginning(&head)) {
            (Some(Some(elf)), _) if !elf.is_native() => {
                format!("it is a program for {}, and this machine is {}", elf.machine(), std::env::consts::ARCH)
            }
            (Some(_), _) => "it is a damaged program".to_owned(),
            (None, Beginning::Text { is_empty: true }) => "it is empty".to_owned(),
            (None, Beginning::Text { is_empty: false }) => format!(
                "its execute bit is set, but its first line names no interpreter; add a first line such as `#!/bin/bash`, or remove the bit \
                 (`chmod -x {script}`) and bash runs it"
            ),
            (None, _) => "this machine cannot run its format".to_owned(),
        };
        format!("{script} could not be run: {reason}")
    }

    fn as_it_is(&self) -> Program {
        Program { program: self.file.to_owned(), args: Vec::new() }
    }

    /// As the kernel would: the interpreter, its one argument, the script (`execve(2)`).
    fn by(&self, interpreter: &[u8], argument: Option<&[u8]>) -> Program {
        let mut program = OsString::new();
        if !interpreter.contains(&b'/') {
            // The kernel does not look it up in PATH.
            program.push("./");
        }
        program.push(OsStr::from_bytes(interpreter));
        let argument = argument.map(|argument| PathBuf::from(OsStr::from_bytes(argument)));
        Program { program: program.into(), args: argument.into_iter().chain([self.file.to_owned()]).collect() }
    }

    fn by_shell(&self) -> Result<Program, Unrunnable> {
        let script = quoted(self.name);
        let ending = Path::new(self.name).extension().or_else(|| self.file.extension());
        let other = OTHER_LANGUAGES.iter().find(|(other, _)| ending == Some(OsStr::new(other)));
        if let Some((_, interpreter)) = other {
            return Err(Unrunnable::OtherLanguage { script, interpreter });
        }
        if !self.is_in_path(SHELL.as_bytes()) {
            return Err(Unrunnable::NoShell { script, path: self.shown_search_path() });
        }
        Ok(Program { program: SHELL.into(), args: vec![self.file.to_owned()] })
    }

    /// The execute bit is set: checks whether it applies to this user and the file system honours it.
    fn check_executable(&self) -> Result<(), Unrunnable> {
        match rustix::fs::access(self.file, Access::EXEC_OK) {
            Err(Errno::ACCESS) if is_noexec(self.file) => {
                let script = quoted(self.name);
                let is_text = open(self.file).and_then(|file| read_head(&file)).is_ok_and(|head| {
                    matches!(beginning(&head), Beginning::Interpreter { .. } | Beginning::Text { is_empty: false })
                });
                let mut advice = "copy it to another file system".to_owned();
                if is_text {
                    advice = format!("{advice}, or remove its execute bit (`chmod -x {script}`) to run it with its interpreter");
                }
                Err(Unrunnable::NoExec { script, advice })
            }
            Err(Errno::ACCESS) => Err(Unrunnable::NotAllowed(quoted(self.name))),
            // The kernel reports everything else.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn check_interpreter(&self, path: &[u8], argument: Option<&[u8]>) -> Result<(), Unrunnable> {
        let (interpreter, script) = (String::from_utf8_lossy(path).into_owned(), quoted(self.name));
        let named = self.cwd.join(OsStr::from_bytes(path));
        let bad = |reason| Unrunnable::BadInterpreter { interpreter: interpreter.clone(), script: script.clone(), reason };
        match fs::metadata(&named) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(Unrunnable::MissingInterpreter { interpreter, script });
            }
            // The kernel may be able to use an interpreter that cannot be read here.
            Err(_) => {}
            Ok(metadata) if !metadata.is_file() => return Err(bad("it is not a program")),
            Ok(_) => match rustix::fs::access(&named, Access::EXEC_OK) {
                Err(Errno::ACCESS) if is_noexec(&named) => return Err(bad("it is on a file system that is mounted noexec")),
                Err(Errno::ACCESS) => return Err(bad("the server's user cannot execute it")),
                Ok(()) | Err(_) => {}
            },
        }
        match argument {
            Some(argument) if named.file_name() == Some(OsStr::new("env")) => self.check_env(argument),
            _ => Ok(()),
        }
    }

    /// `env` searches for the program in `PATH`; if it is missing, the run would end at once with code 127.
    fn check_env(&self, argument: &[u8]) -> Result<(), Unrunnable> {
        let argument = String::from_utf8_lossy(argument).into_owned();
        let is_plain = |word: &str| !word.starts_with('-') && !word.contains(['=', '/', '"', '\'', '\\', '$', '#']);
        let split = argument.strip_prefix("-S");
        let name = match split {
            Some(rest) => rest.split_ascii_whitespace().next().unwrap_or_default(),
            None => &argument,
        };
        if name.is_empty() || !is_plain(name) {
            return Ok(());
        }
        let script = || quoted(self.name);
        match name.split_ascii_whitespace().next() {
            Some(first) if first != name && self.is_in_path(first.as_bytes()) => {
                Err(Unrunnable::EnvNeedsSplit { interpreter: first.to_owned(), script: script(), name: name.to_owned() })
            }
            _ if self.is_in_path(name.as_bytes()) => Ok(()),
            _ => Err(Unrunnable::NotInPath { interpreter: name.to_owned(), script: script(), path: self.shown_search_path() }),
        }
    }

    fn check_loader(&self, file: &File) -> Result<(), Unrunnable> {
        match Elf::read(file).filter(Elf::is_native).and_then(|elf| elf.loader) {
            Some(loader) if matches!(fs::metadata(self.cwd.join(&loader)), Err(error) if error.kind() == io::ErrorKind::NotFound) => {
                Err(Unrunnable::MissingLoader { program: quoted(self.name), loader: loader.display().to_string() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a folder of `PATH` has an executable of that name, or cannot be checked.
    fn is_in_path(&self, name: &[u8]) -> bool {
        let path = self.search_path.unwrap_or(OsStr::new(PATH_DEFAULT));
        std::env::split_paths(path).any(|folder| {
            let program = self.cwd.join(folder).join(OsStr::from_bytes(name));
            match fs::metadata(&program) {
                Ok(metadata) => metadata.is_file() && rustix::fs::access(&program, Access::EXEC_OK).is_ok(),
                Err(error) => !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
                ),
            }
        })
    }

    fn shown_search_path(&self) -> String {
        let path = self.search_path.unwrap_or(OsStr::new(PATH_DEFAULT)).display().to_string();
        // A client can make it as long as an argument.
        match path.char_indices().nth(SHOWN_PATH_CHARS) {
            Some((end, _)) => format!("{}…", &path[..end]),
            None => path,
        }
    }
}

/// Opens a file that was regular a moment ago. If it is a pipe now, this does not wait for its other end.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(i32::try_from(flags).unwrap_or(0)).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no longer a regular file")) }
}

fn read_head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn is_noexec(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::NOEXEC))
}
