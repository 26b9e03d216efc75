//! Compiles the kernels: with nvcc for the card (feature `cuda`), with g++ for the host device (feature
//! `host-device`). Without these features it does nothing.

#![expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts through the environment"
)]

use std::error::Error;
use std::path::Path;
#[cfg(any(feature = "cuda", feature = "host-device"))]
use std::{fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let kernels = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../kernels");
    #[cfg(feature = "host-device")]
    host_device(&kernels)?;
    #[cfg(feature = "cuda")]
    card(&kernels)?;
    println!("cargo::rerun-if-changed={}", kernels.display());
    Ok(())
}

/// The files of a directory with this extension, in a fixed order.
#[cfg(any(feature = "cuda", feature = "host-device"))]
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

/// Compiles every kernel file to code for the H100 and lists the results in `cubins.rs`.
#[cfg(feature = "cuda")]
fn card(kernels: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let nvcc = nvcc(&kernels.join(".."))?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut list = String::from(
        "/// The kernels' names and code, file by file.\nconst CUBINS: &[(&[&str], &[u8])] = &[\n",
    );
    for source in files(kernels, "cu")? {
        let cubin =
            out.join(source.file_name().ok_or("a kernel without a name")?).with_extension("cubin");
        let mut command = std::process::Command::new(&nvcc);
        command.args([
            "-O3",
            "-std=c++17",
            "-gencode=arch=compute_90a,code=sm_90a",
            "-cubin",
            "-o",
        ]);
        command.arg(&cubin).arg(&source);
        if !command.status()?.success() {
            return Err(format!("nvcc failed for {}", source.display()).into());
        }
        let text = fs::read_to_string(&source)?;
        let names: Vec<&str> =
            text.split("\nKERNEL(").skip(1).filter_map(|rest| rest.split(',').next()).collect();
        list += &format!("    (&{names:?}, include_bytes!({cubin:?})),\n");
    }
    fs::write(out.join("cubins.rs"), list + "];\n")?;
    Ok(())
}

/// nvcc of `$CUDA_HOME`, of the path, of the usual place, or of the repository's own toolkit.
#[cfg(feature = "cuda")]
fn nvcc(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin")));
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    places.push("/usr/local/cuda/bin".into());
    places.push(root.join(".tools/cuda/nvidia/cu13/bin"));
    places.into_iter().map(|place| place.join("nvcc")).find(|nvcc| nvcc.is_file()).ok_or_else(
        || "no nvcc found: `cargo xtask cuda-toolkit` installs one for this repository".into(),
    )
}
