//! Compiles the kernels: with g++ for the host device (feature `host-device`). Without the feature it does nothing.

#![expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let kernels = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../kernels");
    #[cfg(feature = "host-device")]
    host_device(&kernels)?;
    println!("cargo::rerun-if-changed={}", kernels.display());
    Ok(())
}

/// The files of a directory with this extension, in a fixed order.
fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let entries = fs::read_dir(dir).map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    let mut files = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    Ok(files)
}

#[cfg(feature = "host-device")]
fn host_device(kernels: &Path) -> Result<(), Box<dyn Error>> {
    let host = kernels.join("host");
    let mut common = cc::Build::new();
    // Optimized whatever the profile: tests run whole models on it. Fused multiply-adds only where a kernel asks.
    common.cpp(true).std("c++20").opt_level(2).extra_warnings(true);
    for flag in ["-fno-exceptions", "-fno-rtti", "-ffp-contract=off", "-Wno-unknown-pragmas"] {
        common.flag(flag);
    }
    common.clone().files(files(&host, "cpp")?).try_compile("harmonium_host")?;
    let mut sources = files(kernels, "cu")?;
    sources.extend(files(&host, "cu")?);
    let mut build = common.clone();
    // Every load and store of a kernel becomes a call that host/check.cpp answers. The thread sanitizer's calls are
    // used because it repeats them after a barrier; the address sanitizer drops the second check of an address.
    // Without merging and vectorizing an access is the one that the source names.
    for flag in [
        "-fsanitize=thread",
        "--param=tsan-instrument-func-entry-exit=0",
        "-fno-tree-vectorize",
        "-fno-store-merging",
        "-xc++",
    ] {
        build.flag(flag);
    }
    // Kernels register themselves; nothing names their objects, so the linker must take the whole archive.
    build.link_lib_modifier("+whole-archive").files(sources).try_compile("harmonium_kernels")?;
    Ok(())
}
