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
    // What another site's page opened as a window of its own is none of ours.
    ("Cross-Origin-Opener-Policy", "same-origin"),
    // What an answer is shown as, it may load and run nothing, is in no frame, and has no origin of its own: a log is a script's words.
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
