//! The checks of where a request comes from: the Host, the Origin, the content type. A browser sends all three truthfully,
//! whatever page it shows.
//!
//! A page of another site that finds this port can make a browser send requests to it. The Origin reveals such a page. If the
//! page has pointed its own host name at this address, the Host reveals it. Tokens and sessions are checked after this, by
//! `auth`.

mod browser;
mod hosts;

use rouille::{Request, Response};

use self::browser::{
    is_of_own_scripts, is_own_origin, is_prefetch, may_be_browser, may_be_users_navigation, referring_origin, site,
};
use self::hosts::{Hosts, is_loopback};
use super::error::ApiError;
use crate::api::routes;
use crate::transport::Reach;

/// How long a browser may remember the response to a preflight, in seconds.
const PREFLIGHT_MAX_AGE_S: &str = "600";

/// The checks of a listener, with the hosts and origins that the owner allows.
#[derive(Clone, Debug)]
pub struct Guard {
    hosts: Hosts,
    allow_origins: Vec<String>,
}

impl Guard {
    /// Creates the checks of a listener. `allow_hosts` are further host names of this server, without port. `allow_origins` are
    /// the origins whose pages may use the API. Both are lower case.
    pub fn new(reach: Reach, allow_hosts: Vec<String>, allow_origins: Vec<String>) -> Self {
        Self { hosts: Hosts::new(reach, allow_hosts), allow_origins }
    }

    /// Accepts a request, or returns the reason for refusing it.
    pub(super) fn check(&self, request: &Request) -> Result<(), ApiError> {
        // HTTP/1.0 may omit it; the transport has refused HTTP/1.1 without it.
        if let Some(host) = request.header("Host")
            && !self.hosts.has(host)
        {
            return Err(ApiError::HostNotAllowed(host.to_owned()));
        }
        // A browser prefetches for any page, and does not say for which (`Sec-Fetch-Site: none`). The page itself is refused too,
        // so that a prerendered copy neither sends requests nor uses up a link's code. The browser then loads the page when it is
        // opened.
        if is_prefetch(request) && !is_static(path_of(request)) {
            return Err(ApiError::Prefetch);
        }
        if is_for_own_pages(request) {
            self.check_page(request)?;
        }
        // A GET may have a body, which is ignored.
        if changes_nothing(request) || request.header("Content-Type").is_some_and(is_json) {
            return Ok(());
        }
        if has_body(request) {
            return Err(ApiError::NotSentAsJson);
        }
        // A form or a beacon on any page can send a POST without a body, but without a preflight it can set neither this content
        // type nor these fields.
        if may_be_browser(request) && !is_of_own_scripts(request) {
            return Err(ApiError::NotMarkedAsJson);
        }
        Ok(())
    }

    /// Refuses a request from a page that is neither this server's nor of an allowed origin.
    fn check_page(&self, request: &Request) -> Result<(), ApiError> {
        let is_good = |origin: &str| is_own_origin(request, origin) || self.allows(origin);
        if let Some(origin) = request.header("Origin") {
            return if is_good(origin) { Ok(()) } else { Err(ApiError::OriginNotAllowed(origin.to_owned())) };
        }
        // Browsers leave the Origin out of a GET whose response the page cannot read, such as an image or a link, but then send
        // this field. `same-site` includes other ports of this host, whose pages' requests carry this server's cookie. `none`
        // means that the user made the request: from the address bar, a bookmark, or a link in another program (Fetch Metadata,
        // section 2.3). That is a navigation without a referrer. Any other request with `none` is sent on behalf of some page.
        if let Some(site) = site(request) {
            let is_good = match site {
                "same-origin" => true,
                "none" => may_be_users_navigation(request) || is_of_own_scripts(request),
                _ => false,
            };
            return if is_good { Ok(()) } else { Err(ApiError::OriginNotAllowed("another site".to_owned())) };
        }
        if !may_be_browser(request) || is_of_own_scripts(request) {
            return Ok(());
        }
        // A page can suppress its referrer but cannot forge another one. A typed address has no referrer either, and cannot be
        // distinguished from a frame.
        match referring_origin(request) {
            Some(origin) if is_own_origin(request, origin) => Ok(()),
            Some(origin) => Err(ApiError::OriginNotAllowed(origin.to_owned())),
            None => Err(ApiError::PageUnknown),
        }
    }

    /// Adds the header fields that a page of an allowed origin needs in order to read a response, on errors too.
    pub(super) fn open_to_origin(&self, request: &Request, response: Response) -> Response {
        if self.allow_origins.is_empty() {
            return response;
        }
        let response = response.with_additional_header("Vary", "Origin");
        match request.header("Origin").filter(|origin| self.allows(origin)) {
            Some(origin) => response.with_unique_header("Access-Control-Allow-Origin", origin.to_owned()).with_unique_header(
                "Access-Control-Expose-Headers",
                "ETag, Date, Retry-After, AutoAppDev-Log-Gone, Idempotent-Replay",
            ),
            None => response,
        }
    }

    /// Returns the response to `OPTIONS`.
    pub(super) fn preflight(&self, request: &Request, allow: String) -> Response {
        let response = Response::empty_204().with_unique_header("Allow", allow);
        if !request.header("Origin").is_some_and(|origin| self.allows(origin)) {
            return response;
        }
        response
            .with_unique_header("Access-Control-Allow-Methods", routes::all_methods())
            .with_unique_header(
                "Access-Control-Allow-Headers",
                "authorization, content-type, idempotency-key, if-none-match, last-event-id",
            )
            .with_unique_header("Access-Control-Max-Age", PREFLIGHT_MAX_AGE_S)
    }

    fn allows(&self, origin: &str) -> bool {
        self.allow_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }

    /// Returns the origin by which the client has reached the server, through a proxy or not, if the owner named it in the
    /// settings and other machines can use it.
    pub(super) fn named_origin(&self, request: &Request) -> Option<String> {
        let host = request.header("Host").unwrap_or_default();
        // A proxy may have written another Host, but the browser says truthfully that its page has the same origin as the
        // request.
        let by = request.header("Origin").filter(|_| site(request) == Some("same-origin"));
        let leads_here = |origin: &&String| {
            let web = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            web.is_some_and(|it| it.eq_ignore_ascii_case(host))
                || (web.is_some() && by.is_some_and(|by| by.eq_ignore_ascii_case(origin)))
        };
        let origin = self
            .allow_origins
            .iter()
            .find(leads_here)
            .cloned()
            .or_else(|| self.hosts.is_named(host).then(|| format!("http://{}", host.to_ascii_lowercase())))?;
        (!is_loopback(origin.split_once("://")?.1)).then_some(origin)
    }
}

/// Checks whether pages of other origins are refused. A page that cannot read a response can still occupy the slot of a stream, a
/// download, a search or a long poll, so this applies to the whole API, whatever the method. Only the server's own page and its
/// files remain. A WebSocket begins with a GET, and a page of any origin may read what arrives over it (RFC 6455, section 10.2).
fn is_for_own_pages(request: &Request) -> bool {
    is_of_api(path_of(request)) || !changes_nothing(request) || request.header("Upgrade").is_some()
}

/// Returns the requested path as it was sent. No path here needs an escape, and a proxy may have understood an escaped slash
/// differently.
pub(super) fn path_of(request: &Request) -> &str {
    let target = request.raw_url();
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Checks whether a path belongs to the API, known or not.
pub(super) fn is_of_api(path: &str) -> bool {
    path.strip_prefix('/').unwrap_or(path).split('/').next() == Some("api")
}

/// Checks whether a path is one of the page's files, which any page may load in advance: they contain nothing about the pipeline.
fn is_static(path: &str) -> bool {
    path.starts_with("/static/")
}

/// Checks whether the method only reads.
pub(super) fn changes_nothing(request: &Request) -> bool {
    matches!(request.method(), "GET" | "HEAD" | "OPTIONS")
}

/// Checks whether a page of this server may have sent this, even through a proxy with TLS. Only its requests may use a session.
/// For a browser, a server on another port belongs to the same site, and receives this server's cookie.
pub(super) fn is_of_own_page(request: &Request) -> bool {
    match (request.header("Origin"), request.header("Sec-Fetch-Site")) {
        // The browser's own statement is true even if a proxy has written another Host.
        (_, Some(site)) => {
            ["same-origin", "none"].contains(&site) || (request.header("Origin").is_none() && changes_nothing(request))
        }
        (Some(origin), None) => {
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            authority.is_some_and(|authority| request.header("Host").is_some_and(|host| host.eq_ignore_ascii_case(authority)))
        }
        (None, None) => true,
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
        Guard::new(Reach::Loopback, vec!["board.local".into()], vec!["http://localhost:5173".into()])
    }

    const JSON: (&str, &str) = ("Content-Type", "application/json");

    fn request(method: &str, headers: &[(&str, &str)]) -> Request {
        of_path(method, "/api/pipeline/start", headers)
    }

    fn of_path(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request::fake_http(method, path, headers, b"{}".to_vec())
    }

    #[test]
    fn only_names_of_this_server_are_allowed_hosts() {
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
            "[::ffff:10.0.0.1]",
            "",
            "[::2]:1",
            "board.local.",
            "localhost:8788:1",
        ] {
            assert!(matches!(guard().check(&request("GET", &[("Host", host)])), Err(ApiError::HostNotAllowed(_))), "{host}");
        }
    }

    #[test]
    fn addresses_beyond_loopback_are_open() {
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(!Reach::at(address.parse().expect("an address")).is_open(), "{address}");
        }
        for address in
            ["0.0.0.0:1", "[::]:1", "192.168.1.5:1", "[fe80::1]:1", "[::ffff:192.168.1.5]:1", "[::ffff:0.0.0.0]:1", "[::2]:1"]
        {
            assert!(Reach::at(address.parse().expect("an address")).is_open(), "{address}");
        }
        assert!(!Reach::Socket.is_open());
    }

    #[test]
    fn named_origin_comes_from_configured_hosts_and_origins() {
        let named = |origins: &[&str], fields: &[(&str, &str)]| {
            let origins = origins.iter().map(|&origin| origin.to_owned()).collect();
            let guard = Guard::new(Reach::Loopback, vec!["board.local".into(), "localhost".into()], origins);
            guard.named_origin(&request("POST", fields))
        };
        let tls = ["https://a.example", "https://board.example", "app://a.example", "http://localhost:5173"];
        let same = ("Sec-Fetch-Site", "same-origin");
        for (fields, origin) in [
            (&[("Host", "BOARD.local:8788")][..], Some("http://board.local:8788")),
            (&[("Host", "board.example")], Some("https://board.example")),
            (&[("Host", "127.0.0.1:8788"), ("Origin", "https://board.example"), same], Some("https://board.example")),
            // A page of an allowed origin, but at another address.
            (&[("Host", "127.0.0.1:8788"), ("Origin", "https://a.example"), ("Sec-Fetch-Site", "cross-site")], None),
            (&[("Host", "127.0.0.1:8788"), ("Origin", "https://a.example")], None),
            (&[("Host", "127.0.0.1:8788"), ("Origin", "app://a.example"), same], None),
            (&[("Host", "127.0.0.1:8788"), ("Origin", "https://evil.example"), same], None),
            (&[("Host", "evil.example"), ("X-Forwarded-Host", "board.local"), ("X-Forwarded-Proto", "https")], None),
            // An origin that leads another device to itself.
            (&[("Host", "localhost:8788")], None),
            (&[("Host", "localhost:5173"), ("Origin", "http://localhost:5173"), same], None),
            (&[], None),
        ] {
            assert_eq!(named(&tls, fields).as_deref(), origin, "{fields:?}");
        }
        assert_eq!(named(&["http://board.local:81"], &[("Host", "board.local:81")]).as_deref(), Some("http://board.local:81"));
    }

    #[test]
    fn upgrade_request_needs_an_allowed_origin() {
        let ask = |origin| {
            let fields = [("Host", "localhost"), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Origin", origin)];
            guard().check(&request("GET", &fields))
        };
        assert!(matches!(ask("http://evil.example"), Err(ApiError::OriginNotAllowed(_))));
        assert!(ask("http://localhost").is_ok() && ask("http://localhost:5173").is_ok());
    }

    #[test]
    fn only_own_and_allowed_pages_change_anything() {
        let host = ("Host", "127.0.0.1:8788");
        for origin in [None, Some("http://127.0.0.1:8788"), Some("http://localhost:5173")] {
            let mut headers = vec![host, JSON];
            headers.extend(origin.map(|origin| ("Origin", origin)));
            assert!(guard().check(&request("POST", &headers)).is_ok(), "{origin:?}");
        }
        for origin in
            ["http://evil.example", "null", "https://127.0.0.1:8788", "http://127.0.0.1:8789", "http://localhost:51730", ""]
        {
            let refused = guard().check(&request("POST", &[host, ("Origin", origin)]));
            assert!(matches!(refused, Err(ApiError::OriginNotAllowed(_))), "{origin}");
            assert!(
                guard().check(&request("GET", &[host, ("Origin", origin)])).is_err(),
                "a page that reads nothing takes a place"
            );
            assert!(guard().check(&of_path("GET", "/", &[host, ("Origin", origin)])).is_ok(), "the page itself");
        }
        for (site, is_good) in
            [("cross-site", false), ("same-site", false), ("Cross-Site", false), ("same-origin", true), ("none", true)]
        {
            let from = [host, JSON, ("Sec-Fetch-Site", site)];
            assert_eq!(guard().check(&request("POST", &from)).is_ok(), is_good, "{site}");
            for path in ["/api/pipeline?wait=60", "/api/runs/7/log", "/api/health", "/api", "/api/nothing"] {
                assert_eq!(guard().check(&of_path("GET", path, &from)).is_ok(), is_good, "{site} {path}");
            }
            for path in ["/", "/static/app.js", "/?next=/api/", "/apis"] {
                assert!(guard().check(&of_path("GET", path, &from)).is_ok(), "{site} {path}");
            }
        }
    }

    #[test]
    fn prefetch_gets_only_static_files() {
        let host = ("Host", "127.0.0.1:8788");
        for mark in [
            ("Sec-Purpose", "prefetch"),
            ("Sec-Purpose", "prefetch;prerender"),
            ("sec-purpose", "prefetch;anonymous-client-ip"),
            ("Purpose", "prefetch"),
            ("Purpose", "Preview"),
            ("X-Purpose", "preview"),
            ("X-Moz", "prefetch"),
        ] {
            for more in [
                &[][..],
                &[("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")],
                &[("Sec-Fetch-Site", "same-origin"), ("Origin", "http://127.0.0.1:8788")],
                &[("Origin", "http://localhost:5173"), ("Sec-Fetch-Site", "cross-site")],
                &[("AutoAppDev-Client", "page"), ("Authorization", "Bearer x")],
            ] {
                let check = |path| guard().check(&of_path("GET", path, &[&[host, mark], more].concat()));
                for path in ["/api/logs?grep=x&wait=60", "/api/health", "/api", "/", "/?x=/static/", "/static"] {
                    assert!(matches!(check(path), Err(ApiError::Prefetch)), "{mark:?} {more:?} {path}");
                }
                assert!(check("/static/app.js").is_ok(), "{mark:?} {more:?}");
            }
        }
    }

    #[test]
    fn site_none_request_with_foreign_referrer_or_mode_is_refused() {
        let host = ("Host", "127.0.0.1:8788");
        let none = ("Sec-Fetch-Site", "none");
        let get = |path, more: &[(&str, &str)]| guard().check(&of_path("GET", path, &[&[host, none], more].concat()));
        let typed = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("Sec-Fetch-User", "?1")];
        for good in [&[][..], &typed, &[typed[0]], &[("Referer", "http://127.0.0.1:8788/")]] {
            assert!(get("/api/logs", good).is_ok(), "{good:?}");
        }
        for foreign in [
            &[("Referer", "http://127.0.0.1:3000/")][..],
            &[typed[0], typed[1], ("Referer", "https://evil.example/")],
            &[("Referer", "http://localhost:5173/")],
            &[("Referer", "about:client")],
            &[("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "webidentity")],
            &[("Sec-Fetch-Mode", "cors"), ("Sec-Fetch-Dest", "empty")],
            &[typed[0], ("Sec-Fetch-Dest", "iframe")],
        ] {
            assert!(matches!(get("/api/logs", foreign), Err(ApiError::OriginNotAllowed(_))), "{foreign:?}");
            assert!(get("/", foreign).is_ok(), "{foreign:?}");
            assert!(get("/api/logs", &[foreign, &[("AutoAppDev-Client", "x")]].concat()).is_ok(), "a preflight came before");
        }
    }

    #[test]
    fn allowed_origin_can_read_only_with_an_origin_field() {
        let host = ("Host", "127.0.0.1:8788");
        let get = |fields: &[(&str, &str)]| guard().check(&request("GET", &[&[host][..], fields].concat())).is_ok();
        let friend = ("Origin", "http://localhost:5173");
        assert!(get(&[friend]) && get(&[friend, ("Sec-Fetch-Site", "cross-site")]));
        // Requests for images and links have no Origin, so they could come from any page.
        assert!(!get(&[("Sec-Fetch-Site", "cross-site")]));
    }

    #[test]
    fn body_needs_json_content_type() {
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

    #[test]
    fn browser_that_posts_without_a_body_needs_a_preflight() {
        let own = [("Host", "localhost"), ("Origin", "http://localhost")];
        let post = |fields: &[(&str, &str)]| guard().check(&request("POST", &[&own, fields].concat()));
        for fields in [&[][..], &[("Content-Type", "text/plain")], &[("Authorization", "Basic Og==")]] {
            assert!(matches!(post(fields), Err(ApiError::NotMarkedAsJson)), "{fields:?}");
        }
        for field in [JSON, ("AutoAppDev-Client", "page"), ("Authorization", "Bearer x")] {
            assert!(post(&[field]).is_ok(), "{field:?}");
        }
        assert!(guard().check(&request("POST", &own[..1])).is_ok(), "a program");
    }

    /// Covers old browsers, and all browsers at a non-loopback address without TLS.
    #[test]
    fn browser_without_fetch_metadata_needs_own_referrer_or_field() {
        let agent = ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0");
        let ask = |method, path, more: &[(&str, &str)]| {
            guard().check(&of_path(method, path, &[&[("Host", "board.local:8788"), agent, JSON], more].concat()))
        };
        for (method, path) in [("GET", "/api/logs?grep=x&wait=60"), ("HEAD", "/api/runs/7/log"), ("POST", "/api/pipeline/stop")] {
            assert!(matches!(ask(method, path, &[]), Err(ApiError::PageUnknown)), "{path}");
            for referrer in ["http://board.local:3000/", "https://board.local:8788/", "http://board.local:8788.evil.example/"] {
                assert!(matches!(ask(method, path, &[("Referer", referrer)]), Err(ApiError::OriginNotAllowed(_))), "{referrer}");
            }
            for own in [
                ("Referer", "http://board.local:8788/"),
                ("Referer", "http://Board.local:8788/?a"),
                ("AutoAppDev-Client", "page"),
                ("Authorization", "Bearer x"),
            ] {
                assert!(ask(method, path, &[own]).is_ok(), "{own:?}");
            }
            // An allowed page's scripts send their Origin. An image request with this referrer could come from any page of the
            // same host.
            assert!(ask(method, path, &[("Referer", "http://localhost:5173/")]).is_err());
        }
        for path in ["/", "/static/app.js"] {
            assert!(ask("GET", path, &[]).is_ok() && ask("GET", path, &[("Referer", "http://evil.example/")]).is_ok(), "{path}");
        }
    }
}
