"""The OpenAI SDK for Python against a running server with the nano model.

    python suite.py http://127.0.0.1:PORT
"""

import json
import os
import sys
import time
import unittest
import urllib.request
from typing import Literal

# A proxy from the environment cannot reach this machine's own addresses.
os.environ["NO_PROXY"] = "127.0.0.1"

import openai
import pydantic

URL = sys.argv.pop(1).rstrip("/")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    },
}


def user(text):
    return [{"role": "user", "content": text}]


def get(path):
    with urllib.request.urlopen(URL + path, timeout=10) as answer:
        return answer.read().decode()


def blocks_used():
    """Blocks that sequences hold, summed over both groups."""
    lines = [line for line in get("/metrics").splitlines() if line.startswith("harmonium_kv_blocks_used{")]
    assert len(lines) == 2, lines
    return sum(float(line.split()[-1]) for line in lines)


class Suite(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.client = openai.OpenAI(base_url=URL + "/v1", api_key="unused", max_retries=0, timeout=60)

    def chat(self, text, **options):
        return self.client.chat.completions.create(
            model="nano", messages=user(text), temperature=0, **options
        )

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["nano"])
        self.assertEqual(self.client.models.retrieve("nano").object, "model")

    def test_chat_at_every_effort(self):
        reasoning = []
        for effort in ("low", "medium", "high"):
            answer = self.chat("What is the capital of France?", reasoning_effort=effort)
            choice = answer.choices[0]
            self.assertIn("Paris", choice.message.content)
            self.assertEqual(choice.finish_reason, "stop")
            self.assertEqual(choice.message.reasoning, choice.message.reasoning_content)
            reasoning.append(answer.usage.completion_tokens_details.reasoning_tokens)
        self.assertLess(reasoning[0], reasoning[2])

    def test_usage_adds_up(self):
        usage = self.chat("What is 2 + 2?").usage
        self.assertGreater(usage.prompt_tokens, 0)
        self.assertGreater(usage.completion_tokens, 0)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)

    def test_stream_says_the_same_as_the_whole_answer(self):
        text = "What is the capital of Japan?"
        whole = self.chat(text)
        content = reasoning = ""
        finish, usages = None, []
        for chunk in self.chat(text, stream=True, stream_options={"include_usage": True}):
            if chunk.usage:
                self.assertEqual(chunk.choices, [])
                usages.append(chunk.usage)
            for choice in chunk.choices:
                content += choice.delta.content or ""
                reasoning += getattr(choice.delta, "reasoning", None) or ""
                finish = choice.finish_reason or finish
        self.assertEqual(content, whole.choices[0].message.content)
        self.assertEqual(reasoning, whole.choices[0].message.reasoning)
        self.assertEqual(finish, "stop")
        self.assertEqual(len(usages), 1)
        self.assertEqual(usages[0].completion_tokens, whole.usage.completion_tokens)

    def test_stream_without_include_usage_has_none(self):
        chunks = list(self.chat("What is 2 + 2?", stream=True))
        self.assertTrue(all(chunk.usage is None for chunk in chunks))
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)

    def test_stream_helper(self):
        with self.client.chat.completions.stream(
            model="nano", messages=user("What is the capital of Italy?"), temperature=0
        ) as stream:
            final = stream.get_final_completion()
        self.assertIn("Rome", final.choices[0].message.content)

    def test_tool_round_trip(self):
        messages = user("What is the weather in Oslo?")
        options = {"model": "nano", "temperature": 0, "tools": [WEATHER]}
        choice = self.client.chat.completions.create(messages=messages, **options).choices[0]
        self.assertEqual(choice.finish_reason, "tool_calls")
        (call,) = choice.message.tool_calls
        self.assertEqual(call.function.name, "get_weather")
        self.assertEqual(json.loads(call.function.arguments), {"city": "Oslo"})

        result = json.dumps({"city": "Oslo", "temperature": 17, "sky": "sunny"})
        messages += [
            choice.message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": result},
        ]
        choice = self.client.chat.completions.create(messages=messages, **options).choices[0]
        self.assertEqual(choice.finish_reason, "stop")
        self.assertIn("17", choice.message.content)

    def test_a_pydantic_model_is_what_comes_back(self):
        class City(pydantic.BaseModel):
            name: str
            inhabitants: int
            coast: Literal["sea", "lake", "none"]

        class Cities(pydantic.BaseModel):
            cities: list[City] = pydantic.Field(max_length=2)

        answer = self.client.chat.completions.parse(
            model="nano", messages=user("Name a city as JSON."), temperature=1.4, seed=1, response_format=Cities
        )
        self.assertIsInstance(answer.choices[0].message.parsed, Cities)

        class SetTimer(pydantic.BaseModel):
            minutes: int = pydantic.Field(ge=1, le=90)

        # The SDK declares it strict.
        answer = self.client.chat.completions.parse(
            model="nano",
            messages=user("What is the capital of France?"),
            temperature=1.4,
            seed=1,
            tools=[openai.pydantic_function_tool(SetTimer)],
            tool_choice="required",
        )
        (call,) = answer.choices[0].message.tool_calls
        self.assertEqual(answer.choices[0].finish_reason, "tool_calls")
        self.assertIsInstance(call.function.parsed_arguments, SetTimer)

    def test_tool_call_in_a_stream(self):
        name = arguments = ""
        finish = None
        for chunk in self.chat("What is the weather in Oslo?", tools=[WEATHER], stream=True):
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                for call in choice.delta.tool_calls or []:
                    self.assertEqual(call.index, 0)
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
        self.assertEqual((name, json.loads(arguments), finish), ("get_weather", {"city": "Oslo"}, "tool_calls"))

    def test_unknown_model_is_not_found(self):
        with self.assertRaises(openai.NotFoundError) as raised:
            self.client.chat.completions.create(model="no-such-model", messages=user("hello"))
        self.assertEqual(raised.exception.code, "model_not_found")
        self.assertTrue(raised.exception.request_id)

    def test_bad_temperature_is_a_bad_request(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            self.client.chat.completions.create(model="nano", messages=user("hello"), temperature=9)
        self.assertEqual(raised.exception.param, "temperature")

    def test_prompt_beyond_the_context_is_refused(self):
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat("word " * 5_000)
        self.assertEqual(raised.exception.code, "context_length_exceeded")

    def test_disconnect_frees_the_blocks(self):
        stream = self.chat("hello", stream=True, max_completion_tokens=3000, extra_body={"ignore_eos": True})
        for _ in zip(range(3), stream):
            pass
        stream.close()
        deadline = time.monotonic() + 20
        while blocks_used() > 0:
            self.assertLess(time.monotonic(), deadline, "blocks are still in use")
            time.sleep(0.05)


if __name__ == "__main__":
    unittest.main(verbosity=2)
