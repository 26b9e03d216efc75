//! A request's rules as the engine follows them.
//!
//! Grammars take milliseconds to make, and hostile ones up to a second, so they are made on blocking threads, a few at a
//! time, and only for requests that are answered here.

use std::sync::Arc;

use harmonium_engine::{Constraint, TokenId, TokenMask};
use harmonium_harmony::{Grammars, Walk};

use crate::error::{Error, Result};
use crate::state::AppState;
use crate::validate::AnswerRules;

/// Makes the constraint of an answer that must follow `rules`.
///
/// # Errors
/// A field of the request states rules that cannot be enforced.
pub(crate) async fn constraint(
    state: &AppState,
    rules: AnswerRules,
) -> Result<Box<dyn Constraint>> {
    let grammars: Grammars = state.ready()?.grammars.clone();
    let permits = Arc::clone(&state.heavy_work);
    let permit = permits.acquire_owned().await.expect("the semaphore is never closed");
    let work = move || {
        // The work goes on if the client leaves, so the permit stays with it.
        let _permit = permit;
        grammars.compile(&rules.rules).map_err(|error| rules.refusal(&error))
    };
    let walk = tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "making a grammar panicked");
        Error::Internal
    })??;
    Ok(Box::new(InGrammar(walk)))
}

/// An answer on its way through its grammar.
#[derive(Debug, Clone)]
struct InGrammar(Walk);

impl Constraint for InGrammar {
    fn mask(&mut self) -> std::result::Result<Option<TokenMask>, String> {
        Ok(self.0.allowed()?.map(TokenMask::new))
    }

    fn advance(&mut self, token: TokenId) -> std::result::Result<(), String> {
        self.0.push(token)
    }

    fn boxed_clone(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}
