//! Adapters that do not fit, one line each: what is changed in a good one, and what the error must say.

use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::*;
use crate::Checkpoint;
use crate::parity::{adapter_directory, directory};

/// The good adapter whose files are changed.
struct Files {
    config: Value,
    tensors: HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Files {
    fn read(name: &str) -> Self {
        let directory = adapter_directory(name);
        let config = serde_json::from_slice(&std::fs::read(directory.join(CONFIG)).unwrap());
        let file = directory.join(WEIGHTS);
        let shard = Shard::parse(&Bytes::map(&file).unwrap(), &file).unwrap();
        let tensors = shard.tensors.into_iter().map(|(name, stored)| {
            (name, (stored.dtype, stored.shape.clone(), stored.bytes.to_vec()))
        });
        Self { config: config.unwrap(), tensors: tensors.collect() }
    }

    fn open(&self, base: &Config) -> Result<Adapter> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG), self.config.to_string()).unwrap();
        let tensors = self.tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(tensors, None, &dir.path().join(WEIGHTS)).unwrap();
        Adapter::open(dir.path(), base)
    }
}

fn base() -> Config {
    Checkpoint::open(&directory("sharded")).unwrap().config().clone()
}

/// Opens the adapter `name` after a change and expects an error that holds every word.
fn refused(name: &str, words: &[&str], change: impl FnOnce(&mut Files, &mut Config)) {
    let (mut files, mut base) = (Files::read(name), base());
    change(&mut files, &mut base);
    let message = files.open(&base).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "{message:?} lacks {word:?}");
    }
}

fn tensor(layer: usize, rest: &str) -> String {
    format!("base_model.model.model.layers.{layer}.{rest}.weight")
}

#[test]
fn what_an_adapter_changes_can_be_read() {
    let open = |name| Adapter::open(&adapter_directory(name), &base()).unwrap();
    assert_eq!(
        open("mixed").describe(),
        "q_proj in 2 layers, v_proj in 2 layers, router in 4 layers, down_proj in 4 layers"
    );
    assert_eq!(open("some").describe(), "gate_up_proj in 2 layers, down_proj in 1 layers");
    // 8 experts of rank 2, filled up to 4 rows of 64, and 128 or 64 outputs.
    assert_eq!(open("some").num_bytes(), 4 * 8 * (3 * 4 * 64 + 2 * 2 * 128 + 2 * 64));
}

#[test]
fn config_keys_that_cannot_be_used_are_named_with_their_values() {
    for (key, value, word) in [
        ("peft_type", json!("LOHA"), "\"LOHA\" is not supported, only LORA"),
        ("peft_type", Value::Null, "missing"),
        ("bias", json!("lora_only"), "\"lora_only\""),
        ("use_dora", json!(true), "true is not supported"),
        ("lora_bias", json!(true), "true"),
        ("fan_in_fan_out", json!(true), "true"),
        ("modules_to_save", json!(["lm_head"]), "[\"lm_head\"]"),
        ("rank_pattern", json!({"q_proj": 4}), "{\"q_proj\":4}"),
        ("alpha_pattern", json!({"q_proj": 4}), "{\"q_proj\":4}"),
        ("trainable_token_indices", json!([1]), "[1]"),
        ("init_lora_weights", json!("pissa"), "\"pissa\" changes the base's weights"),
        ("layers_pattern", json!("blocks"), "\"blocks\""),
        ("r", json!(0), "0 is not a whole number from 1"),
        ("r", json!(2.5), "2.5"),
        ("r", Value::Null, "missing"),
        ("lora_alpha", json!("8"), "\"8\" is not a number"),
        ("use_rslora", json!("yes"), "\"yes\" is not true or false"),
        ("target_modules", json!(["q_proj", 7]), "[\"q_proj\",7]"),
        ("target_parameters", json!("down_proj"), "\"down_proj\" is not a list"),
        ("layers_to_transform", json!("1"), "\"1\""),
        ("base_model_name_or_path", json!("openai/gpt-oss-120b"), "36 layers of 128 experts"),
        ("base_model_name_or_path", json!("/models/GPT-OSS-20B/"), "served has 4 of 8"),
    ] {
        let named = format!("adapter_config.json: {key}: ");
        refused("mixed", &[&named, word], |files, _| files.config[key] = value);
    }
}

#[test]
fn values_that_change_nothing_are_read_over() {
    let mut files = Files::read("mixed");
    for (key, value) in [
        ("lora_dropout", json!(0.5)),
        ("layers_pattern", json!(["layers"])),
        ("init_lora_weights", json!("gaussian")),
        ("base_model_name_or_path", json!("someone/else")),
        ("key_of_a_later_version", json!({"x": 1})),
        ("use_dora", json!(false)),
    ] {
        files.config[key] = value;
    }
    files.open(&base()).unwrap();
}

#[test]
fn targets_of_the_config_that_the_base_lacks_are_named() {
    for entry in ["lm_head.weight", "mlp.experts.gate_up_proj_bias", "9.mlp.experts.down_proj", ""]
    {
        let words = ["target_parameters: ", entry, "4 layers", "q_proj"];
        refused("some", &words, |files, _| files.config["target_parameters"] = json!([entry]));
    }
}

#[test]
fn tensors_that_do_not_fit_rank_or_base_are_named_with_both_shapes() {
    let router = tensor(0, "mlp.router.lora_A");
    refused("mixed", &[&router, "[5, 64]", "r = 6", "[6, 64]"], |files, _| {
        files.config["r"] = json!(6);
    });
    refused("mixed", &["layers.0.mlp.router.lora_B", "[8, 5]", "[16, 5]"], |_, base| {
        base.num_experts = 16;
    });
    refused("all", &["q_proj.lora_A.weight", "[3, 64]", "[3, 96]"], |_, base| {
        base.hidden_size = 96
    });
    // The two expert parameters of a layer in each other's place.
    let (inner, outer) = ("mlp.experts.base_layer.lora_B", "mlp.experts.lora_B");
    refused("some", &[&tensor(3, inner), "[64, 16]", "[128, 16]"], |files, _| {
        let gate_up = files.tensors.remove(&tensor(3, inner)).unwrap();
        let down = files.tensors.insert(tensor(3, outer), gate_up).unwrap();
        files.tensors.insert(tensor(3, inner), down);
    });
}

#[test]
fn tensors_that_lack_or_that_nothing_asks_for_are_named() {
    let value = tensor(2, "self_attn.v_proj.lora_B");
    refused("mixed", &[&value, "missing", "4 layers"], |files, _| {
        files.tensors.remove(&value);
    });
    // An adapter of a base with fewer layers: the config asks for all of this one's.
    refused("all", &["layers.4.self_attn.q_proj.lora_A", "missing", "5 layers"], |_, base| {
        base.layers.push(crate::config::LayerKind::Full);
    });
    // And of one with more.
    refused("all", &["layers.3.", "layer 3 of a base that has 3"], |_, base| {
        base.layers.pop();
    });
    for extra in [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.mlp.experts.gate_up_projs.3.lora_A.weight",
    ] {
        refused("all", &[extra, "no target here", "gate_up_proj"], |files, _| {
            files.tensors.insert(extra.to_owned(), (Dtype::F32, vec![1], vec![0; 4]));
        });
    }
    // One half of a pair, where the config is a pattern that only PEFT can read.
    let key = tensor(0, "self_attn.k_proj.lora_A");
    refused("all", &[&tensor(0, "self_attn.k_proj.lora_B"), "missing"], |files, _| {
        files.config["target_modules"] = json!(".*_proj");
        let values = files.tensors.get(&key).unwrap().clone();
        files.tensors.retain(|name, _| !name.contains("self_attn"));
        files.tensors.insert(key, values);
    });
}

#[test]
fn a_pattern_of_modules_takes_what_the_file_has() {
    let mut files = Files::read("all");
    files.config["target_modules"] = json!(".*(q|k)_proj");
    files.tensors.retain(|name, _| !name.contains("v_proj") && !name.contains("o_proj"));
    let described = files.open(&base()).unwrap().describe();
    assert!(
        described.starts_with("q_proj in 4 layers, k_proj in 4 layers, gate_up"),
        "{described}"
    );
}

#[test]
fn numbers_of_another_type_are_refused() {
    refused("some", &["F64", "F32, F16 or BF16"], |files, _| {
        let (dtype, shape, bytes) =
            files.tensors.get_mut(&tensor(1, "mlp.experts.lora_A")).unwrap();
        *dtype = Dtype::F64;
        *bytes = vec![0; shape.iter().product::<usize>() * 8];
    });
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for (bits, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::MAX, "3402823")] {
        let name = tensor(1, "mlp.experts.lora_B");
        refused("some", &[&name, word], |files, _| {
            let (_, _, bytes) = files.tensors.get_mut(&name).unwrap();
            bytes[40..44].copy_from_slice(&bits.to_le_bytes());
        });
    }
}

#[test]
fn missing_and_damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let message = |dir: &Path| Adapter::open(dir, &base()).unwrap_err().to_string();
    assert!(message(dir.path()).contains("adapter_config.json: no such file"));
    std::fs::copy(adapter_directory("some").join(CONFIG), dir.path().join(CONFIG)).unwrap();
    assert!(message(dir.path()).contains("adapter_model.safetensors: no such file"));
    std::fs::write(dir.path().join(WEIGHTS), b"short").unwrap();
    assert!(message(dir.path()).contains("no safetensors file"), "{}", message(dir.path()));
    std::fs::write(dir.path().join(CONFIG), "[]").unwrap();
    assert!(message(dir.path()).contains("not a JSON object"));
}
