//! The places where a command's server can listen, and how the command recognises the server.
//!
//! A command acts on the server of its runtime directory, or on a server whose address the user named. It recognises the first
//! by its id: any other server at that address refuses the request and changes nothing. An action is never sent to a default
//! address.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::Folder;
use crate::runtime_dir::{By, ClientDir, Distrust, Found, ServerInfo, resolve, resolve_parent};
use crate::transport::connect_address;
use crate::user;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Socket(PathBuf),
    /// An address, as a URL without a path.
    Address(String),
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(formatter),
            Self::Address(url) => url.fmt(formatter),
        }
    }
}

/// Which server may be used at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// Any server: the user named the place.
    Any,
    /// The server of the runtime directory, which has recorded this id there.
    Own(String),
    /// The same, but the server must first report its id, because it could not record it.
    OwnIfItSaysSo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) way: Way,
    pub(super) meant: Meant,
}

/// The places where the server of a folder may listen.
#[derive(Debug)]
pub(super) struct Places {
    /// The places, the likeliest first.
    pub(super) list: Vec<Place>,
    /// The runtime directory, if a server was found in it. Every file that a place needs is read from this directory.
    pub(super) dir: Option<ClientDir>,
    /// The explanation if the server is at none of the places.
    pub(super) absence: Absence,
}

/// Returns all places of a folder. Called for each request, because a restarted server has another id and may have another
/// port.
pub(super) fn places_of(folder: &Folder) -> Places {
    let mut list = Vec::new();
    let mut add = |way, meant| list.push(Place { way, meant });
    let (own, dir) = match ServerInfo::find_in_dir(&folder.runtime_dir, folder.folder.as_deref()) {
        Ok((found, dir)) => (Ok(found), dir),
        Err(error) => (Err(error), None),
    };
    // A folder's files can name any path.
    let checked = |path: &PathBuf| resolve_parent(path, By::Client).ok();
    let is_there = matches!(own, Ok(Found::Live(_) | Found::Silent));
    let usual = folder.socket.as_ref().filter(|_| is_there).and_then(checked);
    if let Ok(Found::Live(info)) = &own {
        // The directory may be mounted elsewhere in another container, or moved, so that the recorded path leads nowhere.
        let recorded = info.socket.as_ref().and_then(checked);
        let here = usual.iter().filter(|path| recorded.as_ref() != Some(path));
        recorded.iter().chain(here).for_each(|path| add(Way::Socket(path.clone()), Meant::Own(info.id.clone())));
        info.address.iter().for_each(|address| add(at(*address), Meant::Own(info.id.clone())));
    }
    // While a server starts, the file may still be the previous server's.
    if is_there {
        let sockets = usual.iter().chain(&folder.named_socket);
        sockets.for_each(|path| add(Way::Socket(path.clone()), Meant::OwnIfItSaysSo));
    }
    folder.named_socket.iter().for_each(|path| add(Way::Socket(path.clone()), Meant::Any));
    folder.named_address.into_iter().for_each(|address| add(at(address), Meant::Any));
    Places { list, dir, absence: Absence { folder: folder.clone(), own, neighbour: None } }
}

fn at(address: SocketAddr) -> Way {
    Way::Address(format!("http://{}", connect_address(address)))
}

/// Why no request was sent. The text follows `autoappdev: `.
#[derive(Debug)]
pub(super) struct Absence {
    folder: Folder,
    /// The server that was found in the runtime directory, or none.
    own: io::Result<Found>,
    /// The program that answers at the usual address, once that was checked.
    pub(super) neighbour: Option<Neighbour>,
}

/// A program that answers at a default address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// The server of this runtime directory.
    Server(PathBuf),
    /// A server that reports nothing without a token.
    AsksForToken,
    Stranger,
}

impl Absence {
    /// Returns the address at which to check for a server. It is an address of this machine, and is used only if the user named
    /// no other.
    pub(super) fn usual_address(&self) -> Option<SocketAddr> {
        let is_named = self.folder.named_address.is_some() || self.folder.named_socket.is_some();
        let usual = self.folder.usual_address.filter(|_| !is_named && matches!(self.own, Ok(Found::Nobody))).map(connect_address);
        usual.filter(|address| address.ip().to_canonical().is_loopback())
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Folder { project, runtime_dir, named_address, named_socket, url_in_dotenv, .. } = &self.folder;
        let project_text = project.display();
        match &self.own {
            Ok(Found::Live(_)) => write!(
                formatter,
                "the server for {project_text} does not answer at its recorded address; it may be starting or stopping, so try again"
            )?,
            Ok(Found::Silent) => write!(
                formatter,
                "the server for {project_text} has not recorded its address; try again if it is starting, or name it with --url if it cannot \
                 write its server.json"
            )?,
            Err(error) if Distrust::of(error).is_some() => {
                write!(formatter, "the runtime directory {} is not used: {error}", runtime_dir.display())?;
            }
            Err(error) => {
                write!(formatter, "cannot tell whether a server is running for {project_text}: ")?;
                write!(formatter, "{} cannot be read: {error}; ", runtime_dir.display())?;
                if error.kind() == io::ErrorKind::PermissionDenied {
                    // The directory may be in a folder that this user cannot search. The kernel would follow a link of a process in
                    // /proc to a file system that never answers.
                    match resolve(runtime_dir, By::Client).and_then(fs::symlink_metadata) {
                        Ok(found) if user::has_number(found.uid()) => {
                            write!(formatter, "run this as the user that owns it (uid {}), or ", found.uid())?;
                        }
                        Ok(_) | Err(_) => write!(formatter, "run this as the server's user, or ")?,
                    }
                }
                write!(formatter, "name the server with --url")?;
            }
            Ok(Found::Nobody) => write!(formatter, "no server is running for {project_text}")?,
        }
        let named = named_socket.iter().map(|path| path.display().to_string());
        let named: Vec<String> = named.chain(named_address.iter().map(|address| at(*address).to_string())).collect();
        if !named.is_empty() {
            write!(formatter, ", and none answers at {}, which the environment names", named.join(" or "))?;
        }
        if !matches!(self.own, Ok(Found::Nobody)) {
            return Ok(());
        }
        if let Some(url) = url_in_dotenv {
            return write!(formatter, " (.env names {url}, but only --url or the environment can name a server)");
        }
        let Some((address, neighbour)) = self.usual_address().zip(self.neighbour.as_ref()) else {
            return write!(formatter, "; start one with `autoappdev serve`");
        };
        let name_it = format!("answers on {address}; to use it, name it with --url");
        match neighbour {
            Neighbour::Server(dir) if dir == runtime_dir => write!(
                formatter,
                " (a server that was started for it {name_it}; its runtime directory has been moved or replaced since)"
            ),
            Neighbour::Server(dir) => write!(formatter, " (a server for {} {name_it})", printable_project(dir)),
            Neighbour::AsksForToken => write!(formatter, " (a server that asks for a token {name_it})"),
            Neighbour::Stranger => {
                write!(formatter, "; start one with `autoappdev serve --port PORT` (another program answers on {address})")
            }
        }
    }
}

/// Returns the project of a server as users know it: the folder that contains the runtime directory in its usual place.
fn printable_project(runtime_dir: &Path) -> String {
    let project = runtime_dir.parent().filter(|_| runtime_dir.ends_with("runtime")).unwrap_or(runtime_dir);
    crate::console::printable(&project.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::FlockOperation;

    use super::*;
    use crate::file_id::FileId;

    fn folder(runtime_dir: &Path) -> Folder {
        Folder {
            project: "/home/me/B".into(),
            runtime_dir: runtime_dir.to_owned(),
            folder: None,
            socket: Some("/b/server.sock".into()),
            named_socket: None,
            named_address: None,
            usual_address: Some(SocketAddr::from(([127, 0, 0, 1], 8788))),
            url_in_dotenv: None,
        }
    }

    fn shown(folder: &Folder) -> Vec<String> {
        let meant = |place: &Place| match &place.meant {
            Meant::Any => String::new(),
            Meant::Own(id) => format!(" {id}"),
            Meant::OwnIfItSaysSo => " ?".to_owned(),
        };
        places_of(folder).list.iter().map(|place| format!("{}{}", place.way, meant(place))).collect()
    }

    #[test]
    fn client_tries_the_recorded_addresses_and_those_that_the_user_names() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("server.json");
        let usual = folder(dir.path());
        let named = Folder { named_address: Some("0.0.0.0:9000".parse().expect("an address")), ..usual.clone() };
        let socket = Folder { socket: None, named_socket: Some("/n.sock".into()), ..usual.clone() };
        let id = serde_json::to_string(&FileId::of(dir.path()).expect("there")).expect("plain data");
        let written = format!(r#"{{"pid":1,"id":"abc","dir":{id},"address":"[::]:4000","socket":"/elsewhere"}}"#);
        fs::write(&file, written).expect("written");
        // It is stale.
        assert_eq!(shown(&usual), Vec::<String>::new(), "the usual address does not count");
        assert_eq!((shown(&named), shown(&socket)), (vec!["http://127.0.0.1:9000".to_owned()], vec!["/n.sock".to_owned()]));
        let lock = File::open(dir.path()).expect("there");
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("free");
        assert_eq!(shown(&usual), ["/elsewhere abc", "/b/server.sock abc", "http://[::1]:4000 abc", "/b/server.sock ?"]);
        let both = ["/elsewhere abc", "/b/server.sock abc", "http://[::1]:4000 abc", "/b/server.sock ?", "http://127.0.0.1:9000"];
        assert_eq!(shown(&named), both);
        assert_eq!(shown(&socket), ["/elsewhere abc", "http://[::1]:4000 abc", "/n.sock ?", "/n.sock"]);
        for torn in [r#"{"pid":1,"addr"#, "", "[]", r#"{"address":"example.org:80"}"#] {
            fs::write(&file, torn).expect("written");
            assert_eq!(shown(&usual), ["/b/server.sock ?"], "{torn}");
        }
    }

    #[test]
    fn missing_server_error_names_project_and_other_server() {
        let dir = Path::new("/home/me/B/runtime");
        let absent = |own, neighbour| Absence { folder: folder(dir), own, neighbour }.to_string();
        let nobody = |folder: Folder| Absence { folder, own: Ok(Found::Nobody), neighbour: None };
        let none = "no server is running for /home/me/B";
        let server = |dir: &str| Some(Neighbour::Server(dir.into()));
        let name_it = "answers on 127.0.0.1:8788; to use it, name it with --url";
        assert_eq!(absent(Ok(Found::Nobody), None), format!("{none}; start one with `autoappdev serve`"));
        assert_eq!(
            absent(Ok(Found::Nobody), server("/home/me/A/runtime")),
            format!("{none} (a server for /home/me/A {name_it})")
        );
        assert_eq!(
            absent(Ok(Found::Nobody), server("/var/lib/\u{1b}x")),
            format!("{none} (a server for /var/lib/\\u{{1b}}x {name_it})")
        );
        assert!(absent(Ok(Found::Nobody), server("/home/me/B/runtime")).contains("moved or replaced"));
        assert_eq!(
            absent(Ok(Found::Nobody), Some(Neighbour::AsksForToken)),
            format!("{none} (a server that asks for a token {name_it})")
        );
        assert_eq!(
            absent(Ok(Found::Nobody), Some(Neighbour::Stranger)),
            format!("{none}; start one with `autoappdev serve --port PORT` (another program answers on 127.0.0.1:8788)")
        );
        let denied = absent(Err(io::ErrorKind::PermissionDenied.into()), None);
        assert!(
            denied.contains("/home/me/B/runtime cannot be read: permission denied") && !denied.contains("no server"),
            "{denied}"
        );

        let address = Some("192.168.1.5:9000".parse().expect("an address"));
        let named = nobody(Folder { named_address: address, ..folder(dir) });
        assert_eq!(named.usual_address(), None);
        let sentence =
            ", and none answers at http://192.168.1.5:9000, which the environment names; start one with `autoappdev serve`";
        assert_eq!(named.to_string(), format!("{none}{sentence}"));
        let remote = nobody(Folder { usual_address: address, ..folder(dir) });
        assert_eq!(remote.usual_address(), None, "no other machine is asked");
        let url = nobody(Folder { url_in_dotenv: Some("http://box".into()), ..folder(dir) });
        assert_eq!(
            url.to_string(),
            format!("{none} (.env names http://box, but only --url or the environment can name a server)")
        );
    }
}
