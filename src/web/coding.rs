//! Content codings (RFC 9110, sections 8.4 and 12.5.3): which responses are packed, and for which clients.
//!
//! Only endpoints whose responses contain no secret use this, because the length of a packed text reveals something about its
//! contents (`docs/security.md`).

use std::borrow::Cow;

use rouille::Request;

/// The length up to which a JSON response is not packed, in bytes. With its head, such a response fits into one packet either
/// way.
const PACKED_BYTES_MIN: usize = 1024;

/// The coding in which the body of a JSON response is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not packed for any client, because it is short.
    Only,
    /// Not packed, because the client does not accept gzip.
    Plain,
    /// Packed.
    Gzip,
}

impl Coding {
    /// Returns the coding of a response of this many bytes. The request is read only for a long response.
    pub(super) fn of(request: &Request, byte_count: usize) -> Self {
        if byte_count <= PACKED_BYTES_MIN {
            Self::Only
        } else if takes_gzip(request) {
            Self::Gzip
        } else {
            Self::Plain
        }
    }

    /// Returns the header field that says that other requests get a different body, if they do.
    pub(super) fn vary(self) -> Option<(Cow<'static, str>, Cow<'static, str>)> {
        (self != Self::Only).then_some(("Vary".into(), "Accept-Encoding".into()))
    }

    /// Returns the header field that says how to decode the body, if it is packed.
    pub(super) fn content_encoding(self) -> Option<(Cow<'static, str>, Cow<'static, str>)> {
        (self == Self::Gzip).then_some(("Content-Encoding".into(), "gzip".into()))
    }
}

/// Checks whether a client accepts gzip. A client that does not mention gzip gets the body without packing.
pub(super) fn takes_gzip(request: &Request) -> bool {
    request
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case("Accept-Encoding"))
        .flat_map(|(_, value)| value.split(','))
        .any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            // There is no parameter other than `q`.
            let weight = weight.split_once('=').and_then(|(_, weight)| weight.trim().parse::<f32>().ok());
            name.trim().eq_ignore_ascii_case("gzip") && weight != Some(0.0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_responses_are_gzipped_for_clients_that_accept_it() {
        let ask = |accepted: Option<&str>| {
            let headers = accepted.map(|value| ("accept-encoding".to_owned(), value.to_owned())).into_iter().collect();
            Request::fake_http("GET", "/", headers, vec![])
        };
        for (accepted, coding) in [
            (Some("gzip, deflate, br"), Coding::Gzip),
            (Some("br;q=1.0, GZIP;q=0.8"), Coding::Gzip),
            (Some("gzip;q=0"), Coding::Plain),
            (Some("gzip; q=0.000"), Coding::Plain),
            (Some("gzip;Q=0"), Coding::Plain),
            (Some("deflate, xgzip"), Coding::Plain),
            (Some("*"), Coding::Plain),
            (Some(""), Coding::Plain),
            (None, Coding::Plain),
        ] {
            assert_eq!(Coding::of(&ask(accepted), PACKED_BYTES_MIN + 1), coding, "{accepted:?}");
            assert_eq!(Coding::of(&ask(accepted), PACKED_BYTES_MIN), Coding::Only, "{accepted:?}");
        }
    }
}
