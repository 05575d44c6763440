//! `GET /api/version`.

use rouille::Response;
use serde_json::json;

use crate::store::schema_version;
use crate::web::app::App;
use crate::web::json::json;

/// The version of the HTTP contract.
const API_VERSION: u32 = 1;

impl App {
    pub(in crate::web) fn version(&self) -> Response {
        json(&json!({
            "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "api": API_VERSION, "schema": schema_version(),
            "server": &*self.identity,
        }))
    }
}
