//! The shape and constants of one GPT-OSS model, read from `config.json` and checked once.
//!
//! The file comes in three spellings: `rope_theta` with `rope_scaling` (transformers 4), `rope_parameters`
//! (transformers 5) and the flat keys of `original/config.json`. All become one [`Config`] whose numbers are
//! consistent and bounded, so that nothing downstream checks them again.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Most layers accepted; the largest published model has 36.
const MAX_LAYERS: u64 = 512;
/// Bound of widths, counts of heads and of experts.
const MAX_WIDTH: u64 = 1 << 16;
/// Bound of vocabulary and context.
const MAX_ROWS: u64 = 1 << 24;
/// Weights that are stored and unpacked together: every width that a product reads is a multiple of it.
const GROUP: u32 = 32;

/// What positions a layer's rows see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// The last [`Config::window`] positions.
    Window,
    /// Every position up to the row's own.
    Full,
}

/// Rotary position embedding with YaRN scaling.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// By how much low frequencies are stretched.
    pub factor: f64,
    /// Context the unscaled frequencies were trained with.
    pub original_context_len: u32,
    /// Rotations over the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations over the original context below which a frequency is stretched by the whole factor.
    pub beta_slow: f64,
    /// Whether the bounds of the ramp between the two are rounded outwards to whole dimensions.
    pub truncate: bool,
    /// Multiplies the rotated queries and keys.
    pub attention_factor: f64,
}

/// A model's shape and constants. Every number is positive and within bounds, widths fit the block layouts.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Width of the residual.
    pub hidden_size: u32,
    /// Width inside an expert.
    pub intermediate_size: u32,
    /// Query heads.
    pub num_heads: u32,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Experts of a layer.
    pub num_experts: u32,
    /// Experts that a token is routed to.
    pub experts_per_token: u32,
    /// Rows of the embedding and of the output projection, padding included.
    pub vocab_size: u32,
    /// Positions that a window layer's row sees, its own included.
    pub window: u32,
    /// Longest sequence the model was made for.
    pub context_len: u32,
    /// Added to the mean square before its root.
    pub rms_norm_eps: f32,
    /// Bound of an expert's gate (above) and linear half (both sides).
    pub swiglu_limit: f32,
    /// Slope inside the gate's sigmoid.
    pub swiglu_alpha: f32,
    /// One entry a layer.
    pub layers: Vec<LayerKind>,
    /// Position embedding.
    pub rope: Rope,
}

impl Config {
    /// Reads a config file's text. `file` only names it in errors.
    pub fn parse(text: &[u8], file: &Path) -> Result<Self> {
        let json = |message: String| Error::Json { file: file.to_owned(), message };
        let value: Value = serde_json::from_slice(text).map_err(|e| json(e.to_string()))?;
        let Value::Object(map) = value else { return Err(json("not a JSON object".into())) };
        let keys = Keys { map: &map, file };
        keys.refuse_other_models()?;
        let num_layers = keys.required(&["num_hidden_layers"], 1, MAX_LAYERS)?;
        let context_len = keys.optional(&["max_position_embeddings"], 1, MAX_ROWS)?;
        let config = Self {
            hidden_size: keys.required(&["hidden_size"], 1, MAX_WIDTH)?,
            intermediate_size: keys.required(&["intermediate_size"], 1, MAX_WIDTH)?,
            num_heads: keys.required(&["num_attention_heads"], 1, MAX_WIDTH)?,
            num_kv_heads: keys.required(&["num_key_value_heads"], 1, MAX_WIDTH)?,
            head_dim: keys.optional(&["head_dim"], 1, 1024)?.unwrap_or(64),
            num_experts: keys.required(&["num_local_experts", "num_experts"], 1, 4096)?,
            experts_per_token: keys.required(
                &["num_experts_per_tok", "experts_per_token"],
                1,
                4096,
            )?,
            vocab_size: keys.required(&["vocab_size"], 1, MAX_ROWS)?,
            window: keys.optional(&["sliding_window"], 1, MAX_ROWS)?.unwrap_or(128),
            context_len: context_len.unwrap_or(131_072),
            rms_norm_eps: keys.float("rms_norm_eps", 0.0, 1.0)?.unwrap_or(1e-5) as f32,
            swiglu_limit: keys.float("swiglu_limit", 0.0, 1e6)?.unwrap_or(7.0) as f32,
            swiglu_alpha: keys.float("swiglu_alpha", 0.0, 1e3)?.unwrap_or(1.702) as f32,
            layers: keys.layers(num_layers as usize)?,
            rope: keys.rope()?,
        };
        config.check(&keys)?;
        Ok(config)
    }

    /// The relations between the numbers.
    fn check(&self, keys: &Keys<'_>) -> Result<()> {
        let multiple = |key, value: u32, of: u32| match value % of {
            0 => Ok(()),
            _ => Err(keys.error(key, format!("{value} is not a multiple of {of}"))),
        };
        multiple("hidden_size", self.hidden_size, GROUP)?;
        multiple("intermediate_size", self.intermediate_size, GROUP)?;
        multiple("head_dim", self.head_dim, GROUP)?;
        multiple("num_attention_heads", self.num_heads, self.num_kv_heads)?;
        if self.experts_per_token > self.num_experts {
            let message =
                format!("{} of only {} experts", self.experts_per_token, self.num_experts);
            return Err(keys.error("num_experts_per_tok", message));
        }
        Ok(())
    }

    /// Width of all query heads together.
    pub fn query_size(&self) -> usize {
        self.num_heads as usize * self.head_dim as usize
    }

    /// Width of all key heads together.
    pub fn kv_size(&self) -> usize {
        self.num_kv_heads as usize * self.head_dim as usize
    }
}

/// Typed access to the keys of one file, with errors that name it.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    file: &'a Path,
}

impl Keys<'_> {
    fn error(&self, key: &'static str, message: impl Into<String>) -> Error {
        Error::Config { file: self.file.to_owned(), key, message: message.into() }
    }

    /// Settings that would change the forward pass, and that no GPT-OSS model has.
    fn refuse_other_models(&self) -> Result<()> {
        let fixed = [
            ("model_type", Value::from("gpt_oss")),
            ("attention_bias", Value::from(true)),
            ("tie_word_embeddings", Value::from(false)),
        ];
        for (key, only) in fixed {
            if let Some(value) = self.map.get(key).filter(|value| **value != only) {
                return Err(self.error(key, format!("{value} is not supported, only {only}")));
            }
        }
        let method = self.map.get("quantization_config").and_then(|q| q.get("quant_method"));
        match method {
            Some(method) if method != "mxfp4" => Err(self.error(
                "quantization_config",
                format!("quant_method {method} is not supported, only \"mxfp4\""),
            )),
            _ => Ok(()),
        }
    }

    /// A whole number under any of its names; where several are given they agree.
    fn optional(&self, names: &[&'static str], min: u64, max: u64) -> Result<Option<u32>> {
        let mut found = None;
        for &name in names {
            let Some(value) = self.map.get(name).filter(|value| !value.is_null()) else { continue };
            let number = whole(value, min, max).map_err(|message| self.error(name, message))?;
            if let Some((first, other)) = found.replace((name, number))
                && other != number
            {
                return Err(self.error(name, format!("{number} contradicts {first}, {other}")));
            }
        }
        Ok(found.map(|(_, number)| number))
    }

    fn required(&self, names: &[&'static str], min: u64, max: u64) -> Result<u32> {
        self.optional(names, min, max)?.ok_or_else(|| self.error(names[0], "missing"))
    }

    fn float(&self, name: &'static str, min: f64, max: f64) -> Result<Option<f64>> {
        match self.map.get(name).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => {
                float(value, min, max).map(Some).map_err(|message| self.error(name, message))
            }
        }
    }

    /// Kinds of the layers; window and full alternate from window when the file does not list them.
    fn layers(&self, num_layers: usize) -> Result<Vec<LayerKind>> {
        let alternating = [LayerKind::Window, LayerKind::Full];
        let Some(value) = self.map.get("layer_types").filter(|value| !value.is_null()) else {
            return Ok(alternating.into_iter().cycle().take(num_layers).collect());
        };
        let error = |message| self.error("layer_types", message);
        let list = value.as_array().ok_or_else(|| error(format!("{value} is not a list")))?;
        if list.len() != num_layers {
            return Err(error(format!("{} entries for {num_layers} layers", list.len())));
        }
        let kind = |entry: &Value| match entry.as_str() {
            Some("sliding_attention") => Ok(LayerKind::Window),
            Some("full_attention") => Ok(LayerKind::Full),
            _ => Err(error(format!("{entry} is no layer type"))),
        };
        list.iter().map(kind).collect()
    }

    fn rope(&self) -> Result<Rope> {
        let nested = ["rope_parameters", "rope_scaling"]
            .into_iter()
            .find_map(|key| Some((key, self.map.get(key).filter(|value| !value.is_null())?)));
        let rope = match nested {
            Some((key, Value::Object(map))) => {
                RopeKeys { key, map }.read(self).map_err(|message| self.error(key, message))
            }
            Some((key, other)) => Err(self.error(key, format!("{other} is not an object"))),
            None => self.flat_rope(),
        }?;
        Ok(rope)
    }

    /// The spelling of `original/config.json`, whose reference code never truncates.
    fn flat_rope(&self) -> Result<Rope> {
        let missing = |key| move || self.error(key, "missing");
        let factor = self
            .float("rope_scaling_factor", 1.0, 1e4)?
            .ok_or_else(missing("rope_scaling_factor"))?;
        let original = self.optional(&["initial_context_length"], 1, MAX_ROWS)?;
        Ok(Rope {
            theta: self.float("rope_theta", 1.5, 1e12)?.ok_or_else(missing("rope_theta"))?,
            factor,
            original_context_len: original.unwrap_or(4096),
            beta_fast: self.float("rope_ntk_beta", 1e-3, 1e6)?.unwrap_or(32.0),
            beta_slow: self.float("rope_ntk_alpha", 1e-3, 1e6)?.unwrap_or(1.0),
            truncate: false,
            attention_factor: attention_factor(factor),
        })
    }
}

/// The keys of a nested rope object, in transformers' spelling and with its defaults.
struct RopeKeys<'a> {
    key: &'static str,
    map: &'a Map<String, Value>,
}

impl RopeKeys<'_> {
    fn read(&self, keys: &Keys<'_>) -> Result<Rope, String> {
        match self.map.get("rope_type").or(self.map.get("type")) {
            Some(Value::String(kind)) if kind == "yarn" => {}
            Some(other) => {
                return Err(format!("rope_type {other} is not supported, only \"yarn\""));
            }
            None => return Err("rope_type is missing".into()),
        }
        for key in ["mscale", "mscale_all_dim"] {
            if self.map.get(key).is_some_and(|value| !value.is_null()) {
                return Err(format!("{key} is not supported"));
            }
        }
        let theta = match self.float("rope_theta", 1.5, 1e12)? {
            Some(theta) => theta,
            None => keys
                .float("rope_theta", 1.5, 1e12)
                .map_err(|e| e.to_string())?
                .ok_or(format!("rope_theta is missing beside {}", self.key))?,
        };
        let factor = self.float("factor", 1.0, 1e4)?.ok_or("factor is missing")?;
        let original = match self.map.get("original_max_position_embeddings") {
            Some(value) => whole(value, 1, MAX_ROWS)
                .map_err(|m| format!("original_max_position_embeddings {m}"))?,
            None => keys
                .optional(&["initial_context_length"], 1, MAX_ROWS)
                .map_err(|e| e.to_string())?
                .ok_or("original_max_position_embeddings is missing")?,
        };
        let truncate = match self.map.get("truncate") {
            Some(Value::Bool(truncate)) => *truncate,
            Some(other) => return Err(format!("truncate {other} is not true or false")),
            // What transformers does with such a file. GPT-OSS ships with false, and a tool that drops the
            // key changes the model without a word; following transformers keeps the two comparable.
            None => true,
        };
        Ok(Rope {
            theta,
            factor,
            original_context_len: original,
            beta_fast: self.float("beta_fast", 1e-3, 1e6)?.unwrap_or(32.0),
            beta_slow: self.float("beta_slow", 1e-3, 1e6)?.unwrap_or(1.0),
            truncate,
            attention_factor: self
                .float("attention_factor", 1e-3, 1e3)?
                .unwrap_or(attention_factor(factor)),
        })
    }

    fn float(&self, name: &str, min: f64, max: f64) -> Result<Option<f64>, String> {
        match self.map.get(name).filter(|value| !value.is_null()) {
            None => Ok(None),
            Some(value) => float(value, min, max).map(Some).map_err(|m| format!("{name} {m}")),
        }
    }
}

/// YaRN's temperature, as the paper fits it to the stretch.
fn attention_factor(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

fn whole(value: &Value, min: u64, max: u64) -> Result<u32, String> {
    value
        .as_u64()
        .filter(|number| (min..=max).contains(number))
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| format!("{value} is not a whole number from {min} to {max}"))
}

fn float(value: &Value, min: f64, max: f64) -> Result<f64, String> {
    value
        .as_f64()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("{value} is not a number from {min} to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `config.json` of gpt-oss-20b, without the keys that no forward pass reads.
    fn hugging_face() -> Value {
        let layers: Vec<_> = ["sliding_attention", "full_attention"].repeat(12);
        serde_json::json!({
            "architectures": ["GptOssForCausalLM"], "attention_bias": true, "experts_per_token": 4,
            "head_dim": 64, "hidden_size": 2880, "initial_context_length": 4096,
            "intermediate_size": 2880, "layer_types": layers, "max_position_embeddings": 131072,
            "model_type": "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4,
            "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32,
            "quantization_config": {"quant_method": "mxfp4"}, "rms_norm_eps": 1e-5,
            "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false},
            "rope_theta": 150000, "sliding_window": 128, "swiglu_limit": 7.0,
            "tie_word_embeddings": false, "vocab_size": 201088
        })
    }

    fn parse(value: &Value) -> Result<Config> {
        Config::parse(value.to_string().as_bytes(), Path::new("config.json"))
    }

    /// Sets one key and expects an error that names the file, the key and the value.
    fn refused(key: &str, value: Value) {
        let mut config = hugging_face();
        config[key] = value.clone();
        let message = parse(&config).err().unwrap().to_string();
        for word in ["config.json", key] {
            assert!(message.contains(word), "{key} = {value}: {message}");
        }
    }

    #[test]
    fn all_three_spellings_give_the_same_config() {
        let reference = parse(&hugging_face()).unwrap();
        assert_eq!(reference.rope.attention_factor, 0.1 * 32f64.ln() + 1.0);
        assert_eq!(reference.layers[..2], [LayerKind::Window, LayerKind::Full]);

        let mut v5 = hugging_face();
        let mut rope = v5.as_object_mut().unwrap().remove("rope_scaling").unwrap();
        rope["rope_theta"] = v5.as_object_mut().unwrap().remove("rope_theta").unwrap();
        v5["rope_parameters"] = rope;
        v5["swiglu_alpha"] = 1.702.into();
        assert_eq!(parse(&v5).unwrap(), reference);

        let original = serde_json::json!({
            "num_hidden_layers": 24, "num_experts": 32, "experts_per_token": 4,
            "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880,
            "swiglu_limit": 7.0, "head_dim": 64, "num_attention_heads": 64,
            "num_key_value_heads": 8, "sliding_window": 128, "initial_context_length": 4096,
            "rope_theta": 150000, "rope_scaling_factor": 32.0, "rope_ntk_alpha": 1,
            "rope_ntk_beta": 32
        });
        assert_eq!(parse(&original).unwrap(), reference);
    }

    #[test]
    fn a_missing_truncate_means_true_as_in_transformers() {
        let mut config = hugging_face();
        config["rope_scaling"].as_object_mut().unwrap().remove("truncate");
        assert!(parse(&config).unwrap().rope.truncate);
    }

    #[test]
    fn values_no_gpt_oss_model_has_are_refused_by_name() {
        refused("hidden_size", 0.into());
        refused("hidden_size", 2881.into());
        refused("hidden_size", 1_000_000_000.into());
        refused("vocab_size", (-5).into());
        refused("vocab_size", "many".into());
        refused("head_dim", 40.into());
        refused("num_attention_heads", 63.into());
        refused("num_experts_per_tok", 33.into());
        refused("experts_per_token", 2.into());
        refused("num_hidden_layers", 4_000_000_000_u64.into());
        refused("layer_types", serde_json::json!(["full_attention"]));
        refused("layer_types", vec!["linear_attention"; 24].into());
        refused("model_type", "llama".into());
        refused("attention_bias", false.into());
        refused("tie_word_embeddings", true.into());
        refused("quantization_config", serde_json::json!({"quant_method": "awq"}));
        refused("rms_norm_eps", 3.into());
        refused("rope_scaling", serde_json::json!({"rope_type": "linear", "factor": 2.0}));
        refused("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 0.0}));
        refused("rope_scaling", 5.into());
    }

    #[test]
    fn a_missing_key_is_named() {
        for key in ["hidden_size", "num_hidden_layers", "num_local_experts", "vocab_size"] {
            let mut config = hugging_face();
            config.as_object_mut().unwrap().remove(key);
            let message = parse(&config).err().unwrap().to_string();
            assert!(message.contains(key) && message.contains("missing"), "{message}");
        }
    }

    #[test]
    fn text_that_is_no_object_is_refused() {
        for text in ["", "[]", "{", "7"] {
            assert!(Config::parse(text.as_bytes(), Path::new("config.json")).is_err());
        }
    }
}
