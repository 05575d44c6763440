//! The path of a request target.

use rouille::Request;

/// The path that is asked for, as it was sent: no path here needs an escape, and one that hides a slash is not what somebody in front of
/// us took it for.
pub(super) fn path_of(request: &Request) -> &str {
    let target = request.raw_url();
    target.split_once('?').map_or(target, |(path, _)| path)
}
