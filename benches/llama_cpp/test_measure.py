"""The parts of the comparison that no run of it would notice: python3 -m unittest discover -s benches/llama_cpp"""

import os
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path

import measure
import peer
from measure import Failure, Series

RESULTS = Path(__file__).resolve().parents[1] / "results"


class Parsing(unittest.TestCase):
    def test_llama_bench_tests_become_prefill_and_decode(self):
        text = ('load: some log\n{"n_prompt": 512, "n_gen": 0, "avg_ts": 43.9}\n'
                '{"n_prompt": 0, "n_gen": 32, "avg_ts": 11.4}\n')
        self.assertEqual(measure.from_llama_bench(text), {("prefill", 512): 43.9, ("decode", 1): 11.4})
        with self.assertRaises(Failure):
            measure.from_llama_bench('{"n_prompt": 8, "n_gen": 8, "avg_ts": 1.0}')

    def test_batched_bench_gives_tokens_of_all_sequences(self):
        text = '\n{"pp": 1, "tg": 32, "pl": 4, "t_tg": 6.0, "speed_tg": 21.4, "speed": 21.3}\n'
        self.assertEqual(measure.from_batched_bench(text), {("decode", 4): 21.4})

    def test_a_report_of_ours_is_read(self):
        figures = measure.from_harmonium((RESULTS / "epyc-avx512-2core/engine-20b-cpu.json").read_text())
        self.assertEqual(set(figures), {("decode", 1), ("decode", 4), ("prefill", 512), ("prefill", 2048)})
        self.assertAlmostEqual(figures["prefill", 512], 24.46, places=2)

    def test_proc_files_are_read_by_name_and_from_the_end(self):
        self.assertEqual(measure.own_ticks("7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0"), 42)
        self.assertEqual(measure.busy_ticks("cpu  1 2 4 100 100 8 16 32 0 0\ncpu0 1"), 63)
        self.assertEqual(measure.field("VmHWM:\t  3 kB\nRssAnon:\t 2 kB", "RssAnon"), 2048)


class Judging(unittest.TestCase):
    def test_ratios_are_called_only_if_rounds_agree_on_a_free_machine(self):
        theirs, steady, wild = Series([10.0, 10.0, 10.1]), Series([30.0, 31.0, 32.0]), Series([20.0, 31.0, 40.0])
        self.assertEqual(measure.verdict(theirs, steady, 3.0, 0.1), (3.1, "met"))
        self.assertEqual(measure.verdict(theirs, steady, 3.2, 0.1), (3.1, "not met"))
        self.assertEqual(measure.verdict(theirs, wild, 3.0, 0.1)[1], "not called: rounds 65% apart")
        self.assertEqual(measure.verdict(wild, steady, 1.0, 0.1)[1], "not called: rounds 65% apart")
        self.assertEqual(measure.verdict(Series([10.0]), steady, 3.0, 0.1)[1], "not called: one round")
        self.assertEqual(measure.verdict(theirs, steady, 3.0, 0.5)[1], "not called: others took 50% of the cores")

    def test_the_error_is_relative_to_the_reference(self):
        self.assertAlmostEqual(measure.relative_error([3.0, 4.0], [3.0, 4.0]), 0.0)
        self.assertAlmostEqual(measure.relative_error([3.0, 9.0], [3.0, 4.0]), 1.0)

    def test_a_gguf_in_other_formats_is_refused(self):
        peer.check_tensors({"experts MXFP4": 600, "BF16": 395, "F32": 5}, 998)
        for sums in [{"experts Q8_0": 600, "BF16": 400}, {"experts MXFP4": 600, "F16": 400},
                     {"experts MXFP4": 600, "experts BF16": 1, "BF16": 400}, {"experts MXFP4": 600, "BF16": 800}]:
            with self.assertRaises(Failure):
                peer.check_tensors(sums, 1000)


class Running(unittest.TestCase):
    def test_memory_of_a_run_is_seen_and_failure_is_told(self):
        # Long enough that it is sampled several times while it holds the memory.
        fill = "data = bytearray(200 << 20); data[::4096] = b'x' * (200 << 8)"
        script = f"import time; {fill}; time.sleep(1); print('ok')"
        run = measure.run([sys.executable, "-c", script])
        self.assertEqual(run.output, "ok\n")
        self.assertGreater(run.anonymous_bytes, 200 << 20)
        with self.assertRaisesRegex(Failure, "ended with 3"):
            measure.run([sys.executable, "-c", "raise SystemExit(3)"])

    def test_a_program_that_waits_for_its_turn_is_not_beside_others(self):
        self.assertEqual(measure.run(["sleep", "0.7"]).others_cores, 0.0)

    def test_archives_are_unpacked_whole(self):
        with tempfile.TemporaryDirectory() as dir:
            dir = Path(dir)
            (dir / "from/thing").mkdir(parents=True)
            (dir / "from/thing/file").write_text("text")
            (dir / "thing.partial/thing").mkdir(parents=True)
            with tarfile.open(dir / "thing.tar.gz", "w:gz") as archive:
                archive.add(dir / "from/thing", "thing")
            peer.unpack(dir / "thing.tar.gz", dir / "thing")
            self.assertEqual((dir / "thing/file").read_text(), "text")
            self.assertFalse((dir / "thing.partial").exists())

    def test_what_is_missing_is_named(self):
        with self.assertRaisesRegex(Failure, "missing: no-such-program. On Debian"):
            peer.need("no-such-program", os.path.basename(sys.executable))


if __name__ == "__main__":
    unittest.main()
