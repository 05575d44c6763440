//! The context of the endpoints. Each listener has its own, so that an endpoint knows through which listener a request came.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rouille::Request;

use super::auth::{Authenticator, Caller, Trust};
use super::error::ApiError;
use super::guard::Guard;
use super::idempotency::KeysInUse;
use super::response_budget::ResponseBudget;
use crate::api::session::Role;
use crate::api::version::Server;
use crate::clock::Timestamp;
use crate::feed::Streams;
use crate::health::Inspector;
use crate::log::RunLogs;
use crate::run_dir::Runs;
use crate::runtime_dir::Prover;
use crate::store::DatabaseFile;
use crate::supervisor::Handle;
use crate::transport::Client;

/// The name of this service, in the responses of health and version.
pub(super) const SERVICE: &str = "autoappdev-backend";

/// Everything that the endpoints need. Each listener has its own.
#[derive(Clone)]
pub struct App {
    /// The identity of this server.
    pub identity: Arc<Server>,
    /// The time at which the server started.
    pub started_at: Timestamp,
    /// The time from TERM to KILL for a run whose start sets none.
    pub grace: Duration,
    /// The handle of the supervisor, which owns the life cycle.
    pub supervisor: Handle,
    /// The directories of the runs.
    pub runs: Runs,
    /// The logs of the runs.
    pub logs: RunLogs,
    /// The directory in which scripts are searched. It may be a link, which is resolved anew for each search.
    pub pipeline_root: PathBuf,
    /// The database, from which the history is read.
    pub database: DatabaseFile,
    /// Checks which web pages may send requests, and by which host names.
    pub guard: Guard,
    /// The addresses of all TCP listeners.
    pub addresses: Arc<[SocketAddr]>,
    /// Checks the tokens and sessions of clients that the listener does not trust.
    pub authenticator: Arc<Authenticator>,
    /// Proves to clients that this server owns its runtime directory.
    pub prover: Arc<Prover>,
    /// Which clients need neither a token nor a session.
    pub trust: Trust,
    /// Checks for problems on request.
    pub inspector: Inspector,
    /// The event streams of all listeners.
    pub streams: Arc<Streams>,
    /// The limits on long responses that are being made or sent.
    pub budget: Arc<ResponseBudget>,
    /// The same limits for `GET /api/health`. Clients without a token may send that request, so these requests neither wait for
    /// those above nor delay them.
    pub health_budget: Arc<ResponseBudget>,
    /// The same limits for `GET /api/pipeline/scripts`, which can wait for a slow file system in the root.
    pub script_budget: Arc<ResponseBudget>,
    /// The idempotency keys of the actions that are being served, for all listeners.
    pub keys_in_use: Arc<KeysInUse>,
}

impl App {
    /// Checks whether a client needs neither a token nor a session.
    pub(in crate::web) fn trusts(&self, request: &Request, client: &Client<'_>) -> bool {
        self.trust.includes(request, client)
    }

    /// Identifies the caller: a trusted client, or one that presents a token or a session.
    pub(in crate::web) fn caller(&self, request: &Request, client: &Client<'_>) -> Result<Caller, ApiError> {
        self.caller_by(request, client, None)
    }

    /// Like [`Self::caller`], for routes that links can point to: the proof of a session may be in the query (`link_proof`).
    pub(in crate::web) fn caller_by(
        &self,
        request: &Request,
        client: &Client<'_>,
        link_proof: Option<&str>,
    ) -> Result<Caller, ApiError> {
        let caller =
            if self.trusts(request, client) { Ok(Caller::OWNER) } else { self.authenticator.caller(request, client, link_proof) };
        // A proxy may send the requests of several clients on one connection, so the latest one counts.
        client.set_operator(caller.as_ref().is_ok_and(|caller| caller.role == Role::Operator));
        caller
    }

    /// Like [`Self::caller`], but refuses viewers with [`ApiError::ReadOnly`].
    pub(in crate::web) fn operator(&self, request: &Request, client: &Client<'_>) -> Result<Caller, ApiError> {
        let caller = self.caller(request, client)?;
        match caller.role {
            Role::Operator => Ok(caller),
            Role::Viewer => Err(ApiError::ReadOnly),
        }
    }
}
