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


# Declarations as documentation and tutorials have them, (name, description, parameter, its description, type, question,
# values): what somebody types first. None is generated in training, though its parts are much like what is.
USUAL = [
    ("get_weather", "Get the current weather in a city.", "city", "The city.", "string", "What is the weather in {v}?", ["Oslo", "Lima"]),
    ("get_weather", "Get current temperature for a given location.", "location", "City and country e.g. Bogotá, Colombia", "string", "What is the weather like in {v} today?", ["Paris", "Boston"]),
    ("get_current_weather", "Get the current weather in a given location", "location", "The city and state, e.g. San Francisco, CA", "string", "What's the weather like in {v}?", ["Tokyo", "Chicago"]),
    ("get_weather", "Get the weather at a location", "location", None, "string", "How is the weather in {v}?", ["Madrid", "Nairobi"]),
    ("weather", "Fetches the weather for the named place.", "place", "Name of the place", "string", "Weather in {v}?", ["Rome", "Hanoi"]),
    ("get_current_temperature", "Get the current temperature for a specific location", "location", "The city and state, e.g., San Francisco, CA", "string", "How warm is it in {v}?", ["Seattle", "Cairo"]),
    ("get_time", "Get the current time in a city", "city", "The city to get the time for", "string", "What time is it in {v}?", ["London", "Sydney"]),
    ("get_local_time", "Returns the local time of a place.", "place", "The place, such as a city", "string", "What is the local time in {v}?", ["Berlin", "Denver"]),
    ("get_population", "Look up the population of a city.", "city", "City to look up", "string", "How many people live in {v}?", ["Vienna", "Toronto"]),
    ("find_restaurants", "Find restaurants in a given city.", "city", "The city to search in", "string", "Find restaurants in {v}.", ["Lisbon", "Austin"]),
    ("search_flights", "Search for available flights to a destination.", "destination", "The destination city", "string", "Find flights to {v}.", ["Athens", "Miami"]),
    ("get_user", "Get a user's details by name.", "name", "The user's full name", "string", "Look up the user {v}.", ["Maria", "Peter"]),
    ("get_email", "Look up the email address of a person.", "person", "The person's name", "string", "What is the email of {v}?", ["Anna", "Hugo"]),
    ("set_timer", "Set a timer for the given number of minutes.", "minutes", "How many minutes", "integer", "Set a timer for {v} minutes.", [10, 25]),
    ("get_order_status", "Get the status of a customer's order.", "order_id", "The ID of the order", "integer", "What is the status of order {v}?", [42, 317]),
]


def usual_tools():
    items = []
    for name, text, param, param_text, kind, question, values in USUAL:
        prop = {"type": kind, **({"description": param_text} if param_text else {})}
        tool = {"type": "function", "function": {"name": name, "description": text, "parameters": {"type": "object", "properties": {param: prop}, "required": [param]}}}
        for value in values:
            for effort in data.EFFORTS:
                request = {"messages": [{"role": "user", "content": question.format(v=value)}], "tools": [tool], "reasoning_effort": effort}
                items.append({"id": f"usual_tools-{len(items) + 1:03d}", "skill": "usual_tools", "request": request, "expect": {"tool_call": {"name": name, "arguments": {param: value}}}})
    return items


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
    write(out, "usual_tools", usual_tools())


def write(out, skill, items):
    with open(os.path.join(out, skill + ".jsonl"), "w", encoding="utf-8") as f:
        for i in items:
            f.write(json.dumps(i, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
