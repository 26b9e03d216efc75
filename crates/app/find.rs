//! From the name of a model to the place of its files. Nothing is downloaded here.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use harmonium_hub::local::{self, LocalSnapshot};
use harmonium_hub::{HubCache, RepoId};
use harmonium_model::Source;
use harmonium_model::synth::Shape;
use indicatif::DecimalBytes;

use crate::environment::Environment;
use crate::settings::Settings;

/// The name of the model inside the binary.
const NANO: &str = "nano";
/// What comes before the shape of a model without files.
const SYNTHETIC: &str = "synthetic:";
/// The revision that is served.
const REVISION: &str = "main";
/// What `harmonium pull` downloads of the published models, in bytes: weights and tokenizer.
const PUBLISHED_SIZES: [(&str, u64); 2] =
    [("gpt-oss-20b", 13_789_000_000), ("gpt-oss-120b", 65_277_000_000)];

/// Where the configured model lies.
pub(crate) fn configured(settings: &Settings, environment: &Environment) -> Result<Source> {
    find(&settings.model.name, cache(settings, environment))
}

/// Where a model lies: `nano`, a directory, `gpt-oss-20b`, `gpt-oss-120b`, `OWNER/NAME` in the cache, or
/// `synthetic:SHAPE`, which lies nowhere.
pub(crate) fn named(name: &str, environment: &Environment) -> Result<Source> {
    find(name, default_cache(environment))
}

/// The configured cache, or the one that Hugging Face tools use.
pub(crate) fn cache(settings: &Settings, environment: &Environment) -> HubCache {
    match settings.model.hf_cache.as_ref() {
        Some(dir) => HubCache::new(dir.clone()),
        None => default_cache(environment),
    }
}

fn default_cache(environment: &Environment) -> HubCache {
    HubCache::new(environment.hf_cache().unwrap_or_else(|| PathBuf::from(".cache/huggingface/hub")))
}

fn find(name: &str, cache: HubCache) -> Result<Source> {
    if name == NANO {
        return Ok(Source::Nano);
    }
    if let Some(wanted) = name.strip_prefix(SYNTHETIC) {
        let shape = Shape::NAMED.iter().find(|(shape, _)| *shape == wanted);
        let shapes = Shape::NAMED.map(|(shape, _)| format!("{SYNTHETIC}{shape}")).join(", ");
        let (_, shape) = shape
            .with_context(|| format!("no synthetic model named {name:?}: there are {shapes}"))?;
        return Ok(Source::Synthetic(*shape));
    }
    let directory = Path::new(name);
    if directory.is_dir() {
        return Ok(Source::Directory(directory.to_owned()));
    }
    let repo = RepoId::parse(name).with_context(|| {
        format!(
            "no model named {name:?}: it is not nano, not a directory, and cannot be downloaded"
        )
    })?;
    let found = local::find(&cache, &repo)?;
    let snapshots = found.map_or(Vec::new(), |found| found.snapshots);
    // Where a pull of a newer commit is under way, the older one comes first.
    let served =
        snapshots.iter().find(|snapshot| snapshot.revision == REVISION && snapshot.is_servable);
    match served {
        Some(snapshot) => Ok(Source::Directory(snapshot.dir.clone())),
        None => bail!("{}", advice(&repo, &snapshots, &cache)),
    }
}

/// What to do about a model that cannot be served from the cache.
fn advice(repo: &RepoId, snapshots: &[LocalSnapshot], cache: &HubCache) -> String {
    let short = repo.short();
    // The last one: an interrupted pull, if there is one.
    match snapshots.iter().rev().find(|snapshot| snapshot.revision == REVISION) {
        Some(partial) => format!(
            "{repo} is downloaded in part only ({}); run `harmonium pull {short}` to go on",
            state(partial)
        ),
        None => {
            let size = PUBLISHED_SIZES.iter().find(|(name, _)| *name == short);
            let size =
                size.map_or_else(String::new, |(_, size)| format!(" ({})", DecimalBytes(*size)));
            format!(
                "{repo} is not in the cache at {}; run `harmonium pull {short}`{size} or give the directory that holds its files",
                cache.dir().display()
            )
        }
    }
}

/// How complete a snapshot is, in a few words.
pub(crate) fn state(snapshot: &LocalSnapshot) -> String {
    match (snapshot.missing.len(), snapshot.missing_bytes) {
        (0, _) => "complete".to_owned(),
        (_, Some(bytes)) => {
            let total = DecimalBytes(snapshot.num_bytes + bytes);
            format!("{} of {total} here", DecimalBytes(snapshot.num_bytes))
        }
        (1, None) => format!("{} is missing", snapshot.missing[0]),
        (count, None) => format!("{} and {} more are missing", snapshot.missing[0], count - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nano_and_directories_need_no_cache() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = Environment::from([("HF_HUB_CACHE", "/nowhere")]);
        assert_eq!(named("nano", &nowhere).unwrap(), Source::Nano);
        let directory = Source::Directory(dir.path().to_owned());
        assert_eq!(named(dir.path().to_str().unwrap(), &nowhere).unwrap(), directory);
    }

    #[test]
    fn short_and_full_names_are_looked_up_in_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let environment = Environment::from([("HF_HUB_CACHE", cache.path().to_str().unwrap())]);
        let repo = cache.path().join("models--openai--gpt-oss-20b");
        let snapshot = repo.join("snapshots/abc");
        std::fs::create_dir_all(repo.join("refs")).unwrap();
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::write(repo.join("refs/main"), "abc").unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::write(snapshot.join(file), "{}").unwrap();
        }
        let partial = named("gpt-oss-20b", &environment).unwrap_err().to_string();
        assert!(partial.contains("in part only (model.safetensors is missing)"), "{partial}");
        std::fs::write(snapshot.join("model.safetensors"), "").unwrap();
        for name in ["gpt-oss-20b", "openai/gpt-oss-20b"] {
            assert_eq!(named(name, &environment).unwrap(), Source::Directory(snapshot.clone()));
        }
        let absent = named("gpt-oss-120b", &environment).unwrap_err().to_string();
        assert!(absent.contains("`harmonium pull gpt-oss-120b` (65.28 GB)"), "{absent}");
    }

    #[test]
    fn synthetic_models_are_found_by_their_shape() {
        let nobody = Environment::default();
        let source = Source::Synthetic(Shape::GPT_OSS_120B);
        assert_eq!(named("synthetic:gpt-oss-120b", &nobody).unwrap(), source);
        let message = named("synthetic:gpt-4", &nobody).unwrap_err().to_string();
        assert!(message.contains("synthetic:gpt-4") && message.contains("synthetic:gpt-oss-20b"));
    }

    #[test]
    fn names_that_no_model_has_are_refused() {
        for name in ["", "gpt", "../x", "/nowhere/at/all"] {
            let message = format!("{:#}", named(name, &Environment::default()).unwrap_err());
            assert!(message.contains(&format!("{name:?} names no repository")), "{message}");
        }
    }
}
