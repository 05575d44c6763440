use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;

fn a_root() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temp folder");
    let outside = dir.path().canonicalize().expect("there");
    let root = outside.join("root");
    fs::create_dir_all(root.join("sub")).expect("creates");
    fs::write(outside.join("secret.sh"), "#!/bin/sh\n").expect("writes");
    for name in ["plain.sh", "sub/inner.sh"] {
        fs::write(root.join(name), "echo hi\n").expect("writes");
    }
    write(&root, "exec.sh", b"#!/bin/sh\n", 0o755);
    symlink("../secret.sh", root.join("link-out.sh")).expect("links");
    symlink("plain.sh", root.join("link-in.sh")).expect("links");
    symlink("..", root.join("up")).expect("links");
    symlink("nowhere", root.join("dangling.sh")).expect("links");
    symlink("loop", root.join("loop")).expect("links");
    (dir, root)
}

fn write(root: &Path, name: &str, text: &[u8], mode: u32) {
    fs::write(root.join(name), text).expect("writes");
    fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).expect("ours");
}

fn find(root: &Path, name: &str) -> Result<PathBuf, ScriptError> {
    find_script(root, name, &[])
}

/// Returns how a file in `root` is run.
fn program(root: &Path, name: &str) -> Result<Program, Unrunnable> {
    let file = find(root, name).expect("it is there");
    Attempt { file: &file, name, cwd: root, search_path: Some(OsStr::new("/usr/bin:/bin")), has_own_path: false }.program()
}

#[test]
fn script_in_the_root_resolves_by_each_of_its_names() {
    let (_dir, root) = a_root();
    let absolute = root.join("plain.sh").display().to_string();
    for (name, found) in [
        ("plain.sh", "plain.sh"),
        ("./sub/../plain.sh", "plain.sh"),
        ("link-in.sh", "plain.sh"),
        ("sub/inner.sh", "sub/inner.sh"),
        (absolute.as_str(), "plain.sh"),
        ("exec.sh", "exec.sh"),
    ] {
        assert_eq!(find(&root, name), Ok(root.join(found)), "{name}");
    }
    assert_eq!(find_cwd(&root, "sub"), Ok(root.join("sub")));
    assert_eq!(find_cwd(&root, "."), Ok(root.clone()));
}

#[test]
fn names_outside_the_root_are_refused() {
    let (_dir, root) = a_root();
    let beside = root.with_file_name("secret.sh").display().to_string();
    let names = [
        "../secret.sh",
        "sub/../../secret.sh",
        "link-out.sh",
        "up/secret.sh",
        "/etc/passwd",
        beside.as_str(),
        "..",
        "/",
        "../nowhere.sh",
        "up/nowhere.sh",
        "/nowhere",
        "sub/nowhere/../../../x",
    ];
    for name in names {
        assert!(matches!(find(&root, name), Err(ScriptError::OutsideRoot(_))), "{name}: {:?}", find(&root, name));
        assert!(matches!(find_cwd(&root, name), Err(ScriptError::OutsideRoot(_))), "{name}");
    }
    // A folder beside the root whose name begins with the root's name is not in the root.
    let twin = root.with_file_name("root2");
    fs::create_dir(&twin).expect("creates");
    fs::write(twin.join("x.sh"), "").expect("writes");
    assert!(matches!(find(&root, "../root2/x.sh"), Err(ScriptError::OutsideRoot(_))));
}

#[test]
fn file_that_is_not_a_script_is_refused_by_name() {
    let (_dir, root) = a_root();
    let long = "x".repeat(5_000);
    let long_part = format!("sub/{}", "x".repeat(256));
    assert!(matches!(find(&root, "nowhere.sh"), Err(ScriptError::NotFound(_))));
    assert!(matches!(find(&root, "dangling.sh"), Err(ScriptError::NotFound(_))));
    assert!(matches!(find(&root, "plain.sh/x"), Err(ScriptError::NotFound(_))));
    for (name, why) in [("sub", "is a folder, not a regular file"), ("loop", "could not be inspected: ")] {
        assert!(matches!(find(&root, name), Err(ScriptError::Unusable(said)) if said.contains(why)), "{name}");
    }
    for name in ["", "a\0b", long.as_str(), long_part.as_str()] {
        assert!(matches!(find(&root, name), Err(ScriptError::BadName(said)) if said.starts_with("script ")));
        assert!(matches!(find_cwd(&root, name), Err(ScriptError::BadName(said)) if !said.contains("not a folder")));
    }
    for name in ["plain.sh", "nowhere"] {
        assert!(matches!(find_cwd(&root, name), Err(ScriptError::BadName(said)) if said.contains("is not a folder")), "{name}");
    }
}

#[test]
fn root_is_resolved_again_each_time() {
    let (_dir, root) = a_root();
    let link = root.with_file_name("current");
    symlink("root", &link).expect("links");
    assert_eq!(find_root(&link), Ok(root.clone()));
    fs::remove_file(&link).expect("there");
    assert!(matches!(find_root(&link), Err(ScriptError::NotFound(said)) if said.starts_with("the pipeline's root ")));
    symlink("root/sub", &link).expect("links");
    assert_eq!(find_root(&link), Ok(root.join("sub")));
    let file = find_root(&root.join("plain.sh")).expect_err("no folder").to_string();
    assert!(file.contains("it is not a folder") && file.contains("AUTOAPPDEV_PIPELINE_CWD"), "{file}");
}

#[test]
fn refusal_suggests_the_intended_command() {
    let (_dir, root) = a_root();
    let said = |name: &str, args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        find_script(&root, name, &args).expect_err(name).to_string()
    };
    for (name, args, command) in [
        ("plain.sh --arg", &[][..], "`autoappdev start plain.sh -- --arg`"),
        ("plain.sh -- --arg", &[], "`autoappdev start plain.sh -- --arg`"),
        ("plain.sh  'a b'", &["c d"], r"`autoappdev start plain.sh -- ''\''a' 'b'\''' 'c d'`"),
        ("python3", &["plain.sh"], "`autoappdev start plain.sh`"),
        ("python3", &["-u", "sub/inner.sh", "-v"], "`autoappdev start sub/inner.sh -- -v`"),
        ("python3 -u plain.sh", &["x"], "`autoappdev start plain.sh -- x`"),
        ("/usr/bin/python3", &["plain.sh"], "`autoappdev start plain.sh`"),
    ] {
        let said = said(name, args);
        assert!(said.contains(command), "{name} {args:?}: {said}");
    }
    for (name, args) in
        [("nowhere.sh", &[][..]), ("nowhere.sh", &["also-nowhere.sh"]), ("nowhere.sh --x", &[]), ("no", &["../secret.sh"])]
    {
        let said = said(name, args);
        assert!(said.contains("names are relative") && !said.contains("autoappdev start"), "{said}");
    }
}

#[test]
fn script_is_executed_directly_or_by_its_interpreter_or_by_bash() {
    let (_dir, root) = a_root();
    let by = |program: &str, args: &[&str], name: &str| {
        let args = args.iter().map(PathBuf::from).chain([root.join(name)]).collect();
        Ok(Program { program: program.into(), args })
    };
    for (name, text, program) in [
        ("a.py", "#!/bin/sh\n", "/bin/sh"),
        ("b", "#!/bin/sh", "/bin/sh"),
        ("c.sh", "#! /bin/sh\t-eu -x \n", "/bin/sh"),
        ("d.sh", "#!sub/sh\n", "sub/sh"),
        ("e.sh", "#!sh\n", "./sh"),
        ("f.py", "#!/usr/bin/env sh\n", "/usr/bin/env"),
        ("g.sh", "echo hi\n", "/usr/bin/bash"),
        ("h", "echo hi\n", "/usr/bin/bash"),
        ("i.txt", "", "/usr/bin/bash"),
    ] {
        for interpreter in ["sub/sh", "sh"] {
            let _there_already = fs::copy("/bin/true", root.join(interpreter));
        }
        let args: &[&str] = match name {
            "c.sh" => &["-eu -x"],
            "f.py" => &["sh"],
            _ => &[],
        };
        write(&root, name, text.as_bytes(), 0o644);
        assert_eq!(self::program(&root, name), by(program, args, name), "{name}");
        if text.starts_with("#!") {
            write(&root, name, text.as_bytes(), 0o755);
            assert_eq!(self::program(&root, name), Ok(Program { program: root.join(name), args: vec![] }), "{name}");
        }
    }
    // Only the kernel knows whether it has a handler for these.
    write(&root, "odd", b"no first line", 0o755);
    assert_eq!(program(&root, "odd"), Ok(Program { program: root.join("odd"), args: vec![] }));
}

#[test]
fn start_refuses_an_unrunnable_script_with_the_cause() {
    let (_dir, root) = a_root();
    let elf = fs::read("/proc/self/exe").expect("it runs");
    for (name, text, cause, advice) in [
        ("x.sh", &b"#!/bin/bash\r\necho hi\r\n"[..], "Windows line endings", r"sed -i 's/\r$//' x.sh"),
        ("a b.sh", b"#!/bin/bash\r\n", "Windows line endings", r"sed -i 's/\r$//' 'a b.sh'"),
        ("x.sh", b"\xef\xbb\xbf#!/bin/bash\n", "byte order mark", r"sed -i '1s/^\xEF\xBB\xBF//' x.sh"),
        ("x.sh", b"\xff\xfe#\0!\0", "UTF-16", "save it as UTF-8"),
        ("x.sh", b"#!  \n", "names no interpreter", "#!/bin/bash"),
        ("x.sh", &[&b"#!/"[..], &[b'x'; 300], b"\n"].concat(), "within the first 256 bytes", "a shorter path"),
        ("x.py", b"#!/usr/bin/python9\n", "/usr/bin/python9, named in the first line of x.py, does not exist", "install it"),
        ("x.py", b"#!/usr\n", "/usr, named in the first line of x.py, cannot be executed", "it is not a program"),
        ("x.py", b"#!/etc/passwd\n", "/etc/passwd, named in the first line of x.py", "cannot execute it"),
        (
            "x.py",
            b"#!/usr/bin/env python9\n",
            "python9, named in the first line of x.py, was not found in the server's PATH (/usr/bin:/bin)",
            "install it",
        ),
        ("x.py", b"#!/usr/bin/env -S python9 -u\n", "python9, named in the first line of x.py", "install it"),
        ("x.py", b"#!/usr/bin/env sh -u\n", "to env as one name", "#!/usr/bin/env -S sh -u"),
    ] {
        for mode in [0o644, 0o755] {
            write(&root, name, text, mode);
            let said = program(&root, name).expect_err(cause).to_string();
            assert!(said.contains(cause) && said.contains(advice), "{said}");
        }
    }
    for (name, text, cause, advice) in [
        ("x.sh", &b"echo hi\r\n"[..], "Windows line endings", "sed -i"),
        ("tool", &elf[..4096], "its execute bit is not set", "chmod +x tool"),
        ("tool", b"MZ\0\0", "its execute bit is not set", "chmod +x tool"),
        ("train.py", b"import os\n", "does not name its interpreter", "#!/usr/bin/env python3"),
    ] {
        write(&root, name, text, 0o644);
        let said = program(&root, name).expect_err(cause).to_string();
        assert!(said.contains(cause) && said.contains(advice), "{said}");
    }
    // Only `env` can judge a line that passes it more than a name.
    for line in ["#!/usr/bin/env -i python9", "#!/usr/bin/env A=1 python9", "#!/usr/bin/env -S A=1 python9"] {
        write(&root, "x.py", line.as_bytes(), 0o755);
        assert!(program(&root, "x.py").is_ok(), "{line}");
    }
}

#[test]
fn variables_of_a_start_do_not_choose_the_interpreter() {
    let (_dir, root) = a_root();
    let look = |has_own_path| {
        let file = root.join("x.py");
        Attempt { file: &file, name: "x.py", cwd: &root, search_path: Some(OsStr::new("sub:/usr/bin:/bin")), has_own_path }
            .program()
    };
    write(&root, "sub/tool9", b"#!/bin/sh\n", 0o755);
    let found = |program: &str, args: &[&str]| Program {
        program: root.join(program),
        args: args.iter().map(PathBuf::from).chain([root.join("x.py")]).collect(),
    };
    for (line, program) in [
        ("#!/usr/bin/env tool9", found("sub/tool9", &[])),
        ("#! /usr/bin/env  tool9 ", found("sub/tool9", &[])),
        ("#!/usr/bin/env -S tool9 -u x", found("sub/tool9", &["-u", "x"])),
        ("#!/usr/bin/env -Stool9", found("sub/tool9", &[])),
        ("#!/usr/bin/env sub/tool9", found("sub/tool9", &[])),
        ("#!/usr/bin/env sh", found("/usr/bin/sh", &[])),
    ] {
        for mode in [0o644, 0o755] {
            write(&root, "x.py", line.as_bytes(), mode);
            assert_eq!(look(true), Ok(program.clone()), "{line}");
            let usual = look(false).expect("runs");
            assert!(usual.program.ends_with("env") || usual.program.ends_with("x.py"), "{line}: {usual:?}");
        }
    }
    for line in ["-i sh", "A=1 sh", "-S A=1 sh", "-S sh '-u'", "-S", "-S -i sh", "-S \\tsh", "-S ${SHELL}"] {
        write(&root, "x.py", format!("#!/usr/bin/env {line}").as_bytes(), 0o755);
        let said = look(true).expect_err(line).to_string();
        assert!(said.contains("PATH of this start") && said.contains("with its path"), "{line}: {said}");
        assert!(look(false).is_ok(), "{line}");
    }
    // A link leads to `env`, or a script that uses `env` is the interpreter.
    symlink("/usr/bin/env", root.join("finder")).expect("links");
    for line in ["#!finder tool9", "#!sub/../finder tool9"] {
        write(&root, "x.py", line.as_bytes(), 0o755);
        assert_eq!(look(true), Ok(found("sub/tool9", &[])), "{line}");
        assert!(look(false).is_ok(), "{line}");
    }
    write(&root, "sub/by-env", b"#!/usr/bin/env tool9\n", 0o755);
    write(&root, "sub/by-link", b"#!finder tool9\n", 0o755);
    write(&root, "sub/by-script", b"#!sub/by-link\n", 0o755);
    for line in
        ["#!sub/by-env", "#!sub/by-script x", "#!/usr/bin/env by-env", "#!/usr/bin/env -S env tool9", "#!finder by-script"]
    {
        write(&root, "x.py", line.as_bytes(), 0o755);
        let said = look(true).expect_err(line).to_string();
        assert!(said.contains("leads to env") && said.contains("PATH of this start"), "{line}: {said}");
        assert!(look(false).is_ok(), "{line}");
    }
    write(&root, "sub/loop", b"#!sub/loop\n", 0o755);
    write(&root, "x.py", b"#!sub/loop", 0o755);
    assert!(look(true).is_ok(), "the kernel reports that");
    // Without a search, the start's variables make no difference.
    write(&root, "x.py", b"#!/bin/sh\n", 0o755);
    assert_eq!(look(true), look(false));
    for (name, decides) in [
        ("PATH", true),
        ("LD_PRELOAD", true),
        ("LD_LIBRARY_PATH", true),
        ("GLIBC_TUNABLES", true),
        ("PATHS", false),
        ("LANG", false),
    ] {
        assert_eq!(decides_what_env_runs(name), decides, "{name}");
    }
}

/// The interpreter of an interpreter can be a pipe, or become one at any time. Opening it would then wait for a writer.
#[test]
fn pipe_as_interpreter_does_not_block_a_start() {
    let (dir, root) = a_root();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .expect("makes a pipe");
    symlink("../pipe", root.join("sub/link")).expect("links");
    write(&root, "sub/by-pipe", b"#!pipe\n", 0o755);
    write(&root, "sub/by-link", b"#!sub/link\n", 0o755);
    let (told, outcomes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _root_stays = dir;
        for line in ["#!sub/by-pipe", "#!sub/by-link x", "#!/usr/bin/env by-link", "#!pipe"] {
            write(&root, "x.py", line.as_bytes(), 0o755);
            let file = root.join("x.py");
            let search_path = Some(OsStr::new("sub:/usr/bin:/bin"));
            let look = Attempt { file: &file, name: "x.py", cwd: &root, search_path, has_own_path: true }.program();
            told.send((line, look.map(drop).map_err(|why| why.to_string()))).expect("the test waits");
        }
    });
    // The kernel reports what it cannot execute.
    for _ in 0..3 {
        let (line, outcome) = outcomes.recv_timeout(std::time::Duration::from_mins(1)).expect("the look waits for no writer");
        assert_eq!(outcome, Ok(()), "{line}");
    }
    let (line, outcome) = outcomes.recv_timeout(std::time::Duration::from_mins(1)).expect("the look waits for no writer");
    assert!(outcome.as_ref().is_err_and(|why| why.contains("cannot be executed: it is not a program")), "{line}: {outcome:?}");
}

#[test]
fn bash_and_interpreters_are_searched_in_the_path_of_the_server() {
    let (_dir, root) = a_root();
    write(&root, "x.py", b"#!/usr/bin/env tool9\n", 0o755);
    write(&root, "sub/tool9", b"#!/bin/sh\n", 0o644);
    let look = |name: &str, path: Option<&str>| {
        let file = root.join(name);
        Attempt { file: &file, name, cwd: &root, search_path: path.map(OsStr::new), has_own_path: false }.program()
    };
    let refused = |name: &str, path: Option<&str>| look(name, path).expect_err("refused").to_string();
    let said = refused("x.py", Some("sub:/usr/bin"));
    assert!(
        said.starts_with("tool9, named in the first line of x.py, was not found in the server's PATH (sub:/usr/bin)"),
        "{said}"
    );
    write(&root, "sub/tool9", b"#!/bin/sh\n", 0o755);
    assert!(look("x.py", Some("sub:/usr/bin")).is_ok(), "a folder of PATH is taken from the working directory");
    let said = refused("x.py", None);
    assert!(said.contains("was not found in the server's PATH (/bin:/usr/bin)"), "{said}");
    let said = refused("plain.sh", Some("/nowhere"));
    assert!(said.contains("bash would run it, and bash was not found in the server's PATH (/nowhere)"), "{said}");
    assert!(look("plain.sh", None).is_ok(), "without PATH there is a default");
    for long in ["/größer".repeat(20_000), "/größer:".repeat(5_000)] {
        let said = refused("plain.sh", Some(&long));
        assert!(said.len() < 1_000 && said.contains("…"), "{said}");
    }
}

#[test]
fn program_with_a_missing_loader_is_refused_with_the_loaders_name() {
    let (_dir, root) = a_root();
    let mut elf = fs::read("/proc/self/exe").expect("it runs");
    let loader = b"/lib64/ld-linux-x86-64.so.2\0";
    let Some(at) = memchr::memmem::find(&elf[..4096.min(elf.len())], loader) else {
        return; // The binary is for another processor, or static.
    };
    elf[at..at + 7].copy_from_slice(b"/lib99/");
    write(&root, "tool", &elf, 0o755);
    let said = program(&root, "tool").expect_err("no loader").to_string();
    assert!(
        said.contains("tool needs the loader /lib99//ld-linux") || said.contains("tool needs the loader /lib99/ld-linux"),
        "{said}"
    );
}

#[test]
fn kernel_error_is_explained() {
    let (_dir, root) = a_root();
    let said = |name: &str, cwd: &Path, errno: Errno| {
        let file = root.join(name);
        Attempt { file: &file, name, cwd, search_path: None, has_own_path: false }.explain(&io::Error::from(errno))
    };
    write(&root, "text", b"echo hi\n", 0o755);
    write(&root, "empty", b"", 0o755);
    let mut foreign = vec![0; 4096];
    foreign[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xfe\xca");
    write(&root, "foreign", &foreign, 0o755);
    let sayings = [
        (said("text", &root, Errno::NOEXEC), "chmod -x text"),
        (said("empty", &root, Errno::NOEXEC), "it is empty"),
        (said("foreign", &root, Errno::NOEXEC), "a program for processor type 51966, and this machine is"),
        (said("exec.sh", &root.join("gone"), Errno::NOENT), "gone no longer exists"),
        (said("exec.sh", &root, Errno::TOOBIG), "too long"),
        (said("exec.sh", &root, Errno::TXTBSY), "open for writing"),
        (said("exec.sh", &root, Errno::ACCESS), "check that the server's user can execute it"),
        (said("exec.sh", &root, Errno::IO), "exec.sh could not be run: Input/output error"),
    ];
    for (said, cause) in sayings {
        assert!(said.contains(cause) && said.contains(" could not be run: "), "{said}");
    }
    // The file has changed since the check, so the sentence names the cause instead of the kernel's error.
    write(&root, "exec.sh", b"#!/bin/sh\r\n", 0o755);
    assert!(said("exec.sh", &root, Errno::NOENT).contains("Windows line endings"));
}

#[test]
fn link_to_a_name_that_is_not_utf_8_is_followed() {
    let (_dir, root) = a_root();
    let odd = OsString::from_vec(b"\xff\xfe.sh".to_vec());
    fs::write(root.join(&odd), "echo hi\n").expect("writes");
    symlink(&odd, root.join("odd.sh")).expect("links");
    assert_eq!(find(&root, "odd.sh"), Ok(root.join(&odd)));
    assert_eq!(program(&root, "odd.sh").expect("runs").args, [root.join(&odd)]);
}
