//! Which clients have full control without a token: processes of the server's own user on this machine.
//!
//! An operator can run any program as the server's user. A process of that user can do so anyway, so it gains nothing. Any other
//! user of the machine would gain that access, and so would anyone who can reach a proxy on it.

use rouille::Request;

use crate::transport::{Client, Reach};
use crate::user;

/// The request header fields in which proxies name the client that they act for (RFC 7239, RFC 9110 section 7.6.3, and their
/// predecessors).
const OF_PROXIES: [&str; 3] = ["Forwarded", "X-Real-IP", "Via"];
const OF_PROXIES_PREFIX: &str = "X-Forwarded-";

/// The clients of a listener that need no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// None: a token is set, or other machines can reach the server.
    Nobody,
    /// Processes of the server's user.
    OwnUser,
    /// Processes of the server's user and of root, who can open the server's Unix socket and read its token.
    OwnUserAndRoot,
}

impl Trust {
    /// Returns which clients a listener trusts. `needs_token` is true if every TCP listener requires a token.
    pub fn of(reach: Reach, needs_token: bool) -> Self {
        match reach {
            Reach::Socket => Self::OwnUserAndRoot,
            Reach::Loopback if !needs_token => Self::OwnUser,
            Reach::Loopback | Reach::Network => Self::Nobody,
        }
    }

    pub(in crate::web) fn includes(self, request: &Request, client: &Client<'_>) -> bool {
        // The kernel is asked last, and only if its answer matters.
        match self {
            Self::Nobody => false,
            Self::OwnUser => !is_passed_on(request) && client.uid().is_some_and(user::is_own),
            Self::OwnUserAndRoot => !is_passed_on(request) && client.uid().is_some_and(user::is_own_or_root),
        }
    }
}

/// Checks whether a proxy's header field shows that the request is forwarded for another client.
fn is_passed_on(request: &Request) -> bool {
    request.headers().any(|(name, _)| {
        OF_PROXIES.iter().any(|of_proxies| name.eq_ignore_ascii_case(of_proxies))
            || name.get(..OF_PROXIES_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OF_PROXIES_PREFIX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_needs_an_allowed_user_and_no_proxy_fields() {
        let own = user::own();
        let (other, root) = (own + 1, 0);
        let trusts = |trust: Trust, uid, field: Option<&str>| {
            let fields = field.into_iter().map(|name| (name.to_owned(), "for=203.0.113.7".to_owned())).collect();
            trust.includes(&Request::fake_http("POST", "/api/pipeline/start", fields, vec![]), &Client::patient(uid))
        };
        for uid in [Some(own), Some(other), Some(root), None] {
            assert_eq!(trusts(Trust::OwnUser, uid, None), uid == Some(own), "{uid:?}");
            assert_eq!(trusts(Trust::OwnUserAndRoot, uid, None), uid == Some(own) || uid == Some(root), "{uid:?}");
            assert!(!trusts(Trust::Nobody, uid, None));
        }
        for field in ["Forwarded", "x-forwarded-for", "X-Forwarded-Proto", "X-FORWARDED-ANYTHING", "X-Real-IP", "via"] {
            assert!(
                !trusts(Trust::OwnUser, Some(own), Some(field)) && !trusts(Trust::OwnUserAndRoot, Some(root), Some(field)),
                "{field}"
            );
        }
        for field in ["X-Forwarded", "Accept", "X-Real"] {
            assert!(trusts(Trust::OwnUser, Some(own), Some(field)), "{field}");
        }
    }
}
