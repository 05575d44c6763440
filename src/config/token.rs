//! A token: the word by which a client shows that it may look or act.
//!
//! Level 0, pure. Its text never gets into a message, a log or a `Debug` output by accident: whoever needs it says [`Token::expose`].

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// The fewest and the most characters.
const CHARS_MIN: usize = 16;
const CHARS_MAX: usize = 256;
/// The fewest different ones: sixteen times the same letter is long, and the first thing that is tried.
const DIFFERENT_MIN: usize = 6;

/// The characters of one that is made here: none is easily taken for another when it is typed from a screen.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// How many of them, and how many stand together: 120 bits.
const MADE_CHARS: usize = 24;
const GROUP: usize = 4;

/// Printable ASCII, long enough not to be guessed. Equality is for settings only: what a stranger sent is compared in constant time,
/// by `http`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// How many bytes of randomness [`Self::made_of`] takes.
    pub const RANDOM_BYTES: usize = MADE_CHARS;

    /// Takes a text that is fit to be one.
    ///
    /// # Errors
    /// What is wrong and what to do, to be read after the name of what holds it. The text is not in it.
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

    /// One made of random bytes, five bits of each.
    pub fn made_of(random: [u8; Self::RANDOM_BYTES]) -> Self {
        let letters = random.map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
        Self(letters.chunks(GROUP).map(String::from_iter).collect::<Vec<_>>().join("-"))
    }

    /// Its text: to be sent, shown to its owner, or made a key of.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The tokens that somebody set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Who has it may look and act.
    pub token: Option<Token>,
    /// Who has it may look.
    pub read_token: Option<Token>,
}

impl Tokens {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.token.is_some() || self.read_token.is_some()
    }
}

/// Where a client command found a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the user's environment.
    Environment,
    /// In the `.env` file of the working directory.
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
    fn a_token_is_long_printable_and_not_monotonous() {
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
    fn a_made_one_is_good_and_made_of_every_byte() {
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
    fn debug_does_not_tell_it() {
        let token = Token::new("a-secret-that-nobody-reads").expect("good");
        assert_eq!(format!("{token:?} {:?}", Some(&token)), "Token(…) Some(Token(…))");
    }
}
