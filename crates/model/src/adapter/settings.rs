//! `adapter_config.json`: rank, scale and targets. What the file asks for beyond that is refused by name.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::target::Target;
use crate::config::Config;
use crate::error::{Error, Result};

/// Bound of the rank; PEFT's default is 8, and what is trained rarely exceeds 256.
const MAX_RANK: u64 = 4096;
/// Bound of `lora_alpha`.
const MAX_ALPHA: f64 = 1e6;
/// Keys that add to the arithmetic, or take from it, unless they say nothing.
const NOT_DONE: [&str; 14] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
];
/// Initializations that leave the base's weights as they are. Others move a part of them into the adapter, which then
/// fits only the base that is left.
const PLAIN_INITIALIZATIONS: [&str; 3] = ["eva", "gaussian", "orthogonal"];
/// Published bases by the last part of their names, with layers and experts.
const PUBLISHED: [(&str, usize, u32); 2] = [("gpt-oss-20b", 24, 32), ("gpt-oss-120b", 36, 128)];

/// What the file says.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) rank: usize,
    /// `lora_alpha / r`, or `lora_alpha / sqrt(r)` where ranks are stabilized.
    pub(super) scale: f32,
    /// Ends of the names of targeted modules; `None` where only PEFT could tell which they are.
    modules: Option<Vec<String>>,
    /// The layers that `modules` is about; `None` is all. Parameters are targeted in all layers.
    layers: Option<Vec<u64>>,
    /// Ends of the names of targeted parameters.
    parameters: Vec<String>,
}

impl Settings {
    /// Reads the text of the file for a base. `file` only names it in errors.
    pub(super) fn parse(text: &[u8], file: &Path, base: &Config) -> Result<Self> {
        let json = |message: String| Error::Json { file: file.to_owned(), message };
        let value: Value = serde_json::from_slice(text).map_err(|e| json(e.to_string()))?;
        let Value::Object(map) = value else { return Err(json("not a JSON object".into())) };
        let keys = Keys { map: &map, file };
        keys.refuse_other_bases(base)?;
        keys.refuse_what_is_not_done()?;
        let rank = keys.rank()?;
        let stabilized = keys.flag("use_rslora")?;
        let root = if stabilized { (rank as f64).sqrt() } else { rank as f64 };
        let is_list = keys.get("exclude_modules").is_none_or(says_nothing)
            && !matches!(keys.get("target_modules"), Some(Value::String(_)));
        let settings = Self {
            rank,
            scale: (keys.alpha()? / root) as f32,
            modules: if is_list { Some(keys.texts("target_modules")?) } else { None },
            layers: keys.layers()?,
            parameters: keys.texts("target_parameters")?,
        };
        settings.refuse_unknown_parameters(&keys, base)?;
        Ok(settings)
    }

    /// Whether the file asks for a change of this target; `None` if that cannot be told from the file alone.
    pub(super) fn asks_for(&self, target: Target, layer: usize) -> Option<bool> {
        let name = name(target, layer);
        if names(&self.parameters, &format!("{name}.{}", target.parameter())) {
            return Some(true);
        }
        if !target.is_linear() {
            return Some(false);
        }
        let modules = self.modules.as_ref()?;
        let is_in_layers =
            self.layers.as_ref().is_none_or(|layers| layers.contains(&(layer as u64)));
        Some(is_in_layers && names(modules, &name))
    }

    /// A parameter that none of the base's are called is a target that would be left out without a word.
    fn refuse_unknown_parameters(&self, keys: &Keys<'_>, base: &Config) -> Result<()> {
        let known: Vec<String> = (0..base.layers.len())
            .flat_map(|layer| Target::ALL.map(|target| (layer, target)))
            .map(|(layer, target)| format!("{}.{}", name(target, layer), target.parameter()))
            .collect();
        let is_unknown = |entry: &&String| !known.iter().any(|known| is_end(entry.as_str(), known));
        let Some(entry) = self.parameters.iter().find(is_unknown) else { return Ok(()) };
        let message = format!(
            "{entry:?} is no parameter that adapters can change in the base's {} layers: {}",
            base.layers.len(),
            Target::names()
        );
        Err(keys.error("target_parameters", message))
    }
}

/// The module of a target, as the base calls it.
fn name(target: Target, layer: usize) -> String {
    format!("model.layers.{layer}.{}", target.module())
}

/// Whether one of the entries names it.
fn names(entries: &[String], name: &str) -> bool {
    entries.iter().any(|entry| is_end(entry, name))
}

/// Whether an entry is a name or its end, as PEFT compares them.
fn is_end(entry: &str, name: &str) -> bool {
    name.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a value is what PEFT writes for "not used".
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
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

    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn refuse_what_is_not_done(&self) -> Result<()> {
        match self.get("peft_type") {
            Some(kind) if kind == "LORA" => {}
            Some(other) => {
                return Err(self.error("peft_type", format!("{other} is not supported, only LORA")));
            }
            None => return Err(self.error("peft_type", "missing; is this an adapter of PEFT?")),
        }
        if let Some(bias) = self.get("bias").filter(|bias| *bias != "none") {
            return Err(self.error("bias", format!("{bias} is not supported, only \"none\"")));
        }
        for key in NOT_DONE {
            if let Some(value) = self.get(key).filter(|value| !says_nothing(value)) {
                return Err(self.error(key, format!("{value} is not supported")));
            }
        }
        let key = "layers_pattern";
        let is_usual = |pattern: &Value| pattern == "layers" || *pattern == json!(["layers"]);
        if let Some(other) = self.get(key).filter(|value| !says_nothing(value) && !is_usual(value))
        {
            return Err(self.error(key, format!("{other} is not supported, only \"layers\"")));
        }
        let key = "init_lora_weights";
        match self.get(key) {
            None | Some(Value::Bool(_)) => Ok(()),
            Some(Value::String(name)) if PLAIN_INITIALIZATIONS.contains(&name.as_str()) => Ok(()),
            Some(other) => {
                let message = format!(
                    "{other} changes the base's weights; save the adapter converted to plain LoRA"
                );
                Err(self.error(key, message))
            }
        }
    }

    /// A published base that is not this one. Other names say nothing: they may be anyone's copy.
    fn refuse_other_bases(&self, base: &Config) -> Result<()> {
        let key = "base_model_name_or_path";
        let Some(name) = self.get(key).and_then(Value::as_str) else { return Ok(()) };
        let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
        let known = PUBLISHED.iter().find(|(known, ..)| last.eq_ignore_ascii_case(known));
        let (num_layers, num_experts) = (base.layers.len(), base.num_experts);
        match known {
            Some(&(_, layers, experts)) if (layers, experts) != (num_layers, num_experts) => {
                let message = format!(
                    "{name:?} has {layers} layers of {experts} experts, the model served has \
                     {num_layers} of {num_experts}"
                );
                Err(self.error(key, message))
            }
            _ => Ok(()),
        }
    }

    fn rank(&self) -> Result<usize> {
        let value = self.get("r").ok_or_else(|| self.error("r", "missing"))?;
        match value.as_u64() {
            // At most 4,096: it fits every usize.
            Some(rank @ 1..=MAX_RANK) => Ok(rank as usize),
            _ => {
                Err(self.error("r", format!("{value} is not a whole number from 1 to {MAX_RANK}")))
            }
        }
    }

    fn alpha(&self) -> Result<f64> {
        let key = "lora_alpha";
        let value = self.get(key).ok_or_else(|| self.error(key, "missing"))?;
        value
            .as_f64()
            .filter(|alpha| alpha.abs() <= MAX_ALPHA)
            .ok_or_else(|| self.error(key, format!("{value} is not a number up to {MAX_ALPHA}")))
    }

    fn flag(&self, key: &'static str) -> Result<bool> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.error(key, format!("{other} is not true or false"))),
        }
    }

    /// A list of texts; one that is absent is empty.
    fn texts(&self, key: &'static str) -> Result<Vec<String>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|list| {
            list.iter().map(|entry| entry.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| self.error(key, format!("{value} is not a list of names")))
    }

    /// One layer or a list; an empty list is all of them, as to PEFT.
    fn layers(&self) -> Result<Option<Vec<u64>>> {
        let key = "layers_to_transform";
        let Some(value) = self.get(key) else { return Ok(None) };
        let one = value.as_u64().map(|layer| vec![layer]);
        let list = || value.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>();
        match one.or_else(list) {
            Some(layers) => Ok(Some(layers).filter(|layers| !layers.is_empty())),
            None => Err(self.error(key, format!("{value} is not a list of layers"))),
        }
    }
}
