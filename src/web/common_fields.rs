//! The header fields that every answer carries.

use rouille::Response;

/// How many there are.
pub(super) const COUNT: usize = 7;

/// What every answer carries, where its endpoint has not said something else.
const FIELDS: [(&str, &str); COUNT] = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    // No page of another origin gets it as an image, a script or a frame.
    ("Cross-Origin-Resource-Policy", "same-origin"),
    // A window that a page of another site opens gets no reference to that page, nor that page to it.
    ("Cross-Origin-Opener-Policy", "same-origin"),
    // If an answer is shown as a document, it may not load or run anything or be framed, and it has an opaque origin: a log
    // contains text written by a script.
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"),
    ("Cache-Control", "no-store"),
];

/// Adds them to an answer.
pub(super) fn add(response: &mut Response) {
    let headers = &mut response.headers;
    headers.reserve(COUNT);
    for (name, value) in FIELDS {
        if !headers.iter().any(|(there, _)| there.eq_ignore_ascii_case(name)) {
            headers.push((name.into(), value.into()));
        }
    }
}
