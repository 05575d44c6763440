//! `Idempotency-Key`: reading it, and waiting while the first request with a key is being served.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

use rouille::Request;

use super::error::ApiError;
use crate::api::pipeline::{IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_CHARS_MAX};
use crate::lock::lock;
use crate::store::RequestKey;
use crate::supervisor::ActionError;

/// The maximum number of repeats that wait. Each of them holds a connection.
const WAITING_MAX: usize = 16;

/// Returns the key of a request, if it has one.
pub(super) fn key_of(request: &Request) -> Result<Option<String>, ApiError> {
    let mut keys = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case(IDEMPOTENCY_KEY)).map(|(_, key)| key);
    let Some(key) = keys.next() else { return Ok(None) };
    let is_good = (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_good || keys.next().is_some() {
        return Err(ApiError::BadIdempotencyKey);
    }
    Ok(Some(key.to_owned()))
}

/// The keys of the requests that are being served.
#[derive(Default)]
pub struct KeysInUse {
    keys: Mutex<Keys>,
    freed: Condvar,
}

#[derive(Default)]
struct Keys {
    /// The keys, each with the digest of its request.
    in_use: BTreeMap<String, String>,
    waiting: usize,
}

/// A key that is in use until this is dropped.
pub(super) struct InUse<'k> {
    keys: &'k KeysInUse,
    key: String,
}

impl KeysInUse {
    /// Waits until no other request with this key is being served, and marks the key as in use. The supervisor limits how long
    /// such a request takes. A key that is in use for a different request is refused at once.
    pub(super) fn enter(&self, RequestKey { key, request }: &RequestKey) -> Result<InUse<'_>, ApiError> {
        let mut keys = lock(&self.keys);
        if let Some(first) = keys.in_use.get(key) {
            if first != request {
                return Err(ActionError::KeyReused.into());
            }
            if keys.waiting >= WAITING_MAX {
                return Err(ApiError::IdempotencyKeyInUse);
            }
            keys.waiting += 1;
            let is_in_use = |keys: &mut Keys| keys.in_use.contains_key(key);
            keys = self.freed.wait_while(keys, is_in_use).unwrap_or_else(PoisonError::into_inner);
            keys.waiting -= 1;
        }
        keys.in_use.insert(key.clone(), request.clone());
        Ok(InUse { keys: self, key: key.clone() })
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        lock(&self.keys.keys).in_use.remove(&self.key);
        self.keys.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn key(name: &str) -> RequestKey {
        RequestKey { key: name.to_owned(), request: "0".repeat(64) }
    }

    fn key_in(fields: &[&str]) -> Result<Option<String>, ApiError> {
        let fields = fields.iter().map(|key| ("idempotency-KEY".to_owned(), (*key).to_owned())).collect();
        key_of(&Request::fake_http("POST", "/api/pipeline/start", fields, vec![]))
    }

    #[test]
    fn idempotency_key_has_up_to_64_visible_characters() {
        assert_eq!(key_in(&[]).expect("none"), None);
        for good in ["a", "c0ffee00-0000-4000-8000-000000000000", "~!\"", &"x".repeat(64)] {
            assert_eq!(key_in(&[good]).expect("good").as_deref(), Some(good));
        }
        for bad in [&[""][..], &["a b"], &["a\tb"], &["é"], &["a\u{7f}"], &["x".repeat(65).as_str()], &["a", "a"], &["a", ""]] {
            assert!(matches!(key_in(bad), Err(ApiError::BadIdempotencyKey)), "{bad:?}");
        }
    }

    #[test]
    fn repetitions_wait_for_the_first_up_to_a_limit() {
        let keys = Arc::new(KeysInUse::default());
        let first = keys.enter(&key("a")).expect("free");
        let _other = keys.enter(&key("b")).expect("another key is no repeat");
        let (done, ends) = mpsc::channel();
        for _ in 0..WAITING_MAX {
            let (keys, done) = (keys.clone(), done.clone());
            thread::spawn(move || {
                let entered = keys.enter(&key("a")).map(drop).is_ok();
                done.send(entered).expect("the test goes on");
            });
        }
        let deadline = Instant::now() + DEADLINE;
        while lock(&keys.keys).waiting < WAITING_MAX {
            assert!(Instant::now() < deadline, "they wait");
            thread::yield_now();
        }
        assert!(matches!(keys.enter(&key("a")).map(drop), Err(ApiError::IdempotencyKeyInUse)));
        let other = RequestKey { request: "1".repeat(64), ..key("a") };
        assert!(
            matches!(keys.enter(&other).map(drop), Err(ApiError::Action(ActionError::KeyReused))),
            "it waits for no end of another request"
        );
        assert!(ends.try_recv().is_err(), "the first is being served");
        drop(first);
        for _ in 0..WAITING_MAX {
            assert!(ends.recv_timeout(DEADLINE).expect("it is freed"));
        }
    }
}
