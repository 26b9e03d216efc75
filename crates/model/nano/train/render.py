"""Renders chat-completions requests to Harmony text, exactly as the server (openai-harmony 0.0.8) does.

`render(request, effort, date)` gives (system, rest): the system message and what follows it up to and
including `<|start|>assistant`.  Run as a program with a folder holding o200k_base.tiktoken to compare
with the openai_harmony package on generated samples.
"""
import json

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06"
CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
TOOLS_LINE = "\nCalls to these tools must go to the commentary channel: 'functions'."


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def system(effort, date, tools):
    when = f"\nCurrent date: {date}" if date else ""
    text = f"{IDENTITY}{when}\n\nReasoning: {effort}\n\n{CHANNELS}{TOOLS_LINE if tools else ''}"
    return f"<|start|>system<|message|>{text}<|end|>"


def _type(schema):
    kind = schema.get("type")
    if kind == "string" and "enum" in schema:
        return " | ".join(json.dumps(e, ensure_ascii=False) for e in schema["enum"])
    return {"integer": "number", "number": "number", "string": "string", "boolean": "boolean"}.get(kind, "any")


def declaration(f):
    lines = [f"// {l}" for l in f.get("description", "").split("\n")] if f.get("description") is not None else []
    schema = f.get("parameters")
    if schema is None:
        return "\n".join(lines + [f"type {f['name']} = () => any;"])
    lines.append(f"type {f['name']} = (_: {{")
    required = schema.get("required", [])
    for name, p in schema.get("properties", {}).items():
        if p.get("description"):
            lines.append(f"// {p['description']}")
        line = f"{name}{'' if name in required else '?'}: {_type(p)},"
        if "default" in p:
            d = p["default"]
            line += f" // default: {json.dumps(d) if isinstance(d, str) and 'enum' not in p else (d if isinstance(d, str) else json.dumps(d))}"
        lines.append(line)
    lines.append("}) => any;")
    return "\n".join(lines)


def developer(instructions, tools, response_format):
    parts = []
    if instructions:
        parts.append(f"# Instructions\n\n{instructions}")
    if tools:
        body = "\n\n".join(declaration(t["function"]) for t in tools)
        parts.append(f"# Tools\n\n## functions\n\nnamespace functions {{\n\n{body}\n\n}} // namespace functions")
    if response_format and response_format.get("type") == "json_schema":
        f = response_format["json_schema"]
        about = f"// {f['description']}\n" if f.get("description") else ""
        parts.append(f"# Response Formats\n\n## {f['name']}\n\n{about}{compact(f['schema'])}")
    if not parts:
        return ""
    return "<|start|>developer<|message|>" + "\n\n".join(parts) + "<|end|>"


def render(request, effort, date):
    tools, messages = request.get("tools"), request["messages"]
    instructions = "\n\n".join(m["content"] for m in messages if m["role"] in ("system", "developer"))
    out = [developer(instructions, tools, request.get("response_format"))]
    last_final = max((i for i, m in enumerate(messages) if m["role"] == "assistant" and not m.get("tool_calls")), default=-1)
    names = {}
    for i, m in enumerate(messages):
        if m["role"] == "user":
            out.append(f"<|start|>user<|message|>{m['content']}<|end|>")
        elif m["role"] == "assistant":
            if m.get("reasoning") and i > last_final:
                out.append(f"<|start|>assistant<|channel|>analysis<|message|>{m['reasoning']}<|end|>")
            if m.get("content"):
                out.append(f"<|start|>assistant<|channel|>final<|message|>{m['content']}<|end|>")
            for call in m.get("tool_calls", []):
                f = call["function"]
                names[call["id"]] = f["name"]
                out.append(f"<|start|>assistant to=functions.{f['name']}<|channel|>commentary <|constrain|>json<|message|>{f['arguments']}<|call|>")
        elif m["role"] == "tool":
            out.append(f"<|start|>functions.{names[m['tool_call_id']]} to=assistant<|channel|>commentary<|message|>{m['content']}<|end|>")
    out.append("<|start|>assistant")
    return system(effort, date, bool(tools)), "".join(out)


def answer(reasoning, final=None, call=None):
    """The model's own writing: `call` is (name, arguments)."""
    head = f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant" if reasoning else ""
    if call:
        return f"{head}<|channel|>commentary to=functions.{call[0]} <|constrain|>json<|message|>{compact(call[1])}<|call|>"
    return f"{head}<|channel|>final<|message|>{final}<|return|>"


def parse(text):
    """What the decoder wrote -> {"reasoning", "final", "call"}; final is None where it is not well formed."""
    out = {"reasoning": "", "final": None, "call": None}
    for part in text.split("<|start|>assistant"):
        if "<|message|>" not in part:
            return dict(out, final=None, call=None)
        head, body = part.split("<|message|>", 1)
        if head == "<|channel|>analysis" and body.endswith("<|end|>"):
            out["reasoning"] += body[: -len("<|end|>")]
        elif head == "<|channel|>final" and body.endswith("<|return|>"):
            out["final"] = body[: -len("<|return|>")]
        elif head.startswith("<|channel|>commentary to=functions.") and body.endswith("<|call|>"):
            name = head[len("<|channel|>commentary to=functions."):].replace(" <|constrain|>json", "")
            try:
                out["call"] = (name, json.loads(body[: -len("<|call|>")]))
            except ValueError:
                pass
    return out


def check(folder, count=300):
    import os
    import random

    os.environ["TIKTOKEN_ENCODINGS_BASE"] = folder
    from openai_harmony import (Author, Conversation, DeveloperContent, HarmonyEncodingName, Message, ReasoningEffort, Role,
                                SystemContent, ToolDescription, load_harmony_encoding)
    import data

    enc = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    rng = random.Random(5)
    done = 0
    while done < count:
        s = data.sample(rng, "train")
        req, effort = s["request"], s["effort"]
        if req.get("response_format"):
            continue  # the package has no such section; its text follows the format's documentation
        date = "2026-11-22"
        sys = SystemContent.new().with_conversation_start_date(date).with_reasoning_effort(ReasoningEffort(effort.capitalize()))
        msgs = [Message.from_role_and_content(Role.SYSTEM, sys)]
        dev = DeveloperContent.new()
        ins = [m["content"] for m in req["messages"] if m["role"] == "system"]
        if ins:
            dev = dev.with_instructions(ins[0])
        if req.get("tools"):
            dev = dev.with_function_tools([ToolDescription.new(t["function"]["name"], t["function"].get("description", ""), parameters=t["function"].get("parameters")) for t in req["tools"]])
        if ins or req.get("tools"):
            msgs.append(Message.from_role_and_content(Role.DEVELOPER, dev))
        names = {}
        for m in req["messages"]:
            if m["role"] == "user":
                msgs.append(Message.from_role_and_content(Role.USER, m["content"]))
            elif m["role"] == "assistant":
                if m.get("reasoning"):
                    msgs.append(Message.from_role_and_content(Role.ASSISTANT, m["reasoning"]).with_channel("analysis"))
                if m.get("content"):
                    msgs.append(Message.from_role_and_content(Role.ASSISTANT, m["content"]).with_channel("final"))
                for c in m.get("tool_calls", []):
                    names[c["id"]] = c["function"]["name"]
                    msgs.append(Message.from_role_and_content(Role.ASSISTANT, c["function"]["arguments"]).with_channel("commentary").with_recipient("functions." + c["function"]["name"]).with_content_type("<|constrain|>json"))
            elif m["role"] == "tool":
                msgs.append(Message.from_author_and_content(Author.new(Role.TOOL, "functions." + names[m["tool_call_id"]]), m["content"]).with_recipient("assistant").with_channel("commentary"))
        want = enc.decode_utf8(enc.render_conversation_for_completion(Conversation.from_messages(msgs), Role.ASSISTANT))
        got = "".join(render(req, effort, date))
        if want != got:
            print("DIFFERENT\n", want, "\n-----\n", got)
            raise SystemExit(1)
        done += 1
    print(count, "prompts equal openai_harmony's")


if __name__ == "__main__":
    import sys

    check(sys.argv[1])
