//! `GET /api/pipeline`, `GET /api/pipeline/status`, and the four actions.

use rouille::{Request, Response, ResponseBody};

use crate::api::pipeline::{ActionResponse, Pipeline, PipelineQuery, Status, StatusResponse};
use crate::pipeline::{Action, Origin, Peer, State};
use crate::store::RequestKey;
use crate::supervisor::Snapshot;
use crate::transport::Client;
use crate::web::app::App;
use crate::web::auth::{Caller, Trust};
use crate::web::coding::Coding;
use crate::web::error::ApiError;
use crate::web::json::json;
use crate::web::long_poll::{LongPoll, WAIT_S_DEFAULT};
use crate::web::{common_fields, etag, idempotency, input};

impl App {
    /// Lets the supervisor execute an action for this client, whose role the router has checked.
    pub(in crate::web) fn act(&self, action: Action, request: &Request, client: &Client<'_>) -> Result<Response, ApiError> {
        let key = idempotency::key_of(request)?;
        let body = input::bytes(request)?;
        let Some(key) = key else { return self.act_by(action, &body, None, request, client) };
        let digest = self.authenticator.digest_of_action(action, &body);
        self.once(RequestKey { key, request: digest }, |key| self.act_by(action, &body, Some(key), request, client))
    }

    fn act_by(
        &self,
        action: Action,
        body: &[u8],
        key: Option<RequestKey>,
        request: &Request,
        client: &Client<'_>,
    ) -> Result<Response, ApiError> {
        let (ask, if_run) = input::ask(action, body, |run_id| self.start_of(run_id).map(|start| start.start))?;
        // Over TCP the kernel is not asked for the user, because nothing needs it.
        let uid = if self.trust == Trust::OwnUserAndRoot { client.uid() } else { None };
        let peer = uid.map_or_else(|| Peer::Address(request.remote_addr().ip()), Peer::Uid);
        let published = self.supervisor.act(ask, if_run, key, Origin::operator(peer))?;
        let Snapshot { pipeline, run_pid, .. } = &published.snapshot;
        let is_start = action == Action::Start;
        Ok(json(&ActionResponse {
            ok: true,
            state: pipeline.state,
            pid: run_pid.filter(|_| is_start),
            run_id: pipeline.run_id,
            script: pipeline.script.clone().filter(|_| is_start),
            version: pipeline.version,
            conditions: pipeline.conditions.clone(),
        }))
    }

    pub(in crate::web) fn pipeline(
        &self,
        request: &Request,
        caller: Option<&Caller>,
        client: &Client<'_>,
    ) -> Result<Response, ApiError> {
        let PipelineQuery { after, wait } = input::query(request)?;
        let wait = wait.unwrap_or(WAIT_S_DEFAULT);
        let watch = self.supervisor.watch();
        self.inspector.refresh();
        let now = watch.get();
        let published = match after {
            // A version that has not been reached yet belongs to another database. That client must get the current version at
            // once.
            Some(after) if after == now.snapshot.version => {
                let poll = LongPoll::new(self, caller, client);
                poll.idle(|| watch.wait_newer(after, poll.limit(wait), &|| poll.ends()))
            }
            Some(_) | None => now,
        };
        // This response is requested all the time. So it is assembled directly, in a list with room for the fields of every
        // response.
        let coding = Coding::of(request, published.body.len());
        let mut headers = Vec::with_capacity(4 + common_fields::COUNT);
        headers.push(("Content-Type".into(), "application/json".into()));
        headers.extend(coding.vary());
        let (respond, tag) =
            (|data| Response { status_code: 200, headers, data, upgrade: None }, published.etag(&self.identity.id));
        if coding != Coding::Gzip {
            return Ok(etag::with_tag(respond(ResponseBody::from_data(published.body.as_str())), request, tag));
        }
        let mut response = etag::with_tag_of_packed(respond(ResponseBody::from_data(published.packed())), request, tag);
        if response.status_code == 200 {
            response.headers.extend(coding.content_encoding());
        }
        Ok(response)
    }

    pub(in crate::web) fn status(&self) -> Response {
        let published = self.supervisor.watch().get();
        let Pipeline { state, pid, run_id, status, .. } = &published.snapshot.pipeline;
        json(&StatusResponse { status: Status { running: *state == State::Running, pid: *pid, run_id: *run_id, state: *status } })
    }
}
