//! API keys: who may use `/v1`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;

use crate::error::{Error, Result};
use crate::state::AppState;

/// Lets a request pass if keys are off or it presents one of them.
pub(crate) async fn require_key(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Result<Response> {
    let presented = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    check(&state.config.api_keys, presented)?;
    Ok(next.run(request).await)
}

fn check(keys: &[String], authorization: Option<&[u8]>) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let authorization = authorization.ok_or(Error::MissingKey)?;
    let (scheme, key) = authorization.split_at_checked(7).ok_or(Error::WrongKey)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Error::MissingKey);
    }
    // Every key is compared to its end, so that the time taken says nothing about how close a guess was.
    let is_known = keys.iter().fold(false, |known, ours| known | equal(ours.as_bytes(), key));
    if is_known { Ok(()) } else { Err(Error::WrongKey) }
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
        let keys = ["alpha".to_owned(), "beta".to_owned()];
        let try_key = |value: &str| check(&keys, Some(value.as_bytes()));
        assert_eq!(try_key("Bearer beta"), Ok(()));
        assert_eq!(try_key("bearer alpha"), Ok(()));
        for wrong in ["Bearer alph", "Bearer alphaa", "Bearer ", "Bearer", "Bearer gamma"] {
            assert_eq!(try_key(wrong), Err(Error::WrongKey), "{wrong}");
        }
        assert_eq!(try_key("Basic alpha"), Err(Error::MissingKey));
        assert_eq!(check(&keys, None), Err(Error::MissingKey));
    }

    #[test]
    fn without_keys_everyone_passes() {
        assert_eq!(check(&[], None), Ok(()));
        assert_eq!(check(&[], Some(b"Bearer anything")), Ok(()));
    }
}
