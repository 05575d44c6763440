//! The status page: files that are part of the binary.

use std::hash::{DefaultHasher, Hash, Hasher};

use include_dir::{Dir, File, include_dir};
use rouille::{Request, Response};

use super::etag;

static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/static");

/// Nothing but what this server itself serves as files, no frame around it, no form to elsewhere.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                   base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page itself.
pub(super) fn index(request: &Request) -> Option<Response> {
    file(request, "index.html")
}

/// One of its files.
pub(super) fn file(request: &Request, name: &str) -> Option<Response> {
    let file = FILES.get_file(name)?;
    let response = Response::from_data(content_type(name), file.contents())
        .with_unique_header("Content-Security-Policy", CSP)
        // A browser asks each time whether it still is so: after an upgrade the page and its script must fit together.
        .with_unique_header("Cache-Control", "no-cache")
        // What another site's page opened as a window of its own is none of ours.
        .with_unique_header("Cross-Origin-Opener-Policy", "same-origin");
    Some(etag::with_tag(response, request, &tag(file)))
}

/// Whether there is such a file.
pub(super) fn has_file(name: &str) -> bool {
    FILES.get_file(name).is_some()
}

fn tag(file: &File<'_>) -> String {
    let mut hasher = DefaultHasher::new();
    file.contents().hash(&mut hasher);
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

    /// A page that a phone on a bad line gets at once.
    const PAGE_BYTES_MAX: usize = 33_500;

    #[test]
    fn the_page_is_small_and_holds_nothing_inline() {
        let bytes: usize = FILES.files().map(|file| file.contents().len()).sum();
        assert!(bytes < PAGE_BYTES_MAX, "{bytes} bytes");
        let html = FILES.get_file("index.html").and_then(|file| file.contents_utf8()).expect("text");
        assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains(" onclick="));
        for script in html.split("<script").skip(1) {
            assert!(script.contains("src="), "an inline script: the policy would block it");
        }
        for name in FILES.files().map(|file| file.path().to_string_lossy().into_owned()) {
            assert_ne!(content_type(&name), "application/octet-stream", "{name} needs a content type");
        }
    }

    #[test]
    fn a_file_that_has_not_changed_is_not_sent_again() {
        let get = |headers| Request::fake_http("GET", "/", headers, vec![]);
        let first = index(&get(vec![])).expect("there");
        let etag = first.headers.iter().find(|(name, _)| name == "ETag").map(|(_, value)| value.to_string()).expect("has one");
        let second = index(&get(vec![("If-None-Match".to_owned(), etag)])).expect("there");
        assert_eq!((first.status_code, second.status_code), (200, 304));
        assert!(file(&get(vec![]), "../Cargo.toml").is_none() && file(&get(vec![]), "nothing").is_none());
    }
}
