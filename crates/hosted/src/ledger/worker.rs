//! The thread that owns the file: it takes requests in order and answers each on its own channel.

use tokio::sync::{mpsc, oneshot};

use super::store::Store;
use super::{Clock, Conversation, LedgerError, Spent};
use crate::price::Cost;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

/// What the thread can be asked.
pub(super) enum Request {
    /// Record an open charge; the answer is its id.
    Reserve { caller: String, model: String, estimate: Cost, reply: Reply<i64> },
    /// Say whether there is room for a charge now.
    CheckRoom { caller: String, estimate: Cost, reply: Reply<()> },
    /// Know that nobody will settle a charge.
    Abandon { id: i64 },
    /// Replace a charge's estimate. Without `reply` nobody waits, and a failure is logged.
    Settle { id: i64, actual: Cost, reply: Option<Reply<()>> },
    /// Record that a conversation must not leave.
    Keep { conversation: Conversation, reply: Reply<()> },
    /// Ask whether a conversation must not leave.
    IsKept { conversation: Conversation, reply: Reply<bool> },
    /// Read the totals of now.
    Spent { caller: String, reply: Reply<Spent> },
}

/// Serves requests until nobody can send any more.
pub(super) fn run(mut store: Store, clock: &Clock, mut requests: mpsc::UnboundedReceiver<Request>) {
    while let Some(request) = requests.blocking_recv() {
        match request {
            Request::Reserve { caller, model, estimate, reply } => {
                let answer = store.reserve(clock(), &caller, &model, estimate);
                if let Err(Ok(id)) = reply.send(answer) {
                    // Nobody took the reservation, so nobody can spend on it.
                    log_failure(id, store.settle(id, Cost::ZERO));
                }
            }
            Request::CheckRoom { caller, estimate, reply } => {
                let _ = reply.send(store.check_room(clock(), &caller, estimate));
            }
            Request::Abandon { id } => store.abandon(id),
            Request::Settle { id, actual, reply } => {
                let answer = store.settle(id, actual);
                let unheard = match reply {
                    Some(reply) => reply.send(answer).err(),
                    None => Some(answer),
                };
                unheard.into_iter().for_each(|answer| log_failure(id, answer));
            }
            Request::Keep { conversation, reply } => {
                // Recorded is recorded, whether or not anybody still waits to hear it.
                let _ = reply.send(store.keep(clock(), &conversation));
            }
            Request::IsKept { conversation, reply } => {
                let _ = reply.send(store.is_kept(&conversation));
            }
            Request::Spent { caller, reply } => {
                // Somebody who does not wait for a number does not miss it.
                let _ = reply.send(store.spent(clock(), &caller));
            }
        }
    }
}

fn log_failure(id: i64, answer: Result<(), LedgerError>) {
    if let Err(error) = answer {
        tracing::warn!(charge = id, %error, "charge not settled, its estimate stays");
    }
}
