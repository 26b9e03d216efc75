//! One request to one model: the answer as it streams in, and when its parts came.

use std::time::{Duration, Instant};

use harmonium_openai::chat::{ResponseMessage, StreamOptions};
use harmonium_openai::{ChatChunk, ChatRequest, Client, FinishReason, Fold, Usage};

use tokio_util::sync::CancellationToken;

use super::models::Origin;

/// What came of a request. With an error, the rest is what had come before it.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) origin: Origin,
    /// Fields that were not sent to the hosted model, as the server says.
    pub(super) dropped: Option<String>,
    pub(super) message: ResponseMessage,
    pub(super) finish_reason: Option<FinishReason>,
    pub(super) usage: Option<Usage>,
    pub(super) error: Option<String>,
    /// Whether it was given up; then that is the error.
    pub(super) is_interrupted: bool,
    /// From the request to the first piece of reasoning, answer or tool call.
    pub(super) first: Option<Duration>,
    /// From the request to the last of those, or to the finish reason.
    pub(super) last: Option<Duration>,
    /// From the request to the end of the stream or the error.
    pub(super) total: Duration,
}

/// Asks `model` and follows the answer to its end, or to `interrupt`.
pub(super) async fn measure(
    client: &Client,
    model: &str,
    request: &ChatRequest,
    interrupt: &CancellationToken,
) -> Measured {
    let request = ChatRequest {
        model: Some(model.to_owned()),
        stream_options: Some(StreamOptions {
            include_usage: Some(true),
            ..StreamOptions::default()
        }),
        ..request.clone()
    };
    let mut measured = Measured::default();
    let mut fold = Fold::new();
    let started = Instant::now();
    let result = tokio::select! {
        result = follow(client, &request, started, &mut measured, &mut fold) => Some(result),
        // Dropping the stream above ends the answer at the server, too.
        () = interrupt.cancelled() => None,
    };
    measured.total = started.elapsed();
    measured.is_interrupted = result.is_none();
    measured.error = match result {
        Some(Ok(())) => None,
        // The chain of causes: a refused connection is only in the last one.
        Some(Err(error)) => Some(format!("{:#}", anyhow::Error::from(error))),
        None => Some("interrupted".to_owned()),
    };
    match fold.finish() {
        Some(answer) => {
            measured.usage = answer.usage;
            measured.origin.model = Some(answer.model.to_string());
            if let Some(choice) = answer.choices.into_iter().next() {
                measured.message = choice.message;
                measured.finish_reason = choice.finish_reason;
            }
        }
        None if measured.error.is_none() => {
            measured.error = Some("the answer has no chunk".to_owned());
        }
        None => {}
    }
    measured
}

async fn follow(
    client: &Client,
    request: &ChatRequest,
    started: Instant,
    measured: &mut Measured,
    fold: &mut Fold,
) -> harmonium_openai::Result<()> {
    let mut stream = client.chat_stream(request).await?;
    let header = |name| stream.header(name).map(str::to_owned);
    measured.origin.backend = header("x-harmonium-backend");
    measured.origin.listed = header("x-harmonium-model");
    measured.dropped = header("x-harmonium-dropped");
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        measured.see(&chunk, started.elapsed());
        fold.push(chunk);
    }
    Ok(())
}

impl Measured {
    fn see(&mut self, chunk: &ChatChunk, at: Duration) {
        for choice in &chunk.choices {
            let says_something = choice.delta.says_something();
            if says_something {
                self.first.get_or_insert(at);
            }
            if says_something || choice.finish_reason.is_some() {
                self.last = Some(at);
            }
        }
    }

    /// Tokens after the first by the time after the first; `None` for answers of fewer than two tokens, and for
    /// those that came all at once.
    pub(super) fn tokens_per_s(&self) -> Option<f64> {
        let num_tokens = self.usage?.completion_tokens.checked_sub(1).filter(|&num| num > 0)?;
        let time = self.last?.checked_sub(self.first?).filter(|time| !time.is_zero())?;
        Some(num_tokens as f64 / time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn chunk(choice: Value) -> ChatChunk {
        serde_json::from_value(json!({
            "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [choice],
        }))
        .unwrap()
    }

    fn seen(choices: &[(u64, Value)], completion_tokens: u64) -> Measured {
        let usage = Usage { completion_tokens, ..Usage::default() };
        let mut measured = Measured { usage: Some(usage), ..Measured::default() };
        for (at_ms, choice) in choices {
            measured.see(&chunk(choice.clone()), Duration::from_millis(*at_ms));
        }
        measured
    }

    fn delta(delta: Value) -> Value {
        json!({"index": 0, "delta": delta})
    }

    #[test]
    fn the_first_text_or_call_counts_and_the_role_does_not() {
        for first in [
            json!({"content": "a"}),
            json!({"reasoning": "a"}),
            json!({"refusal": "a"}),
            json!({"tool_calls": [{"index": 0}]}),
        ] {
            let role = json!({"role": "assistant", "content": ""});
            let measured =
                seen(&[(10, delta(role)), (30, delta(first)), (40, delta(json!({})))], 1);
            assert_eq!(measured.first, Some(Duration::from_millis(30)));
            assert_eq!(measured.last, Some(Duration::from_millis(30)));
        }
    }

    #[test]
    fn speed_is_that_of_the_tokens_after_the_first() {
        let answer = [
            (100, delta(json!({"reasoning": "a"}))),
            (200, delta(json!({"content": "b"}))),
            (600, json!({"index": 0, "delta": {}, "finish_reason": "stop"})),
        ];
        assert_eq!(seen(&answer, 11).tokens_per_s(), Some(20.0));
        assert_eq!(seen(&answer, 1).tokens_per_s(), None);
        assert_eq!(seen(&answer, 0).tokens_per_s(), None);
        assert_eq!(seen(&answer[..1], 11).tokens_per_s(), None);
        assert_eq!(Measured::default().tokens_per_s(), None);
    }
}
