//! The page: files that are part of the binary, bundled and packed by build.rs (`bundle.rs`). Clients that do not accept gzip get
//! them unpacked.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use include_dir::{Dir, File, include_dir};
use rouille::{Request, Response};

use super::coding::takes_gzip;
use super::etag;

static FILES: Dir<'static> = include_dir!("$OUT_DIR/page");

/// A file in the two forms in which it is sent.
struct Sent {
    plain: Vec<u8>,
    /// The same file as gzip: a third of the bytes, for a phone with a bad connection.
    packed: &'static [u8],
}

/// The files by name, unpacked when the first one is requested.
static SENT: LazyLock<HashMap<&'static str, Sent>> = LazyLock::new(|| {
    let sent = |file: &'static File<'static>| {
        let mut plain = Vec::new();
        GzDecoder::new(file.contents()).read_to_end(&mut plain).expect("build.rs packed it");
        let name = file.path().to_str().and_then(|name| name.strip_suffix(".gz")).expect("build.rs named it");
        (name, Sent { plain, packed: file.contents() })
    };
    FILES.files().map(sent).collect()
});

/// The page may use only files served by this server, may not be framed, and may not submit forms. Text cannot become markup or a
/// script: no Trusted Types policy may be created, so the browser refuses each attempt.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                   base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                   require-trusted-types-for 'script'; trusted-types 'none'";

/// Returns a response with one of the page's files, or `None` if there is no such file.
pub(super) fn file(request: &Request, name: &str) -> Option<Response> {
    let sent = SENT.get(name)?;
    let is_packed = takes_gzip(request);
    let contents = if is_packed { sent.packed } else { sent.plain.as_slice() };
    let response = Response::from_data(content_type(name), contents)
        .with_additional_header("Vary", "Accept-Encoding")
        .with_unique_header("Content-Security-Policy", CSP)
        .with_unique_header("Cache-Control", caching(name))
        // The page's own requests carry a referrer, so that browsers without Fetch Metadata identify the page too. Other servers
        // do not receive it.
        .with_unique_header("Referrer-Policy", "same-origin");
    let response = if is_packed { response.with_unique_header("Content-Encoding", "gzip") } else { response };
    // The tag is that of the bytes that are sent, because the packed and the unpacked file are different bodies (RFC 9110,
    // section 8.8.3.3).
    Some(etag::with_tag(response, request, &tag(contents)))
}

/// Returns how long a browser may use a file without asking, as the value of `Cache-Control`.
fn caching(name: &str) -> &'static str {
    if name.starts_with("icon-") {
        // Without a connection, the page shows the icon for that, also in its tab, and cannot fetch it then.
        "max-age=604800"
    } else {
        // A browser revalidates the file each time, because the page and its script must match after an upgrade.
        "no-cache"
    }
}

/// Checks whether there is such a file.
pub(super) fn has_file(name: &str) -> bool {
    SENT.contains_key(name)
}

fn tag(contents: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The maximum sizes of the page, packed and unpacked, so that a phone with a bad connection gets it at once.
    const PACKED_BYTES_MAX: usize = 60_000;
    const PAGE_BYTES_MAX: usize = 180_000;

    #[test]
    fn page_is_small_and_has_no_inline_code() {
        let bytes: usize = SENT.values().map(|sent| sent.plain.len()).sum();
        assert!(bytes < PAGE_BYTES_MAX, "{bytes} bytes");
        let packed: usize = SENT.values().map(|sent| sent.packed.len()).sum();
        assert!(packed < PACKED_BYTES_MAX, "{packed} bytes packed");
        let html = String::from_utf8(SENT["index.html"].plain.clone()).expect("text");
        assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick="));
        for script in html.split("<script").skip(1) {
            assert!(script.contains("src="), "an inline script: the policy would block it");
        }
        for name in SENT.keys() {
            assert_ne!(content_type(name), "application/octet-stream", "{name} needs a content type");
        }
    }

    #[test]
    fn page_is_gzipped_only_for_clients_that_accept_it() {
        let get = |accepted: Option<&str>| {
            let headers = accepted.map(|value| ("accept-encoding".to_owned(), value.to_owned())).into_iter().collect();
            file(&Request::fake_http("GET", "/", headers, vec![]), "index.html").expect("there")
        };
        let plain = &SENT["index.html"].plain;
        for (accepted, is_packed) in [
            (Some("gzip, deflate, br"), true),
            (Some("br;q=1.0, GZIP;q=0.8"), true),
            (Some("gzip;q=0"), false),
            (Some("gzip; q=0.000"), false),
            (Some("gzip;Q=0"), false),
            (Some("deflate, xgzip"), false),
            (Some(""), false),
            (None, false),
        ] {
            let response = get(accepted);
            let header = |wanted| response.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.to_string());
            assert_eq!(header("Content-Encoding").as_deref(), is_packed.then_some("gzip"), "{accepted:?}");
            assert_eq!(header("Vary").as_deref(), Some("Accept-Encoding"), "{accepted:?}");
            let (mut body, mut text) = (Vec::new(), Vec::new());
            response.data.into_reader_and_size().0.read_to_end(&mut body).expect("reads");
            if is_packed {
                GzDecoder::new(body.as_slice()).read_to_end(&mut text).expect("gzip");
            } else {
                text = body;
            }
            assert_eq!(&text, plain, "{accepted:?}");
        }
        let tags =
            [get(None), get(Some("gzip"))].map(|response| response.headers.iter().find(|(name, _)| name == "ETag").cloned());
        assert_ne!(tags[0], tags[1], "two bodies, two tags");
    }

    #[test]
    fn unchanged_page_file_gets_304() {
        let get = |headers| Request::fake_http("GET", "/", headers, vec![]);
        let first = file(&get(vec![]), "index.html").expect("there");
        let etag = first.headers.iter().find(|(name, _)| name == "ETag").map(|(_, value)| value.to_string()).expect("has one");
        let second = file(&get(vec![("If-None-Match".to_owned(), etag)]), "index.html").expect("there");
        assert_eq!((first.status_code, second.status_code), (200, 304));
        assert!(file(&get(vec![]), "../Cargo.toml").is_none() && file(&get(vec![]), "nothing").is_none());
    }
}
