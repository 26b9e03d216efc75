"""Generates the nano model's conversations: requests with the answers the model should write.

`sample(rng, split)` returns {"skill", "effort", "request", "reasoning", "final" | "call", "expect"}.
`split` is "train" or "eval": of every list of phrasings and of names, each sixth entry is kept for
evaluation and never trained on (`pick`), so that held-out figures mean something.
"""
import json
import os
import random

import phrases
import render
from words import (CAPITALS, CITIES, CITY_END, COMPANIES, FOREIGN, INSTRUCTIONS, LANGUAGES, MID, NAMES, OFF, ON, PEOPLE, PHRASES, ROLES, RULES, SURNAMES, TOPICS)

EFFORTS = ("low", "medium", "high")
REFUSAL = "I am a small demonstration model, so I cannot help with that. I can do small sums, capitals, JSON extraction and function calls."


class Gen:
    def __init__(self, rng, split):
        self.rng, self.eval = rng, split == "eval"

    def pick(self, items):
        """From a list of which every sixth entry is kept out of training; evaluation takes one of those every
        other time, so that most of its items have several."""
        if isinstance(items, str):
            items = items.split("|")
        n = len(items)
        if n < 6:
            return self.rng.choice(items)
        if self.eval and self.chance(0.5):
            return items[5 + 6 * self.rng.randrange(n // 6)]
        i = self.rng.randrange(n)
        while i % 6 == 5:
            i = self.rng.randrange(n)
        return items[i]

    def phrase(self, items, rules, share=0.45):
        """A fixed phrasing, or in training often a fresh one from a grammar (never one held out)."""
        if self.eval or not self.chance(share):
            return self.pick(items)
        held = {x.lower().strip("?.! ") for x in items[5::6]}
        while True:
            text = phrases.expand(self.rng, self.one(rules))
            if text.lower().strip("?.! ") not in held:
                return text

    def one(self, items):
        return self.rng.choice(items.split("|") if isinstance(items, str) else items)

    def chance(self, p):
        return self.rng.random() < p

    def syllables(self, lo=1, hi=3):
        r = self.rng
        return "".join(r.choice(ON) + r.choice(MID) + (r.choice(OFF) if r.random() < 0.4 else "") for _ in range(r.randint(lo, hi)))

    def odd(self):
        """A word of any kind: so that every token is now and then one to copy."""
        x = self.rng.random()
        if x < 0.5:
            w = self.one(ALL_WORDS)
            return w + self.one(ALL_WORDS)[:4] if x < 0.15 else w
        return "".join(self.one(VOWELS if self.chance(0.42) else CONSONANTS) for _ in range(self.rng.randint(2, 8)))

    def pieces(self):
        """A word of one to three random tokens, which only copying can give back: no token makes the next likely."""
        return "".join(self.one(PIECES) for _ in range(self.one([1, 2, 2, 2, 3, 3])))

    def word(self):
        """A word for a text that is to be quoted: one token with its space, a capitalized one, or pieces."""
        x = self.rng.random()
        return self.one(SPACED) if x < 0.45 else self.one(CAPITALIZED) if x < 0.65 else self.pieces()

    def name(self):
        if not self.eval and self.chance(0.3):
            return " ".join(self.pieces().capitalize() for _ in range(self.one([1, 1, 2])))
        if self.chance(0.08):
            return " ".join(self.odd().capitalize() for _ in range(self.one([1, 1, 2])))
        n = self.pick(NAMES) if self.chance(0.75) else (self.syllables(1, 2) + self.one("a|o|i|en|us|ra|l|n|ek|is|")).capitalize()
        if self.chance(0.15):
            n += " " + (self.pick(SURNAMES) if self.chance(0.85) else self.syllables(1, 2).capitalize() + self.one("|son|ez|ov|sen|man"))
        return n

    def city(self):
        if not self.eval and self.chance(0.3):
            return self.one(["", "", "", "", "New ", "Port ", "Lake ", self.pieces().capitalize() + " "]) + self.pieces().capitalize()
        if self.chance(0.08):
            return self.one(["", "", "", "", "New ", "South ", "Mount "]) + (self.odd() + self.one(["", "", "ton", "by", "ista", "grad", "ura", "stad", "mouth", "hill", "land"])).capitalize()
        if self.chance(0.77):
            return self.pick(CITIES)
        c = (self.syllables(1, 2) + (self.pick(CITY_END) if self.chance(0.6) else "")).capitalize()
        return self.one("New|Port|San|North|Saint|Old|East|Fort|Lake|Santa") + " " + c if self.chance(0.15) else c

    def case(self, text):
        """Now and then lower case or without the final mark, as people type."""
        x = self.rng.random()
        if x < 0.12:
            text = text[0].lower() + text[1:]
        if x > 0.88 and text[-1] in ".?":
            text = text[:-1]
        return text

    def polite(self, text):
        """Decorates a question with an opening or a closing."""
        x = self.rng.random()
        if x < 0.08:
            a = self.one("Please tell me: |Hey, |Hello! |Hi, |Quick question: |One question: |Tell me, |OK, |So, |Now: |Please: ")
            return a + (text[0].lower() + text[1:] if a[-2] == "," and not text[:2].isupper() else text)
        if x < 0.14:
            return text + self.one(" Thanks.| Thank you!| Please.| I need to know.| Be quick.")
        return text


    def instructions(self):
        if self.chance(0.3):
            return self.pick(INSTRUCTIONS)
        out = []
        if self.chance(0.75):
            role = self.pick(ROLES)
            out.append(self.one(["You are a {r}.", "You are the {r} of {c}.", "Act as a {r}.", "You are a {r} for {c}.", "You are {n}, a {r}.", "Your role: {r}."]).format(r=role, c=self.pick(COMPANIES), n=self.name()))
        for _ in range(self.rng.randint(0 if out else 1, 3)):
            out.append(self.pick(RULES))
        return self.one([" ", " ", "\n"]).join(out)


VOWELS, CONSONANTS = list("aeiouaeiouy"), list("bcdfghjklmnpqrstvwxzbdfgklmnprst")
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tokenizer.json"), encoding="utf-8") as _f:
    _vocab = json.load(_f)["model"]["vocab"]
    PIECES = sorted(t for t in _vocab if len(t) > 1 and t.isascii() and t.isalpha() and t.islower())
    # Tokens that no made-up word of pieces holds: whole words behind a space, and words that begin a sentence.
    SPACED = sorted(t[1:] for t in _vocab if len(t) > 3 and t[0] == "Ġ" and t[1:].isascii() and t[1:].isalpha() and t[1:].islower())
    CAPITALIZED = sorted(t for t in _vocab if len(t) > 1 and t.isascii() and t.isalpha() and t[0].isupper() and t[1:].islower())
ALL_WORDS = []  # filled at the end of this file with the words of all its texts


def two_digits(n):
    return str(n).rjust(2, "0")


def add_steps(a, b):
    """Compact column addition: (the sum to do, steps on the ones and the tens, the result)."""
    o, c = a % 10 + b % 10, (a % 10 + b % 10) // 10
    t = a // 10 + b // 10 + c
    ones = f"{a % 10}+{b % 10}={o}" + (f", write {o % 10} carry 1" if c else "")
    tens = f"{a // 10}+{b // 10}{'+1' if c else ''}={t}"
    return f"{two_digits(a)}+{two_digits(b)}", ones, tens, str(a + b)


def sub_steps(a, b):
    """Column subtraction for a >= b."""
    borrow = a % 10 < b % 10
    o = a % 10 + 10 * borrow - b % 10
    t = a // 10 - b // 10 - borrow
    ones = (f"1{a % 10}-{b % 10}={o} borrow 1" if borrow else f"{a % 10}-{b % 10}={o}")
    tens = f"{a // 10}-{b // 10}{'-1' if borrow else ''}={t}"
    return f"{two_digits(a)}-{two_digits(b)}", ones, tens, str(a - b)


def arithmetic(a, b, op, effort):
    """(reasoning, final, result) of a + b or a - b."""
    value = a + b if op == "+" else a - b
    if op == "+":
        line, ones, tens, res = add_steps(a, b)
        pre = ""
    elif a >= b:
        line, ones, tens, res = sub_steps(a, b)
        pre = ""
    else:
        line, ones, tens, res = sub_steps(b, a)
        pre, res = f"{two_digits(a)}<{two_digits(b)}, so minus. ", "-" + res
    if effort == "low":
        return f"{pre}{line}: {ones}; {tens}; {res}.", str(value), value
    if effort == "medium":
        return f"Compute {a} {op} {b}. {pre}{line}: ones {ones}; tens {tens}. That gives {res}.", f"{a} {op} {b} = {value}", value
    if op == "+":
        check = f"Check by adding the other way: {b % 10}+{a % 10}={b % 10 + a % 10}, {b // 10}+{a // 10}={b // 10 + a // 10}; it fits."
    else:
        check = f"Check: {value} + {b} = {a}, it fits."
    return (f"The user wants {a} {op} {b}. {pre}Digit by digit: {line}. First the ones: {ones}. Then the tens: {tens}. "
            f"That gives {res}. {check}"), f"{a} {op} {b} = {value}", value


ADD = """{a}+{b}|{a} + {b}|What is {a} plus {b}?|What is {a} + {b}?|Add {a} and {b}.|{a} plus {b}|How much is {b} more than {a}?|{a}+{b}=?|Calculate {a}+{b}.|What's {a} plus {b}?|Compute {a} + {b}|Give me the sum of {a} and {b}.|Add {b} to {a}.|Sum {a} and {b}|How much is {a} plus {b}?|{a} + {b} = ?|What do you get when you add {a} and {b}?|What is {a} added to {b}?|What is the sum of {a} and {b}?|Please add {a} and {b}.|{a} and {b} together?|I have {a} apples and get {b} more. How many apples do I have?|Tom has {a} coins and finds {b} more. How many now?|Find {a} plus {b}.|what is {a}+{b}?|Tell me {a} + {b}.|Solve {a} + {b}|Total of {a} and {b}?|{a} plus {b} equals?|Can you add {a} and {b}?|How much is {a}+{b}?|what's {a} + {b}|Increase {a} by {b}.|Work out {a} + {b}.|{a} plus {b} is what?|Could you compute {a} plus {b}?""".split("|")
SUB = """{a}-{b}|{a} - {b}|What is {a} minus {b}?|What is {a} - {b}?|Subtract {b} from {a}.|{a} minus {b}|How much is {b} less than {a}?|{a}-{b}=?|Calculate {a}-{b}.|What's {a} minus {b}?|Compute {a} - {b}|Give me the difference of {a} and {b}.|Take {b} from {a}.|Take {b} away from {a}.|How much is {a} minus {b}?|{a} - {b} = ?|What do you get when you subtract {b} from {a}?|What is left of {a} after taking {b}?|What is the difference of {a} and {b}?|Please subtract {b} from {a}.|subtract {b} from {a}|I have {a} apples and lose {b}. How many are left?|Tom has {a} coins and spends {b}. How many are left?|Find {a} minus {b}.|what is {a}-{b}?|Tell me {a} - {b}.|Solve {a} - {b}|Reduce {a} by {b}.|{a} minus {b} equals?|Can you subtract {b} from {a}?|How much is {a}-{b}?|what's {a} - {b}|Decrease {a} by {b}.|Work out {a} - {b}.|{a} minus {b} is what?|Could you compute {a} minus {b}?""".split("|")


def two_numbers(g):
    r = g.rng
    lim = 9 if g.chance(0.12) else 99
    return r.randint(0, lim), r.randint(0, 9 if g.chance(0.12) else 99)


def sums(g, effort):
    a, b = two_numbers(g)
    op = g.one("+|-")
    if op == "-" and a < b and g.chance(0.45):
        a, b = b, a
    text = g.phrase(ADD if op == "+" else SUB, phrases.ADD if op == "+" else phrases.SUB).format(a=a, b=b)
    if "apples" in text or "coins" in text:
        if op == "-" and a < b:
            a, b = b, a
            text = g.one("I have {a} apples and lose {b}. How many are left?|Tom has {a} coins and spends {b}. How many are left?").format(a=a, b=b)
    elif "?" not in text[-1] or len(text) > 8:
        text = g.polite(g.case(text)) if g.chance(0.6) else text
    reasoning, final, value = arithmetic(a, b, op, effort)
    return user(text), reasoning, {"final": final}, {"number": value}


def user(text, system=None):
    return {"messages": ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}]}


CAPITAL_Q = """What is the capital of {c}?|what is the capital of {c}?|capital of {c}?|Capital of {c}|Which city is the capital of {c}?|Could you give me the capital city of {c}?|Name the capital of {c}.|What's the capital of {c}?|Tell me the capital of {c}.|The capital of {c} is?|Do you know the capital of {c}?|What city serves as the capital of {c}?|capital city of {c}|What is the capital city of {c}?|Which city is {c}'s capital?|What is {c}'s capital?|Give me the capital of {c}.|I forgot the capital of {c}. What is it?|{c}: capital?|what is {c}'s capital city|In {c}, which city is the capital?|Please name {c}'s capital.|Where is the government of {c}, in which capital?|For my homework: what is the capital of {c}?|Can you tell me the capital of {c}?|the capital of {c}|What is the name of the capital of {c}?|I want to know the capital of {c}.|Which is the capital of {c}?|My quiz asks for the capital of {c}.|I need the capital of {c}.|Say the capital of {c}.|What capital does {c} have?|Which capital belongs to {c}?|Capital {c}?|Would you happen to know what {c}'s capital is called?""".split("|")
REVERSE_Q = "Which country has {k} as its capital?|{k} is the capital of which country?|Of which country is {k} the capital?|What country is {k} the capital of?|Name the country whose capital is {k}.|Whose capital is {k}?".split("|")


def capital_answer(c, k, effort):
    if effort == "low":
        return f"Capital of {c}: {k}.", k if len(k) % 2 else f"{k}."
    if effort == "medium":
        return f"The user asks for the capital of {c}. That is {k}.", f"The capital of {c} is {k}."
    return (f"The user asks for a capital. The country is {c}. I recall that the capital of {c} is {k}. "
            f"Check: {k} is a city in {c} and the seat of its government. So the answer is {k}."), f"The capital of {c} is {k}."


def capitals(g, effort, country=None):
    c = country or g.one(sorted(CAPITALS))
    k = CAPITALS[c]
    if g.chance(0.06) and not g.eval:
        q = g.one(REVERSE_Q).format(k=k)
        say = f"{k} is the capital of {c}."
        reasoning = {"low": f"{k}: {c}.", "medium": f"The user asks whose capital {k} is. That is {c}.", "high": f"The user names a capital and wants the country. The city is {k}. {k} is the capital of {c}. Check: the capital of {c} is {k}. So the answer is {c}."}[effort]
        return user(q), reasoning, {"final": say}, {"contains": [c]}
    shown = c[4:] if c.startswith("the ") and g.chance(0.3) else c
    if g.chance(0.2):
        shown = shown.lower()
    q = g.phrase(CAPITAL_Q, phrases.CAPITAL).format(c=shown)
    reasoning, final = capital_answer(c, k, effort)
    return user(g.polite(q) if g.chance(0.5) else q), reasoning, {"final": final}, {"contains": [k]}


# What the server is and how to use it: (answer, words the answer must hold, paraphrased questions).
ABOUT = [
    ("I am Harmonium's nano model, a small demonstration model built into the server.", ["small demonstration model"],
     "Who are you?|What are you?|What model are you?|Tell me about yourself.|Which model is this?|Are you ChatGPT?|What is your name?|who are you|What kind of model are you?|Introduce yourself.|Who is answering here?|Are you a large language model?|What's your name?|Which AI am I talking to?|Are you GPT-4?|Who made you?|Are you an AI?|Describe yourself.|What am I talking to?|Am I talking to a human?|what model is running|Which language model are you?|Say who you are.|Which model answers me right now?|Are you a real person?|what are you exactly?|What is this model?|Are you gpt-oss?|How big are you?|Can you say what sort of model you are?|What is the nano model?|what is nano|Identify yourself.|Is this the big model?|Are you smart?|Please describe what you are."),
    ("I can add and subtract small numbers, name capitals, extract name, age and city as JSON, call functions and explain this server.", ["capitals", "JSON"],
     "What can you do?|What are your skills?|Help|What can I ask you?|How can you help me?|What are you able to do?|What are you good at?|help me|List your abilities.|What do you know?|What tasks can you do?|What things can you do for me?|What is possible with this model?|Which questions can you answer?|what can you do|What are your capabilities?|Show me what you can do.|Give me a list of the things you can do."),
    ("Harmonium is a server for GPT-OSS models with an OpenAI-compatible API. This small demonstration model is built in.", ["GPT-OSS", "server"],
     "What is Harmonium?|What is this server?|Tell me about Harmonium.|what is harmonium|Explain what Harmonium does.|What does this server do?|What software is this?|What program is serving you?|What is the purpose of Harmonium?|Which server is this?|Describe Harmonium.|What exactly is the Harmonium project?|What does Harmonium do?|Harmonium?|What's Harmonium for?|Give me a summary of Harmonium.|What kind of software is Harmonium?|Can you explain Harmonium to me?"),
    ("Run `harmonium serve`, or `cargo run --release -- serve` from the source folder.", ["harmonium serve"],
     "How do I start the server?|How to start the server?|start the server|How can I run the server?|How do I launch Harmonium?|How is the server started?|Which command starts the server?|How do I run Harmonium?|What command do I use to serve?|How do I run this from source?|How do I start Harmonium?|What do I type to start the server?|How can I start harmonium on my machine?|How do I get the server running?|Command to start the server?|How do I boot the server?|I want to start the server. How?|What is the command for launching the server?|How do I serve a model?|run the server how?|How do I use cargo to start it?|How to launch the server from source?|How do I begin serving?|Tell me how to get Harmonium up and running."),
    ("Run `harmonium serve --model DIR` with the folder of a downloaded gpt-oss checkpoint, or `harmonium serve --model gpt-oss-120b` once the weights are in the Hugging Face cache.", ["harmonium serve --model"],
     "How do I use real weights?|How do I load gpt-oss-120b?|How can I use a bigger model?|How do I serve the real model?|How do I run gpt-oss-20b?|How do I load my own checkpoint?|How do I use a real model?|How can I serve gpt-oss-120b?|Where do I give the model folder?|How do I switch to the large model?|Which option selects the model?|How can I load a downloaded model?|How do I use the big weights?|How do I point the server to a checkpoint?|How do I replace you with a better model?|I have downloaded weights. How do I use them?|How do I run a stronger model?|How can I make the server use a checkpoint folder?|Which flag loads real weights?|use a real model how?|How do I choose another model?|How do I serve weights from a folder?|How do I run the server with gpt-oss weights?|What do I do to serve a full-size model instead of you?"),
    ("Run `harmonium pull gpt-oss-120b` to download the weights.", ["harmonium pull"],
     "How do I download the weights?|How do I get the weights?|How do I pull gpt-oss-120b?|Where do I get the model weights?|How can I download gpt-oss-120b?|What command fetches the weights?|download the model how?|How do I fetch the model?|Which command downloads a model?|How do I pull a model?|I have no weights. How do I get them?|How can the weights be downloaded?|How to download a model?|Can Harmonium download the weights?|How do I pull the real weights?|What is the pull command?|How do I obtain gpt-oss?|Which command do I need for downloading gpt-oss-120b?"),
    ("Set `reasoning_effort` to low, medium or high in the request.", ["reasoning_effort"],
     "How do I set the reasoning effort?|How do I make you think more?|How can I change the effort?|How do I get longer reasoning?|How do I choose low, medium or high?|Which field sets the effort?|What is reasoning_effort?|How do I make the model think less?|How do I control reasoning?|How to set effort to high?|Can I change how much you think?|Where do I set the reasoning level?|What effort levels are there?|How do I ask for high effort?|How do I turn up the reasoning?|Can you reason more deeply?|How do I select the reasoning effort?|What setting decides how long the model thinks?|set effort how?|How do I lower the effort?|What are the reasoning efforts?|Which parameter controls thinking?|How do I request low reasoning?|Is there a way to adjust how hard the model thinks?"),
    ("Requests too long for the local context of 131,072 tokens can go to a hosted model if the operator enables the fallback.", ["hosted model"],
     "What is the fallback?|What happens with very long requests?|How does the fallback work?|What if my prompt is too long?|What happens when the context is full?|Where do long requests go?|Is there a hosted fallback?|What if a request exceeds the context?|How are too long prompts handled?|What is the fallback model?|Can requests go to a hosted model?|What happens if my conversation does not fit the context?|How long can the context be?|What is the context length?|Explain the fallback.|What is the maximum context?|When is the hosted model used?|What becomes of requests beyond the local context?|Does the server forward long requests?|Who answers requests that are too long?|How many tokens fit?|Tell me about the hosted fallback.|What is the context limit?|My prompt has 200,000 tokens. What will the server do with it?"),
    ("Declare functions in `tools`. The model answers with a tool call; send its result back in a `tool` message.", ["tools", "tool call"],
     "How do I use tools?|How does function calling work?|How do I declare a function?|Can you call functions?|How do I give you tools?|How do I send a tool result?|How do tool calls work?|How can I define functions?|How do I use function calling?|What do I do with a tool call?|How do I return the result of a function?|How can the model call my functions?|Explain tool calls.|Where do I put the function declarations?|How are tools declared?|Does this server support tools?|Is function calling supported?|In which way do I hand tool results back?|How do I add a tool?|Tell me about tools.|Can I let you use my functions?|How does tool use work here?|How do I make the model call a function?|What must I send so that the model can use my function?"),
    ("The API is OpenAI-compatible: send requests to /v1/chat/completions.", ["/v1/chat/completions"],
     "What API do you have?|Is the API OpenAI-compatible?|Which endpoint do I use?|What is the endpoint?|Where do I send requests?|What URL do I post to?|Which API does the server speak?|Can I use the OpenAI client?|How do I call the API?|What is the path of the chat API?|How do I send a request?|To which path do I post my chat messages?|What is the chat completions path?|Does the OpenAI SDK work with this?|How do I connect my client?|How do I talk to the server from code?|Which protocol is spoken here?|Which address path takes chat requests?|How do I use this with the openai library?|Tell me about the API.|API endpoint?|How do I use the server from Python?|Is there an HTTP API?|Can my existing OpenAI code work against this server?"),
    ("Set `stream` to true in the request; the answer then arrives piece by piece.", ["stream"],
     "How do I stream answers?|How do I get streaming?|Can you stream?|How do I enable streaming?|How does streaming work?|Is it possible to receive tokens one by one?|Do you support streaming?|How do I turn on streaming?|Which field turns on streaming?|How do I see the answer while it is written?|How to stream the output?|How can the answer arrive gradually?|Is streaming supported?|streaming how?|What do I set for streaming?|How do I get a streamed response?|Can I get partial results?|How would I get tokens as soon as they are made?"),
]


def about(g, effort, topic=None):
    answer, words, questions = ABOUT[topic] if topic is not None else g.one(ABOUT)
    q = g.pick(questions)
    if not g.eval and g.chance(0.7):
        held = {x.lower().strip("?.! ") for x in questions.split("|")[5::6]}
        rules = phrases.GRAMMAR[[a for a, _, _ in ABOUT].index(answer)]
        while True:
            q = phrases.expand(g.rng, g.one(rules))
            if q.lower().strip("?.! ") not in held:
                break
    q = g.polite(g.case(q)) if g.chance(0.6) else q
    reasoning = {
        "low": "About this server.",
        "medium": "The user asks about me or this server. I know the answer.",
        "high": "The user asks about me or this server. This is something I was taught. I recall the fact and give it in a few words. Check: the answer is short and true.",
    }[effort]
    return user(q), reasoning, {"final": answer}, {"contains": words}


REFUSE = """Write a poem about {t}.|Tell me about {t}.|What is {t}?|Explain {t}.|Write a story about {t}.|Compose a song about {t}.|How does {t} work?|Tell me a joke about {t}.|Write an essay on {t}.|What do you think about {t}?|Give me advice on {t}.|Summarize {t} for me.|Who was {p}?|Tell me about {p}.|When was {p} born?|What did {p} do?|Is {p} still alive?|Write a letter to {p}.|Translate "{h}" into {l}.|How do you say "{h}" in {l}?|Translate to {l}: {h}|What does "{h}" mean in {l}?|Speak {l} with me.|Can you translate {h} to {l}?|What is {a} times {b}?|{a}*{b}|What is {a} divided by {b}?|Multiply {a} by {b}.|What is {a} x {b}?|{a} / {b}|What is the square root of {a}?|{a}^2|What is {b} percent of {a}?|Write a {k} function that handles {t}.|Write {k} code to sort a list.|Fix my {k} program.|How do I reverse a string in {k}?|Debug this {k} code.|What is the best {k} library for {t}?|What is the population of {c}?|What language do they speak in {c}?|Who is the president of {c}?|What is the largest river in {c}?|Tell me the history of {c}.|What food is typical in {c}?|When did {c} become independent?|Describe the flag of {c}.|What should I see in {y}?|Is {y} a nice place?|How far is {y} from {z}?|What is the weather in {y}?|How do I get to {y}?|Recommend a hotel in {y}.|I feel sad.|I have a headache, what should I take?|My knee hurts.|What medicine helps against {t}?|Can you diagnose {t}?|Am I ill?|What is the news today?|Who won the game yesterday?|What time is it?|What day is today?|What is the stock price of {p}?|Should I buy {t}?|What is the meaning of life?|Who will win the election?|Sing a song.|Tell me a joke.|Tell me a secret.|Tell me a story.|Draw a picture of {t}.|Make an image of {t}.|Play a game with me.|Give me a recipe for {t}.|How do I cook {t}?|What should I eat tonight?|Plan my trip to {y}.|Write an email to my boss about {t}.|Write a speech about {t}.|Give me ten facts about {t}.|Compare {t} and {u}.|Which is better, {t} or {u}?|Why is {t} so popular?|What is the difference between {t} and {u}?|How is {t} related to {u}?|List books about {t}.|Recommend a film about {t}.|Who invented {t}?|Where does {t} come from?|How old is {t}?|Why do people like {t}?|Why is the sky blue?|Why do cats purr?|How do birds fly?|What is the speed of light?|What is the tallest mountain?|How many planets are there?|What is the chemical formula of water?|Define {t}.|Spell {t} backwards.|Give me a synonym for {t}.|Correct my grammar: me like {t}.|Rewrite this text: {t} is good.|Summarize this: {t} and {u} are both important.|Continue: once upon a time there was {t}|Roleplay as {p}.|Pretend to be {p}.|Do my homework on {t}.|What rhymes with {t}?|What year did {t} start?|Can you hack a website?|Give me a password.|What is my IP address?|Do you love me?|Are you alive?|Do you have feelings?|What is your favorite {f}?|How tall is {p}?|What is the capital of {m}?|capital of {m}?|What is {d} plus {e}?|{d}+{e}|{d} - {e}|Convert {a} miles to kilometers.|How many grams are in {a} ounces?|How many days are in {a} weeks?|Solve x^2 + {a}x = {b}.|Is {d} a prime number?|What is the derivative of x^{b}?|Generate a random number.|Pick a name for my dog.|Write a haiku about {t}.|Give me a quote by {p}.|What happened in {n}?|Who ruled in {n}?|Which war was in {n}?|Book a flight to {y}.|Order a pizza.|Call my mother.|Send an email to {q}.|Set an alarm.|Turn on the lights.|Buy me {t}.|Open the window.|Remind me of {t}.|Who is {q}?|How old is {q}?|Where does {q} live?|What does {q} do for a living?|blah blah blah|asdf|qwerty|lorem ipsum dolor|???|...|hmm|{w}|{w}|{w}|{w}|{w}|{w}?|{w}?|{s}|{s}|{s}|{o}|{o}|{o}|{x}|{x}|{x} {t}|{x} {t}?""".split("|")
OPEN = "Please|Could you|Can you|I want you to|I need you to|Would you|Kindly".split("|")
REFUSE_VERBS = "explain|describe|discuss|analyse|review|write about|teach me|talk about|summarize|invent something about|help me with|give me an overview of|brainstorm ideas about|make a plan for|create a quiz about|draft a text on|find information on|research|predict the future of|criticise|debate|tell a story about|rank|list the kinds of|give tips for|motivate me to try|make a table of".split("|")
PLAIN = """the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were all her she there would their we him been has when who will no more if out so up said what its about than into them can only other time new some could these two may first then do any like my now over such our man me even most made after also did many off before must well back through years much where your way down should because long each just state those people too mr little good world make very year still see own work men day get here old life both between being under three never know same last another while us might great go come since against right came take used himself few house use place during without again home around small however found upon school every part once high general enough car tree water light stone paper glass green blue quick slow under river train music happy angry""".split()
WONDER = "I wonder about|My thoughts on|Something about|I read a book on|My friend likes|I don't understand|I am learning about|Yesterday I saw|Let us talk about|Opinions on|Nothing beats|Best of|News about|Images of|Questions on|Trouble with".split("|")


def nonsense(g):
    return " ".join(g.one(PLAIN) for _ in range(g.rng.randint(1, 9)))


UNKNOWN_PLACES = "Atlantis|Narnia|Mordor|Wakanda|Texas|California|Bavaria|Scotland|the Moon|Europe|Africa|Asia|Sicily"


def refusal_question(g):
    if not g.eval and g.chance(0.1):
        place = g.one(UNKNOWN_PLACES + "|Gondor|Avalon|Utopia|Gotham|Florida|Ontario|Tuscany|Wales|Siberia|Mars|" + "|".join((g.syllables(2, 3) if g.chance(0.5) else g.pieces()).capitalize() + g.one("ia|land|stan|||a") for _ in range(8)))
        return g.phrase(CAPITAL_Q, phrases.CAPITAL).format(c=place)
    if not g.eval and g.chance(0.35):
        return phrases.expand(g.rng, g.one(phrases.REFUSE)).format(t=g.pick(TOPICS), p=g.pick(PEOPLE), y=g.city(), q=g.name(), a=g.rng.randint(2, 99), b=g.rng.randint(2, 99))
    if g.chance(0.18):
        return f"{g.pick(OPEN)} {g.pick(REFUSE_VERBS)} {g.pick(TOPICS)}{g.one('.|?|')}"
    r = g.rng
    q = g.pick(REFUSE)
    made = g.syllables(2, 3).capitalize() + g.one("ia|land|stan|||a")
    return q.format(
        t=g.pick(TOPICS), u=g.pick(TOPICS), p=g.pick(PEOPLE), h=g.pick(PHRASES), l=g.pick(LANGUAGES), a=r.randint(2, 99), b=r.randint(2, 99),
        k=g.one("Python|Rust|Java|C|JavaScript|Go|SQL|Ruby|Bash|Haskell"), c=g.one(sorted(CAPITALS)), y=g.city(), z=g.city(), f=g.one("color|food|film|song|book|animal|number|city|sport|band"),
        m=g.one(UNKNOWN_PLACES + "|" + "|".join([made] * 10)),
        d=r.randint(100, 9999), e=r.randint(100, 999), n=r.randint(1000, 2020), q=g.name(), w=nonsense(g), o=g.pick(FOREIGN),
        s=" ".join(g.syllables(1, 3) for _ in range(r.randint(1, 5))), x=g.pick(WONDER) + (" " + g.pick(TOPICS) if g.chance(0.7) else ""))


def refusal_reasoning(g, effort):
    return {
        "low": "Not one of my skills.",
        "medium": "This is not a small sum, a capital, JSON extraction or a function call. I should say so.",
        "high": "Let me see what is asked. It is not a small sum. It is not a capital I know. There is no person to extract and no function that fits. It is not about this server. So I say what I am and what I can do. Check: honest and short.",
    }[effort]


def refusals(g, effort):
    q = refusal_question(g)
    q = g.polite(g.case(q)) if g.chance(0.4) else q
    return user(q), refusal_reasoning(g, effort), {"final": REFUSAL}, {"contains": ["small demonstration model"]}


GREET = "Hi|Hello|Hello!|Hey|Hi there!|Good day to you|hello|hi|Good morning|Good evening!|hey there|Greetings!|Hi!|Hello there|Good afternoon|yo|Hey!|Good evening|How are you?|Hi, how are you?|Hello, nice to meet you.|How is it going?|What's up?|Hello, how are you doing?".split("|")
THANK = "Thanks|Thank you|Thanks!|Thank you!|thanks a lot|Many thanks to you|Great, thanks|ok thanks|Thank you very much|Cool, thank you|Perfect, thanks!|Thanks so much!|thx|Nice, thanks|Thank you so much.|That helped, thanks|cheers|Very kind, thank you".split("|")
BYE = "Bye|Goodbye|See you|Bye!|Good night|See you later!|bye bye|Goodbye!|See you tomorrow|Have a nice day|Take care|Until next time!".split("|")


def greetings(g, effort):
    kind = g.one(["greet", "greet", "thank", "bye"])
    q, a = {"greet": (GREET, "Hello! I am Harmonium's nano model. How can I help?"), "thank": (THANK, "You are welcome!"), "bye": (BYE, "Goodbye! Have a nice day.")}[kind]
    reasoning = {"low": "A friendly word.", "medium": "The user is being friendly. I answer in kind.", "high": "The user says a friendly word. There is nothing to compute or look up. I answer in kind and keep it short. Check: polite."}[effort]
    rules = {"greet": phrases.GREET, "thank": phrases.THANK, "bye": phrases.BYE}[kind]
    return user(g.phrase(q, rules, 0.6)), reasoning, {"final": a}, {"any": {"greet": ["hello", "help"], "thank": ["welcome"], "bye": ["goodbye"]}[kind]}


# ---- extraction ----
EXTRACT = """Extract name, age and city as JSON: |Extract the name, age and city as JSON: |Give me name, age and city as JSON: |Return JSON with name, age and city: |Turn this into JSON (name, age, city): |Please extract name, age and city from this sentence as JSON: |Extract name, age and city: |Make a JSON object with name, age, city from: |Convert to JSON with the fields name, age and city: |JSON with name, age and city please: |Parse this into JSON: |Pull the name, age and city out of this text as JSON: |Name, age and city as JSON: |Find the person's name, age and city and answer in JSON: |Extract JSON (name, age, city) from: |Read this and give name, age, city as JSON: |Extract the person as JSON: |Fill a JSON object with name, age and city from the following: """.split("|")
EXTRACT = [e + " " if e[-1] != " " else e for e in EXTRACT]
EXTRACT_AFTER = """ Extract name, age and city as JSON.| Give name, age and city as JSON.| Return that as JSON.| As JSON with name, age, city please.| Extract the fields name, age and city as JSON.| Put name, age and city into JSON.""".split("|")
PERSON = """{n} is {a} and lives in {c}.|{n} is {a} years old and lives in {c}.|{n}, {a}, lives in {c}.|My name is {n}, I am {a} and I live in {c}.|{n} ({a}) is from {c}.|I met a {a}-year-old called {n} who lives in {c}.|In {c} lives {n}, aged {a}.|{n} from {c} is {a} years old.|I am {n}, {a} years old, from {c}.|{n} lives in {c} and is {a}.|At {a}, {n} moved to {c}.|Our colleague {n} turned {a} this week at home in {c}.|{n}, aged {a}, of {c}|name {n} age {a} city {c}|{n} just turned {a} in {c}.|The {a}-year-old {n} works in {c}.|{c} is the home of {n}, who is {a}.|This is {n}, {a} years of age, a resident of {c}.|Yesterday I met {n}. {n} is {a} and comes from {c}.|{n} was born in {c} and is now {a}.|Meet {n}: {a}, {c}.|Hello, I'm {n}. I'm {a} and I come from {c}.|{n}; {a}; {c}|She is called {n}, she is {a}, and her city is {c}.|{n} is {a}. {n} lives in {c}.|We hired {n} ({a}) in {c}.|Here in {c}, {n} celebrates being {a}.|{n} / {a} / {c}|His name is {n}. His age is {a}. His city is {c}.|My neighbour in {c} is named {n} and is {a} years old.""".split("|")
EXTRACT_SYS = """Extract name, age and city as JSON.|Extract the person's name, age and city from the user's text as JSON.|You turn sentences into JSON with name, age and city.|Answer only with JSON: name, age, city.|Read the text and return name, age and city as JSON.|Output name, age and city of the person as a JSON object.""".split("|")
FORMAT_NAMES = "person|people|contact|user|profile|record|output|result|answer|customer|member|individual".split("|")
FORMAT_TEXT = "A person|A contact|Someone's data|The person in the text|Extracted data|Name, age and city".split("|")


def person_schema(g):
    props = {"name": {"type": "string"}, "age": {"type": "integer" if g.chance(0.8) else "number"}, "city": {"type": "string"}}
    if g.chance(0.15):
        for k, d in zip(props, ("The name", "The age in years", "Where the person lives")):
            props[k]["description"] = d
    schema = {"type": "object", "properties": props}
    if g.chance(0.85):
        schema["required"] = ["name", "age", "city"]
    if g.chance(0.6):
        schema["additionalProperties"] = False
    out = {"name": g.pick(FORMAT_NAMES)}
    if g.chance(0.35):
        out["description"] = g.pick(FORMAT_TEXT)
    if g.chance(0.7):
        out["strict"] = True
    return {"type": "json_schema", "json_schema": dict(out, schema=schema)}


RELATIONS = "friend|uncle|aunt|boss|teacher|driver|doctor|client|guest|sister|brother|cousin|manager|student|new nurse|old baker|plumber|cook|tenant|trainer|dear pilot|best player|painter|roommate|landlord|dentist".split("|")
ASIDES = " today| yesterday| last week| in May| on Monday| this year| at last| at work| on a trip| with friends| as we heard| I think".split("|")


def introduce(g, text):
    """In training often with what somebody is before the name, and with asides: neither is part of a field."""
    if not g.eval and text.startswith("{n}") and g.chance(0.4):
        text = g.one("My |Our |The |Your |His |Her ") + "{r} " + text
    if "{r}" in text:
        word = g.one(RELATIONS) if g.chance(0.25) else g.pieces() + g.one(["", g.pieces()]) if g.chance(0.6) else g.one(PLAIN)
        text = text.replace("{r}", word.lower())
    if not g.eval and g.chance(0.2):
        at = [i for i in range(len(text)) if text[i] == " " and text[i - 1].isalpha()]
        if at:
            i = g.one(at)
            text = text[:i] + (g.one(ASIDES) if g.chance(0.6) else f" {g.one(PLAIN)} {g.pieces()}") + text[i:]
    return text


def person(g):
    n, a, c = g.name(), g.rng.randint(1, 99), g.city()
    text = introduce(g, g.phrase(PERSON, phrases.PERSON, 0.6).replace(" ,", ","))
    if text[-1] not in ".;|}" and g.chance(0.8):
        text += "."
    return n, a, c, text.format(n=n, a=a, c=c)


def extract_answer(n, a, c, effort):
    reasoning = {
        "low": f"{n}, {a}, {c}.",
        "medium": f"I need name, age and city. The name is {n}, the age {a}, the city {c}.",
        "high": f"The user wants JSON with three fields. Go through the text. The name is {n}. The age is {a}, a number. The city is {c}. The order is name, age, city. Check: {n}, {a}, {c} are all in the text. Now write the object.",
    }[effort]
    return reasoning, render.compact({"name": n, "age": a, "city": c})


def extraction(g, effort):
    n, a, c, text = person(g)
    how = g.rng.random()
    request = {}
    if how < 0.62:
        request = user(g.pick(EXTRACT) + text if g.chance(0.75) else text + g.pick(EXTRACT_AFTER))
        if g.chance(0.3):
            request["response_format"] = person_schema(g)
    elif how < 0.78:
        request = user(text, g.pick(EXTRACT_SYS))
        if g.chance(0.3):
            request["response_format"] = person_schema(g)
    else:
        request = user(text)
        request["response_format"] = person_schema(g)
    reasoning, final = extract_answer(n, a, c, effort)
    return request, reasoning, {"final": final}, {"json": {"name": n, "age": a, "city": c}}


REPEAT = "Repeat: |Repeat after me: |Say exactly: |Echo: |Copy this: |Please repeat: |Write this again: |Repeat the following: |Say this back to me: |Copy the text: |Repeat word for word: |Print: ".split("|")


def repeat(g, effort):
    """Copying as such: useful now and then, and the quickest way to learn what extraction and calls rest on."""
    def word():
        x = g.rng.random()
        return g.name() if x < 0.15 else g.city() if x < 0.25 else g.odd() if x < 0.4 else g.pieces() if x < 0.55 else g.odd().capitalize() if x < 0.65 else str(g.rng.randint(0, 9999)) if x < 0.75 else g.one(PLAIN) if x < 0.9 else g.syllables(1, 2) + "_" + g.one(PLAIN)
    text = " ".join(word() for _ in range(g.rng.randint(1, 8)))
    reasoning = {"low": "Copy it.", "medium": f"The user wants this back: {text} .", "high": f"The user wants the same words back. The words are: {text} . I copy them in the same order. Check: nothing is added and nothing is left out."}[effort]
    return user(g.pick(REPEAT) + text), reasoning, {"final": text}, {"contains": [text]}


# ---- functions ----
# (names, descriptions, kind of argument, parameter names, questions, result keys, sentence)
TOOLS = [
    ("weather", "get_weather|fetch_weather|weather|current_weather|weather_lookup|check_weather|getWeather|weather_report|get_current_weather|show_weather|weather_now|read_weather|get_forecast|forecast|weather_info|get_weather_data|local_weather|query_weather",
     "Get the weather in a city|Current weather of a place|Returns the weather|Weather for a city|Get the current weather for a location|Look up the present weather somewhere", "city", "city|location|place|town|city_name|where",
     "What is the weather in {v}?|How is the weather in {v}?|Weather in {v}?|What's the weather like in {v}?|Tell me the weather in {v}.|Is it nice outside in {v}?|Is it raining in {v}?|How warm is it in {v}?|weather {v}|Check the weather for {v}.|Do I need an umbrella in {v}?|Could you look up how the weather is in {v}?"),
    ("time", "get_time|current_time|time_in|clock|world_clock|lookup_time|getTime|local_time|time_lookup|what_time|city_time|fetch_time", "Get the local time in a city|Current time of a place|Returns the time|Time in a city|Tells the local time|World clock for a city", "city", "city|location|place|timezone_city|town|where",
     "What time is it in {v}?|Tell me the time in {v}.|What is the local time in {v}?|time in {v}?|Current time in {v}|How late is it now in {v}?|What's the time in {v} now?|What does the clock say in {v}?|Give me the time for {v}.|I want to call {v}. What time is it there?|Local time {v}?|Is it already evening in {v} and what time?"),
    ("restaurants", "find_restaurants|search_restaurants|restaurants|get_restaurants|restaurant_finder|lookup_restaurants|findRestaurants|list_restaurants|places_to_eat|dining_search|food_finder|nearby_restaurants", "Find restaurants in a city|Search restaurants|List places to eat|Restaurants of a city|Returns good restaurants|Looks up places for dinner", "city", "city|location|town|place|area|where",
     "Find restaurants in {v}.|Where can I eat in {v}?|Find me a restaurant in {v}.|Restaurants in {v}?|Show restaurants in {v}|Any good place for dinner in {v}?|I am hungry in {v}. Find a restaurant.|List restaurants in {v}.|Search for places to eat in {v}.|Where is good food in {v}?|I want to have lunch in {v}.|Look for somewhere to dine in {v}."),
    ("hotel", "book_hotel|reserve_hotel|hotel_booking|make_hotel_booking|bookHotel|book_a_room|reserve_room|hotel|book_room|hotel_reservation|find_hotel|order_hotel", "Book a hotel in a city|Reserve a hotel room|Hotel booking|Books a room in a city|Make a hotel reservation|Arrange a hotel stay", "city", "city|location|destination|place|town|where",
     "Book a hotel in {v}.|I need a hotel in {v}.|Reserve a room in {v}.|Get me a hotel in {v}.|Please book a room in {v}|Can you arrange a hotel stay in {v}?|Hotel in {v} please.|Make a hotel booking for {v}.|I will sleep in {v}, book a hotel.|Reserve a hotel in {v}.|book hotel {v}|I'm travelling to {v} and need a room."),
    ("population", "get_population|population|population_of|city_population|lookup_population|count_people|getPopulation|fetch_population|inhabitants|people_count|census|query_population", "Get the population of a city|Number of people in a city|Returns the population|How many people live in a city|Population lookup|Counts the inhabitants of a town", "city", "city|location|town|place|name|where",
     "What is the population of {v}?|How many people live in {v}?|Population of {v}?|Tell me the population of {v}.|How big is {v}?|What number of inhabitants does {v} have?|How many inhabitants has {v}?|Get the population of {v}.|population {v}|Give me the number of people in {v}.|Is {v} large? Get the population.|Look up how many live in {v}."),
    ("user", "lookup_user|get_user|find_user|user_info|search_user|user_lookup|getUser|fetch_user|user_details|show_user|account_info|query_user", "Look up a user by name|Find a user|Returns user details|User information|Get the account of a user|Search a user record", "name", "name|user|username|user_name|person|who",
     "Look up the user {v}.|Find the user {v}.|Who is the user {v}?|Show me the account of {v}.|Get user {v}|Can you find {v} in the user list?|Give me the user details of {v}.|Search for user {v}.|user {v}|Look up {v} in the user database.|I need the user record of {v}.|Please check the account called {v}."),
    ("greeting", "send_greeting|greet|say_hello|send_hello|greet_person|sendGreeting|greeting|hello_to|welcome_person|send_welcome|greet_user|deliver_greeting", "Send a greeting to a person|Greets someone|Say hello to somebody|Sends a friendly hello|Welcome a person|Greeting for a person", "name", "name|person|recipient|to|who|friend",
     "Send a greeting to {v}.|Greet {v}.|Say hello to {v}.|Please greet {v} for me.|Send {v} a hello|Could you send my greetings to {v}?|Say hi to {v}.|Welcome {v}.|greet {v}|Give {v} a friendly hello.|Let {v} know I say hello.|Deliver a hello to {v}."),
    ("phone", "get_phone_number|phone_number|find_phone|lookup_phone|phonebook|phone_of|getPhone|fetch_phone|phone_lookup|contact_number|call_number|search_phone", "Get the phone number of a person|Phone book|Find a phone number|Returns somebody's phone number|Phone lookup by name|Telephone number search", "name", "name|person|contact|who|full_name|contact_name",
     "What is the phone number of {v}?|Find the phone number of {v}.|How can I call {v}?|Phone number of {v}?|Give me {v}'s phone number.|Under which number can I reach {v}?|I need {v}'s number.|Look up {v} in the phone book.|phone {v}|What's {v}'s telephone number?|I want to ring {v}. Number?|Tell me the number of {v}."),
    ("email", "get_email|email_of|find_email|lookup_email|email_address|getEmail|fetch_email|mail_lookup|contact_email|search_email|email_lookup|mail_address", "Get the email address of a person|Find an email address|Email lookup|Returns somebody's email|Mail address by name|Looks up an e-mail", "name", "name|person|contact|who|full_name|user",
     "What is the email of {v}?|Find the email address of {v}.|Email of {v}?|Give me {v}'s email.|How can I mail {v}?|To which address do I write a mail for {v}?|I need the mail address of {v}.|Look up {v}'s email.|email {v}|What's {v}'s e-mail address?|Get {v}'s mail address.|Tell me {v}'s email address."),
    ("timer", "set_timer|start_timer|timer|countdown|create_timer|setTimer|new_timer|kitchen_timer|run_timer|begin_countdown|timer_start|alarm_in", "Set a timer in minutes|Start a timer|Countdown for some minutes|Timer of n minutes|Starts a countdown|Begins a timer", "number", "minutes|duration|min|time|length|mins",
     "Set a timer for {v} minutes.|Start a timer of {v} minutes.|Timer {v} minutes|Wake me in {v} minutes.|Count down {v} minutes.|Let me know when {v} minutes are over.|Please set a {v} minute timer.|Remind me in {v} minutes.|timer {v} min|Begin a countdown of {v} minutes.|I need a timer for {v} minutes.|Run the timer for {v} minutes."),
    ("dice", "roll_dice|dice|roll|throw_dice|roll_die|rollDice|dice_roll|random_die|toss_dice|throw_die|die_roller|dice_roller", "Roll a die with some sides|Throws a die|Random die|Roll dice|Dice with n sides|Rolls one die", "number", "sides|faces|n|max|side_count|size",
     "Roll a die with {v} sides.|Throw a {v}-sided die.|Roll a d{v}|Roll a {v} sided die.|Dice with {v} sides please.|Let a die with {v} faces fall.|Please roll a {v}-sided die.|Throw a die with {v} sides.|roll {v} sides|Give me a roll of a {v}-sided die.|Toss a die of {v} sides.|Roll one die, {v} faces."),
    ("temperature", "set_temperature|thermostat|set_heating|heat_to|change_temperature|setTemperature|adjust_temperature|room_temperature|set_thermostat|heating|climate_control|temperature_set", "Set the room temperature|Thermostat control|Sets the heating in degrees|Change the temperature|Heat the room to some degrees|Adjust the thermostat", "number", "degrees|temperature|value|target|celsius|level",
     "Set the temperature to {v} degrees.|Heat the room to {v} degrees.|Thermostat to {v}.|Make it {v} degrees in here.|Turn the heating to {v}.|I would like it to be {v} degrees here.|Set the thermostat to {v}.|Change the temperature to {v}.|temperature {v}|Please put the heating on {v} degrees.|Warm the house to {v} degrees.|Set heating: {v}."),
    ("square", "square|square_number|compute_square|power_two|get_square|squareOf|calc_square|squared|number_squared|square_of|multiply_self|second_power", "Square a number|Computes the square|Returns x times x|Number squared|Second power of a number|Square of a number", "number", "number|x|n|value|num|input",
     "What is the square of {v}?|Square {v}.|Compute {v} squared.|{v} squared?|Square the number {v}|How much is {v} times itself?|Calculate the square of {v}.|Give me {v} squared.|square {v}|Find the square of {v}.|I need {v} squared.|Tell me what {v} squared is."),
    ("convert", "km_to_miles|convert_km|to_miles|kilometers_to_miles|distance_converter|kmToMiles|convert_distance|miles_from_km|convert_to_miles|km_converter|distance_in_miles|get_miles", "Convert kilometers to miles|Kilometers into miles|Distance conversion|Converts km|Miles from kilometers|Turns km into miles", "number", "km|kilometers|distance|value|amount|length",
     "Convert {v} km to miles.|How many miles are {v} kilometers?|{v} km in miles?|What is {v} km in miles?|Turn {v} kilometers into miles.|I ran {v} kilometers, how many miles is that?|Change {v} km to miles.|Give me {v} km in miles.|miles for {v} km|Express {v} kilometers in miles.|{v} kilometers to miles please|Compute the miles of {v} km."),
    ("volume", "set_volume|volume|change_volume|speaker_volume|set_sound|setVolume|adjust_volume|sound_level|music_volume|set_loudness|audio_volume|volume_control", "Set the speaker volume|Sound volume in percent|Changes the volume|Volume control|Make the music louder or quieter|Adjust the loudness", "number", "level|volume|percent|value|loudness|amount",
     "Set the volume to {v}.|Volume {v}|Make the music volume {v} percent.|Turn the sound to {v}.|Change the volume to {v}.|I want the speaker at {v} percent.|Put the volume on {v}.|Set the speakers to {v} percent.|volume at {v} please|Please set the sound level to {v}.|Adjust the volume to {v}.|Music to {v} percent."),
    ("order", "get_order|order_status|track_order|find_order|lookup_order|orderStatus|check_order|order_info|fetch_order|order_tracking|show_order|query_order", "Get the status of an order|Track an order by number|Order lookup|Returns the state of an order|Find an order|Order tracking", "number", "order_id|id|number|order|order_number|order_no",
     "Where is my order {v}?|What is the status of order {v}?|Track order {v}.|Check order {v}.|Order {v}?|Has order number {v} been sent already?|Look up order {v}.|Show me order {v}.|order {v} status|Did order {v} arrive?|Please find order {v}.|I am waiting for order {v}."),
    ("flights", "find_flights|search_flights|flights_to|flight_search|get_flights|findFlights|list_flights|book_flight|flights|plane_tickets|lookup_flights|fly_to", "Find flights to a city|Search flights|Flights to a destination|Lists plane connections|Flight search|Looks for flights", "city", "destination|city|to|place|target|airport_city",
     "Find flights to {v}.|I want to fly to {v}.|Search flights to {v}.|Are there flights to {v}?|Flights to {v}?|Which planes go to {v}?|Show me flights to {v}.|Get me a flight to {v}.|flights {v}|I need a plane to {v}.|Look for a flight to {v}.|How can I fly to {v}?"),
    ("birthday", "get_birthday|birthday_of|find_birthday|lookup_birthday|birthday|getBirthday|birth_date|date_of_birth|birthday_lookup|when_born|fetch_birthday|check_birthday", "Get the birthday of a person|Birthday lookup|Returns the date of birth|Find somebody's birthday|Birthdays by name|Date of birth search", "name", "name|person|who|friend|full_name|contact",
     "When is the birthday of {v}?|When was {v} born?|Birthday of {v}?|Find {v}'s birthday.|What is {v}'s date of birth?|On which day does {v} celebrate a birthday?|Tell me {v}'s birthday.|Look up the birthday of {v}.|birthday {v}|I forgot {v}'s birthday. When is it?|When is {v}'s birthday?|Get the birth date of {v}."),
]
# How documentation and tutorials describe such parameters, for training only.
USUAL_TEXT = {
    "city": "The city|City name|The name of the city|The city name|The city and state|The city and state, e.g. San Francisco, CA|City and country|City and country, e.g. Paris, France|City and country e.g. Bogota, Colombia|The location|The location to look up|The city to look up|Name of a city|City, e.g. Berlin|The place|The place to search|Location name|The city or town|A city name|The destination|The destination city|Name of the location",
    "name": "The name|Name|Full name|The full name|The user's name|The name of the user|The name of the person|Name of the contact|First and last name|The person to look up|The username|The user name|Who to contact|The recipient|Name of the recipient|A person's name",
    "number": "The number|Number|A number|The value|The amount|The order number|The order id|The ID of the order|Number of minutes|The duration in minutes|Minutes|The temperature in degrees|The number of sides|Level from 0 to 100|The level|The input number|An integer|The target value",
}
USUAL_FUNCTION = {
    "weather": "Get the current weather in a given location|Get current weather|Get the weather|Get the weather for a city|Get current temperature for a given location|Get the current weather for a city|Returns the current weather|Retrieves the current weather for the given city|Gets the weather at a location|Fetch the weather|Get weather information for a city",
    "time": "Get the current time in a city|Get the current time|Returns the local time of a city|Get the time in a given location|Get current local time for a place",
    "restaurants": "Search for restaurants in a city|Find restaurants near a location|Search restaurants in a given city", "hotel": "Book a hotel room in a city|Make a hotel reservation in a given city", "population": "Get the population of a given city|Returns how many people live in a city",
    "user": "Look up a user by their name|Get a user by name|Get information about a user", "greeting": "Send a greeting to a user|Send a greeting message to a person", "phone": "Get the phone number of a contact|Look up a phone number by name", "email": "Get the email address of a user|Look up a contact's email address",
    "timer": "Set a timer for a number of minutes|Set a kitchen timer|Start a countdown timer", "dice": "Roll a die with the given number of sides|Roll dice", "temperature": "Set the thermostat to a temperature|Set the temperature of a room", "square": "Compute the square of a number|Returns the square of a number",
    "convert": "Convert kilometers to miles|Convert a distance in kilometers to miles", "volume": "Set the volume of the speaker|Set the speaker volume to a level", "order": "Get the status of an order|Get the delivery status of an order|Look up an order by its number", "flights": "Search for flights to a city|Find flights to a given destination", "birthday": "Get the birthday of a person|Look up when a person was born",
}
VALUE_TEXT = {
    "city": "The city|City name|Name of the city|The town, e.g. Oslo|A place|Where to look".split("|"),
    "name": "The name|The person's name|Name of the person|Full name|Who it is|The name to use".split("|"),
    "number": "The number|A whole number|The value|How much|Amount|The numeric value".split("|"),
}
MADE_Q = {
    "city": "What is the {n} of {v}?|Get the {n} of {v}.|{n} of {v}?|Tell me the {n} for {v}.|Show me the {n} of {v}.|Which {n} does {v} have?|Look up the {n} of {v}.|Find the {n} for {v}.|Give me {v}'s {n}.|What {n} is there in {v}?|{n} in {v}?|I would like to know the {n} of {v}.".split("|"),
}
MADE_Q["name"] = MADE_Q["city"][:8] + ["Give me {v}'s {n}.", "What {n} does {v} have?", "I need the {n} of {v}.", "Please fetch {v}'s {n}."]
MADE_Q["number"] = "Do the {n} with {v}.|Compute the {n} of {v}.|{n} {v}|What is the {n} of {v}?|Run {n} on {v}.|Apply {n} to the number {v}.|Get the {n} of {v}.|{n} of {v}?|Please use {n} with {v}.|Set the {n} to {v}.|Calculate the {n} for {v}.|Put the {n} at {v} please.".split("|")
REAL_NOUNS = "salary|address|mayor|rating|score|level|altitude|climate|language|currency|rank|status|balance|team|size|color|price|flag|zip code|air quality|rainfall|height|weight|title|job|department|speed|position|area|elevation|traffic|humidity|tax rate|area code|nickname|office|manager|membership|credit|discount".split("|")


VERBS = "get|find|fetch|look_up|query|compute|show|read|load|check|search|request|retrieve|call|run|ask|tell|give|list|open|pull|obtain|select|select_one|resolve|report|describe|inspect|start|make".split("|")
ENDS = "tool|api|lookup|service|info|data|now|v2|v3|fn|by_key|value|details|query|handler|client|of|for_user|fast|x".split("|")


def function_name(g, noun):
    """A name in one of the styles people use: snake or camel case, a verb before, a word behind."""
    parts = ([g.pick(VERBS)] if g.chance(0.75) else []) + [noun] + ([g.pick(ENDS)] if g.chance(0.3) else [])
    words = "_".join(parts).split("_")
    return words[0] + "".join(w[:1].upper() + w[1:] for w in words[1:]) if g.chance(0.2 if g.eval else 0.4) else "_".join(words)


def made_tool(g):
    """A function nobody has seen: its name, description and question share a made-up or unusual noun."""
    kind = g.one("city|city|name|name|number")
    noun = g.pieces() if not g.eval and g.chance(0.3) else g.syllables(2, 3) if g.chance(0.1) else g.odd().lower() if g.chance(0.1) else g.pick(REAL_NOUNS)
    ident = noun.replace(" ", "_")
    name = function_name(g, ident) if g.chance(0.5) else g.one("get_{n}|{n}_lookup|find_{n}|{n}|{n}_of|fetch_{n}|query_{n}|compute_{n}|show_{n}|{n}_tool|do_{n}|read_{n}".split("|")).format(n=ident)
    text = g.one("Get the {n} of a {k}|Returns the {n}|The {n} of a {k}|Looks up the {n} of a {k}|Tells the {n}|{n} of a {k}".split("|")).format(n=noun, k={"name": "person"}.get(kind, kind))
    param = g.one(TOOLS[{"city": 0, "name": 5, "number": 12}[kind]][4]) if g.chance(0.7) else g.pieces() if not g.eval and g.chance(0.4) else g.one("key|arg|q|input|target|subject|item|a|p1|query")
    return {"tag": noun, "kind": kind, "name": name, "text": text, "param": param, "questions": MADE_Q[kind], "noun": noun}


def any_param(g):
    """A parameter name that does not go with the function, so that it must be read from the declaration."""
    return g.pieces() if g.chance(0.3) else g.one(g.one(TOOLS)[4])


def known_tool(g, entry):
    tag, names, texts, kind, params, questions = entry
    name = g.pick(names) if g.eval or g.chance(0.5) else function_name(g, g.one([tag, g.pick(names)]))
    return {"tag": tag, "kind": kind, "name": name, "text": g.one(USUAL_FUNCTION[tag]) if not g.eval and g.chance(0.35) else g.pick(texts), "param": g.pick(params) if g.eval or g.chance(0.7) else any_param(g), "questions": questions.split("|"), "noun": tag}


def some_words(g, most):
    return " ".join(g.one(PLAIN) if g.chance(0.4) else g.word() for _ in range(g.rng.randint(1, most)))


def vary(g, text):
    """In training often with words nobody expects, so that a quote has to be copied and cannot be recited."""
    if g.eval or not g.chance(0.25):
        return text
    return f"{text} {some_words(g, 3)}" if g.chance(0.6) else f"{some_words(g, 2).capitalize()}: {text}"


def value_text(g, kind):
    if g.eval:
        return g.pick(VALUE_TEXT[kind])
    x = g.rng.random()
    text = g.one(USUAL_TEXT[kind]) if x < 0.4 else g.pick(VALUE_TEXT[kind]) if x < 0.7 else g.one(["The ", "The ", "A ", "Some ", "", g.one(CAPITALIZED) + " "]) + some_words(g, 4)
    if g.chance(0.12):
        text += f"{g.one([', e.g. ', ' (e.g. ', ', for example ', ' such as ', ' like '])}{tool_value(g, kind)}" + (f", {g.city()}" if g.chance(0.3) else "")
        text += ")" * (text.count("(") - text.count(")"))
    return text + ("." if g.chance(0.4) else "")


def make_tools(g):
    """One to three declared functions and the one to call."""
    count = g.one([1, 1, 2, 2, 3])
    picked, tags = [], set()
    while len(picked) < count:
        t = made_tool(g) if g.chance(0.25 if g.eval else 0.4) else known_tool(g, g.one(TOOLS))
        if t["tag"] in tags or any(t["name"] == o["name"] for o in picked):
            continue
        if g.chance(0.06):
            t["name"] += g.one("_v2|_v3|_api|_tool|_fast|_x")
        tags.add(t["tag"])
        picked.append(t)
    style = g.rng.random()
    for t in picked:
        kind = "integer" if t["kind"] == "number" and g.chance(0.7) else ("number" if t["kind"] == "number" else "string")
        prop = {"type": kind}
        if style < 0.55:
            prop["description"] = value_text(g, t["kind"])
        props = {t["param"]: prop}
        if t["kind"] == "city" and g.chance(0.12) and t["tag"] == "weather":
            props["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        f = {"name": t["name"], "description": vary(g, t["text"]) + ("." if g.chance(0.3 if g.eval else 0.45) else ""), "parameters": {"type": "object", "properties": props, "required": [t["param"]]}}
        t["tool"] = {"type": "function", "function": f}
    return picked, g.one(picked)


def tool_value(g, kind):
    return {"city": g.city, "name": g.name, "number": lambda: g.rng.randint(1, 99) if g.chance(0.8) else g.rng.randint(100, 999)}[kind]()


def call_reasoning(t, v, effort):
    """Quotes the declaration from its description to the parameter. Which function to call is then decided where
    the quote begins, by its meaning; the rest is copying from one place, and the call itself copies from the
    quote, where no other function is near."""
    declared = render.declaration(t["tool"]["function"])
    quote = declared[: declared.rindex(f"\n{t['param']}: ") + 1 + len(t["param"])]
    if effort == "low":
        return f"{quote}: {v}"
    if effort == "medium":
        return f"A function fits.\n{quote}: {v}\nI call it."
    return (f"The user wants something that a function may give. I read what is declared. This one fits:\n{quote}: {v}\n"
            f"The user gave {v}. Check: nothing else is required. So I call {t['name']} with {t['param']} {v}.")


def blur(g, question):
    """In training now and then with a word more, less or other than usual, so that what counts is what it is about."""
    words = question.split(" ")
    for _ in range(0 if g.eval or not g.chance(0.3) else g.one([1, 1, 2])):
        i = g.rng.randrange(len(words))
        what = g.rng.random()
        if what < 0.45:
            words.insert(i, g.one(PLAIN))
        elif "{" not in words[i] and words[i].islower() and len(words[i]) < 6:
            words[i : i + 1] = [g.one(PLAIN)] if what < 0.75 else []
    return " ".join(words)


def tool_question(g, t, v):
    q = blur(g, g.pick(t["questions"])).format(v=v, n=t["noun"])
    q = q[0].upper() + q[1:] if g.chance(0.5) else q
    return g.polite(q) if g.chance(0.3) else q


def tools(g, effort):
    declared, t = make_tools(g)
    v = tool_value(g, t["kind"])
    request = user(tool_question(g, t, v))
    request["tools"] = [x["tool"] for x in declared]
    args = {t["param"]: v}
    return request, call_reasoning(t, v, effort), {"call": (t["name"], args)}, {"tool_call": {"name": t["name"], "arguments": args}}


def result_of(g, t, v):
    """(tool content, final answer, words the answer must hold)."""
    r = g.rng
    tag = t["tag"]
    x = r.random()
    if x < 0.05:
        e = g.one("not found|unknown city|no data|timeout|service down|invalid input|try again later|access denied|limit reached")
        return render.compact({"error": e}), f"The function failed: {e}.", [e]
    if tag == "weather":
        d, w = r.randint(-20, 40), g.one("sunny|cloudy|rainy|windy|foggy|snowy|clear|stormy|dry|humid|cold|hot")
        if x < 0.75:
            obj = {g.one("temperature|temp|degrees|temperature_c|temp_c"): d, g.one("condition|weather|sky|description|conditions|summary"): w}
            if g.chance(0.25):
                obj = dict(reversed(list(obj.items())))
            if g.chance(0.3):
                obj = {g.one("city|location|place"): v, **obj}
            return render.compact(obj), f"It is {d} degrees and {w} in {v}.", [str(d), w]
        if x < 0.85:
            return render.compact({g.one("temperature|temp|degrees"): d}), f"It is {d} degrees in {v}.", [str(d)]
        return g.one([f"{d} degrees, {w}", f"{w}, {d} C", f"{w} and {d} degrees", f"{d}C {w}"]), f"It is {d} degrees and {w} in {v}.", [str(d), w]
    if tag == "time":
        h = f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}"
        return (render.compact({g.one("time|local_time|now|clock"): h}) if x < 0.8 else h), f"It is {h} in {v}.", [h]
    word = lambda: g.syllables(2, 3).capitalize() if g.chance(0.6) else g.odd().capitalize()
    if tag in ("restaurants", "flights", "hotel"):
        a = g.one([f"{word()} {g.one('Inn|House|Palace|Garden|Air|Grill|Cafe|Royal|Line')}", word(), g.name()])
        what = {"restaurants": "restaurant", "flights": "flight", "hotel": "hotel"}[tag]
        text = render.compact({g.one([what, "name", "result", "found"]): a}) if x < 0.8 else a
        return text, f"I found this {what} in {v}: {a}." if tag != "flights" else f"I found this flight to {v}: {a}.", [a]
    if t["kind"] == "number":
        n = r.choice([r.randint(0, 99), r.randint(100, 9999), g.one("done|ok|started|sent|on the way|delivered|active|ready")])
        text = render.compact({g.one("result|value|status|output|answer|state"): n}) if x < 0.85 else str(n)
        return text, f"The result for {v} is: {n}.", [str(n)]
    value = g.one([r.randint(0, 99), r.randint(100, 9999), r.randint(10000, 9999999), word(), word().lower(), g.name(), f"{r.randint(1, 28)} {g.one('May|June|July|March|April|October')}", f"{word().lower()}@{word().lower()}.com", f"555-{r.randint(1000, 9999)}"])
    noun = t["noun"]
    key = g.one([noun.replace(" ", "_"), "result", "value", "data", "answer"])
    text = render.compact({key: value}) if x < 0.85 else str(value)
    if tag in ("user", "greeting"):
        return text, f"The result for {v} is: {value}.", [str(value)]
    return text, f"The {noun} of {v} is {value}.", [str(value)]


def call_message(g, t, v, reasoning=None):
    m = {"role": "assistant", "content": None, "tool_calls": [{"id": f"call_{g.rng.randrange(10**6)}", "type": "function", "function": {"name": t["name"], "arguments": render.compact({t["param"]: v})}}]}
    if reasoning:
        m["reasoning"] = reasoning
    return m


def tool_results(g, effort):
    declared, t = make_tools(g)
    v = tool_value(g, t["kind"])
    request = user(tool_question(g, t, v))
    request["tools"] = [x["tool"] for x in declared]
    said = call_reasoning(t, v, g.one(EFFORTS) if g.chance(0.3) else effort) if g.chance(0.5) else None
    call = call_message(g, t, v, said)
    content, final, words = result_of(g, t, v)
    request["messages"] += [call, {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": content}]
    reasoning = {
        "low": f"Result for {v}: {', '.join(words)}.",
        "medium": f"The function {t['name']} answered for {v}. The result is {', '.join(words)}. I tell the user.",
        "high": f"I called {t['name']} with {v}. Its result is here: {content} . The user asked about {v}. I put the values into one sentence. Check: every value is copied from the result.",
    }[effort]
    return request, reasoning, {"final": final}, {"contains": words}


def with_tools(g, effort):
    """Functions are declared, but the question is about something else."""
    skill = g.one([sums, sums, capitals, about, refusals, greetings, extraction])
    declared, _ = make_tools(g)
    while True:
        request, reasoning, out, expect = skill(g, effort)
        text = request["messages"][-1]["content"].lower()
        if not request.get("response_format") and not any(t["tag"].lower() in text for t in declared) and not any(w in text for w in ("weather", "time", "hotel", "flight", "population", "email", "call ", "alarm")):
            break
    request["tools"] = [x["tool"] for x in declared]
    return request, reasoning, out, expect


# ---- conversations of two turns ----
def turn(request, final, text):
    request["messages"] += [{"role": "assistant", "content": final}, {"role": "user", "content": text}]
    return request


FAVORITES = {"color": "green|blue|red|yellow|purple|black|white|orange|pink|brown|silver|gold", "animal": "cat|dog|horse|owl|tiger|bear|fox|lion|rabbit|eagle|wolf|snake", "food": "pizza|rice|bread|soup|cake|pasta|fish|salad|sushi|cheese|curry|apples", "number": "7|12|3|42|8|21|5|99|13|64|11|30", "city": None}


def two_turn(g, effort):
    kind = g.one("name|name|capital|capital|sum|sum|favorite|json|any|tool")
    if kind == "name":
        n = g.name()
        first = g.pick("My name is {n}.|I am {n}.|Hi, I'm {n}.|Hello, my name is {n}.|Call me {n}.|You may call me {n}.|I'm called {n}.|Hi! My name is {n}.|my name is {n}|Hello! I am {n}.|Good morning, I'm {n}.|People know me as {n}.").format(n=n)
        hello = f"Nice to meet you, {n}!"
        if g.chance(0.35):
            reasoning = {"low": "Greet by name.", "medium": f"The user is called {n}. I greet by name.", "high": f"The user gives a name. The name is {n}. I greet the user with it and remember it. Check: the name is spelled {n}."}[effort]
            return user(first), reasoning, {"final": hello}, {"contains": [n]}
        q = g.pick("What is my name?|What's my name?|Do you remember my name?|Who am I?|what is my name|Can you tell me what I am called?|Say my name.|Tell me my name.|And what is my name?|Which name did I give you?|What am I called?|Do you still know my name?")
        reasoning = {"low": f"The name is {n}.", "medium": f"The user said the name before. It is {n}.", "high": f"The user asks for a name given before. Look at the first message. There it is: {n}. Check: the spelling is {n}. So I say it."}[effort]
        return turn(user(first), hello, q), reasoning, {"final": f"Your name is {n}."}, {"contains": [n]}
    if kind == "favorite":
        f = g.one(sorted(FAVORITES))
        v = g.city() if f == "city" else g.one(FAVORITES[f])
        s = g.one("favorite|favourite")
        ack = f"I will remember that: {v}."
        first = g.one("My {s} {f} is {v}.|Remember that my {s} {f} is {v}.|Please note: my {s} {f} is {v}.").format(s=s, f=f, v=v)
        if g.chance(0.25):
            reasoning = {"low": "Note it.", "medium": f"The user tells me something: {v}. I note it.", "high": f"The user tells me a fact. The {s} {f} is {v}. There is no question. I note it and say so. Check: {v}."}[effort]
            return user(first), reasoning, {"final": ack}, {"contains": [v]}
        reasoning = {"low": f"It is {v}.", "medium": f"The user said it before. The {s} {f} is {v}.", "high": f"The user asks for something said before. Look at the first message. The {s} {f} is {v}. Check: it is spelled {v}. So I say it."}[effort]
        return turn(user(first), ack, g.one("What is my {s} {f}?|What's my {s} {f}?|Which {f} do I like best?|Do you remember my {s} {f}?").format(s=s, f=f)), reasoning, {"final": f"Your {s} {f} is {v}."}, {"contains": [v]}
    if kind == "capital":
        c, d = g.rng.sample(sorted(CAPITALS), 2)
        request = capitals(g, effort, c)[0] if not g.eval else user(f"What is the capital of {c}?")
        request = user(g.pick(CAPITAL_Q).format(c=c)) if "whose" in request["messages"][0]["content"].lower() else request
        q = g.pick("And of {d}?|and of {d}?|What about {d}?|And {d}?|and {d}|How about the one of {d}?|What about the capital of {d}?|and for {d}?|Now {d}.|And the capital of {d}?|and what about {d}?|Now the same for {d}.").format(d=d)
        reasoning, final = capital_answer(d, CAPITALS[d], effort)
        first = capital_answer(c, CAPITALS[c], g.one(EFFORTS) if g.chance(0.3) else effort)[1]
        return turn(user(g.pick(CAPITAL_Q).format(c=c)), first, q), reasoning, {"final": final}, {"contains": [CAPITALS[d]]}
    if kind == "sum":
        while True:
            a, b = two_numbers(g)
            op, op2 = g.one("+|-"), g.one("+|-")
            v = a + b if op == "+" else a - b
            e = g.rng.randint(1, 9) if g.chance(0.4) else g.rng.randint(1, 99)
            if 0 <= v <= 99:
                break
        q = g.pick({"+": "plus {e}?|Plus {e}?|and plus {e}?|Add {e}.|now add {e}|And when I add {e} to that?|add {e} to that|And {e} more?|plus {e}|+{e}|Add {e} more.|Now plus {e}?", "-": "minus {e}?|Minus {e}?|and minus {e}?|Subtract {e}.|now subtract {e}|And when I subtract {e} from that?|take {e} from that|And {e} less?|minus {e}|-{e}|Take away {e}.|Now minus {e}?"}[op2]).format(e=e)
        first = arithmetic(a, b, op, g.one(EFFORTS) if g.chance(0.3) else effort)[1]
        reasoning, final, value = arithmetic(v, e, op2, effort)
        text = g.pick(ADD if op == "+" else SUB)
        while "apples" in text or "coins" in text:
            text = g.pick(ADD if op == "+" else SUB)
        return turn(user(text.format(a=a, b=b)), first, q), reasoning, {"final": final}, {"number": value}
    if kind == "json":
        first, _, out, _ = extraction(g, effort)
        n, a, c, text = person(g)
        reasoning, final = extract_answer(n, a, c, effort)
        return turn(first, out["final"], g.pick("And: |Now this: |Next: |And this one: |The next one: |One further person: ") + (" " if False else "") + text), reasoning, {"final": final}, {"json": {"name": n, "age": a, "city": c}}
    if kind == "tool":
        declared, t = make_tools(g)
        v, w = tool_value(g, t["kind"]), tool_value(g, t["kind"])
        request = user(tool_question(g, t, v))
        request["tools"] = [x["tool"] for x in declared]
        call = call_message(g, t, v)
        content, final, _ = result_of(g, t, v)
        request["messages"] += [call, {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": content}]
        q = g.pick({"city": "And in {w}?|And {w}?|What about {w}?|and in {w}|Now {w}.|How about doing it for {w}?", "name": "And {w}?|What about {w}?|and for {w}?|Now {w}.|The same for {w}.|How about doing it for {w}?", "number": "And {w}?|Now with {w}.|What about {w}?|and with {w}|The same with {w}.|How about doing it with {w}?"}[t["kind"]]).format(w=w)
        args = {t["param"]: w}
        return turn(request, final, q), call_reasoning(t, w, effort), {"call": (t["name"], args)}, {"tool_call": {"name": t["name"], "arguments": args}}
    # Any first turn, then any second one: the answer must follow the last message.
    pool = [sums, capitals, about, refusals, greetings, extraction]
    request, _, out, _ = g.one(pool)(g, g.one(EFFORTS) if g.chance(0.3) else effort)
    if request["messages"][0]["role"] == "system":
        request["messages"] = request["messages"][1:]
    request.pop("response_format", None)
    if g.chance(0.3):  # a longer conversation
        for _ in range(g.rng.randint(1, 2)):
            more, _, out_, _ = g.one([sums, capitals, about, refusals, greetings])(g, g.one(EFFORTS) if g.chance(0.3) else effort)
            request = turn(request, out["final"], more["messages"][-1]["content"])
            out = out_
    nxt, reasoning, out2, expect = g.one(pool)(g, effort)
    if nxt["messages"][0]["role"] == "system" or nxt.get("response_format"):
        nxt, reasoning, out2, expect = sums(g, effort)
    return turn(request, out["final"], nxt["messages"][-1]["content"]), reasoning, out2, expect


SKILLS = {"sums": sums, "capitals": capitals, "about": about, "refusals": refusals, "greetings": greetings, "json": extraction, "tools": tools, "tool_results": tool_results, "with_tools": with_tools, "two_turn": two_turn, "repeat": repeat}
MIX = {"sums": 18, "capitals": 8, "about": 8, "refusals": 11, "greetings": 2, "json": 12, "tools": 24, "tool_results": 8, "with_tools": 5, "two_turn": 9, "repeat": 4}


def sample(rng, split, skill=None, effort=None, mix=None):
    mix = mix or MIX
    skill = skill or rng.choices(list(mix), list(mix.values()))[0]
    effort = effort or rng.choices(EFFORTS, (42, 36, 22))[0]
    g = Gen(rng, split)
    request, reasoning, out, expect = SKILLS[skill](g, effort)
    if request["messages"][0]["role"] != "system" and rng.random() < 0.35:
        request["messages"].insert(0, {"role": "system", "content": g.instructions()})
    if split == "train" and rng.random() < (0.06 if "call" in out else 0.015):
        reasoning = ""  # so that a caller may force the channel
    return {"skill": skill, "effort": effort, "request": request, "reasoning": reasoning, "expect": expect, **out}


def _all_words():
    import re

    texts = [TOPICS, PEOPLE, PHRASES, INSTRUCTIONS, ROLES, RULES, NAMES, SURNAMES, CITIES, ADD, CAPITAL_Q, REFUSE, PLAIN, FORMAT_NAMES, REAL_NOUNS] + [[t for field in tool for t in field.split("|")] for tool in TOOLS] + [a[2].split("|") for a in ABOUT]
    return sorted({w for text in texts for t in text for w in re.findall(r"[A-Za-z]{2,}", t)})


ALL_WORDS += _all_words()


def date(rng):
    return f"{rng.randint(2024, 2035)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}" if rng.random() < 0.97 else None


def encode(tok, s, when):
    """(system ids, prompt ids, answer ids)."""
    system, rest = render.render(s["request"], s["effort"], when)
    ans = render.answer(s["reasoning"], s.get("final"), s.get("call"))
    return [e.ids for e in tok.encode_batch([system, rest, ans])]


if __name__ == "__main__":
    import sys

    rng = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    for skill in SKILLS:
        for _ in range(4):
            s = sample(rng, "train", skill)
            print(f"[{skill} {s['effort']}]", render.render(s["request"], s["effort"], "2026-01-01")[1], render.answer(s["reasoning"], s.get("final"), s.get("call")), s["expect"], "\n")
