//! What the endpoints work with. There is one for each listener, so that it knows by which one a request came.

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

/// Which service answers, in health and version.
pub(super) const SERVICE: &str = "autoappdev-backend";

/// All that the endpoints need, by one listener. Each listener has its own.
#[derive(Clone)]
pub struct App {
    /// The identity of this server.
    pub identity: Arc<Server>,
    /// When it started.
    pub started_at: Timestamp,
    /// From TERM to KILL for a run whose start named no other.
    pub grace: Duration,
    /// The life cycle.
    pub supervisor: Handle,
    /// Where the runs are.
    pub runs: Runs,
    /// What they said.
    pub logs: RunLogs,
    /// Where scripts are looked for; it may be a link, which each look resolves again.
    pub pipeline_root: PathBuf,
    /// The database, for history.
    pub database: DatabaseFile,
    /// Which pages and names may ask.
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
    /// Who streams, at whatever listener.
    pub streams: Arc<Streams>,
    /// The long answers that are made or on their way.
    pub budget: Arc<ResponseBudget>,
    /// The same for `GET /api/health`. Strangers may ask for it: they neither wait for those above nor keep them waiting.
    pub health_budget: Arc<ResponseBudget>,
    /// The same for `GET /api/pipeline/scripts`, which can wait for a slow file system in the root.
    pub script_budget: Arc<ResponseBudget>,
    /// The keys of the actions that are being served, at whatever listener.
    pub keys_in_use: Arc<KeysInUse>,
}

impl App {
    /// True if a client needs neither a token nor a session.
    pub(in crate::web) fn trusts(&self, request: &Request, client: &Client<'_>) -> bool {
        self.trust.includes(request, client)
    }

    /// Identifies the caller: a trusted client, or one that presents a token or a session.
    pub(in crate::web) fn caller(&self, request: &Request, client: &Client<'_>) -> Result<Caller, ApiError> {
        self.caller_by(request, client, None)
    }

    /// Like [`Self::caller`], for routes that links lead to: the proof of a session may be in the query.
    pub(in crate::web) fn caller_by(
        &self,
        request: &Request,
        client: &Client<'_>,
        link_proof: Option<&str>,
    ) -> Result<Caller, ApiError> {
        let caller =
            if self.trusts(request, client) { Ok(Caller::OWNER) } else { self.authenticator.caller(request, client, link_proof) };
        // A proxy may send the requests of several clients on one connection: the latest counts.
        client.set_operator(caller.as_ref().is_ok_and(|caller| caller.role == Role::Operator));
        caller
    }

    /// The same, if that client may act.
    pub(in crate::web) fn operator(&self, request: &Request, client: &Client<'_>) -> Result<Caller, ApiError> {
        let caller = self.caller(request, client)?;
        match caller.role {
            Role::Operator => Ok(caller),
            Role::Viewer => Err(ApiError::ReadOnly),
        }
    }
}
