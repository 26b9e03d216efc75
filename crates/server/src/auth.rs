//! API keys: who may use `/v1`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;

use crate::config::{ApiKey, ServerConfig};
use crate::error::{Error, Result};
use crate::state::AppState;

/// Who asks, as far as the key tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Which of the configured keys; `None` where keys are off.
    pub(crate) key_index: Option<usize>,
}

impl Caller {
    /// The key itself.
    pub(crate) fn key(self, config: &ServerConfig) -> Option<&str> {
        let key = config.api_keys.get(self.key_index?)?;
        Some(&key.key)
    }
}

/// Lets a request pass if keys are off or it presents one of them, and notes whose it is.
pub(crate) async fn require_key(
    State(state): State<Arc<AppState>>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let presented = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    let caller = check(&state.config.api_keys, presented)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn check(keys: &[ApiKey], authorization: Option<&[u8]>) -> Result<Caller> {
    if keys.is_empty() {
        return Ok(Caller { key_index: None });
    }
    let authorization = authorization.ok_or(Error::MissingKey)?;
    let (scheme, key) = authorization.split_at_checked(7).ok_or(Error::WrongKey)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Error::MissingKey);
    }
    // Every key is compared to its end, so that the time taken says nothing about how close a guess was.
    let key_index = keys.iter().enumerate().fold(None, |found, (index, ours)| {
        if equal(ours.key.as_bytes(), key) { Some(index) } else { found }
    });
    if key_index.is_some() { Ok(Caller { key_index }) } else { Err(Error::WrongKey) }
}

/// Compares without an early exit; only the length shows.
fn equal(ours: &[u8], theirs: &[u8]) -> bool {
    let differences =
        ours.iter().zip(theirs).fold(0, |bits, (a, b)| std::hint::black_box(bits | (a ^ b)));
    differences == 0 && ours.len() == theirs.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_key_passes() {
        let keys = ["alpha", "beta"].map(|key| ApiKey { key: key.to_owned(), may_host: false });
        let caller = |index| Ok(Caller { key_index: Some(index) });
        let try_key = |value: &str| check(&keys, Some(value.as_bytes()));
        assert_eq!(try_key("Bearer beta"), caller(1));
        assert_eq!(try_key("bearer alpha"), caller(0));
        for wrong in ["Bearer alph", "Bearer alphaa", "Bearer ", "Bearer", "Bearer gamma"] {
            assert_eq!(try_key(wrong), Err(Error::WrongKey), "{wrong}");
        }
        assert_eq!(try_key("Basic alpha"), Err(Error::MissingKey));
        assert_eq!(check(&keys, None), Err(Error::MissingKey));
    }

    #[test]
    fn without_keys_everyone_passes() {
        let nobody = Ok(Caller { key_index: None });
        assert_eq!(check(&[], None), nobody);
        assert_eq!(check(&[], Some(b"Bearer anything")), nobody);
    }
}
