//! What `submit` checks, so that nothing behind it checks again.
//!
//! Only what no executor could use is refused here; tighter limits on single fields, such as the
//! highest temperature of an API, are the caller's.

use crate::executor::{AdapterId, ExecutorSpec, TokenId};
use crate::request::{EngineError, Request};
use crate::sampling::{MAX_TOP_LOGPROBS, SamplingParams};

/// Checks `request` against the executor's bounds and returns the most tokens its answer can have.
pub(crate) fn validate(request: &Request, spec: &ExecutorSpec) -> Result<usize, EngineError> {
    let context_len = spec.context_len as usize;
    let prompt_len = request.prompt.len();
    require(prompt_len > 0, "prompt", || "empty".to_owned())?;
    if prompt_len >= context_len {
        return Err(EngineError::ContextLength { prompt_len, context_len: spec.context_len });
    }
    require_ids("prompt", request.prompt.iter().copied(), spec.vocab_size)?;
    let num_adapters = spec.num_adapters;
    if let Some(AdapterId(id)) = request.adapter {
        require(id < num_adapters, "adapter", || format!("{id} of only {num_adapters}"))?;
    }
    require(request.max_tokens > 0, "max_tokens", || "0 is below 1".to_owned())?;
    validate_sampling(&request.sampling, spec.vocab_size)?;
    Ok((context_len - prompt_len).min(request.max_tokens as usize))
}

fn validate_sampling(params: &SamplingParams, vocab_size: u32) -> Result<(), EngineError> {
    let in_range = |field, value: f32, ok: bool, range: &str| {
        require(ok && value.is_finite(), field, || format!("{value} is not {range}"))
    };
    let SamplingParams { temperature, top_p, min_p, .. } = *params;
    let SamplingParams { frequency_penalty, presence_penalty, repetition_penalty, .. } = *params;
    in_range("temperature", temperature, temperature >= 0.0, "a number from 0 up")?;
    in_range("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0 and at most 1")?;
    in_range("min_p", min_p, (0.0..=1.0).contains(&min_p), "between 0 and 1")?;
    in_range("frequency_penalty", frequency_penalty, true, "a finite number")?;
    in_range("presence_penalty", presence_penalty, true, "a finite number")?;
    in_range("repetition_penalty", repetition_penalty, repetition_penalty > 0.0, "above 0")?;
    require_ids("logit_bias", params.logit_bias.iter().map(|&(token, _)| token), vocab_size)?;
    for &(_, bias) in &params.logit_bias {
        in_range("logit_bias", bias, true, "a finite number")?;
    }
    let num_top = params.logprobs.unwrap_or(0);
    require(num_top <= MAX_TOP_LOGPROBS, "logprobs", || {
        format!("{num_top} is above {MAX_TOP_LOGPROBS}")
    })
}

fn require_ids(
    field: &'static str,
    ids: impl IntoIterator<Item = TokenId>,
    vocab_size: u32,
) -> Result<(), EngineError> {
    match ids.into_iter().find(|&id| id >= vocab_size) {
        None => Ok(()),
        Some(id) => {
            let message = format!("token {id} is outside of the vocabulary of {vocab_size}");
            Err(EngineError::Invalid { field, message })
        }
    }
}

fn require(
    ok: bool,
    field: &'static str,
    message: impl FnOnce() -> String,
) -> Result<(), EngineError> {
    if ok { Ok(()) } else { Err(EngineError::Invalid { field, message: message() }) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{request, small_spec};

    fn check_refused(field: &str, change: impl FnOnce(&mut Request, &mut SamplingParams)) {
        let mut request = request([1, 2, 3], 5);
        let mut sampling = SamplingParams::default();
        change(&mut request, &mut sampling);
        request.sampling = Arc::new(sampling);
        match validate(&request, &small_spec()) {
            Err(EngineError::Invalid { field: refused, .. }) => assert_eq!(refused, field),
            other => panic!("{field}: {other:?}"),
        }
    }

    #[test]
    fn values_that_no_executor_can_use_are_refused_by_name() {
        check_refused("prompt", |request, _| request.prompt.clear());
        check_refused("prompt", |request, _| request.prompt.push(100));
        check_refused("max_tokens", |request, _| request.max_tokens = 0);
        check_refused("adapter", |request, _| request.adapter = Some(AdapterId(2)));
        for bad in [-0.1, f32::NAN, f32::INFINITY] {
            check_refused("temperature", |_, sampling| sampling.temperature = bad);
            check_refused("repetition_penalty", |_, sampling| sampling.repetition_penalty = bad);
            check_refused("top_p", |_, sampling| sampling.top_p = bad);
            check_refused("min_p", |_, sampling| sampling.min_p = bad);
        }
        for bad in [f32::NAN, f32::NEG_INFINITY] {
            check_refused("frequency_penalty", |_, sampling| sampling.frequency_penalty = bad);
            check_refused("presence_penalty", |_, sampling| sampling.presence_penalty = bad);
            check_refused("logit_bias", |_, sampling| sampling.logit_bias = vec![(1, bad)]);
        }
        check_refused("top_p", |_, sampling| sampling.top_p = 0.0);
        check_refused("repetition_penalty", |_, sampling| sampling.repetition_penalty = 0.0);
        check_refused("top_p", |_, sampling| sampling.top_p = 1.1);
        check_refused("min_p", |_, sampling| sampling.min_p = 1.1);
        check_refused("logit_bias", |_, sampling| sampling.logit_bias = vec![(100, 1.0)]);
        check_refused("logprobs", |_, sampling| sampling.logprobs = Some(MAX_TOP_LOGPROBS + 1));
    }

    #[test]
    fn a_prompt_needs_room_for_one_token() {
        let spec = small_spec();
        assert_eq!(validate(&request(vec![1; 63], 5), &spec), Ok(1));
        assert_eq!(validate(&request(vec![1; 62], 1), &spec), Ok(1));
        assert_eq!(validate(&request(vec![1; 10], u32::MAX), &spec), Ok(54));
        let error = EngineError::ContextLength { prompt_len: 64, context_len: 64 };
        assert_eq!(validate(&request(vec![1; 64], 5), &spec), Err(error));
    }
}
