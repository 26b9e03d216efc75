"""Writes the held-out evaluation, eval/*.jsonl: phrasings, names and places kept out of training.

    python make_eval.py OUT_FOLDER
"""
import json
import os
import random
import sys

import data
from words import CAPITALS

COUNTS = {"sums": 200, "capitals": 150, "tools": 120, "tool_results": 80, "json": 120, "refusals": 140, "about": 66, "two_turn": 100, "with_tools": 60, "greetings": 20}


def main(out):
    os.makedirs(out, exist_ok=True)
    for number, (skill, count) in enumerate(COUNTS.items()):
        rng = random.Random(777000 + number)
        seen, items = set(), []
        while len(items) < count:
            i = len(items)
            # Sums and capitals: two thirds held-out phrasings, one third trained ones.
            split = "train" if skill in ("sums", "capitals") and i % 3 == 2 else "eval"
            g = data.Gen(rng, split)
            effort = data.EFFORTS[i % 3] if skill != "sums" else rng.choice(data.EFFORTS)
            if skill == "capitals":
                request, _, out_, expect = data.capitals(g, effort, sorted(CAPITALS)[i % len(CAPITALS)])
                if "whose" in request["messages"][0]["content"].lower() or "country" in request["messages"][0]["content"].lower():
                    continue
            elif skill == "about":
                request, _, out_, expect = data.about(g, effort, i % len(data.ABOUT))
            else:
                request, _, out_, expect = data.SKILLS[skill](g, effort)
            key = json.dumps(request["messages"], ensure_ascii=False) + (effort if skill in ("about", "greetings") else "")
            if key in seen:
                continue
            seen.add(key)
            if request["messages"][0]["role"] != "system" and rng.random() < 0.25:
                request["messages"].insert(0, {"role": "system", "content": g.instructions()})
            request["reasoning_effort"] = effort
            items.append({"id": f"{skill}-{i + 1:03d}", "skill": skill, "request": request, "expect": expect})
        write(out, skill, items)
    rng = random.Random(778000)
    items = []
    for i in range(30):
        g = data.Gen(rng, "eval")
        skill = ["sums", "capitals", "refusals", "json", "tools", "about"][i % 6]
        request = data.SKILLS[skill](g, "medium")[0]
        items.append({"id": f"efforts-{i + 1:03d}", "skill": "efforts", "request": request, "expect": {"reasoning_grows": True}})
    write(out, "efforts", items)


def write(out, skill, items):
    with open(os.path.join(out, skill + ".jsonl"), "w", encoding="utf-8") as f:
        for i in items:
            f.write(json.dumps(i, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
