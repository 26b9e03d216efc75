//! Run: the two calls of the executor that make a step, with everything that can go wrong in them
//! turned into an error value.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::executor::{Batch, Executor, ExecutorError, Sampled};

/// Starts a step. A panic is [`ExecutorError::Fatal`]: nothing is known about the executor's state
/// after it.
pub(crate) fn submit(executor: &mut dyn Executor, batch: &Batch) -> Result<(), ExecutorError> {
    guarded(|| executor.submit(batch))
}

/// Waits for the step of `batch`. A panic and an answer that does not fit the batch are both
/// [`ExecutorError::Fatal`].
pub(crate) fn collect(
    executor: &mut dyn Executor,
    batch: &Batch,
) -> Result<Vec<Sampled>, ExecutorError> {
    let sampled = guarded(|| executor.collect())?;
    if sampled.len() != batch.samples.len() {
        let (wanted, got) = (batch.samples.len(), sampled.len());
        return Err(ExecutorError::Fatal(format!("{got} tokens for {wanted} sampled rows")));
    }
    let vocab_size = executor.spec().vocab_size;
    if let Some(Sampled { token, .. }) = sampled.iter().find(|sampled| sampled.token >= vocab_size)
    {
        let message = format!("token {token} is outside of the vocabulary of {vocab_size}");
        return Err(ExecutorError::Fatal(message));
    }
    Ok(sampled)
}

fn guarded<T>(call: impl FnOnce() -> Result<T, ExecutorError>) -> Result<T, ExecutorError> {
    // Unwind safety: after a panic the executor is never called again.
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(ExecutorError::Fatal(panic_message(&*panic))))
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::ExecutorSpec;
    use crate::testing::small_spec;

    /// Returns the same tokens for every batch.
    struct Constant(ExecutorSpec, Vec<u32>);

    impl Executor for Constant {
        fn spec(&self) -> &ExecutorSpec {
            &self.0
        }

        fn submit(&mut self, _: &Batch) -> Result<(), ExecutorError> {
            Ok(())
        }

        fn collect(&mut self) -> Result<Vec<Sampled>, ExecutorError> {
            Ok(self.1.iter().map(|&token| Sampled { token, logprobs: None }).collect())
        }
    }

    fn check_fatal(tokens: Vec<u32>, expected: &str) {
        match collect(&mut Constant(small_spec(), tokens), &Batch::default()) {
            Err(ExecutorError::Fatal(message)) => assert_eq!(message, expected),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_the_batch_is_fatal() {
        check_fatal(vec![1, 2], "2 tokens for 0 sampled rows");
        assert!(collect(&mut Constant(small_spec(), vec![]), &Batch::default()).is_ok());
    }
}
