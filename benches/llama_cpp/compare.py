#!/usr/bin/env python3
"""Harmonium against llama.cpp on this machine's processor: the same weights, in the same run.

    python3 benches/llama_cpp/compare.py                          # the first time it builds for ten minutes or more
    python3 benches/llama_cpp/compare.py --layers 2 --rounds 2    # a quick look
    python3 benches/llama_cpp/compare.py --wrap "taskset -c 0-7" --threads 8 --out FILE.txt

It needs Linux, Python 3.10.12, 3.11.4 or newer, cmake, ninja, a C++ compiler, npm, the package indexes, and disk:
checkpoint and GGUF take 6.1 GB each at 8 layers (0.8 a layer less or more), the converter's packages up to 5. It

1. builds llama.cpp from the source distribution of a pinned version, with the options that suit it best (peer.py);
2. builds Harmonium, and lets it write a checkpoint of random weights in the shape of gpt-oss-20b;
3. converts that with llama.cpp's own converter, and checks that experts stayed MXFP4 and the rest bf16;
4. runs both in turn, Harmonium as it is and once more with --activations int8, with as many threads as there are cores:
     prefill   one prompt of 512 and one of 2,048 tokens: `llama-bench -p`, `harmonium bench engine --prefill`
     decode 1  32 tokens of one sequence from an empty context: `llama-bench -n`, `harmonium bench engine --batch 1`
     decode 4  32 steps of 4 sequences, tokens of all of them a second: `llama-batched-bench -npl 4`, of which this is
               `speed_tg` (4 x 32 tokens by the time of the 32 steps, after a prompt of one token each), `--batch 4`
   The weights are warm before anything counts: Harmonium decodes two steps first, and llama-bench takes a prompt of 64
   tokens first, in the same process, instead of a warm-up that repeats every test;
5. takes the peak of resident memory of each (VmHWM: both map the weights, so pages of the file count);
6. computes the logits of the same tokens with all. With --activations float32, Harmonium is held against transformers in
   float32 by tests (within 1e-4), so it stands for float32 here. As it was measured, it rounds what meets MXFP4 weights
   to blocks of 16 bits, or of 8; llama.cpp rounds that to blocks of int8, what meets bf16 weights to bf16, and its keys
   and values to float16. Between random
   weights the choice of experts is close, and one other expert changes a row altogether. So rows are reported by
   their median and range, and say little about trained weights; `--layers 1` shows the rounding by itself;
7. prints medians, best rounds and ratios of medians. A ratio is not called met or missed if a side's rounds differ by
   more than 10 %, or if everything else on the machine took more than 15 % of the cores during any run.

`--wrap` goes before every measured command and must end in an exec, as taskset, numactl and chrt do.
"""

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
from array import array
from pathlib import Path

import peer
import report
from measure import Failure, from_batched_bench, from_harmonium, from_llama_bench, relative_error, run

ROOT = Path(__file__).resolve().parents[2]
PREFILL = [512, 2048]
STEPS = 32
BATCH = 4
WARM_UP_TOKENS = 64
# Logits of this many tokens are compared: 4 bytes for each of 201,088 entries of the vocabulary.
LOGITS_TOKENS = 64
# Ids from here on are control tokens.
NUM_TEXT_TOKENS = 199_998
VOCABULARY = 201_088


def main():
    options = arguments()
    llama = peer.Peer(options.work)
    llama.build(options.threads)
    harmonium = options.harmonium or build_harmonium()
    checkpoint = make_checkpoint(harmonium, llama, options.layers)
    gguf = llama.convert(checkpoint)
    sums = llama.tensors(gguf)
    checkpoint_bytes = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    peer.check_tensors(sums, checkpoint_bytes)
    ours = [Harmonium(harmonium, checkpoint, options, activations) for activations in ("int16", "int8")]
    sides = [Llama(llama, gguf, options), *ours]
    into_page_cache([gguf, *checkpoint.glob("*.safetensors")], spare=sums["experts MXFP4"])
    for number in range(options.rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            side.round()
            print(f"round {number + 1}: {side.line()}", flush=True)
    errors = compare_logits(*sides)
    facts = {
        "machine": report.machine(), "threads": options.threads, "layers": options.layers,
        "checkpoint_bytes": checkpoint_bytes, "gguf_bytes": sums, "llama_cpp_python": peer.VERSION,
        "llama_cpp_build": llama.build_options(), "harmonium": version(harmonium, options),
    }
    result = report.Result(facts, *sides, errors)
    print("\n" + result.table())
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(result.text())
        options.out.with_suffix(".json").write_text(json.dumps(result.json(), indent=2) + "\n")
        print(f"\nwrote {options.out} and {options.out.with_suffix('.json')}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=positive, default=8, help="of the 24 of gpt-oss-20b (default: 8)")
    parser.add_argument("--rounds", type=positive, default=3, help="of both programs, in turn (default: 3)")
    parser.add_argument("--threads", type=positive, default=report.num_cores(), help="of each (default: one a core)")
    parser.add_argument("--work", type=Path, default=ROOT / "target/llama-cpp", metavar="DIR",
                        help="where what is built and converted stays (default: target/llama-cpp)")
    parser.add_argument("--harmonium", type=Path, metavar="FILE", help="a binary to use instead of building one")
    parser.add_argument("--wrap", type=shlex.split, default=[], metavar="COMMAND", help="before what is measured")
    parser.add_argument("--out", type=Path, metavar="FILE", help="text file for the report; JSON goes beside it")
    return parser.parse_args()


def positive(text):
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def build_harmonium():
    command = ["cargo", "build", "--release", "--locked"]
    print("$", " ".join(command), flush=True)
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise Failure("Harmonium does not build")
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/harmonium"


def make_checkpoint(harmonium, llama, layers):
    """Random weights. Written under another name first, so that what was cut off is not taken for whole."""
    checkpoint = llama.work / f"synth-20b-{layers}"
    if not checkpoint.exists():
        partial = checkpoint.with_suffix(".partial")
        peer.step(["rm", "-rf", partial], llama.log)
        peer.step([harmonium, "synth", "--shape", "gpt-oss-20b", "--layers", layers, "--out", partial,
                   "--tokenizer", llama.tokenizer() / "tokenizer.json"], llama.log)
        partial.rename(checkpoint)
    return checkpoint


def into_page_cache(files, spare):
    """So that no round reads from the disk. `spare` is what llama.cpp takes besides, for experts in its own order."""
    needed = sum(file.stat().st_size for file in files) + spare
    memory = report.memory_bytes()
    if needed > 0.9 * memory:
        raise Failure(f"both files and llama.cpp's second copy of the experts take {needed / 1e9:.1f} GB of"
                      f" {memory / 1e9:.1f} GB of memory: take fewer --layers")
    for file in files:
        with open(file, "rb") as data:
            while data.read(1 << 24):
                pass


def version(harmonium, options):
    """The commit is that of this checkout, so it says nothing of a binary from elsewhere."""
    text = run([harmonium, "--version"]).output.strip()
    if options.harmonium:
        return f"{text}, a binary that was given"
    commit = run(["git", "-C", ROOT, "describe", "--always", "--dirty"]).output.strip()
    return f"{text}, commit {commit}"


class Side:
    """One of the programs, in one of its modes: its runs, and its figures in every round."""

    def __init__(self, options):
        self.threads, self.wrap = options.threads, options.wrap
        self.runs = []
        self.rounds = []

    def measure(self, command, env=None):
        self.runs.append(run(command, self.wrap, env))
        return self.runs[-1].output

    def line(self):
        figures = ", ".join(f"{name} {number} {value:.2f}" for (name, number), value in self.rounds[-1].items())
        return f"{self.name}: {figures} tok/s; others took {self.runs[-1].others_cores:.2f} cores"


class Llama(Side):
    name = "llama.cpp"

    def __init__(self, llama, gguf, options):
        super().__init__(options)
        self.binaries, self.gguf = llama.binaries, gguf

    def round(self):
        common = ["-m", self.gguf, "-t", self.threads]
        lengths = ",".join(map(str, [WARM_UP_TOKENS, *PREFILL]))
        figures = from_llama_bench(self.measure([
            self.binaries / "llama-bench", *common, "-p", lengths, "-n", STEPS, "-r", 1, "--no-warmup", "-o", "jsonl",
        ]))
        del figures["prefill", WARM_UP_TOKENS]
        figures |= from_batched_bench(self.measure([
            self.binaries / "llama-batched-bench", *common, "-c", 2048, "-npp", 1, "-ntg", STEPS, "-npl", BATCH,
            "--output-format", "jsonl",
        ]))
        self.rounds.append(figures)

    def logits(self, tokens):
        out = self.gguf.with_suffix(".logits")
        run([self.binaries / "logits", self.gguf, out, self.threads, *tokens], self.wrap)
        return floats(out.read_bytes())


class Harmonium(Side):
    def __init__(self, binary, checkpoint, options, activations):
        super().__init__(options)
        self.name = "harmonium" if activations == "int16" else f"harmonium {activations}"
        self.binary, self.checkpoint, self.activations = binary, checkpoint, activations
        self.out = checkpoint.with_suffix(".json")

    def round(self):
        lengths = ",".join(map(str, PREFILL))
        self.measure([
            self.binary, "bench", "engine", "--model", self.checkpoint, "--device", "cpu", "--batch", f"1,{BATCH}",
            "--context", 0, "--steps", STEPS, "--prefill", lengths, "--activations", self.activations, "--out", self.out,
        ], self.env())
        self.rounds.append(from_harmonium(self.out.read_text()))

    def env(self):
        return {"HARMONIUM_MODEL_NUM_THREADS": str(self.threads)}

    def logits(self, tokens, activations):
        """Tensor `logits` of a safetensors file: the length of a JSON header, the header, the data."""
        out = self.checkpoint.with_suffix(".safetensors")
        ids = ",".join(map(str, tokens))
        command = [self.binary, "logits", "--model", self.checkpoint, "--activations", activations, "--tokens", ids]
        command += ["--out", out]
        run(command, self.wrap, self.env())
        data = out.read_bytes()
        return floats(data[8 + int.from_bytes(data[:8], "little") :])


def floats(data):
    values = array("f", data)
    if sys.byteorder == "big":
        values.byteswap()
    if len(values) != LOGITS_TOKENS * VOCABULARY:
        raise Failure(f"{len(values)} logits instead of {LOGITS_TOKENS} x {VOCABULARY}")
    return values


def compare_logits(llama, *ours):
    """The relative error of all sides' logits of every token, those of Harmonium in float32 taken for exact."""
    source = random.Random(0)
    tokens = [source.randrange(NUM_TEXT_TOKENS) for _ in range(LOGITS_TOKENS)]
    exact = ours[0].logits(tokens, "float32")
    rows = [slice(at, at + VOCABULARY) for at in range(0, len(exact), VOCABULARY)]
    sides = {llama.name: llama.logits(tokens)}
    sides |= {side.name: side.logits(tokens, side.activations) for side in ours}
    return {name: [relative_error(logits[row], exact[row]) for row in rows] for name, logits in sides.items()}


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError) as failure:
        sys.exit(f"compare: {failure}")
