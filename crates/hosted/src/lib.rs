//! The hosted leg: asks a model on somebody else's machines what the local one cannot answer.
//!
//! A request is translated field by field (`translate`), freed of what must not leave (`redact`) and written down, all
//! off the async threads (`prepare`); its worst case is set aside in the [`ledger`], and it is sent until its answer begins (`upstream`), in the protocol that the
//! model speaks (`wire`). What comes back are chat chunks. When the answer ends, the cost that upstream reported
//! replaces what was set aside. The crate decides nothing about whether a request may leave: that is the server's
//! part.

mod answer;
mod breaker;
mod calls;
mod config;
mod error;
mod hosted;
mod identity;
pub mod ledger;
mod outgoing;
mod prepare;
pub mod price;
mod redact;
mod translate;
mod upstream;
mod wire;

pub use answer::HostedAnswer;
pub use breaker::BreakerState;
pub use config::{BreakerConfig, ConfigError, HostedConfig, HostedModel, Secret, Timeouts, Wire};
pub use error::{Error, Result};
pub use hosted::{Extras, Foreseen, Hosted, Order, Quote, StartError};
pub use identity::conversation;
pub use ledger::{Budget, Conversation, LedgerError, Spent};
pub use price::{Cost, Price, PriceError};
pub use redact::PatternError;
pub use translate::unrendered_tokens;
