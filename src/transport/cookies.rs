//! Removes other servers' cookies from a long request head while it arrives, so that they do not push it over the limit.
//!
//! Any server on another port of this host can set cookies that a browser then sends here, up to 180 of 4 KiB each. A head over
//! the limit is refused, so the owner could no longer open the page. Only the values of complete `Cookie` fields are shortened,
//! so lines and framing do not change.

/// Heads shorter than this many bytes are not changed. Nearly all heads are shorter.
pub(super) const THIN_FROM: usize = 8 * 1024;
/// How many bytes are kept of a cookie whose end has not arrived. Longer than any wanted cookie.
const UNFINISHED_BYTES: usize = 256;

/// Removes unwanted cookies from the head at the start of `bytes`, which may be incomplete.
pub(super) fn thin_out(bytes: &mut Vec<u8>, is_wanted: &dyn Fn(&[u8]) -> bool) {
    let mut thin = Vec::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    let mut is_first = true;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).map(|at| at + 1);
        let (line, behind) = rest.split_at(end.unwrap_or(rest.len()));
        if matches!(line, b"\r\n" | b"\n") {
            break;
        }
        // The request line cannot be a field.
        match value_of_cookies(line).filter(|_| !is_first) {
            Some((name, value, line_end)) => {
                thin.extend_from_slice(name);
                put_wanted(&mut thin, value, end.is_some(), is_wanted);
                thin.extend_from_slice(line_end);
            }
            None => thin.extend_from_slice(line),
        }
        (rest, is_first) = (behind, false);
    }
    thin.extend_from_slice(rest);
    *bytes = thin;
}

/// Splits a `Cookie` line into its field name with the colon, the cookies, and the line ending as far as it has arrived. Returns
/// `None` for another field and for an invalid value.
fn value_of_cookies(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    const NAME: &[u8] = b"cookie:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    let end = value.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
    let (value, line_end) = value.split_at(end);
    let is_text = value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    (name.eq_ignore_ascii_case(NAME) && is_text).then_some((name, value, line_end))
}

fn put_wanted(thin: &mut Vec<u8>, cookies: &[u8], is_whole: bool, is_wanted: &dyn Fn(&[u8]) -> bool) {
    let mut cookies = cookies.split(|&byte| byte == b';').peekable();
    let mut separator: &[u8] = b" ";
    while let Some(cookie) = cookies.next() {
        let is_unfinished = cookies.peek().is_none() && !is_whole;
        let kept = match cookie.trim_ascii_start() {
            unfinished if is_unfinished => &unfinished[..unfinished.len().min(UNFINISHED_BYTES)],
            whole if is_wanted(whole.trim_ascii_end()) => whole,
            _ => continue,
        };
        thin.extend_from_slice(separator);
        thin.extend_from_slice(kept);
        separator = b"; ";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ours(cookie: &[u8]) -> bool {
        cookie.starts_with(b"ours=") && cookie.len() < 40
    }

    fn thinned(head: &str) -> String {
        let mut bytes = head.as_bytes().to_vec();
        thin_out(&mut bytes, &is_ours);
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn foreign_cookies_are_removed_and_rest_of_head_is_kept() {
        let long = "x".repeat(5000);
        let head =
            |cookies: &str| format!("GET /cookie: HTTP/1.1\r\nHost: a\r\n{cookies}X: cookie: a=b; c=d\r\n\r\nCookie: body=1\r\n");
        for (cookies, left) in [
            ("Cookie: a=b\r\n".to_owned(), "Cookie:\r\n"),
            (format!("cookie: a={long}; ours=1; ours={long};ours=2 ; b\r\n"), "cookie: ours=1; ours=2 \r\n"),
            ("COOKIE:ours=1\n".to_owned(), "COOKIE: ours=1\n"),
            ("Cookies: a=b\r\n".to_owned(), "Cookies: a=b\r\n"),
            // A head that is refused anyway is not changed.
            ("Cookie: a=b\rc; d=e\r\n".to_owned(), "Cookie: a=b\rc; d=e\r\n"),
            ("Cookie: a=\0b\r\n".to_owned(), "Cookie: a=\0b\r\n"),
        ] {
            assert_eq!(thinned(&head(&cookies)), head(left), "{cookies:.60}");
        }
        for other in ["", "\r\n", "Cookie: a=b\r\nX: y\r\n\r\n", "GET / HTTP/1.1\r\n\r\nCookie: a=b\r\n", "GET / HTTP/1.1\r\nCoo"]
        {
            assert_eq!(thinned(other), other);
        }
    }

    #[test]
    fn cookies_are_removed_from_head_arriving_in_any_pieces() {
        let cookies = (0..60).map(|number| format!("c{number}={}", "x".repeat(number * 7))).collect::<Vec<_>>().join("; ");
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookies}; ours=1; {cookies}\r\nX: y\r\n\r\n");
        for piece in [1, 2, 3, 7, 64, 255, 256, 257, 1000] {
            let mut bytes = Vec::new();
            let mut longest = 0;
            for piece in head.as_bytes().chunks(piece) {
                bytes.extend_from_slice(piece);
                thin_out(&mut bytes, &is_ours);
                longest = longest.max(bytes.len());
            }
            assert_eq!(bytes, b"GET / HTTP/1.1\r\nHost: a\r\nCookie: ours=1\r\nX: y\r\n\r\n", "{piece}");
            assert!(longest < 2000, "{piece}: {longest}");
        }
    }
}
