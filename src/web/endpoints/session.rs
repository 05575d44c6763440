//! `POST /api/login`, `POST /api/logout` and `GET /api/session`: who the client is, and the cookie of a page.

use rouille::{Request, Response};

use crate::api::pipeline::EmptyRequest;
use crate::api::session::{LoginRequest, LoginResponse, OkResponse, Role, Session, SessionResponse};
use crate::transport::Client;
use crate::web::app::App;
use crate::web::auth::Caller;
use crate::web::error::ApiError;
use crate::web::input;
use crate::web::json::json;

impl App {
    pub(in crate::web) fn log_in(&self, request: &Request, client: &Client<'_>) -> Result<Response, ApiError> {
        let LoginRequest { token } = input::body(request)?;
        // A link for a phone also works for a client that needs no token.
        if self.trusts(request, client) {
            return Ok(json(&LoginResponse { ok: true, may: Role::Operator }));
        }
        let (may, cookie) = self.authenticator.log_in(request, &token)?;
        Ok(json(&LoginResponse { ok: true, may }).with_additional_header("Set-Cookie", cookie))
    }

    pub(in crate::web) fn log_out(&self, request: &Request) -> Result<Response, ApiError> {
        let EmptyRequest {} = input::body(request)?;
        Ok(json(&OkResponse { ok: true }).with_additional_header("Set-Cookie", self.authenticator.log_out()))
    }

    /// A page that is opened now and then stays logged in.
    pub(in crate::web) fn renew(&self, request: &Request, page: Response) -> Response {
        match self.authenticator.renewed(request) {
            // A cache in between may keep a page, and must not hand somebody's log-in to the next one who asks.
            Some(cookie) => page.with_additional_header("Set-Cookie", cookie).with_unique_header("Cache-Control", "no-store"),
            None => page,
        }
    }

    pub(in crate::web) fn session(&self, caller: Option<Caller>, is_trusted: bool) -> Result<Response, ApiError> {
        let caller = caller.ok_or(ApiError::TokenNeeded)?;
        Ok(json(&SessionResponse {
            session: Session { may: caller.role, token_needed: !is_trusted, expires_at: caller.expires_at },
        }))
    }
}
