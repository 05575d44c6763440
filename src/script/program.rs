//! How a script is run, and why it cannot be run. All error sentences about that are here.
//!
//! Reads only, and changes nothing. A start checks before its run is committed, so that a detectable problem leaves no failed
//! run behind. The shim checks again after execve(2) has failed, because a file can change in between and only the kernel can
//! detect some problems.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::elf::Elf;
use super::first_line::{Beginning, HEAD_BYTES, beginning};
use crate::real_path::real_path;
use crate::shell_word::quoted;

/// The directories in which a program without a slash in its name is searched for if there is no `PATH`, as in
/// `process/spawn.rs`.
const PATH_DEFAULT: &str = "/bin:/usr/bin";

/// The maximum length of `PATH` in a sentence, in characters.
const SHOWN_PATH_CHARS: usize = 300;

/// The interpreter of a text that names none.
const SHELL: &str = "bash";

/// The number of scripts that the kernel follows from one interpreter to the next (`execve(2)`: `ELOOP`).
const SCRIPTS_MAX: usize = 5;

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

/// The program to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file, absolute and without links, or its interpreter. The interpreter is the one that the first line names, or one
    /// that was found in the server's `PATH`.
    pub program: PathBuf,
    /// The arguments before the client's if the program is an interpreter: the argument in the first line, if any, and the
    /// script.
    pub args: Vec<PathBuf>,
}

/// A script that is about to be run, or that could not be run.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The file, absolute and without links.
    pub file: &'a Path,
    /// The name that the client gave, for messages.
    pub name: &'a str,
    /// The working directory of the run.
    pub cwd: &'a Path,
    /// The server's `PATH`, in which interpreters are searched for; `None` if it is not set.
    pub search_path: Option<&'a OsStr>,
    /// True if the start sets variables that would make `env` run another program; see [`decides_what_env_runs`].
    pub has_own_path: bool,
}

/// Checks whether a variable decides which program `/usr/bin/env NAME` becomes: `PATH`, and the variables that the dynamic
/// loader reads before `env` runs (`ld.so(8)`). They are set for the run, but only after its interpreter has been found.
pub fn decides_what_env_runs(variable: &str) -> bool {
    variable == "PATH" || variable == "GLIBC_TUNABLES" || variable.starts_with("LD_")
}

/// Why an existing file cannot be run, as a sentence that says what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unrunnable(String);

impl Attempt<'_> {
    /// Determines how the script is run: directly if it has its execute bit, otherwise by the interpreter that its first line
    /// names, otherwise by `bash`.
    pub fn program(&self) -> Result<Program, Unrunnable> {
        let script = quoted(self.name);
        let refused = |why| Err(Unrunnable(why));
        let unreadable = |error: io::Error| {
            Unrunnable(format!("{script} could not be read: {error}; give the server's user permission to read it"))
        };
        let has_execute_bit = fs::metadata(self.file).map_err(unreadable)?.permissions().mode() & 0o111 != 0;
        if has_execute_bit {
            self.check_executable()?;
        }
        let file = match open(self.file) {
            Ok(file) => file,
            // The kernel does not need read permission to run a program. A script's interpreter does, and reports that itself.
            Err(_) if has_execute_bit => return Ok(self.as_it_is()),
            Err(error) => return Err(unreadable(error)),
        };
        let head = read_head(&file).map_err(unreadable)?;
        match beginning(&head) {
            Beginning::WindowsLine => refused(format!(
                "the script {script} has Windows line endings, which neither the kernel nor a shell understands; convert it with `sed -i 's/\\r$//' {script}`"
            )),
            Beginning::ByteOrderMark => refused(format!(
                "the script {script} begins with a byte order mark, which hides its first line from the kernel and from a shell; remove it with `sed -i '1s/^\\xEF\\xBB\\xBF//' {script}`"
            )),
            Beginning::Utf16 => refused(format!(
                "the script {script} is saved as UTF-16, which neither the kernel nor a shell understands; save it as UTF-8, without a byte order mark"
            )),
            Beginning::NoInterpreter => {
                refused(format!("the first line of {script} names no interpreter; write a line such as `#!/bin/bash`"))
            }
            Beginning::LongInterpreter => refused(format!(
                "the first line of {script} does not name its interpreter within the first {HEAD_BYTES} bytes, which is all that the kernel reads; use a shorter path, for example a link to the interpreter"
            )),
            Beginning::Interpreter { path, argument } => {
                self.check_interpreter(path, argument)?;
                let is_env = is_env(&self.named(path));
                if self.has_own_path && !is_env {
                    self.check_searches_nothing(&self.named(path))?;
                }
                Ok(match argument.filter(|_| self.has_own_path && is_env) {
                    Some(argument) => self.in_place_of_env(path, argument)?,
                    None if has_execute_bit => self.as_it_is(),
                    None => self.by(path, argument),
                })
            }
            Beginning::Elf if has_execute_bit => self.check_loader(&head, &file).map(|()| self.as_it_is()),
            // Only the kernel knows whether it has a handler for the format, for example in binfmt_misc.
            Beginning::Text { .. } | Beginning::Binary if has_execute_bit => Ok(self.as_it_is()),
            Beginning::Elf | Beginning::Binary => refused(format!(
                "{script} is a program, not a script, and its execute bit is not set; set it with `chmod +x {script}`"
            )),
            Beginning::Text { .. } => self.by_shell(),
        }
    }

    /// Explains why execve(2) has failed, as a sentence: the cause if it can be found, otherwise the kernel's error.
    pub fn explain(&self, error: &io::Error) -> String {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        // The file does not cause these errors.
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
        let elf = file.filter(|_| beginning(&head) == Beginning::Elf).map(|file| Elf::read(&head, &file));
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

    /// Returns the program that the kernel would run: the interpreter with its one argument and the script (`execve(2)`).
    fn by(&self, interpreter: &[u8], argument: Option<&[u8]>) -> Program {
        let mut program = OsString::new();
        if !interpreter.contains(&b'/') {
            // The kernel does not search for it in `PATH`.
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
            return Err(Unrunnable(format!(
                "{script} does not name its interpreter, and bash would treat it as a shell script; add a first line such as `#!/usr/bin/env {interpreter}`"
            )));
        }
        let Some(shell) = self.find_in_path(SHELL) else {
            return Err(Unrunnable(format!(
                "{script} has neither an execute bit nor a first line that names an interpreter, so bash would run it, and bash was not found in the server's PATH ({})",
                self.shown_search_path()
            )));
        };
        Ok(Program { program: shell, args: vec![self.file.to_owned()] })
    }

    /// Returns the program that `env` would run in the server's environment. `env` itself is left out, because in the run's
    /// environment it would find another program.
    fn in_place_of_env(&self, env: &[u8], argument: &[u8]) -> Result<Program, Unrunnable> {
        let argument = String::from_utf8_lossy(argument);
        let (words, splits) = match argument.strip_prefix("-S") {
            Some(rest) => (rest, true),
            None => (&*argument, false),
        };
        // Anything else is an option, an assignment or a quoted word, which only `env` can interpret.
        let is_plain = !words.trim_start().starts_with('-') && !words.contains(['=', '"', '\'', '\\', '$', '#']);
        let mut words = if splits { words.split_ascii_whitespace().collect() } else { vec![words] }.into_iter();
        let Some(name) = words.next().filter(|_| is_plain) else {
            return Err(Unrunnable(format!(
                "the first line of {} passes {argument:?} to {}, which would search for the interpreter in the PATH of this start; name the interpreter with its path there, or leave PATH and LD_… out of the start's variables",
                quoted(self.name),
                String::from_utf8_lossy(env)
            )));
        };
        let found = if name.contains('/') { Some(self.cwd.join(name)) } else { self.find_in_path(name) };
        if let Some(program) = &found {
            self.check_searches_nothing(program)?;
        }
        Ok(match found {
            Some(program) => Program { program, args: words.map(PathBuf::from).chain([self.file.to_owned()]).collect() },
            // It existed a moment ago, and `env` will not find it either.
            None => self.by(env, Some(argument.as_bytes())),
        })
    }

    /// Checks that an interpreter is not `env`, and is not a script that `env` interprets. `env` would search in the `PATH` of
    /// this start.
    fn check_searches_nothing(&self, interpreter: &Path) -> Result<(), Unrunnable> {
        let mut program = interpreter.to_owned();
        // The kernel does not run a chain with more scripts than this.
        for _ in 0..=SCRIPTS_MAX {
            if is_env(&program) {
                return Err(Unrunnable(format!(
                    "the interpreter {} of {} leads to env, which would search for a program in the PATH of this start; name an interpreter that does not use env, or leave PATH and LD_… out of the start's variables",
                    interpreter.display(),
                    quoted(self.name)
                )));
            }
            let head = real_path(&program).and_then(|real| read_head(&open(&real)?)).unwrap_or_default();
            let Beginning::Interpreter { path, .. } = beginning(&head) else { break };
            program = self.named(path);
        }
        Ok(())
    }

    /// Returns the path of an interpreter as the kernel finds it: relative to the working directory, and not in `PATH`.
    fn named(&self, interpreter: &[u8]) -> PathBuf {
        self.cwd.join(OsStr::from_bytes(interpreter))
    }

    /// Checks whether the execute bit, which is set, applies to this user and is not disabled by the file system.
    fn check_executable(&self) -> Result<(), Unrunnable> {
        let script = quoted(self.name);
        match rustix::fs::access(self.file, Access::EXEC_OK) {
            Err(Errno::ACCESS) if is_noexec(self.file) => {
                let is_text = open(self.file).and_then(|file| read_head(&file)).is_ok_and(|head| {
                    matches!(beginning(&head), Beginning::Interpreter { .. } | Beginning::Text { is_empty: false })
                });
                let or = format!(", or remove its execute bit (`chmod -x {script}`) to run it with its interpreter");
                Err(Unrunnable(format!(
                    "{script} is on a file system that is mounted noexec; copy it to another file system{}",
                    if is_text { &or } else { "" }
                )))
            }
            Err(Errno::ACCESS) => Err(Unrunnable(format!(
                "the server's user cannot execute {script}; allow it with `chmod a+x {script}`, or give the file to that user"
            ))),
            // The kernel reports everything else.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn check_interpreter(&self, path: &[u8], argument: Option<&[u8]>) -> Result<(), Unrunnable> {
        let named = self.named(path);
        let unusable = |why| {
            let (interpreter, script) = (String::from_utf8_lossy(path), quoted(self.name));
            Err(Unrunnable(format!("{interpreter}, named in the first line of {script}, {why}")))
        };
        match real_path(&named).and_then(|real| Ok((fs::metadata(&real)?, real))) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return unusable("does not exist; install it, or correct that line");
            }
            // The kernel may be able to use an interpreter that cannot be read here.
            Err(_) => {}
            Ok((metadata, _)) if !metadata.is_file() => return unusable("cannot be executed: it is not a program"),
            Ok((_, real)) => match rustix::fs::access(&real, Access::EXEC_OK) {
                Err(Errno::ACCESS) if is_noexec(&real) => {
                    return unusable("cannot be executed: it is on a file system that is mounted noexec");
                }
                Err(Errno::ACCESS) => return unusable("cannot be executed: the server's user cannot execute it"),
                Ok(()) | Err(_) => {}
            },
        }
        match argument {
            Some(argument) if is_env(&named) => self.check_env(argument),
            _ => Ok(()),
        }
    }

    /// Checks that `PATH` has the program that `env` searches for. Without it, the run would end at once with code 127.
    fn check_env(&self, argument: &[u8]) -> Result<(), Unrunnable> {
        let argument = String::from_utf8_lossy(argument);
        let is_plain = |word: &str| !word.starts_with('-') && !word.contains(['=', '/', '"', '\'', '\\', '$', '#']);
        let name = match argument.strip_prefix("-S") {
            Some(rest) => rest.split_ascii_whitespace().next().unwrap_or_default(),
            None => &argument,
        };
        if name.is_empty() || !is_plain(name) || self.is_in_path(name) {
            return Ok(());
        }
        let script = quoted(self.name);
        Err(Unrunnable(match name.split_ascii_whitespace().next() {
            Some(first) if first != name && self.is_in_path(first) => format!(
                "the first line of {script} passes {name:?} to env as one name; to pass arguments to {first}, write `#!/usr/bin/env -S {name}`"
            ),
            _ => format!(
                "{name}, named in the first line of {script}, was not found in the server's PATH ({}); install it, or set PATH for the server",
                self.shown_search_path()
            ),
        }))
    }

    fn check_loader(&self, head: &[u8], file: &File) -> Result<(), Unrunnable> {
        match Elf::read(head, file).filter(Elf::is_native).and_then(|elf| elf.loader) {
            Some(loader) if matches!(real_path(&self.cwd.join(&loader)), Err(error) if error.kind() == io::ErrorKind::NotFound) => {
                Err(Unrunnable(format!(
                    "{} needs the loader {}, which does not exist: the program was built for another system or C library; build it for this one, or statically",
                    quoted(self.name),
                    loader.display()
                )))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn is_in_path(&self, name: &str) -> bool {
        self.find_in_path(name).is_some()
    }

    /// Returns the first executable file of that name in a directory of `PATH`, or else the first that cannot be checked.
    fn find_in_path(&self, name: &str) -> Option<PathBuf> {
        let path = self.search_path.unwrap_or(OsStr::new(PATH_DEFAULT));
        let mut unchecked = None;
        for program in std::env::split_paths(path).map(|folder| self.cwd.join(folder).join(name)) {
            match fs::metadata(&program) {
                Ok(metadata) if metadata.is_file() && rustix::fs::access(&program, Access::EXEC_OK).is_ok() => {
                    return Some(program);
                }
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
                    ) => {}
                Err(_) => unchecked = unchecked.or(Some(program)),
            }
        }
        unchecked
    }

    fn shown_search_path(&self) -> String {
        let path = self.search_path.unwrap_or(OsStr::new(PATH_DEFAULT)).display().to_string();
        // Limited, because a client can make it as long as an argument.
        match path.char_indices().nth(SHOWN_PATH_CHARS) {
            Some((end, _)) => format!("{}…", &path[..end]),
            None => path,
        }
    }
}

/// Opens a file that was regular a moment ago. If it is a pipe now, this does not wait for the pipe's other end.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no longer a regular file")) }
}

pub(super) fn read_head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Checks whether an interpreter is `env`, which searches for another program: by its name, or by the name of the file to which
/// a link leads. A copy of `env` with another name is treated like any other program.
pub(super) fn is_env(interpreter: &Path) -> bool {
    let is_named = |path: &Path| path.file_name() == Some(OsStr::new("env"));
    is_named(interpreter) || real_path(interpreter).is_ok_and(|real| is_named(&real))
}

fn is_noexec(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|about| about.f_flag.contains(StatVfsMountFlags::NOEXEC))
}
