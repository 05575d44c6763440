//! The evidence in a request about the browser and the page that sent it.
//!
//! Current browsers mark every request with `Origin` or `Sec-Fetch-Site`. Two kinds of GET have neither: those of older browsers
//! (Chrome before 76, Firefox before 90, Safari before 16.4), and those of any browser to a non-loopback address without TLS, for
//! which it sends no Fetch Metadata. They count as coming from this server's page only if they carry a field that a page of
//! another origin cannot send.

use rouille::Request;

/// The header field that the page's own scripts send, with any value. A page of another origin would need a preflight to send it,
/// which is refused.
pub(super) const CLIENT: &str = "AutoAppDev-Client";

/// The header fields that a browser sends only for a page of this origin, or after a preflight (Fetch, section 4.10).
const OF_OWN_SCRIPTS: [&str; 2] = [CLIENT, "AutoAppDev-Server"];

/// Returns the relation of the page's site to this server: `same-origin`, `same-site`, `cross-site`, or `none` if the user made
/// the request (Fetch Metadata).
pub(super) fn site(request: &Request) -> Option<&str> {
    request.header("Sec-Fetch-Site")
}

/// The header fields with which browsers mark a request that they send in advance: current ones, older ones, Safari and Firefox.
const OF_PREFETCHES: [&str; 4] = ["Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"];

/// Checks whether a browser sends this request in advance, for its user or for any page (Nav Speculation, section "The
/// `Sec-Purpose` HTTP request header"). The value does not matter, so that future kinds of prefetch are recognised too.
pub(super) fn is_prefetch(request: &Request) -> bool {
    OF_PREFETCHES.iter().any(|name| request.header(name).is_some())
}

/// Checks that the fields do not contradict that a user opened this address: it is loaded into a window, and no page of another
/// origin is named.
pub(super) fn may_be_users_navigation(request: &Request) -> bool {
    let is_unless_other = |name, value| request.header(name).is_none_or(|it| it == value);
    is_unless_other("Sec-Fetch-Mode", "navigate")
        && is_unless_other("Sec-Fetch-Dest", "document")
        && (request.header("Referer").is_none() || referring_origin(request).is_some_and(|origin| is_own_origin(request, origin)))
}

/// Checks whether a browser may have sent this. Every browser has Mozilla in its `User-Agent`, names its languages, or sends
/// fields that no page can set (`Sec-…`). A page of another origin cannot suppress all of these.
pub(super) fn may_be_browser(request: &Request) -> bool {
    request.headers().any(|(name, value)| {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let is_secure = name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("Sec-"));
        let is_named = is("User-Agent") && ["Mozilla/", "Opera/"].iter().any(|browser| value.contains(browser));
        is_secure || is_named || is("Origin") || is("Referer") || is("Accept-Language")
    })
}

/// Checks whether the request carries a field that no page of another origin can send. `Authorization` counts only with the
/// scheme `Bearer`, which a script must have set: credentials of the scheme `Basic`, which a proxy may ask for, are added by the
/// browser to the requests of every page.
pub(super) fn is_of_own_scripts(request: &Request) -> bool {
    let has_token = || {
        request
            .header("Authorization")
            .and_then(|it| it.trim_start().get(..7))
            .is_some_and(|it| it.eq_ignore_ascii_case("Bearer "))
    };
    OF_OWN_SCRIPTS.iter().any(|name| request.header(name).is_some()) || has_token()
}

/// Returns the origin of the page named in `Referer`.
pub(super) fn referring_origin(request: &Request) -> Option<&str> {
    let referrer = request.header("Referer")?;
    let authority_at = referrer.find("://")? + 3;
    let end = referrer[authority_at..].find(['/', '?', '#']).map_or(referrer.len(), |at| authority_at + at);
    Some(&referrer[..end])
}

/// Checks whether the origin is this server's, under the name in the request's `Host`, which
/// [`Guard::check`](super::Guard::check) has already checked.
pub(super) fn is_own_origin(request: &Request, origin: &str) -> bool {
    let own = request.header("Host").map(|host| format!("http://{host}"));
    own.is_some_and(|own| own.eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request::fake_http("GET", "/api/pipeline", fields, vec![])
    }

    #[test]
    fn browsers_are_distinguished_from_programs() {
        for field in [
            ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0"),
            ("user-agent", "Opera/9.80 (Windows NT 6.1) Presto/2.12.388 Version/12.16"),
            ("Accept-Language", "de"),
            ("Referer", ""),
            ("Origin", "null"),
            ("sec-fetch-mode", "no-cors"),
            ("Sec-CH-UA", "\"Chromium\";v=\"80\""),
        ] {
            assert!(may_be_browser(&request(&[field])), "{field:?}");
        }
        for fields in [&[][..], &[("User-Agent", "curl/8.5.0"), ("Accept", "*/*"), ("Cookie", "a=b"), ("Se", "")]] {
            assert!(!may_be_browser(&request(fields)), "{fields:?}");
        }
    }

    #[test]
    fn own_scripts_are_recognized_by_preflighted_fields() {
        for field in [("autoappdev-client", ""), ("AutoAppDev-Server", "x"), ("Authorization", "bearer x")] {
            assert!(is_of_own_scripts(&request(&[field])), "{field:?}");
        }
        for field in [("Authorization", "Basic Og=="), ("Authorization", "Bearer"), ("Cookie", "a=b"), ("Accept", "*/*")] {
            assert!(!is_of_own_scripts(&request(&[field])), "{field:?}");
        }
    }

    #[test]
    fn referrer_is_reduced_to_its_origin() {
        for (referrer, origin) in [
            ("http://localhost:8788/", Some("http://localhost:8788")),
            ("http://localhost:8788", Some("http://localhost:8788")),
            ("http://localhost:8788?a=http://b/", Some("http://localhost:8788")),
            ("http://localhost:8788@evil.example/", Some("http://localhost:8788@evil.example")),
            ("about:blank", None),
            ("", None),
        ] {
            assert_eq!(referring_origin(&request(&[("Referer", referrer)])), origin, "{referrer}");
        }
    }
}
