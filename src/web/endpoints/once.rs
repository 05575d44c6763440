//! Requests with an `Idempotency-Key`: they act once, and a repeat gets the same response.
//!
//! A repeat waits while the first request with its key is being served, and then gets the stored response. If the first request
//! was not answered, because its server was killed or gave up waiting, the supervisor reports the result of the action.

use std::io::Read;

use rouille::{Response, ResponseBody};

use crate::api::pipeline::IDEMPOTENT_REPLAY;
use crate::kill_point::KillPoint;
use crate::store::{KeyedRequest, RequestKey, WorkError};
use crate::supervisor::ActionError;
use crate::web::app::App;
use crate::web::error::ApiError;

impl App {
    /// Calls `act` once for all requests with this key, and stores its response if that is final.
    pub(super) fn once(
        &self,
        key: RequestKey,
        act: impl FnOnce(RequestKey) -> Result<Response, ApiError>,
    ) -> Result<Response, ApiError> {
        let _in_use = self.keys_in_use.enter(&key)?;
        let wanted = key.clone();
        match self.supervisor.writer().write(move |store| store.keyed_request(&wanted)) {
            Ok(Some(KeyedRequest::Answered { status, body })) => {
                let response = Response::from_data("application/json", body).with_status_code(status);
                return Ok(response.with_unique_header(IDEMPOTENT_REPLAY, "true"));
            }
            Ok(Some(KeyedRequest::Other)) => return Err(ActionError::KeyReused.into()),
            Ok(Some(KeyedRequest::Begun(_)) | None) => {}
            Err(WorkError::Stopping) => return Err(ActionError::Stopping.into()),
            // A start will be refused for the same reason. Anything else can be done without the database.
            Err(WorkError::Store(error)) => ::log::error!("failed to {error}"),
        }
        match act(key.clone()) {
            Err(error) if !error.decides() => Err(error),
            done => Ok(self.keep(key, done.unwrap_or_else(ApiError::into_response))),
        }
    }

    /// Stores a response before it is sent. If that fails, a repeat gets the result of the action.
    fn keep(&self, key: RequestKey, response: Response) -> Response {
        let Response { status_code, mut headers, data, upgrade } = response;
        // The same request would get the same response.
        headers.retain(|(name, _)| name != "Retry-After");
        let (mut reader, _) = data.into_reader_and_size();
        let mut body = String::new();
        reader.read_to_string(&mut body).expect("answers are JSON in memory");
        let kept = body.clone();
        let kept = self.supervisor.writer().write(move |store| {
            KillPoint::ServerAnswerHeard.reach();
            store.keep_answer(&key, status_code, &kept)?;
            KillPoint::ServerAnswerCommitted.reach();
            Ok(())
        });
        if let Err(error) = kept {
            ::log::warn!("the answer to a request with a key was not kept: failed to {error}");
        }
        Response { status_code, headers, data: ResponseBody::from_string(body), upgrade }
    }
}
