//! Files in the root of a pipeline with any name and any mode.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;

use crate::support::Place;

/// Returns a name that is not UTF-8.
pub(super) fn odd(name: &str) -> OsString {
    OsString::from_vec([b"\xff\xfe ", name.as_bytes()].concat())
}

/// Creates a file of this mode in the root.
pub(super) fn file(place: &Place, name: impl AsRef<OsStr>, text: &[u8], mode: u32) {
    let path = place.root().join(name.as_ref());
    fs::write(&path, text).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
}
