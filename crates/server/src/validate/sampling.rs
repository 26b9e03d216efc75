//! Sampling parameters: ranges, and the model's own defaults where a request is silent.

use harmonium_engine::{MAX_TOP_LOGPROBS, SamplingParams, TokenId};
use harmonium_openai::ChatRequest;

use super::{Bounds, int_in};
use crate::error::{Error, FieldCode, Result};

const MAX_BIASES: usize = 1024;

/// Checks the request's parameters and lays them over the defaults.
pub(super) fn params(request: &ChatRequest, bounds: &Bounds<'_>) -> Result<SamplingParams> {
    let defaults = bounds.defaults;
    let within = |param, value, min, max| float(param, value, Range { min, max, is_open: false });
    let above = |param, value, min, max| float(param, value, Range { min, max, is_open: true });
    // -1 is how vLLM's clients say "all".
    let top_k = int_in("top_k", request.top_k, -1, i64::from(i32::MAX))?
        .map(|top_k: i64| u32::try_from(top_k).unwrap_or(0));
    Ok(SamplingParams {
        temperature: within("temperature", request.temperature, 0.0, 2.0)?
            .unwrap_or(defaults.temperature),
        top_p: above("top_p", request.top_p, 0.0, 1.0)?.unwrap_or(defaults.top_p),
        top_k: top_k.unwrap_or(defaults.top_k),
        min_p: within("min_p", request.min_p, 0.0, 1.0)?.unwrap_or(defaults.min_p),
        frequency_penalty: within("frequency_penalty", request.frequency_penalty, -2.0, 2.0)?
            .unwrap_or(defaults.frequency_penalty),
        presence_penalty: within("presence_penalty", request.presence_penalty, -2.0, 2.0)?
            .unwrap_or(defaults.presence_penalty),
        repetition_penalty: above("repetition_penalty", request.repetition_penalty, 0.0, 2.0)?
            .unwrap_or(defaults.repetition_penalty),
        logit_bias: logit_bias(request, bounds.vocab_size)?
            .unwrap_or_else(|| defaults.logit_bias.clone()),
        logprobs: logprobs(request)?,
    })
}

struct Range {
    min: f64,
    max: f64,
    /// Whether `min` itself is left out.
    is_open: bool,
}

fn float(param: &str, value: Option<f64>, range: Range) -> Result<Option<f32>> {
    let Some(value) = value else { return Ok(None) };
    let Range { min, max, is_open } = range;
    // The check is on what will be used: a tiny f64 is 0 as an f32.
    let used = value as f32;
    let is_inside = (min..=max).contains(&value) && !(is_open && f64::from(used) <= min);
    if is_inside {
        return Ok(Some(used));
    }
    let bounds =
        if is_open { format!("above {min} and at most {max}") } else { format!("{min} to {max}") };
    Err(Error::field(param, FieldCode::Value, format!("{value} is not {bounds}")))
}

fn logit_bias(
    request: &ChatRequest,
    vocab_size: Option<u32>,
) -> Result<Option<Vec<(TokenId, f32)>>> {
    let Some(biases) = &request.logit_bias else { return Ok(None) };
    let wrong = |problem| Error::field("logit_bias", FieldCode::Value, problem);
    if biases.len() > MAX_BIASES {
        return Err(wrong(format!("{} tokens are more than {MAX_BIASES}", biases.len())));
    }
    let bias = |(key, &bias): (&String, &f64)| {
        let is_known = |token: &TokenId| vocab_size.is_none_or(|size| *token < size);
        let token = key.parse().ok().filter(is_known).ok_or_else(|| {
            let below = vocab_size.map_or_else(String::new, |size| format!(" below {size}"));
            wrong(format!("key {key:?} is not a token id{below}"))
        })?;
        let range = Range { min: -100.0, max: 100.0, is_open: false };
        let bias = float(&format!("logit_bias.{token}"), Some(bias), range)?;
        Ok((token, bias.unwrap_or_default()))
    };
    biases.iter().map(bias).collect::<Result<_>>().map(Some)
}

fn logprobs(request: &ChatRequest) -> Result<Option<u8>> {
    let top: Option<u8> =
        int_in("top_logprobs", request.top_logprobs, 0, i64::from(MAX_TOP_LOGPROBS))?;
    match (request.logprobs.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let problem = "only allowed where logprobs is true";
            Err(Error::field("top_logprobs", FieldCode::Value, problem))
        }
    }
}
