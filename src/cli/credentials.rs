//! The credentials that a request carries, and what the server must prove first.
//!
//! A token is sent to an address from the same source, or to a server that proves that it owns the runtime directory: by the
//! user of its Unix socket, or with the directory's session key. It is never sent to an address only because that address is
//! the default or is in a file of the project. A request that acts is sent only to a server that has given its proof, or whose
//! place the user named.

use std::path::Path;

use super::connection::Proof;
use super::places::Way;
use crate::config::{FoundToken, FoundTokens, Origin, Token};
use crate::runtime_dir::{By, ClientDir, Prover, Secret, SecretError, resolve};
use crate::user;

/// How to use a server that cannot be verified. Follows a reason and a semicolon.
pub(super) const NAME_IT: &str = "to use that server anyway, name it with --url and set the token in the environment";
/// The reason for [`SecretError::Foreign`]. Follows the name of a file.
const FOREIGN: &str = "was not made for this directory, which was copied or restored, or came with the folder";

/// The credentials for one place, and the proof that the server there must give.
#[derive(Debug)]
pub(super) struct Credentials {
    /// The id of the intended server.
    pub(super) id: Option<String>,
    pub(super) token: Option<Token>,
    pub(super) proof: Proof,
    /// True if the user named the place. Only then is a symbolic link there followed.
    pub(super) is_named: bool,
    /// Why an available token was not sent, if that is the case.
    pub(super) withheld: Option<String>,
    /// Why the server cannot be verified, as a clause that follows "because", if the user did not name its place either.
    ///
    /// The server can then be any process. It is sent no request that acts, because the body of such a request can contain
    /// secrets.
    pub(super) unverified: Option<String>,
}

impl Credentials {
    /// Returns the credentials for a request that reveals nothing.
    pub(super) fn none() -> Self {
        Self { id: None, token: None, proof: Proof::None, is_named: false, withheld: None, unverified: None }
    }

    /// Returns the credentials for a place that the user named. A token from the environment is sent there unconditionally. A
    /// token from `.env` is sent only if the server proves that it belongs to this folder.
    pub(super) fn for_named(tokens: &FoundTokens, way: &Way) -> Self {
        let named = Self { is_named: true, ..Self::none() };
        match tokens.token.as_ref().or(tokens.read_token.as_ref()) {
            None => named,
            Some(FoundToken { token, origin: Origin::Environment }) => Self { token: Some(token.clone()), ..named },
            Some(FoundToken { token, origin: Origin::Dotenv }) => {
                let runtime_dir = tokens.runtime_dir.as_deref().and_then(|dir| resolve(dir, By::Client).ok());
                if let Some(proof) = runtime_dir.as_deref().and_then(|dir| proof_of(dir, way)) {
                    return Self { token: Some(token.clone()), proof, ..named };
                }
                let why = why_unverified(runtime_dir.as_deref().map(|dir| (dir, dir)));
                Self::for_stranger(tokens, &format!("the server cannot be verified: {why}"))
            }
        }
    }

    /// Returns the credentials for a place that the user named, whose server has not proved that it belongs to this folder.
    pub(super) fn for_stranger(tokens: &FoundTokens, why: &str) -> Self {
        let of_environment =
            [&tokens.token, &tokens.read_token].into_iter().flatten().find(|found| found.origin == Origin::Environment);
        let advice = "to send it anyway, set it in the environment";
        Self {
            token: of_environment.map(|found| found.token.clone()),
            is_named: true,
            withheld: Some(format!("the token in .env was not sent, because {why}; {advice}")),
            ..Self::none()
        }
    }

    /// Returns the credentials for the server of a runtime directory, which must prove that it owns the directory.
    ///
    /// If this user cannot verify that, no token is sent. Returns `None` if root would send to an address and another user owns
    /// the directory, because that user could direct root's request anywhere.
    pub(super) fn for_own(tokens: &FoundTokens, dir: &ClientDir, way: &Way, id: Option<String>) -> Option<Self> {
        let own = Self { id, ..Self::none() };
        if !dir.is_own() {
            // Root contacts another user's server, which receives none of root's tokens.
            return matches!(way, Way::Socket(_)).then(|| Self { proof: Proof::User(vec![dir.owner()]), ..own });
        }
        if let Some(proof) = proof_of(dir.path(), way) {
            let (token, withheld) = most_powerful(tokens, dir);
            return Some(Self { token, proof, withheld, ..own });
        }
        let why = why_unverified(Some((dir.path(), dir.real())));
        let withheld = format!("no token was sent, because the server cannot be verified: {why}; {NAME_IT}");
        Some(Self { withheld: Some(withheld), unverified: Some(why), ..own })
    }
}

/// Returns how the server of a runtime directory can prove that it owns the directory, or `None` if this user cannot verify
/// that.
fn proof_of(runtime_dir: &Path, way: &Way) -> Option<Proof> {
    match way {
        Way::Socket(_) => Some(Proof::User(vec![user::own(), 0])),
        Way::Address(_) => Secret::SessionKey.find(runtime_dir).ok().flatten().map(|key| Proof::Key(Prover::new(&key))),
    }
}

/// Returns why [`proof_of`] found no proof for an address, as a clause that follows "because". The second path is the one that
/// users know.
fn why_unverified(runtime_dir: Option<(&Path, &Path)>) -> String {
    let Some((dir, shown)) = runtime_dir else { return "no runtime directory is known".to_owned() };
    let what = match Secret::SessionKey.find(dir) {
        Err(SecretError::Foreign { .. }) => FOREIGN,
        // The server's messages and `ls` show the details.
        Err(_) | Ok(_) => "cannot be read",
    };
    format!("{} {what}", Secret::SessionKey.path(shown).display())
}

/// Returns the most powerful token from the settings and the directory. Without one, returns the reason if the directory's tokens
/// were made for another directory.
fn most_powerful(tokens: &FoundTokens, dir: &ClientDir) -> (Option<Token>, Option<String>) {
    let mut foreign = None;
    // A file that is unusable for another reason is left to the server, which reports the file or requires no token.
    let mut kept = |secret: Secret| {
        secret.find(dir.path()).unwrap_or_else(|error| {
            if let SecretError::Foreign { .. } = error {
                let path = secret.path(dir.real());
                foreign.get_or_insert_with(|| format!("no token was sent, because {} {FOREIGN}; {NAME_IT}", path.display()));
            }
            None
        })
    };
    let set = |found: &Option<FoundToken>| found.as_ref().map(|found| found.token.clone());
    let found = set(&tokens.token)
        .or_else(|| kept(Secret::Token))
        .or_else(|| set(&tokens.read_token))
        .or_else(|| kept(Secret::ReadToken));
    (found, foreign)
}
