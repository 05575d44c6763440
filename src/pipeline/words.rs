//! Closed sets of words, each with its texts in one place.

/// Declares a closed set of words: an enum, its texts in one place, and the conversion back from a text.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every word of the set, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the word as it is stored and sent.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.as_str()) }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::pipeline::words::UnknownText;
            fn from_str(text: &str) -> Result<Self, $crate::pipeline::words::UnknownText> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text)
                    .ok_or_else(|| $crate::pipeline::words::UnknownText { set: stringify!($name), text: text.to_owned() })
            }
        }
    };
}

pub(crate) use words;

/// An error for a stored or sent text that is not in the set: it was written by a newer version, or is damaged.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a {set} that this version knows; it was written by a newer version or is damaged")]
pub struct UnknownText {
    /// The set that was expected.
    pub set: &'static str,
    /// The text that was found.
    pub text: String,
}
