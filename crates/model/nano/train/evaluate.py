"""Greedy accuracy on eval/*.jsonl with the plain Python decoder.

    python evaluate.py MODEL_FOLDER EVAL_FOLDER [--limit N] [--skills a,b] [--show N]
    python evaluate.py --checkpoint WORK_FOLDER EVAL_FOLDER ...
"""
import argparse
import glob
import json
import os
import re

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tokenizers import Tokenizer

import export
import model as M
import render


def judge(expect, out):
    final = out["final"] or ""
    low = final.lower()
    if "contains" in expect:
        return all(w.lower() in low for w in expect["contains"])
    if "any" in expect:
        return any(w.lower() in low for w in expect["any"])
    if "number" in expect:
        return str(expect["number"]) in re.findall(r"(?<![\w.-])-?\d+(?![\w]|\.\d)", final)
    if "json" in expect:
        try:
            return json.loads(final) == expect["json"]
        except ValueError:
            return False
    if "tool_call" in expect:
        return out["call"] == (expect["tool_call"]["name"], expect["tool_call"]["arguments"])
    raise ValueError(expect)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("model")
    a.add_argument("eval")
    a.add_argument("--checkpoint", action="store_true")
    a.add_argument("--limit", type=int, default=10000)
    a.add_argument("--skills", default="")
    a.add_argument("--show", type=int, default=3)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--date", default="2026-11-22")
    a.add_argument("--dtype", default="bfloat16")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    if a.checkpoint:
        ck = torch.load(os.path.join(a.model, "checkpoint.pt"), weights_only=False)
        net = M.Nano(M.Config(**ck["config"]))
        net.load_state_dict(ck["net"])
        net.quant = True
        print("checkpoint at", ck["done"])
    else:
        net = export.load_folder(a.model)
    dtype = getattr(torch, a.dtype)
    tok = Tokenizer.from_file(os.path.join(a.model, "tokenizer.json"))
    stop = {export.ID[x] for x in ("<|return|>", "<|call|>", "<|endoftext|>")}

    def run(jobs):
        """[(request, effort)] -> parsed answers."""
        outs = [None] * len(jobs)
        prompts = [tok.encode("".join(render.render(r, e, a.date))).ids for r, e in jobs]
        order = sorted(range(len(jobs)), key=lambda i: len(prompts[i]))
        for at in range(0, len(order), 64):
            part = order[at : at + 64]
            for i, ids in zip(part, net.greedy([prompts[i] for i in part], stop, 260, dtype=dtype)):
                outs[i] = (render.parse(tok.decode(ids, skip_special_tokens=False)), tok.decode(ids, skip_special_tokens=False), len(ids))
        return outs

    table = []
    for path in sorted(glob.glob(os.path.join(a.eval, "*.jsonl"))):
        skill = os.path.basename(path)[:-6]
        if a.skills and skill not in a.skills.split(","):
            continue
        items = [json.loads(l) for l in open(path, encoding="utf-8")]
        items = items[:: max(1, -(-len(items) // a.limit))]
        if skill == "efforts":
            outs = run([(i["request"], e) for i in items for e in ("low", "medium", "high")])
            length = [len(o[0]["reasoning"]) for o in outs]
            good = [length[3 * i] < length[3 * i + 1] < length[3 * i + 2] for i in range(len(items))]
            formed = sum(o[0]["final"] is not None or o[0]["call"] is not None for o in outs) / len(outs)
        else:
            outs = run([(i["request"], i["request"]["reasoning_effort"]) for i in items])
            good = [judge(i["expect"], o[0]) for i, o in zip(items, outs)]
            formed = sum(o[0]["final"] is not None or o[0]["call"] is not None for o in outs) / len(outs)
            shown = 0
            for i, o, ok in zip(items, outs, good):
                if not ok and shown < a.show:
                    shown += 1
                    print(f"  MISS {i['id']} {i['request']['messages'][-1]['content'][:150]!r} want {i['expect']} got {o[1][:420]!r}")
        table.append(f"{skill} {sum(good)}/{len(good)} = {100 * sum(good) / len(good):.1f} %  (well formed {100 * formed:.0f} %)")
        print(table[-1], flush=True)
    print("\n".join(["----"] + table))


if __name__ == "__main__":
    main()
