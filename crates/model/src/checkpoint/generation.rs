//! What `generation_config.json` recommends. Everything in it is optional.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// Recommended sampling and the tokens that end an answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Generation {
    /// Tokens that end an answer. Early copies of the official file lack `<|call|>`, which ends one too.
    #[serde(rename = "eos_token_id", deserialize_with = "one_or_many")]
    pub eos_token_ids: Vec<u32>,
    /// Whether to sample at all; false means greedy.
    pub do_sample: bool,
    /// Temperature, 0 or more.
    pub temperature: f32,
    /// Smallest sum of probabilities kept, in (0, 1].
    pub top_p: f32,
    /// How many of the most probable tokens are kept; 0 keeps all.
    pub top_k: u32,
}

impl Default for Generation {
    /// The model card's recommendation.
    fn default() -> Self {
        Self { eos_token_ids: Vec::new(), do_sample: true, temperature: 1.0, top_p: 1.0, top_k: 0 }
    }
}

impl Generation {
    /// Reads the file's text. `file` only names it in errors.
    pub(crate) fn parse(text: &[u8], file: &Path) -> Result<Self> {
        let refuse = |message: String| Error::Json { file: file.to_owned(), message };
        let this: Self = serde_json::from_slice(text).map_err(|e| refuse(e.to_string()))?;
        if !(0.0..=100.0).contains(&this.temperature) {
            return Err(refuse(format!("temperature: {} is not from 0 to 100", this.temperature)));
        }
        if !(this.top_p > 0.0 && this.top_p <= 1.0) {
            return Err(refuse(format!("top_p: {} is not above 0 and at most 1", this.top_p)));
        }
        Ok(this)
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        None,
        One(u32),
        Many(Vec<u32>),
    }
    Ok(match Ids::deserialize(deserializer)? {
        Ids::None => Vec::new(),
        Ids::One(id) => vec![id],
        Ids::Many(ids) => ids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Generation> {
        Generation::parse(text.as_bytes(), Path::new("generation_config.json"))
    }

    #[test]
    fn eos_may_be_one_number_a_list_or_absent() {
        assert_eq!(parse(r#"{"eos_token_id":3}"#).unwrap().eos_token_ids, [3]);
        let official = r#"{"bos_token_id":9,"do_sample":true,"eos_token_id":[5,3]}"#;
        assert_eq!(parse(official).unwrap().eos_token_ids, [5, 3]);
        assert_eq!(parse("{}").unwrap(), Generation::default());
        assert!(parse(r#"{"eos_token_id":null}"#).unwrap().eos_token_ids.is_empty());
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (text, word) in [
            (r#"{"temperature":-1}"#, "temperature"),
            (r#"{"top_p":0}"#, "top_p"),
            (r#"{"eos_token_id":-4}"#, "generation_config.json"),
        ] {
            assert!(parse(text).err().unwrap().to_string().contains(word));
        }
    }
}
