"""What is printed and written in the end: medians, ratios, goals, and everything needed to doubt them."""

import os
import platform
import shlex
import statistics
import subprocess
from dataclasses import dataclass

from measure import Series, verdict

# Ratios wished for.
GOALS = {"prefill": 3.0, "decode": 1.5}
# Peak memory wished for, as a share of the checkpoint; what keys and values take is not even added to it.
MEMORY_GOAL = 1.10
# Instructions that decide which kernels either program takes.
FLAGS = {"avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8",
         "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"}


def num_cores():
    """Cores that this process may use; two threads of one core count once."""
    allowed = os.sched_getaffinity(0)
    lines = lscpu("-p=cpu,core,socket").splitlines()
    rows = [tuple(line.split(",")) for line in lines if line and not line.startswith("#")]
    return len({(core, socket) for cpu, core, socket in rows if int(cpu) in allowed}) or len(allowed)


def machine():
    fields = dict(line.split(":", 1) for line in lscpu().splitlines() if ":" in line)
    flags = fields.get("Flags", "").split() + fields.get("Features", "").split()
    return {
        "processor": fields.get("Model name", platform.machine()).strip(),
        "family_model": "/".join(fields.get(name, "?").strip() for name in ("CPU family", "Model")),
        "cores": num_cores(),
        "l3": fields.get("L3 cache", fields.get("L3", "?")).strip(),
        "flags": sorted(FLAGS.intersection(flags)),
        "memory_bytes": memory_bytes(),
        "system": platform.system() + " " + platform.release(),
    }


def memory_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def lscpu(*options):
    env = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(["lscpu", *options], capture_output=True, text=True, env=env).stdout
    except OSError:
        return ""


@dataclass
class Result:
    facts: dict
    llama: object
    harmonium: object
    # The same with activations of 8 bits; the goals are not for it.
    int8: object
    errors: dict

    def sides(self):
        return self.llama, self.harmonium, self.int8

    def comparisons(self, side):
        """(what, their series, our series, ratio, whether it meets the goal) for every figure."""
        busiest = max(run.others_cores for each in self.sides() for run in each.runs)
        for key in sorted(self.llama.rounds[0], key=lambda key: (key[0] == "decode", key[1])):
            theirs, ours = (Series([each[key] for each in side.rounds]) for side in (self.llama, side))
            yield key, theirs, ours, *verdict(theirs, ours, GOALS[key[0]], busiest / self.facts["threads"])

    def peaks(self):
        return [max(run.peak_bytes for run in side.runs) for side in self.sides()]

    def table(self):
        lines = [f"{'':22}{'llama.cpp':>22}{'harmonium':>22}{'ratio':>8}{'goal':>8}"]
        for key, theirs, ours, ratio, called in self.comparisons(self.harmonium):
            goal = f">= {GOALS[key[0]]}"
            lines.append(f"{what(key):22}{cell(theirs):>22}{cell(ours):>22}{ratio:>7.2f}x{goal:>8}  {called}")
        theirs, ours, _ = self.peaks()
        size = self.facts["checkpoint_bytes"]
        called = "met" if ours <= MEMORY_GOAL * size else "more, keys and values included"
        lines.append(f"{'peak memory, GB':22}{theirs / 1e9:>22.2f}{ours / 1e9:>22.2f}{ours / theirs:>7.2f}x"
                     f"{f'<= {MEMORY_GOAL * size / 1e9:.2f}':>8}  {called}")
        lines += ["", f"{'':22}{'llama.cpp':>22}{self.int8.name:>22}{'ratio':>8}"]
        for key, theirs, ours, ratio, _ in self.comparisons(self.int8):
            lines.append(f"{what(key):22}{cell(theirs):>22}{cell(ours):>22}{ratio:>7.2f}x")
        lines += [
            "",
            "Speeds in tokens a second: median of the rounds (best, spread). Memory: the most that was resident;",
            f"its goal is {MEMORY_GOAL} times the checkpoint of {size / 1e9:.2f} GB, without keys and values.",
        ]
        for side, errors in self.errors.items():
            rounds = {"llama.cpp": "int8 and bf16", "harmonium": "int16"}.get(side, "int8")
            lines.append(
                f"{side}'s logits of {len(errors)} tokens differ from float32 by {statistics.median(errors):.1e} (median;"
                f" {min(errors):.1e} to {max(errors):.1e}): it rounds activations to {rounds}."
            )
        return "\n".join(lines)

    def text(self):
        facts, machine = self.facts, self.facts["machine"]
        lines = [
            self.table(), "",
            f"{machine['processor']} (family/model {machine['family_model']}), {machine['cores']} cores, L3"
            f" {machine['l3']}, {machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}",
            f"instructions: {' '.join(machine['flags'])}",
            f"{facts['threads']} threads each; gpt-oss-20b's shape with {facts['layers']} layers",
            f"{facts['harmonium']}",
            f"llama.cpp of llama-cpp-python {facts['llama_cpp_python']}: {', '.join(facts['llama_cpp_build'])}",
            f"bytes of the GGUF's tensors: {facts['gguf_bytes']}",
        ]
        for side in self.sides():
            lines += ["", f"{side.name}, round by round"]
            for each in side.rounds:
                figures = (f"{name} {number}: {value:.2f}" for (name, number), value in each.items())
                lines.append("  " + ", ".join(figures))
            for run in side.runs:
                lines += [
                    f"  $ {command(run)}",
                    f"    peak {run.peak_bytes / 1e9:.2f} GB, {run.anonymous_bytes / 1e9:.2f} of it its own at most;"
                    f" everything else took {run.others_cores:.2f} cores meanwhile",
                ]
        return "\n".join(lines) + "\n"

    def json(self):
        return {
            **self.facts,
            "figures": [
                {
                    "what": name, "number": number, "activations": side.activations,
                    "llama_cpp_tokens_per_s": theirs.values, "harmonium_tokens_per_s": ours.values,
                    "ratio_of_medians": ratio,
                    **({"goal": GOALS[name], "called": called} if side is self.harmonium else {}),
                }
                for side in (self.harmonium, self.int8)
                for (name, number), theirs, ours, ratio, called in self.comparisons(side)
            ],
            "peak_bytes": dict(zip(("llama_cpp", "harmonium", "harmonium_int8"), self.peaks(), strict=True)),
            "relative_errors_of_logits": self.errors,
            "runs": [
                {"command": command(run), "peak_bytes": run.peak_bytes, "anonymous_bytes": run.anonymous_bytes,
                 "others_cores": run.others_cores}
                for side in self.sides() for run in side.runs
            ],
        }


def what(key):
    name, number = key
    return f"{name}, {number} tokens" if name == "prefill" else f"{name}, batch {number}"


def cell(series):
    return f"{series.median:.2f} ({series.best:.2f}, {series.spread:.0%})"


def command(run):
    """What was run, without where it lay on this machine."""
    return shlex.join(word.rsplit("/", 1)[-1] for word in run.command)
