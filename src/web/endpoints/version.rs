//! `GET /api/version`.

use rouille::Response;
use serde_json::json;

use crate::store::schema_version;
use crate::web::app::{App, SERVICE};
use crate::web::json::json;

/// The program's name.
const NAME: &str = env!("CARGO_PKG_NAME");
/// Which build of it this is: the same source for the same target has the same word.
const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("BUILD_TARGET"));
/// The version of the HTTP contract.
const API_VERSION: u32 = 1;

impl App {
    pub(in crate::web) fn version(&self) -> Response {
        json(&json!({
            "ok": true, "name": NAME, "app": NAME, "service": SERVICE, "version": env!("CARGO_PKG_VERSION"), "build": BUILD,
            "api": API_VERSION, "schema": schema_version(), "started_at": self.identity.started_at, "server": &*self.identity,
        }))
    }
}
