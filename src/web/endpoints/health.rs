//! `GET /api/health`.

use rouille::{Request, Response};

use crate::api::health::{Database, Details, HealthResponse};
use crate::store::{Reader, StoreError, StoreErrorKind};
use crate::transport::Client;
use crate::web::app::{App, SERVICE};
use crate::web::error::ApiError;
use crate::web::json::json;

impl App {
    /// Reports whether the server works. Only clients with access learn what is wrong, because that contains paths.
    pub(in crate::web) fn health(&self, request: &Request, client: &Client<'_>) -> Result<Response, ApiError> {
        let is_known = match self.caller(request, client) {
            Ok(_) => true,
            Err(ApiError::TokenNeeded) => false,
            Err(error) => return Err(error),
        };
        self.inspector.look();
        let published = self.supervisor.watch().get();
        let conditions = &published.snapshot.conditions;
        let time = self.health_budget.make(client, || Ok(Reader::open(&self.database).and_then(|reader| reader.time())))?;
        match &time {
            // A file that was removed or replaced is reported as a condition, so the log does not repeat it with each request.
            Ok(_) | Err(StoreError { kind: StoreErrorKind::Gone, .. }) => {}
            Err(error) => ::log::error!("failed to {error}"),
        }
        let time = time.ok();
        let is_ok = time.is_some();
        let details = is_known.then(|| Details {
            db: Database { ok: is_ok, time },
            degraded: conditions.sentence(),
            conditions: conditions.clone(),
        });
        let health = HealthResponse { ok: is_ok, service: SERVICE.to_owned(), details };
        Ok(json(&health).with_status_code(if is_ok { 200 } else { 503 }))
    }
}
