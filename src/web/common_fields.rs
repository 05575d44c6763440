//! The header fields of every response.

use rouille::Response;

/// The number of these fields.
pub(super) const COUNT: usize = 7;

/// The fields, which an endpoint can set to other values.
const FIELDS: [(&str, &str); COUNT] = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    // Pages of other origins cannot load the response as an image, a script or a frame.
    ("Cross-Origin-Resource-Policy", "same-origin"),
    // If a page of another site opens the response in a window, neither of the two gets a reference to the other.
    ("Cross-Origin-Opener-Policy", "same-origin"),
    // A response that is shown as a document must not load or run anything or be framed, and has an opaque origin, because a log
    // contains text written by a script.
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"),
    ("Cache-Control", "no-store"),
];

/// Adds the fields to a response, except those that it already has.
pub(super) fn add(response: &mut Response) {
    let headers = &mut response.headers;
    headers.reserve(COUNT);
    for (name, value) in FIELDS {
        if !headers.iter().any(|(there, _)| there.eq_ignore_ascii_case(name)) {
            headers.push((name.into(), value.into()));
        }
    }
}
