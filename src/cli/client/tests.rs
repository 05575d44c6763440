use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::PathBuf;

use super::*;

fn empty_answer() -> Answer {
    Answer { url: String::new(), status: 200, text: String::new(), date: None }
}

/// Returns the folder of a runtime directory that no setting names.
fn folder_of(runtime_dir: &Path) -> Folder {
    Folder {
        project: runtime_dir.to_owned(),
        runtime_dir: runtime_dir.to_owned(),
        folder: None,
        socket: None,
        named_socket: None,
        named_address: None,
        usual_address: None,
        url_in_dotenv: None,
    }
}

/// Makes a directory look like that of a live server with the id `abc` and this socket, until the result is dropped.
fn as_of_a_server(runtime_dir: &Path, socket: &Path) -> File {
    let dir = serde_json::to_string(&FileId::of(runtime_dir).expect("there")).expect("plain data");
    let info = format!(r#"{{"pid":1,"id":"abc","dir":{dir},"socket":"{}"}}"#, socket.display());
    fs::write(runtime_dir.join("server.json"), info).expect("writes");
    let lock = File::open(runtime_dir).expect("there");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("free");
    lock
}

fn made(dir: PathBuf) -> PathBuf {
    fs::create_dir_all(&dir).and_then(|()| fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))).expect("creates");
    dir
}

#[test]
fn environment_token_is_not_sent_to_addresses_of_untrusted_folder() {
    let above = tempfile::tempdir().expect("a temp folder");
    let runtime_dir = made(above.path().canonicalize().expect("there").join("runtime"));
    let _server = as_of_a_server(&runtime_dir, &runtime_dir.join("server.sock"));
    let secret = crate::config::Token::new("a-token-of-the-environment").expect("a good one");
    let token = crate::config::FoundToken { token: secret, origin: crate::config::Origin::Environment };
    let tokens = FoundTokens { token: Some(token), read_token: None, runtime_dir: None };
    let folder = Folder { named_address: Some(([127, 0, 0, 1], 1).into()), ..folder_of(&runtime_dir) };
    let client = Client::new(Endpoint::Folder(folder.clone()), tokens);
    let sends = || {
        let Places { list, dir, .. } = places_of(&folder);
        let sends = |place: &Place| {
            let found = client.credentials(place, dir.as_ref()).expect("asks no server");
            found.is_some_and(|found| found.token.is_some()).then(|| place.meant.clone())
        };
        list.iter().filter_map(sends).collect::<Vec<_>>()
    };
    assert_eq!(sends(), [Meant::Own("abc".to_owned()), Meant::Any]);
    fs::set_permissions(above.path(), fs::Permissions::from_mode(0o777)).expect("ours");
    assert_eq!(sends(), [Meant::Any], "the user named that place");
}

/// Root runs a command in the folder of another user, who replaces the runtime directory with a link between two reads of it.
#[test]
fn runtime_directory_link_leads_root_to_no_other_server() {
    const ANOTHER: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for owner in [ANOTHER, 0] {
        let folder = tempfile::tempdir().expect("a temp folder");
        let folder = made(folder.path().canonicalize().expect("there"));
        let [other, theirs] = ["other/runtime", "theirs/runtime"].map(|name| made(folder.join(name)));
        let no_tokens = crate::config::Tokens { token: None, read_token: None };
        crate::runtime_dir::Secrets::keep(&no_tokens, &other, |_| ()).expect("new ones");
        let _server = as_of_a_server(&theirs, &other.join("server.sock"));
        for path in [&theirs, &theirs.join("server.json")] {
            chown(path, Some(owner), None).expect("we are root");
        }
        chown(theirs.parent().expect("it has one"), Some(ANOTHER), None).expect("we are root");

        let Places { list, dir, .. } = places_of(&folder_of(&theirs));
        fs::rename(&theirs, folder.join("theirs/aside")).and_then(|()| symlink(&other, &theirs)).expect("exchanges");
        lchown(&theirs, Some(ANOTHER), None).expect("we are root");
        let client = Client::new(Endpoint::Folder(folder_of(&theirs)), FoundTokens::default());
        let credentials = client.credentials(&list[0], dir.as_ref()).expect("asks no server").expect("it is meant");
        assert!(credentials.token.is_none(), "it is the token of the other server");
        let Proof::User(users) = credentials.proof else { panic!("{:?}", credentials.proof) };
        assert_eq!(users, if owner == ANOTHER { vec![ANOTHER] } else { vec![0, 0] }, "no server of another owner is meant");
        // The next read detects the link.
        let Places { list, absence, .. } = places_of(&folder_of(&theirs));
        assert!(list.is_empty(), "{absence}");
    }
}

#[test]
fn date_field_is_parsed() {
    let read = |text| date_of(text).map(|at| at.to_string());
    assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT").as_deref(), Some("1994-11-06T08:49:37.000Z"));
    for text in ["", "now", "Sun, 06 Nov 1994 25:49:37 GMT", "784111777"] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn json_response_is_printed_on_one_line_unchanged() {
    let answer = |text: &str| Answer { text: text.to_owned(), ..empty_answer() };
    assert_eq!(answer("{\n  \"b\": \"x\\ny\",\r\n  \"a\": 1.50\n}\n").as_line(), "{  \"b\": \"x\\ny\",  \"a\": 1.50}");
}

#[test]
fn only_transient_errors_are_retryable() {
    let failed = |status| ClientError::Failed { status, detail: String::new(), document: empty_answer() };
    let stranger = |status| ClientError::Stranger { url: String::new(), cause: String::new(), status };
    assert!(stranger(502).may_pass() && !stranger(200).may_pass() && !stranger(500).may_pass());
    assert!(failed(503).may_pass() && failed(500).may_pass());
    assert!(!failed(404).may_pass());
    assert!(ClientError::Unreachable { url: String::new() }.may_pass());
    assert!(!ClientError::Refused { detail: String::new(), document: empty_answer() }.may_pass());
    assert!(!ClientError::Output(io::ErrorKind::BrokenPipe.into()).may_pass());
}
