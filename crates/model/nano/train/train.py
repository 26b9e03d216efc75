"""Trains the nano model on two CPU cores.

    python train.py --work FOLDER --minutes 80 [--resume] [--quant-from 0.6]

FOLDER gets tokenizer files (see tokenizer.py, run first with the same folder), checkpoint.pt with the
optimizer state, and log.txt.  The learning rate falls to zero at the planned end, which is given in
wall-clock minutes because the machine may be shared; `--resume` goes on from the checkpoint.
"""
import argparse
import json
import math
import os
import random
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tokenizers import Tokenizer

import data
import model as M
import render


def make_groups(rng, tok, count, budget, mix, carry):
    """`count` fresh samples as groups (one system prefix, conversations of like length)."""
    classes = carry
    samples = [data.sample(rng, "train", mix=mix) for _ in range(count)]
    texts = []
    for s in samples:
        s["rest"] = render.render(s["request"], s["effort"], None)[1]
        texts += [s["rest"], render.answer(s["reasoning"], s.get("final"), s.get("call"))]
    enc = [e.ids for e in tok.encode_batch(texts)]
    for i, s in enumerate(samples):
        classes.setdefault((s["effort"], bool(s["request"].get("tools"))), []).append((enc[2 * i], enc[2 * i + 1]))
    groups, left = [], {}
    for (effort, tools), rows in classes.items():
        rows.sort(key=lambda r: len(r[0]) + len(r[1]))
        at = 0
        while at < len(rows):
            end, longest = at, 0
            while end < len(rows):
                n = -(-(len(rows[end][0]) + len(rows[end][1]) - 1) // 8) * 8
                if (end - at + 1) * max(longest, n) > budget:
                    break
                longest, end = max(longest, n), end + 1
            if end == len(rows) and end - at < 3:
                left[(effort, tools)] = rows[at:end]
                break
            prefix = tok.encode(render.system(effort, data.date(rng), tools)).ids
            groups.append((prefix, longest, rows[at:max(end, at + 1)]))
            at = max(end, at + 1)
    rng.shuffle(groups)
    return groups, left


def batch_of(groups):
    ids, pos, at, target, shape = [], [], [], [], []
    for prefix, length, rows in groups:
        P = len(prefix)
        shape.append((len(ids), P, len(rows), length))
        ids += prefix
        pos += range(P)
        for prompt, ans in rows:
            base, full = len(ids), prompt + ans
            at += range(base + len(prompt) - 1, base + len(full) - 1)
            target += ans
            ids += (full[:-1] + [0] * length)[:length]
            pos += range(P, P + length)
    t = torch.tensor
    return {"ids": t(ids), "pos": t(pos), "groups": shape, "at": t(at), "target": t(target)}


def orthogonalize(g, steps=5):
    """Newton-Schulz iteration of Muon on a batch of matrices."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * y @ y) @ x
    return (x.mT if flip else x).float()


class Muon:
    """Momentum whose update is orthogonalized; for matrices [.., out, in]."""

    def __init__(self, params, momentum=0.95):
        self.params, self.momentum = list(params), momentum
        self.state = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self, lr, decay):
        for p, m in zip(self.params, self.state):
            if p.grad is None:
                continue
            m.mul_(self.momentum).add_(p.grad)
            u = orthogonalize(p.grad + self.momentum * m)
            p.mul_(1 - lr * decay).add_(u, alpha=-lr * 0.2 * math.sqrt(max(p.shape[-2:])))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--work", required=True)
    a.add_argument("--minutes", type=float, default=80, help="planned end, counted from the start of this run")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--resume", action="store_true")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--tokens", type=int, default=7000, help="tokens a step, about")
    a.add_argument("--lr", type=float, default=0.01, help="Muon; AdamW takes 0.6 of it")
    a.add_argument("--decay-from", type=float, default=0.3, help="share of the run after which the rate falls")
    a.add_argument("--quant-from", type=float, default=0.5, help="share of the run after which experts are MXFP4")
    a.add_argument("--mix", default="", help='JSON of skill weights that replace the defaults, e.g. {"sums": 30}')
    a.add_argument("--warmup", type=int, default=60)
    a.add_argument("--plant", action="store_true", help="plant the copying circuits (at the start, or into the checkpoint)")
    a.add_argument("--plant-pairs", action="store_true", help="only the pairs of tokens with and without a leading space (part of --plant)")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    tok = Tokenizer.from_file(os.path.join(a.work, "tokenizer.json"))
    M.compile_kernels()
    net = M.Nano(M.Config())
    matrices = [p for n, p in net.named_parameters() if n.split(".")[-1] in ("wq", "wk", "wv", "wo", "w1", "w2")]
    chosen = {id(p) for p in matrices}
    rest = [p for p in net.parameters() if id(p) not in chosen]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    done = {"step": 0, "tokens": 0, "trained": 0, "seconds": 0.0}
    path = os.path.join(a.work, "checkpoint.pt")
    if a.resume:
        ck = torch.load(path, weights_only=False)
        net.load_state_dict(ck["net"])
        adam.load_state_dict(ck["adam"])
        for m, s in zip(muon.state, ck["muon"]):
            m.copy_(s)
        done = ck["done"]
    if a.plant:
        M.plant_induction(net)
    if a.plant or a.plant_pairs:
        M.plant_pairs(net, tok.get_vocab())
    rng = random.Random(a.seed * 1000003 + done["step"])
    mix = dict(data.MIX, **(json.loads(a.mix) if a.mix else {}))
    log = open(os.path.join(a.work, "log.txt"), "a")
    print(f"# parameters {sum(p.numel() for p in net.parameters())} args {vars(a)} mix {mix} from {done}", file=log, flush=True)
    start, saved, before = time.time(), time.time(), dict(done)
    queue, carry, first = [], {}, done["step"]
    window = []
    while True:
        x = (time.time() - start) / (a.minutes * 60)
        if x >= 1:
            break
        warm = min(1.0, (done["step"] - first + 1) / a.warmup)
        scale = warm * min(1.0, (1 - x) / (1 - a.decay_from))
        net.quant = x >= a.quant_from
        group, total = [], 0
        while total < a.tokens:
            if not queue:
                queue, carry = make_groups(rng, tok, 700, 1400, mix, carry)
            g = queue.pop()
            group.append(g)
            total += len(g[0]) + g[1] * len(g[2])
        batch = batch_of(group)
        ce, aux = net.loss(batch)
        (ce + 0.01 * aux).backward()
        norm = torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step(a.lr * scale, 0.02)
        for p in adam.param_groups:
            p["lr"] = 0.6 * a.lr * scale
        adam.step()
        net.zero_grad(set_to_none=True)
        done["step"] += 1
        done["tokens"] += total
        done["trained"] += len(batch["target"])
        window.append(ce.item())
        if done["step"] % 20 == 0:
            t = time.time() - start
            done["seconds"] = before["seconds"] + t
            print(f"step {done['step']} loss {sum(window) / len(window):.4f} aux {aux.item():.3f} norm {norm:.2f} lr {scale:.3f} quant {net.quant} tokens {done['tokens'] / 1e6:.2f}M trained {done['trained'] / 1e6:.2f}M "
                  f"{(done['tokens'] - before['tokens']) / t:.0f} tok/s {t / 60:.1f} min", file=log, flush=True)
            window = []
        if time.time() - saved > 120 or os.path.exists(os.path.join(a.work, "stop")):
            save(path, net, adam, muon, done)
            saved = time.time()
            if os.path.exists(os.path.join(a.work, "stop")):
                os.remove(os.path.join(a.work, "stop"))
                return
    done["seconds"] = before["seconds"] + time.time() - start
    save(path, net, adam, muon, done)
    print(f"# end {done}", file=log, flush=True)


def save(path, net, adam, muon, done):
    torch.save({"config": net.c.dict(), "net": net.state_dict(), "adam": adam.state_dict(), "muon": muon.state, "done": done, "quant": net.quant}, path + ".tmp")
    os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()
