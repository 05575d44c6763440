//! Endpoints for the client's own session (`/api/session`, `/api/login`, `/api/logout`), all sessions (`/api/sessions`) and
//! one-time codes (`/api/pair`).

use rouille::{Request, Response};

use crate::api::pipeline::EmptyRequest;
use crate::api::session::{
    EndSessionsRequest, EndSessionsResponse, LoginRequest, LoginResponse, OkResponse, PairRequest, PairResponse, Role,
    SessionResponse, SessionsResponse,
};
use crate::transport::Client;
use crate::web::app::App;
use crate::web::auth::{Caller, Shown};
use crate::web::error::ApiError;
use crate::web::input;
use crate::web::json::json;
use crate::web::pair_links;

impl App {
    pub(in crate::web) fn log_in(&self, request: &Request, client: &Client<'_>) -> Result<Response, ApiError> {
        let LoginRequest { token, code } = input::log_in(request)?;
        let shown = match (&token, &code) {
            (Some(token), _) => Shown::Token(token),
            (None, code) => Shown::Code(code.as_deref().unwrap_or_default()),
        };
        // A login link also works for a client that needs no session. Its code is not used up.
        if self.trusts(request, client) {
            return Ok(json(&LoginResponse { ok: true, may: Role::Operator, proof: None, download_proof: None }));
        }
        let begun = self.authenticator.log_in(request, client, shown)?;
        let (proof, download_proof) = (Some(begun.proof), Some(begun.download_proof));
        let answer = LoginResponse { ok: true, may: begun.role, proof, download_proof };
        Ok(json(&answer).with_additional_header("Set-Cookie", begun.set_cookie))
    }

    /// Logs the client out. Removes the browser's cookie even if the end of the session cannot be stored.
    pub(in crate::web) fn log_out(&self, request: &Request) -> Result<Response, ApiError> {
        let EmptyRequest {} = input::body(request)?;
        let (cookie, ended) = self.authenticator.log_out(request);
        let response = ended.map_or_else(ApiError::into_response, |()| json(&OkResponse { ok: true }));
        Ok(response.with_additional_header("Set-Cookie", cookie))
    }

    /// Returns the client's session, and renews it if due. The page sends this request when it is opened, so a page that is
    /// opened now and then stays logged in.
    pub(in crate::web) fn session(
        &self,
        request: &Request,
        caller: Option<Caller>,
        is_trusted: bool,
    ) -> Result<Response, ApiError> {
        let caller = caller.ok_or(ApiError::TokenNeeded)?;
        let cookie = caller.session.as_deref().and_then(|session| self.authenticator.renew(request, session));
        let response = json(&SessionResponse { session: caller.shown(!is_trusted) });
        Ok(match cookie {
            Some(cookie) => response.with_additional_header("Set-Cookie", cookie),
            None => response,
        })
    }

    pub(in crate::web) fn sessions(&self, caller: Option<&Caller>) -> Response {
        let own = caller.and_then(|caller| caller.session.as_deref());
        json(&SessionsResponse { sessions: self.authenticator.list(own), codes: self.authenticator.list_codes() })
    }

    pub(in crate::web) fn end_sessions(&self, request: &Request) -> Result<Response, ApiError> {
        let id = match input::body(request)? {
            EndSessionsRequest { id: Some(id), all: None | Some(false) } => Some(id),
            EndSessionsRequest { id: None, all: Some(true) } => None,
            EndSessionsRequest { .. } => {
                return Err(ApiError::BadBody("the body needs the id of a session, or all: true".to_owned()));
            }
        };
        let ended = self.authenticator.end(id.as_deref())?;
        Ok(json(&EndSessionsResponse { ok: true, ended: ended as u64 }))
    }

    pub(in crate::web) fn pair(&self, request: &Request, caller: Option<Caller>) -> Result<Response, ApiError> {
        let PairRequest { may } = input::body(request)?;
        let may = may.unwrap_or(Role::Operator);
        let (code, listed) = self.authenticator.make_code(may, caller.and_then(|caller| caller.session))?;
        let links = pair_links::links(self.guard.named_origin(request), &self.addresses, &code);
        Ok(json(&PairResponse { ok: true, may, code, id: listed.id, expires_at: listed.expires_at, links }))
    }
}
