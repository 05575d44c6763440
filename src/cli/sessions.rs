//! `autoappdev sessions`: lists and ends login sessions.

use serde::Serialize;

use super::args::{EndArgs, SessionsArgs, SessionsCommand};
use super::client::{Client, ClientError, READ_TIMEOUT};
use super::columns;
use super::duration::{between, since};
use super::output::moment;
use crate::api::routes::Route;
use crate::api::session::{EndSessionsRequest, EndSessionsResponse, ListedSession, Role, SessionsResponse};
use crate::clock::Timestamp;
use crate::console::printable;

/// Runs the command and returns the text to print.
pub(super) fn sessions(client: &Client, args: &SessionsArgs, now: Timestamp, json: bool) -> Result<String, ClientError> {
    let Some(SessionsCommand::End(EndArgs { id, all })) = &args.command else {
        let answer = client.get(&Route::Sessions.path())?;
        return answer.text(json, |SessionsResponse { sessions, .. }| list(&sessions, now));
    };
    let body = EndSessionsRequest { id: id.clone(), all: all.then_some(true) };
    post(client, &body)?.text(json, |EndSessionsResponse { ended, .. }| match ended {
        1 => "1 session has ended\n".to_owned(),
        ended => format!("{ended} sessions have ended\n"),
    })
}

fn post(client: &Client, body: &impl Serialize) -> Result<super::client::Answer, ClientError> {
    client.post(&Route::EndSessions.path(), body, None, READ_TIMEOUT)
}

/// Formats the sessions as a table. The last column has no fixed width.
fn list(sessions: &[ListedSession], now: Timestamp) -> String {
    if sessions.is_empty() {
        return "no browser is logged in\n".to_owned();
    }
    let mut table = vec![["ID", "ROLE", "LOGGED IN", "LAST USED", "ADDRESS", "BROWSER"].map(str::to_owned)];
    table.extend(sessions.iter().map(|session| {
        let role = match session.may {
            Role::Operator => "operator",
            Role::Viewer => "viewer",
        };
        [
            printable(&session.id),
            role.to_owned(),
            moment(session.created_at),
            format!("{} ago", since(between(session.used_at, now))),
            printable(&session.address),
            printable(&session.user_agent),
        ]
    }));
    columns::table(&table, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_list_shows_each_session_and_escapes_browser_names() {
        let at = |minutes: i64| Timestamp::from_unix_ms(1_800_000_000_000 + minutes * 60_000);
        let session = |id: &str, may, user_agent: &str| ListedSession {
            id: id.to_owned(),
            may,
            created_at: at(0),
            used_at: at(50),
            expires_at: at(1000),
            ends_at: at(3000),
            address: "2001:db8::1".to_owned(),
            user_agent: user_agent.to_owned(),
            is_own: false,
        };
        let text = list(&[session("abcd-efgh", Role::Operator, "Fire\u{1b}[2Jfox"), session("x", Role::Viewer, "")], at(60));
        assert_eq!(
            text,
            "ID         ROLE      LOGGED IN                LAST USED       ADDRESS      BROWSER\n\
             abcd-efgh  operator  2027-01-15 08:00:00 UTC  10 min 0 s ago  2001:db8::1  Fire\\u{1b}[2Jfox\n\
             x          viewer    2027-01-15 08:00:00 UTC  10 min 0 s ago  2001:db8::1  \n"
        );
        assert_eq!(list(&[], at(0)), "no browser is logged in\n");
        let long = list(&[session(&"i".repeat(70_000), Role::Viewer, "")], at(60));
        assert!(long.len() < 2_000 && long.contains("iii...  viewer"), "{}", long.len());
    }
}
