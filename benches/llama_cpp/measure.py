"""Runs one program at a time and says what it did and took: its figures, its memory, who else was running.

Nothing here knows how the programs are built. The two benchmarks report in forms of their own, and become one:
{("prefill", tokens): tokens a second, ("decode", batch): tokens a second of all sequences together}.
"""

import json
import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# How often a running program is looked at.
SAMPLE_S = 0.2
# Below this share of a core a program does nothing yet: it may be waiting for its turn behind `wrap`.
MIN_OWN_CORES = 0.1
# Rounds may lie this far apart, as a share of their median; beyond it their medians decide nothing.
MAX_SPREAD = 0.10
# Everything else may take this share of the cores; beyond it the rounds agree by chance.
MAX_OTHERS = 0.15


class Failure(Exception):
    """What stops the comparison, in words for the person who started it."""


@dataclass
class Run:
    """A program that ended well."""

    command: list
    output: str
    peak_bytes: int
    # Of that, at most this much is memory of its own; the rest are pages of mapped files.
    anonymous_bytes: int
    # Cores, on average, that everything else kept busy while the program ran.
    others_cores: float


def run(command, wrap=(), env=None):
    """Runs a program to its end, with `wrap` before it. It must replace itself by the program, as taskset does."""
    command = [*wrap, *map(str, command)]
    with open(os.devnull) as nothing:
        child = subprocess.Popen(
            command, stdin=nothing, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(env or {})},
        )
    watch = Watch(child.pid)
    while True:
        try:
            output, errors = child.communicate(timeout=SAMPLE_S)
            break
        except subprocess.TimeoutExpired:
            watch.sample()
    if child.returncode != 0:
        raise Failure(f"`{' '.join(command)}` ended with {child.returncode}:\n{errors[-2000:]}")
    return Run(command, output, watch.peak, watch.anonymous, watch.others_cores())


class Watch:
    """Samples a process and the machine around it, from /proc."""

    def __init__(self, pid):
        self.dir = Path(f"/proc/{pid}")
        self.peak = self.anonymous = 0
        self.others_s = self.seconds = 0.0
        self.last = None

    def sample(self):
        try:
            status = (self.dir / "status").read_text()
            own = own_ticks((self.dir / "stat").read_text())
        except OSError:
            return
        now = time.monotonic(), own, busy_ticks(Path("/proc/stat").read_text())
        # A process that has ended but is not waited for has no memory any more.
        self.peak = max(self.peak, field(status, "VmHWM"))
        self.anonymous = max(self.anonymous, field(status, "RssAnon"))
        if self.last:
            seconds, own_s = now[0] - self.last[0], (own - self.last[1]) / TICKS_PER_S
            if own_s >= MIN_OWN_CORES * seconds:
                self.seconds += seconds
                self.others_s += max(0.0, (now[2] - self.last[2]) / TICKS_PER_S - own_s)
        self.last = now

    def others_cores(self):
        return self.others_s / self.seconds if self.seconds else 0.0


def field(status, name):
    """Bytes of a line such as "VmHWM:   12350528 kB" of /proc/PID/status; 0 if it is not there."""
    for line in status.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def own_ticks(stat):
    """User and system time from /proc/PID/stat. The name may hold spaces and parentheses, so count from its end."""
    values = stat[stat.rindex(")") + 2 :].split()
    return int(values[11]) + int(values[12])


def busy_ticks(stat):
    """Time in which the processors did something, or somebody else's machine had them, from /proc/stat."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split()[1:9])
    return user + nice + system + irq + softirq + steal


def json_lines(text):
    """The objects among the lines: llama.cpp's programs mix them with their log."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def from_llama_bench(text):
    """`llama-bench -o jsonl`: a test has either a prompt or generates, one sequence."""
    figures = {}
    for test in json_lines(text):
        prompt, generated = test["n_prompt"], test["n_gen"]
        figures[("prefill", prompt) if prompt else ("decode", 1)] = test["avg_ts"]
        if bool(prompt) == bool(generated):
            raise Failure(f"llama-bench ran a test of prompt {prompt} and generation {generated}")
    return figures


def from_batched_bench(text):
    """`llama-batched-bench --output-format jsonl`: batch x steps by the time of all steps."""
    return {("decode", test["pl"]): test["speed_tg"] for test in json_lines(text)}


def from_harmonium(text):
    """What `harmonium bench engine --out` writes."""
    report = json.loads(text)
    decode = {("decode", each["batch"]): each["tokens_per_s"] for each in report["decode"]}
    return decode | {("prefill", each["tokens"]): each["tokens_per_s"] for each in report["prefill"]}


@dataclass
class Series:
    """One figure in every round."""

    values: list

    @property
    def median(self):
        return statistics.median(self.values)

    @property
    def best(self):
        return max(self.values)

    @property
    def spread(self):
        return (max(self.values) - min(self.values)) / self.median


def verdict(theirs, ours, goal, others_share):
    """The ratio of medians, and whether it can be called against the goal."""
    ratio = ours.median / theirs.median
    if others_share > MAX_OTHERS:
        return ratio, f"not called: others took {others_share:.0%} of the cores"
    if min(len(theirs.values), len(ours.values)) < 2:
        return ratio, "not called: one round"
    spread = max(theirs.spread, ours.spread)
    if spread > MAX_SPREAD:
        return ratio, f"not called: rounds {spread:.0%} apart"
    return ratio, "met" if ratio >= goal else "not met"


def relative_error(values, reference):
    """|values - reference| / |reference|, as the tests of the forward pass measure it."""
    difference = sum((a - b) ** 2 for a, b in zip(values, reference, strict=True))
    return (difference / sum(b * b for b in reference)) ** 0.5
