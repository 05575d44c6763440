//! The upkeep of the server. Publishes problems, and recreates removed files.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::ownership::{DATABASE_LOCK_SUFFIX, OwnDatabase, database_lock_path};
use crate::clock::{Clock, SystemClock};
use crate::config::{DATABASE_DEFAULT, SOCKET_DEFAULT};
use crate::health::{Inspector, Kept, Places, Upkeep};
use crate::made::Made;
use crate::pipeline::ConditionCode;
use crate::private;
use crate::run_dir::Runs;
use crate::runtime_dir::{LOCK_FILE, SERVER_INFO, Secret, ServerInfo};
use crate::supervisor::Handle;
use crate::transport::OwnSocket;

/// A call to the disk that lasts longer than this is a condition.
const SLOW_DISK: Duration = Duration::from_secs(5);

/// Starts the inspector, which scans for problems and publishes them.
pub(super) fn inspector(supervisor: &Handle, runs: &Runs, database: &Path, upkeep: Upkeep) -> io::Result<Inspector> {
    let secrets = Secret::ALL.map(|secret| secret.path(runs.runtime_dir()));
    let places = Places::new(runs.clone(), database.to_owned(), secrets.to_vec());
    let supervisor = supervisor.clone();
    let inspector = Inspector::start(move || {
        let watch = supervisor.watch();
        let mut found = places.look(watch.get().snapshot.live_run());
        let (missing, again) = upkeep.look(places.lost_dir());
        found.extend(missing);
        if let Some(waited) = supervisor.in_storage_for().filter(|waited| *waited >= SLOW_DISK) {
            let detail = format!("a disk operation has not finished for {} s; actions wait for it", waited.as_secs());
            found.push((ConditionCode::DiskSlow, detail));
        }
        watch.set_found(&found, SystemClock.now());
        again
    })?;
    // A file elsewhere, or with another name, is only found missing by a scan on request.
    let mut names = [LOCK_FILE, SERVER_INFO, SOCKET_DEFAULT, DATABASE_DEFAULT].map(str::to_owned).to_vec();
    names.push(format!("{DATABASE_DEFAULT}{DATABASE_LOCK_SUFFIX}"));
    if let Err(error) = inspector.watch(runs.runtime_dir(), names) {
        ::log::warn!(
            "the kernel does not report removed files: {error}; they are created again when a client asks for the \
            state"
        );
    }
    Ok(inspector)
}

/// Keeps the server's own files: both locks, `server.json` and the sockets. If `server.json` could not be written at the start,
/// it is written as soon as the disk accepts it.
pub(super) fn keep_files(
    upkeep: &Upkeep,
    (info, is_written): (ServerInfo, bool),
    sockets: Vec<Arc<OwnSocket>>,
    runtime_dir: &Path,
    database: &Path,
) {
    let (path, dir) = (runtime_dir.join(LOCK_FILE), runtime_dir.to_owned());
    // The directory itself is locked too, so no other server can take it meanwhile.
    upkeep.keep(Kept::new(path.clone(), ConditionCode::LockMissing, move || {
        let made = private::writable(&path).and_then(|lock| Ok(lock.try_lock().map(|()| Some(lock))?));
        made.map_err(|error| format!("it cannot be recreated ({error}); do not start a second server for this directory"))
    }));
    let (database, its_dir) = (database.to_owned(), dir.clone());
    upkeep.keep(Kept::new(database_lock_path(&database), ConditionCode::LockMissing, move || {
        let mut made = Made::default();
        let own = OwnDatabase::take(&database, &its_dir, &mut made);
        let lock = own.and_then(|own| own.belong_to(&its_dir).map(|()| own.into_lock()));
        lock.inspect(|_| made.keep()).map(Some).map_err(|error| format!("{error:#}"))
    }));
    let server_info = Kept::new(dir.join(SERVER_INFO), ConditionCode::ServerInfoMissing, move || {
        let advice = "until it can, give client commands the address with --url";
        info.write(&dir).map(|()| None).map_err(|error| format!("it cannot be written ({error}); {advice}"))
    });
    // If the disk is full or read-only, the previous server's file may still exist.
    upkeep.keep(if is_written { server_info } else { server_info.unwritten() });
    for socket in sockets {
        upkeep.keep(Kept::new(socket.path().to_owned(), ConditionCode::SocketMissing, move || {
            let advice = "until the server is restarted, clients use the address";
            socket.renew().map(|()| None).map_err(|error| format!("it cannot be recreated ({error}); {advice}"))
        }));
    }
}
