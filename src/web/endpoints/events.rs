//! `GET /api/events`: the event stream (`crate::feed`) as an answer.

use rouille::{Request, Response, ResponseBody};

use crate::feed::Begin;
use crate::web::app::App;
use crate::web::error::ApiError;
use crate::web::input;

impl App {
    pub(in crate::web) fn events(&self, request: &Request) -> Result<Response, ApiError> {
        let since = input::query_number(request, "since", 0, u64::MAX)?;
        // A browser sends it when it comes back; what it says then counts more than what its page once asked for.
        let begin = match request.header("Last-Event-ID") {
            Some(id) => id.parse().map(Begin::Behind).map_err(|()| {
                ApiError::BadQuery("Last-Event-ID is no id of an event from here; leave it out to begin now".to_owned())
            })?,
            None => since.map_or(Begin::Now, Begin::Log),
        };
        let stream = self.streams.open(begin)?.ok_or(ApiError::TooManyStreams)?;
        let response = Response::from_data("text/event-stream", Vec::new()).with_unique_header("X-Accel-Buffering", "no");
        Ok(Response { data: ResponseBody::from_reader(stream), ..response })
    }
}
