//! `GET /api/version`.

use rouille::Response;

use crate::api::version::{API_VERSION, Server, VersionResponse};
use crate::store::schema_version;
use crate::web::app::{App, SERVICE};
use crate::web::json::json;

/// The program's name.
const NAME: &str = env!("CARGO_PKG_NAME");
/// Which build of it this is: the same source for the same target has the same word.
const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("BUILD_TARGET"));

impl App {
    pub(in crate::web) fn version(&self) -> Response {
        json(&VersionResponse {
            ok: true,
            name: NAME.to_owned(),
            app: NAME.to_owned(),
            service: SERVICE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: BUILD.to_owned(),
            api: API_VERSION,
            schema: schema_version(),
            started_at: self.started_at,
            server: Server::clone(&self.identity),
        })
    }
}
