//! The kernels as nvcc makes them for the H100: they compile, and none of them spills.
//!
//! The compiler comes from the package index and needs no GPU. It is installed once under `.tools/cuda`, where the
//! build script of `crates/cuda` finds it, too.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process::{output, program, root, run, target_dir};

/// CUDA 13.0: a driver of version 580 takes no newer code.
const WHEELS: [&str; 6] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-cuobjdump==13.2.86",
];

/// Installs the toolkit unless it is there, and says where.
pub(crate) fn install() -> Result<()> {
    let bin = toolkit()?;
    println!("nvcc is {}", bin.join("nvcc").display());
    Ok(())
}

/// The toolkit's programs.
fn toolkit() -> Result<PathBuf> {
    let home = root().join(".tools/cuda");
    let bin = home.join("nvidia/cu13/bin");
    let stamp = home.join("installed");
    let wanted = WHEELS.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(bin);
    }
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    // Debian's python3 has no pip outside of virtual environments.
    let venv = root().join(".tools/pip");
    if !venv.join("bin/python").is_file() {
        let mut make = program("python3");
        make.args(["-m", "venv", "--clear"]).arg(&venv);
        run(make)?;
    }
    let mut pip = program(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]);
    pip.arg("--target").arg(&home).args(WHEELS);
    run(pip)?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(bin)
}

/// What one kernel takes of a processor of the card.
struct Usage {
    name: String,
    registers: u32,
    shared: u32,
    local: u32,
}

/// Compiles every kernel and prints what it takes. A kernel whose registers spill to memory fails.
pub(crate) fn check() -> Result<()> {
    let bin = toolkit()?;
    let out = target_dir()?.join("kernels");
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut usages = Vec::new();
    for source in sources()? {
        let cubin = out.join(source.file_name().context("a kernel without a name")?);
        let cubin = cubin.with_extension("cubin");
        let mut nvcc = program(bin.join("nvcc"));
        nvcc.args(["-O3", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a", "-cubin", "-o"]);
        nvcc.arg(&cubin).arg(&source);
        run(nvcc)?;
        let mut dump = program(bin.join("cuobjdump"));
        dump.arg("-res-usage").arg(&cubin);
        usages.extend(parse(&output(dump)?)?);
    }
    println!("{:<24}{:>10}{:>16}{:>14}", "kernel", "registers", "shared bytes", "spilled bytes");
    for Usage { name, registers, shared, local } in &usages {
        println!("{name:<24}{registers:>10}{shared:>16}{local:>14}");
    }
    let spilling: Vec<&str> =
        usages.iter().filter(|usage| usage.local > 0).map(|usage| usage.name.as_str()).collect();
    if !spilling.is_empty() {
        bail!("registers spill to memory in {}", spilling.join(", "));
    }
    Ok(())
}

fn sources() -> Result<Vec<PathBuf>> {
    let dir = root().join("kernels");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    paths.retain(|path| path.extension() == Some("cu".as_ref()));
    paths.sort();
    Ok(paths)
}

/// Reads lines such as ` Function NAME:` and `  REG:32 STACK:0 SHARED:3200 LOCAL:0 ...`.
fn parse(text: &str) -> Result<Vec<Usage>> {
    let mut usages = Vec::new();
    let mut name = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("Function ") {
            name = Some(rest.trim_end_matches(':').to_owned());
        } else if line.starts_with("REG:") {
            let number = |key: &str| -> Result<u32> {
                let word = line.split_whitespace().find_map(|word| word.strip_prefix(key));
                Ok(word.with_context(|| format!("no {key} in {line:?}"))?.parse()?)
            };
            usages.push(Usage {
                name: name.take().with_context(|| format!("no function before {line:?}"))?,
                registers: number("REG:")?,
                shared: number("SHARED:")?,
                local: number("LOCAL:")? + number("STACK:")?,
            });
        }
    }
    if usages.is_empty() {
        bail!("cuobjdump names no kernel: {text}");
    }
    Ok(usages)
}
