//! Who may ask: the Host, the Origin, the content type. A browser sends all three truthfully, whatever page it shows.
//!
//! A page of another site that finds this port can make a browser send requests to it. Its Origin gives it away; where it has
//! bent a host name of its own to this address, the Host does.

use std::net::{IpAddr, SocketAddr};

use rouille::{Request, Response};

use super::error::ApiError;

/// The methods that any path here takes, for preflights.
pub(super) const METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// How long a browser may remember a preflight's answer, in seconds.
const PREFLIGHT_MAX_AGE_S: &str = "600";

/// What the owner opened.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Where the server listens.
    pub address: SocketAddr,
    /// Further host names that are this server's, lower case, without port.
    pub allow_hosts: Vec<String>,
    /// Origins whose pages may look and act, lower case.
    pub allow_origins: Vec<String>,
}

impl Guard {
    /// Lets a request pass or says why not.
    pub(super) fn check(&self, request: &Request) -> Result<(), ApiError> {
        // HTTP/1.0 may leave it out; the transport has refused that for 1.1.
        if let Some(host) = request.header("Host")
            && !self.is_own_host(host)
        {
            return Err(ApiError::HostNotAllowed(host.to_owned()));
        }
        if matches!(request.method(), "GET" | "HEAD" | "OPTIONS") {
            return Ok(());
        }
        match request.header("Origin") {
            Some(origin) if is_own_origin(request, origin) || self.allows(origin) => {}
            Some(origin) => return Err(ApiError::OriginNotAllowed(origin.to_owned())),
            // Some browsers leave the Origin out of some requests, but then say this.
            None if request.header("Sec-Fetch-Site").is_some_and(|site| site.eq_ignore_ascii_case("cross-site")) => {
                return Err(ApiError::OriginNotAllowed("another site".to_owned()));
            }
            None => {}
        }
        if has_body(request) && !request.header("Content-Type").is_some_and(is_json) {
            return Err(ApiError::NotSentAsJson);
        }
        Ok(())
    }

    /// Adds to an answer what a page of an allowed origin needs in order to read it: on errors too.
    pub(super) fn open_to_origin(&self, request: &Request, response: Response) -> Response {
        if self.allow_origins.is_empty() {
            return response;
        }
        let response = response.with_additional_header("Vary", "Origin");
        match request.header("Origin").filter(|origin| self.allows(origin)) {
            Some(origin) => response
                .with_unique_header("Access-Control-Allow-Origin", origin.to_owned())
                .with_unique_header("Access-Control-Expose-Headers", "ETag, Date"),
            None => response,
        }
    }

    /// The answer to `OPTIONS`.
    pub(super) fn preflight(&self, request: &Request, allow: &'static str) -> Response {
        let response = Response::empty_204().with_unique_header("Allow", allow);
        if !request.header("Origin").is_some_and(|origin| self.allows(origin)) {
            return response;
        }
        response
            .with_unique_header("Access-Control-Allow-Methods", METHODS)
            .with_unique_header("Access-Control-Allow-Headers", "content-type, if-none-match")
            .with_unique_header("Access-Control-Max-Age", PREFLIGHT_MAX_AGE_S)
    }

    fn allows(&self, origin: &str) -> bool {
        self.allow_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }

    fn is_own_host(&self, host: &str) -> bool {
        let name = without_port(host);
        if name.eq_ignore_ascii_case("localhost") || self.allow_hosts.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return true;
        }
        let number = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        number.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || (ip == self.address.ip() && !ip.is_unspecified()))
    }
}

/// Whether the page comes from this server, by the name that it was asked for with; [`Guard::check`] has looked at that.
fn is_own_origin(request: &Request, origin: &str) -> bool {
    let own = request.header("Host").map(|host| format!("http://{host}"));
    own.is_some_and(|own| own.eq_ignore_ascii_case(origin))
}

/// A `Host` without its port: `name`, `1.2.3.4`, or `[::1]`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_json(kind: &str) -> bool {
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn has_body(request: &Request) -> bool {
    request.header("Transfer-Encoding").is_some() || request.header("Content-Length").is_some_and(|length| length.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard {
            address: "127.0.0.1:8788".parse().expect("an address"),
            allow_hosts: vec!["board.local".into()],
            allow_origins: vec!["http://localhost:5173".into()],
        }
    }

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request::fake_http(method, "/api/pipeline/start", headers, b"{}".to_vec())
    }

    #[test]
    fn only_names_of_this_server_are_hosts() {
        for host in
            ["localhost", "LOCALHOST:8788", "127.0.0.1", "127.0.0.1:1", "127.8.9.1:8788", "[::1]:8788", "[::1]", "board.local:80"]
        {
            assert!(guard().check(&request("GET", &[("Host", host)])).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8788",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0:8788",
            "",
            "[::2]:1",
            "board.local.",
            "localhost:8788:1",
        ] {
            assert!(matches!(guard().check(&request("GET", &[("Host", host)])), Err(ApiError::HostNotAllowed(_))), "{host}");
        }
    }

    #[test]
    fn only_own_and_allowed_pages_change_anything() {
        let host = ("Host", "127.0.0.1:8788");
        for origin in [None, Some("http://127.0.0.1:8788"), Some("http://localhost:5173")] {
            let mut headers = vec![host];
            headers.extend(origin.map(|origin| ("Origin", origin)));
            assert!(guard().check(&request("POST", &headers)).is_ok(), "{origin:?}");
        }
        for origin in
            ["http://evil.example", "null", "https://127.0.0.1:8788", "http://127.0.0.1:8789", "http://localhost:51730", ""]
        {
            let refused = guard().check(&request("POST", &[host, ("Origin", origin)]));
            assert!(matches!(refused, Err(ApiError::OriginNotAllowed(_))), "{origin}");
            assert!(guard().check(&request("GET", &[host, ("Origin", origin)])).is_ok(), "looking is not changing");
        }
        assert!(guard().check(&request("POST", &[host, ("Sec-Fetch-Site", "cross-site")])).is_err());
        assert!(guard().check(&request("POST", &[host, ("Sec-Fetch-Site", "same-origin")])).is_ok());
    }

    #[test]
    fn a_body_must_call_itself_json() {
        let host = ("Host", "localhost");
        for kind in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
            assert!(guard().check(&request("POST", &[host, ("Content-Type", kind), ("Content-Length", "2")])).is_ok(), "{kind}");
        }
        for kind in
            ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonx"]
        {
            let refused = guard().check(&request("POST", &[host, ("Content-Type", kind), ("Content-Length", "2")]));
            assert!(matches!(refused, Err(ApiError::NotSentAsJson)), "{kind}");
        }
        assert!(guard().check(&request("POST", &[host, ("Content-Type", "text/plain")])).is_ok(), "no body, no type to mind");
    }
}
