//! `GET /api/version`.

use rouille::{Request, Response};

use crate::api::version::{API_VERSION, ProofResponse, Server, VersionQuery, VersionResponse};
use crate::runtime_dir::is_challenge;
use crate::store::schema_version;
use crate::transport::Client;
use crate::web::app::{App, SERVICE};
use crate::web::error::ApiError;
use crate::web::input;
use crate::web::json::json;

/// The program's name.
const NAME: &str = env!("CARGO_PKG_NAME");
/// The build of the program: its version and its target.
const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("BUILD_TARGET"));

impl App {
    /// Returns which server this is, or a proof if the query has a challenge. A client with a token requests the proof before it
    /// sends the token, so a challenge is answered without authentication.
    pub(in crate::web) fn version(&self, request: &Request, client: &Client<'_>) -> Result<Response, ApiError> {
        let query = input::query(request);
        if let Ok(VersionQuery { challenge: Some(challenge) }) = &query {
            return self.proof(challenge, client);
        }
        let caller = self.caller(request, client)?;
        query?;
        Ok(json(&VersionResponse {
            ok: true,
            name: NAME.to_owned(),
            app: NAME.to_owned(),
            service: SERVICE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: BUILD.to_owned(),
            api: API_VERSION,
            schema: schema_version(),
            started_at: self.started_at,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            grace_s: self.grace.as_secs_f64(),
            takes_keys: true,
            session: Some(caller.shown(!self.trusts(request, client))),
            server: Server::clone(&self.identity),
        }))
    }

    fn proof(&self, challenge: &str, client: &Client<'_>) -> Result<Response, ApiError> {
        let bad = |why: &str| Err(ApiError::BadQuery(why.to_owned()));
        if !is_challenge(challenge) {
            return bad("challenge must be 32 hexadecimal digits in lower case");
        }
        let Some(address) = client.reached_address() else {
            return bad("challenge is answered over TCP; on a Unix socket the kernel tells the server's user");
        };
        // The request for which the client needs the proof must come on this connection. Another one would need another proof.
        client.announce_request();
        Ok(json(&ProofResponse { ok: true, proof: self.prover.proof(challenge, address) }))
    }
}
