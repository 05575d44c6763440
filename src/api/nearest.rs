//! "Did you mean …?" for the keys of bodies and queries.

/// Returns a sentence about an unknown key, which names the nearest known key, or all known keys.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    match nearest(key, known) {
        Some(near) => format!("{key:?} is unknown; did you mean {near:?}?"),
        None if known.is_empty() => format!("{key:?} is unknown; nothing is expected here"),
        None => format!("{key:?} is unknown; expected {}", known.join(", ")),
    }
}

/// Returns the known name that is the fewest edits away; `None` if more than a third of its letters differ.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // The cost of a distance is the product of both lengths, and no known key is longer than this.
    const NAME_BYTES_MAX: usize = 64;
    let name = (name.len() <= NAME_BYTES_MAX).then(|| name.to_lowercase())?;
    let distances = known.iter().map(|known| (strsim::osa_distance(&name, known), *known));
    let (distance, near) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= near.len().div_ceil(3)).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_key_error_suggests_nearest_key_or_lists_all() {
        let known = ["script", "args", "cwd", "env", "grace_s"];
        for (key, near) in [("Script", "script"), ("scirpt", "script"), ("grace", "grace_s"), ("arg", "args"), ("cdw", "cwd")] {
            assert_eq!(unknown_key(key, &known), format!("{key:?} is unknown; did you mean {near:?}?"));
        }
        for key in ["", "pid", "unknown", &"script".repeat(1000)] {
            let sentence = unknown_key(key, &known);
            assert!(sentence.ends_with("is unknown; expected script, args, cwd, env, grace_s"), "{sentence}");
        }
        assert_eq!(unknown_key("x", &[]), "\"x\" is unknown; nothing is expected here");
    }
}
