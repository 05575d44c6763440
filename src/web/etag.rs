//! Responses that a client already has: entity tags and `If-None-Match` (RFC 9110, section 13.1.2).

use rouille::{Request, Response, ResponseBody};

/// The end of the tag of a packed body. The packed and the unpacked body are different, so they need different tags (RFC 9110,
/// section 8.8.3.3).
const OF_PACKED: &str = "-gzip\"";

/// Adds a tag, with its quotes, to a response. If the client already has the body with this tag, the response becomes a 304
/// without a body.
pub(super) fn with_tag(response: Response, request: &Request, tag: &str) -> Response {
    tagged(response, request, tag, tag.to_owned())
}

/// Like [`with_tag`], for a response that is sent packed. The client may already have the packed or the unpacked body.
pub(super) fn with_tag_of_packed(response: Response, request: &Request, tag: &str) -> Response {
    let sent = format!("{}{OF_PACKED}", tag.strip_suffix('"').unwrap_or(tag));
    tagged(response, request, tag, sent)
}

fn tagged(response: Response, request: &Request, tag: &str, sent: String) -> Response {
    let mut response = response.with_unique_header("ETag", sent);
    let is_there = matches!(request.method(), "GET" | "HEAD")
        && request.headers().any(|(name, value)| name.eq_ignore_ascii_case("If-None-Match") && names(value, tag));
    if is_there {
        response.status_code = 304;
        response.data = ResponseBody::empty();
    }
    response
}

/// Checks whether a field's value is `*`, or a list that contains the tag or the tag of the packed body. Tags are compared weakly
/// (RFC 9110, section 8.8.3.2). The search ends at the first text that is not a tag.
fn names(value: &str, tag: &str) -> bool {
    let mut rest = value.trim();
    if rest == "*" {
        return true;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let quoted = rest.strip_prefix("W/").unwrap_or(rest);
        // A tag may contain a comma.
        let Some(end) = quoted.strip_prefix('"').and_then(|inner| inner.find('"')) else { return false };
        let (found, after) = quoted.split_at(end + 2);
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let is_packed = || found.strip_suffix(OF_PACKED).is_some_and(|found| tag.strip_suffix('"') == Some(found));
        if found == tag || is_packed() {
            return true;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_none_match_accepts_lists_star_and_weak_tags() {
        for value in [
            "\"a\"",
            " \"a\" ",
            "*",
            "W/\"a\"",
            "\"x\", \"a\"",
            "\"x\",W/\"a\"",
            ",, \"a\"",
            "\"x,\", \"a\"",
            "W/\"x\" , \"a\",\"y\"",
            "\"a-gzip\"",
            "W/\"a-gzip\"",
        ] {
            assert!(names(value, "\"a\""), "{value}");
        }
        for value in [
            "",
            "a",
            "\"b\"",
            "\"a",
            "a\"",
            "w/\"a\"",
            "\"*\"",
            "\"x, \"a\"\"",
            "b, \"a\"",
            "\"A\"",
            "\"a \"",
            "*, \"b\"",
            "\"a-gzip-gzip\"",
            "\"-gzip\"",
        ] {
            assert!(!names(value, "\"a\""), "{value}");
        }
        assert!(names("\"a\"", "W/\"a\""), "compared weakly");
    }

    #[test]
    fn if_none_match_applies_to_reads_and_joins_fields() {
        let ask = |method: &str, lines: &[&str]| {
            let headers = lines.iter().map(|line| ("If-None-Match".to_owned(), (*line).to_owned())).collect();
            let request = Request::fake_http(method, "/", headers, vec![]);
            with_tag(Response::text("body"), &request, "\"a\"").status_code
        };
        assert_eq!(ask("GET", &[]), 200);
        assert_eq!(ask("GET", &["\"x\"", "\"a\""]), 304);
        assert_eq!(ask("HEAD", &["\"a\""]), 304);
        assert_eq!(ask("POST", &["\"a\""]), 200);
    }
}
