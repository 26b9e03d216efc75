"""A cheap look at a checkpoint: teacher-forced exact match a skill, on fresh held-out samples.

An answer whose every token is the model's first choice is what greedy decoding would write, so one
forward pass replaces a decode.  Right answers in other words count as misses here.

    python probe.py WORK_FOLDER [samples a skill]
"""
import os
import random
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import data
import model as M


def main(work, count=32, show=1):
    torch.set_num_threads(1)
    ck = torch.load(os.path.join(work, "checkpoint.pt"), weights_only=False)
    net = M.Nano(M.Config(**ck["config"]))
    net.load_state_dict(ck["net"])
    net.quant = ck["quant"]
    tok = Tokenizer.from_file(os.path.join(work, "tokenizer.json"))
    final = tok.encode("<|start|>").ids[0]
    print(ck["done"])
    for skill in data.SKILLS:
        rng = random.Random(99)
        rows = []
        for _ in range(count):
            s = data.sample(rng, "eval", skill)
            a, b, c = data.encode(tok, s, "2026-11-22")
            rows.append((a + b, c))
        n = max(len(p) + len(c) for p, c in rows)
        ids, ok = torch.zeros(count, n, dtype=torch.long), torch.ones(count, n, dtype=torch.bool)
        for i, (p, c) in enumerate(rows):
            ids[i, : len(p) + len(c)] = torch.tensor(p + c)
        x, _ = net.forward_cached(ids, torch.arange(n)[None].expand(count, n), None, ok)
        loss = hit = total = exact = last = 0
        bad = []
        for i, (p, c) in enumerate(rows):
            logits = net.logits(x[i, len(p) - 1 : len(p) + len(c) - 1])
            t = torch.tensor(c)
            good = logits.argmax(-1) == t
            cut = c.index(final) if final in c else 0
            loss += F.cross_entropy(logits, t, reduction="sum").item()
            hit, total = hit + good.sum().item(), total + len(c)
            exact += bool(good.all())
            last += bool(good[cut:].all())
            if not good.all():
                j = int((~good).nonzero()[0])
                bad.append(tok.decode(p[-30:] + c[:j], skip_special_tokens=False)[-150:] + " >>> " + repr(tok.decode([c[j]])) + " got " + repr(tok.decode([int(logits[j].argmax())])))
        print(f"{skill:13s} loss {loss / total:.4f} tokens {100 * hit / total:.1f} % exact {100 * exact / count:.0f} % answer given reasoning {100 * last / count:.0f} %", flush=True)
        for b in bad[:show]:
            print("     ", b.replace("\n", "\\n"))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
