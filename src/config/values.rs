//! Parsers of single values, and the error texts for wrong ones, which follow `NAME=value`.
//!
//! Level 0, pure.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The longest time from TERM to KILL, in seconds.
pub const GRACE_S_MAX: f64 = GRACE_MAX as f64;
pub(super) const GRACE_MAX: u16 = 3600;

/// What happens to the run when the server is asked to exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTerm {
    /// The run keeps running, unless the end of the server would kill it.
    Auto,
    /// The run keeps running.
    Leave,
    /// The run is stopped first.
    Stop,
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    digits(text).ok_or_else(|| "is not a port: a number from 0 to 65535".to_owned())
}

/// Parses an address to listen on.
pub(super) fn host(text: &str) -> Result<IpAddr, String> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| {
        "is not an address: a number such as 127.0.0.1, ::1 or 0.0.0.0 (every address of this machine), or localhost".to_owned()
    })
}

/// Parses the seconds from TERM to KILL: 0 to 3600, fractions allowed. The setting and the command line share this form.
///
/// # Errors
/// Says what is expected, as a text that follows the value.
pub fn grace_from_text(text: &str) -> Result<Duration, String> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.parse()
        .ok()
        .filter(|seconds| plain && (0.0..=GRACE_S_MAX).contains(seconds))
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("is not a grace period: give seconds from 0 to {GRACE_S_MAX}, fractions allowed"))
}

pub(super) fn on_term(text: &str) -> Result<OnTerm, String> {
    match text {
        "leave" => Ok(OnTerm::Leave),
        "stop" => Ok(OnTerm::Stop),
        _ => {
            Err("is neither leave (the run keeps running when the server exits) nor stop (the server stops the run first)"
                .to_owned())
        }
    }
}

pub(super) fn uses_cgroups(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "tree" => Ok(false),
        _ => Err("is not a containment mode: use auto (a control group if one can be created) or tree (no control \
            group)"
            .to_owned()),
    }
}

pub(super) fn keeps_env_values(text: &str) -> Result<bool, String> {
    match text {
        "names" => Ok(false),
        "values" => Ok(true),
        _ => Err("is neither names (only the names of a start's variables are kept) nor values (their values too)".to_owned()),
    }
}

/// The description of a size, for [`number`].
pub(super) const MEGABYTES: &str = "a size: a whole number of MiB";

pub(super) fn number(text: &str, (min, max): (u64, u64), what: &str) -> Result<u64, String> {
    digits(text).filter(|number: &u64| (min..=max).contains(number)).ok_or_else(|| format!("is not {what} from {min} to {max}"))
}

/// Parses an origin, and returns it in the form in which a browser sends it.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let expected = || "is not an origin: scheme://host[:port] without a path".to_owned();
    if text.contains('*') {
        return Err("would let any page of the web control the pipeline: name each origin, scheme://host[:port]".to_owned());
    }
    let scheme = scheme(text).ok_or_else(expected)?.to_ascii_lowercase();
    let authority = text[scheme.len()..].strip_prefix("://").ok_or_else(expected)?;
    let (host, port) = host_and_port(authority).ok_or_else(expected)?;
    // A browser leaves the default port of the scheme out of the origin that it sends (RFC 6454, section 6.2).
    let port = port.filter(|&port| !matches!((scheme.as_str(), port), ("http", 80) | ("https", 443)));
    Ok(join_origin(&scheme, &host, port))
}

/// Parses a name by which a client may call the server.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    if text.contains('*') {
        return Err("would accept every host name, also that of a foreign page: name each host".to_owned());
    }
    match host_and_port(text) {
        Some((host, None)) => Ok(host),
        Some((_, Some(_))) | None => Err("is not a host: a name or an address, without scheme and port".to_owned()),
    }
}

/// Parses a server's address as a client command receives it: `http://HOST[:PORT]`. The result has no slash at its end.
///
/// # Errors
/// Says what is expected, as a text that follows the value.
pub fn server_url(text: &str) -> Result<String, String> {
    let expected = || "is not a server's address: http://HOST[:PORT] without a path".to_owned();
    if scheme(text).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")) {
        return Err("asks for TLS, which this client does not support: http://HOST[:PORT] is expected".to_owned());
    }
    let scheme = scheme(text).filter(|scheme| scheme.eq_ignore_ascii_case("http")).ok_or_else(expected)?;
    let authority = text[scheme.len()..].strip_prefix("://").ok_or_else(expected)?;
    let (host, port) = host_and_port(authority.strip_suffix('/').unwrap_or(authority)).ok_or_else(expected)?;
    Ok(join_origin("http", &host, port))
}

/// Returns the path of an `sqlite:` URL, given the text after the scheme: `path`, `//path`, or `///absolute/path`.
pub(super) fn sqlite_path(rest: &OsStr) -> Result<PathBuf, String> {
    let bytes = rest.as_bytes();
    let path = bytes.strip_prefix(b"//").unwrap_or(bytes);
    if path.is_empty() {
        Err("names no file: sqlite:<path> is expected".to_owned())
    } else if path == b":memory:" {
        Err("would lose everything when the server exits: name a file, sqlite:<path>".to_owned())
    } else if path.contains(&b'?') {
        Err("has options after a question mark, which are not supported: sqlite:<path> is expected".to_owned())
    } else if path.contains(&0) {
        Err("contains a NUL".to_owned())
    } else {
        Ok(PathBuf::from(OsStr::from_bytes(path)))
    }
}

/// Returns the scheme before a URL's first colon (RFC 3986, section 3.1), if there is one.
pub(super) fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    fits.then_some(scheme)
}

/// Parses `host[:port]`. The host is returned in lower case, and an IPv6 address in brackets. Returns `None` for any other
/// text.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
        (format!("[{address}]"), port)
    } else {
        let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
        (is_name.then(|| name.to_ascii_lowercase())?, port)
    };
    let port = match port {
        None => None,
        Some(port) => Some(digits(port).filter(|&port| port > 0)?),
    };
    Some((host, port))
}

fn join_origin(scheme: &str, host: &str, port: Option<u16>) -> String {
    match port {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    }
}

/// Parses a number that consists of digits only, without a sign or blanks.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
