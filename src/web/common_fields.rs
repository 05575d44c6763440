//! The header fields that every answer carries.

use rouille::Response;

/// How many there are.
pub(super) const COUNT: usize = 5;

/// What every answer carries, where its endpoint has not said something else.
const FIELDS: [(&str, &str); COUNT] = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    // No page of another origin gets it as an image, a script or a frame.
    ("Cross-Origin-Resource-Policy", "same-origin"),
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
