//! A token, with which a client proves that it is an operator or a viewer.
//!
//! Level 0, pure. The text of a token never gets into a message, a log or a `Debug` output by accident: it can be read only
//! through [`Token::expose`].

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// The minimum and the maximum number of characters.
const CHARS_MIN: usize = 16;
const CHARS_MAX: usize = 256;
/// The minimum number of different characters. Sixteen times the same letter is long, but is among the first guesses.
const DIFFERENT_MIN: usize = 6;

/// The characters of a generated token. None is easily confused with another when it is typed from a screen.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// The number of characters in a generated token, and in each of its groups. The characters have 120 bits in all.
const MADE_CHARS: usize = 24;
const GROUP: usize = 4;

/// A text of printable ASCII that is long enough not to be guessed.
///
/// Equality is for settings only. `web` compares the tokens that clients send in constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The number of random bytes that [`Self::made_of`] takes.
    pub const RANDOM_BYTES: usize = MADE_CHARS;

    /// Creates a token from a text that is fit to be one.
    ///
    /// # Errors
    /// Describes the error and what to do, as a text that follows the name of the token's source. It does not contain the token.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a blank or a character that is not printable ASCII: a token consists of letters, digits and \
                punctuation");
        }
        if text.len() < CHARS_MIN {
            return Err("is too short to be safe: a token has at least 16 characters; `openssl rand -hex 16` makes a good one");
        }
        if text.len() > CHARS_MAX {
            return Err("is too long: a token has at most 256 characters");
        }
        if text.bytes().collect::<BTreeSet<u8>>().len() < DIFFERENT_MIN {
            return Err("is too easy to guess: `openssl rand -hex 16` makes a good token");
        }
        Ok(Self(text.to_owned()))
    }

    /// Generates a token from random bytes, using five bits of each.
    pub fn made_of(random: [u8; Self::RANDOM_BYTES]) -> Self {
        let letters = random.map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        Self(letters.chunks(GROUP).map(String::from_iter).collect::<Vec<_>>().join("-"))
    }

    /// Returns the text, to be sent, shown to its owner, or used to derive a key.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The tokens that the settings contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// The operators' token, which allows actions.
    pub token: Option<Token>,
    /// The viewers' token, which allows reading only.
    pub read_token: Option<Token>,
}

impl Tokens {
    /// Checks whether a token is set.
    pub fn is_set(&self) -> bool {
        self.token.is_some() || self.read_token.is_some()
    }
}

/// The place where a client command found a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The user's environment.
    Environment,
    /// The `.env` file of the working directory.
    Dotenv,
}

/// A token that a client command can send, with its source, which decides which servers may receive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundToken {
    /// The token.
    pub token: Token,
    /// Its source.
    pub origin: Origin,
}

/// The tokens available to a client command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundTokens {
    /// The operators' token.
    pub token: Option<FoundToken>,
    /// The viewers' token.
    pub read_token: Option<FoundToken>,
    /// The runtime directory of the folder. A server that proves that it owns this directory may receive all of these tokens.
    pub runtime_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_must_be_long_printable_and_varied() {
        for good in ["0123456789abcdef", "aB3$-_.~+/=:,;!?", &"0123456789abcdef".repeat(16)] {
            assert_eq!(Token::new(good).expect(good).expose(), good);
        }
        for (bad, why) in [
            ("", "is too short"),
            ("0123456789abcde", "is too short"),
            ("0123456789 abcdef", "has a blank"),
            ("0123456789abcdef\n", "has a blank"),
            ("0123456789abcdeß", "has a blank"),
            ("aaaaaaaaaaaaaaaaaaaa", "is too easy"),
            ("abcabcabcabcabcabcab", "is too easy"),
        ] {
            let problem = Token::new(bad).expect_err(bad);
            assert!(problem.starts_with(why), "{bad}: {problem}");
        }
        assert!(Token::new(&"0123456789abcdef!".repeat(16)).is_err());
    }

    #[test]
    fn generated_token_is_valid_and_uses_every_random_byte() {
        let of = |random: [u8; Token::RANDOM_BYTES]| Token::made_of(random);
        let counted = of(std::array::from_fn(|at| u8::try_from(at).expect("small")));
        assert_eq!(counted.expose(), "abcd-efgh-ijkm-npqr-stuv-wxyz");
        assert!(Token::new(counted.expose()).is_ok());
        for at in 0..Token::RANDOM_BYTES {
            let mut random = [0; Token::RANDOM_BYTES];
            random[at] = 255;
            assert_ne!(of(random), of([0; Token::RANDOM_BYTES]), "byte {at} counts");
        }
    }

    #[test]
    fn token_debug_output_is_redacted() {
        let token = Token::new("a-secret-that-nobody-reads").expect("good");
        assert_eq!(format!("{token:?} {:?}", Some(&token)), "Token(…) Some(Token(…))");
    }
}
