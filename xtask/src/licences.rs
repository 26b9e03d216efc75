//! What the dependencies may be: their licences, their sources, and how often each occurs.
//!
//! Looks at the packages that a build for this machine's kind of system uses, not at everything the lock file
//! names for other systems.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand, Package};
use spdx::{Expression, ParseMode};

use crate::process::root;

/// The system whose dependencies are looked at.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// Licences we may build with: permissive, no duty beyond keeping the notice.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that are built in more than one version, and why that cannot be helped.
const DUPLICATES: &[(&str, &str)] = &[
    ("base64", "tokenizers' spm_precompiled has 0.13, tiktoken-rs (tests) 0.22, hyper-util 0.23"),
    ("bit-set", "fancy-regex has 0.8, proptest (tests) 0.11"),
    ("bit-vec", "comes with bit-set"),
    ("fancy-regex", "tokenizers has 0.17, candle-transformers and tiktoken-rs (tests) 0.19"),
    ("getrandom", "rand 0.9 and tokenizers have 0.3, tempfile and uuid 0.4"),
    ("hashbrown", "safetensors has 0.16, indexmap 0.17"),
    ("itertools", "criterion (benches) has 0.13, tokenizers 0.14"),
    ("rand", "candle has 0.9, proptest (tests) 0.10"),
    ("rand_core", "comes with rand"),
    ("syn", "procedural macros are on their way from 2 to 3"),
];

/// Packages under another licence that we use all the same, and why we may.
const EXCEPTIONS: &[(&str, &str, &str)] = &[(
    "option-ext",
    "MPL-2.0",
    "copyleft of its own files only, which we do not change; below hf-hub through dirs",
)];

/// Checks all dependencies and reports everything that is wrong with them at once.
pub(crate) fn check() -> Result<()> {
    let metadata = MetadataCommand::new()
        .current_dir(root())
        .other_options(["--locked", "--filter-platform", PLATFORM].map(String::from))
        .exec()
        .context("cargo metadata failed")?;
    let packages = used(&metadata)?;
    let mut problems: Vec<String> = packages.iter().filter_map(|p| problem(p)).collect();
    problems.extend(duplicate_problems(&packages, DUPLICATES));
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("{} problems with dependencies", problems.len());
    }
    println!("{} packages, all with allowed licences", packages.len());
    Ok(())
}

/// The packages that the resolved graph reaches.
fn used(metadata: &Metadata) -> Result<Vec<&Package>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata has no resolved graph")?;
    Ok(resolve.nodes.iter().map(|node| &metadata[&node.id]).collect())
}

fn problem(package: &Package) -> Option<String> {
    let name = format!("{} {}", package.name, package.version);
    if package.source.as_ref().is_some_and(|source| source.repr.starts_with("git+")) {
        return Some(format!("{name} comes from a git repository"));
    }
    let Some(licence) = &package.license else {
        return Some(format!("{name} names no licence"));
    };
    let is_exception = EXCEPTIONS
        .iter()
        .any(|(known, known_licence, _)| package.name == *known && licence == known_licence);
    match is_allowed(licence) {
        Ok(true) => None,
        Ok(false) if is_exception => None,
        Ok(false) => Some(format!("{name} is under {licence}, which is not allowed")),
        Err(error) => Some(format!("{name}: {error:#}")),
    }
}

/// Whether the allowed licences satisfy an expression. Exceptions only add rights, so they do not matter.
fn is_allowed(licence: &str) -> Result<bool> {
    // Old packages write MIT/Apache-2.0 for MIT OR Apache-2.0.
    let expression = Expression::parse_mode(licence, ParseMode::LAX)
        .with_context(|| format!("the licence expression {licence:?} cannot be read"))?;
    Ok(expression
        .evaluate(|required| required.license.id().is_some_and(|id| ALLOWED.contains(&id.name))))
}

fn duplicate_problems(packages: &[&Package], explained: &[(&str, &str)]) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in packages {
        versions.entry(package.name.as_str()).or_default().insert(package.version.to_string());
    }
    versions.retain(|_, versions| versions.len() > 1);
    let explanation = |name: &str| explained.iter().any(|(known, _)| *known == name);
    let unexplained = versions.iter().filter(|(name, _)| !explanation(name)).map(|(name, all)| {
        let all = all.iter().map(String::as_str).collect::<Vec<_>>().join(" and ");
        format!("{name} is built as {all}: unify, or explain it in xtask/src/licences.rs")
    });
    let stale = explained
        .iter()
        .filter(|(name, _)| !versions.contains_key(name))
        .map(|(name, _)| format!("{name} is explained as built in several versions but is not"));
    unexplained.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_need_one_allowed_way() {
        assert!(is_allowed("MIT").unwrap());
        assert!(is_allowed("MIT/Apache-2.0").unwrap());
        assert!(is_allowed("GPL-3.0-only OR MIT").unwrap());
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception").unwrap());
        assert!(!is_allowed("MIT AND GPL-3.0-only").unwrap());
        assert!(!is_allowed("MPL-2.0").unwrap());
        assert!(is_allowed("no licence at all").is_err());
    }
}
