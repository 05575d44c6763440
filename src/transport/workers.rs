//! The threads for connections: one for each, and a few that exist before they are needed.
//!
//! At the limit of processes (`ulimit -u`, `TasksMax=`), which the pipeline itself may have reached, no thread can be created.
//! The reserve then serves connections whose request has arrived: one request at a time, and if that is a request for a proof,
//! the request that the proof is for. Nothing that it does waits for long ([`Terms::LENT`]). In this module only the reserve
//! waits, for its tasks.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use super::connection::{self, Terms};
use super::handler::Handler;
use super::listener::Stream;
use super::slots::Slot;
use crate::lock::lock;

/// How many threads are kept in reserve: enough for a page, a client command, and actions that wait for their end. A thread that
/// sleeps takes a few pages of memory.
const RESERVE: usize = 8;
/// How many of them serve only the owner's Unix socket. Strangers can keep the others busy with incomplete requests, but cannot
/// reach that socket.
const OWNER_RESERVE: usize = 2;

/// The stack size of a connection's thread, in bytes: many times what the deepest JSON and a page of log lines need.
const STACK_BYTES: usize = 512 * 1024;

#[derive(Clone)]
pub(super) struct Job {
    pub(super) number: u64,
    /// Declared before `slot`, because fields are dropped in the order of their declaration. A new connection that waits for the
    /// slot also needs the descriptor.
    pub(super) stream: Arc<Stream>,
    pub(super) from: SocketAddr,
    pub(super) slot: Arc<Slot>,
    pub(super) handler: Arc<dyn Handler>,
}

impl Job {
    fn serve(self, terms: &Terms) {
        connection::serve(&self.stream, self.from, &self.slot, &*self.handler, terms);
    }
}

/// A task for the reserve.
pub(super) enum Task {
    /// Serves a connection whose request has arrived.
    Serve(Job),
    /// Writes a warning to the log. The accepting thread must not do that, because the disk may be slow.
    Warn(String),
}

/// The threads for the connections of one server.
#[derive(Default)]
pub(super) struct Workers {
    tasks: Mutex<Tasks>,
    come: Condvar,
}

#[derive(Default)]
struct Tasks {
    queue: VecDeque<Task>,
    /// How many threads of the reserve have nothing to do.
    free: usize,
    is_over: bool,
}

impl Workers {
    /// Creates the reserve. After an error, a part of it exists until [`Workers::end`].
    pub(super) fn start_reserve(self: &Arc<Self>) -> io::Result<()> {
        for _ in 0..RESERVE {
            let worker = self.clone();
            thread::Builder::new().name("reserve".to_owned()).stack_size(STACK_BYTES).spawn(move || worker.work())?;
        }
        Ok(())
    }

    /// Gives a connection its own thread, or returns the connection if no thread can be created.
    pub(super) fn serve(job: Job) -> Result<(), (Job, io::Error)> {
        let spare = job.clone();
        thread::Builder::new()
            .name(format!("http-{}", job.number))
            .stack_size(STACK_BYTES)
            .spawn(move || job.serve(&Terms::OWN))
            .map(drop)
            .map_err(|error| (spare, error))
    }

    /// Gives a task to the reserve, or returns the task if all threads that may do it are busy.
    pub(super) fn hand_over(&self, task: Task) -> Result<(), Task> {
        let kept = match &task {
            Task::Serve(job) if job.slot.is_owner() => 0,
            Task::Serve(_) | Task::Warn(_) => OWNER_RESERVE,
        };
        let mut tasks = lock(&self.tasks);
        if tasks.queue.len() + kept >= tasks.free {
            return Err(task);
        }
        tasks.queue.push_back(task);
        self.come.notify_one();
        Ok(())
    }

    /// Ends the reserve once it has finished its tasks.
    pub(super) fn end(&self) {
        lock(&self.tasks).is_over = true;
        self.come.notify_all();
    }

    fn work(&self) {
        while let Some(task) = self.next() {
            // A task that panics must not end the thread, because no other can be created in its place. The panic hook has logged
            // the panic.
            let _said_by_the_hook = catch_unwind(AssertUnwindSafe(|| match task {
                Task::Serve(job) => job.serve(&Terms::LENT),
                Task::Warn(what) => ::log::warn!("{what}"),
            }));
        }
    }

    fn next(&self) -> Option<Task> {
        let mut tasks = lock(&self.tasks);
        tasks.free += 1;
        let awaits = |tasks: &mut Tasks| tasks.queue.is_empty() && !tasks.is_over;
        tasks = self.come.wait_while(tasks, awaits).unwrap_or_else(PoisonError::into_inner);
        tasks.free -= 1;
        tasks.queue.pop_front()
    }
}
