"""The OpenAI SDK against a server with a hosted model behind it: the same client code, whoever answers.

    python hosted.py PATH/TO/harmonium

The hosted model is a stand-in on loopback. The server logs everything it can, and no line, error or header of it may
contain the key.
"""

import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.request

# A proxy from the environment cannot reach this machine's own addresses.
os.environ["NO_PROXY"] = "127.0.0.1"

import openai

BINARY = sys.argv.pop(1)
KEY = "sk-upstream-secret"
SHORT = [{"role": "user", "content": "What is the capital of France?"}]
# About 140,000 tokens.
LONG = [{"role": "user", "content": "word " * 140_000}]


class Upstream(http.server.BaseHTTPRequestHandler):
    """Streams "Far away." and counts words as tokens; refuses wrong keys."""

    requests = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.requests.append((dict(self.headers), body))
        if self.headers["authorization"] != f"Bearer {KEY}":
            return self.refuse(401, f"Incorrect API key provided: {self.headers['authorization']}")
        if body["messages"][-1]["content"].startswith("fail"):
            return self.refuse(400, "This request is made to fail.")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-request-id", "up_1")
        self.end_headers()
        num_prompt = sum(len(message["content"].split()) for message in body["messages"])
        usage = {"prompt_tokens": num_prompt, "completion_tokens": 3, "total_tokens": num_prompt + 3}
        for choices, usage in [
            ([{"index": 0, "delta": {"role": "assistant", "content": "Far "}}], None),
            ([{"index": 0, "delta": {"content": "away."}}], None),
            ([{"index": 0, "delta": {}, "finish_reason": "stop"}], None),
            ([], usage),
        ]:
            chunk = {"id": "up-1", "object": "chat.completion.chunk", "created": 7, "model": "gpt-4.1-mini-2025-04-14"}
            self.wfile.write(f"data: {json.dumps({**chunk, 'choices': choices, 'usage': usage})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def refuse(self, status, message):
        body = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": None}}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Suite(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        threading.Thread(target=cls.upstream.serve_forever, daemon=True).start()
        cls.dir = tempfile.TemporaryDirectory()
        base_url = f"http://127.0.0.1:{cls.upstream.server_address[1]}/v1"
        config = os.path.join(cls.dir.name, "harmonium.toml")
        model = """
            context = 1047576
            max_output = 32768
            price = { input = 0.40, cached = 0.10, output = 1.60 }
            wire = "chat"
        """
        with open(config, "w") as file:
            file.write(f"""
                [hosted]
                enabled = true
                budget = {{ day_usd = 5, month_usd = 50 }}
                ledger = "{cls.dir.name}/ledger.db"
                max_attempts = 1
                [[hosted.models]]
                name = "gpt-4.1-mini"
                base_url = "{base_url}"
                api_key_env = "OPENAI_API_KEY"
                {model}
                [[hosted.models]]
                name = "wrong-key"
                base_url = "{base_url}"
                api_key_env = "WRONG_KEY"
                {model}
            """)
        cls.log = open(os.path.join(cls.dir.name, "log"), "w+")
        cls.server = subprocess.Popen(
            [BINARY, "serve", "--config", config, "--port", "0", "--log", "trace"],
            env={**os.environ, "OPENAI_API_KEY": KEY, "WRONG_KEY": KEY + "x"},
            stdout=subprocess.PIPE,
            stderr=cls.log,
            text=True,
        )
        # Ends at the line, or with the server.
        for line in cls.server.stdout:
            if line.startswith("listening on "):
                break
        cls.url = line.split()[-1]
        cls.client = openai.OpenAI(base_url=cls.url + "/v1", api_key="client-secret", max_retries=0, timeout=60)

    @classmethod
    def tearDownClass(cls):
        cls.server.terminate()
        cls.server.wait(60)
        cls.upstream.shutdown()
        cls.log.seek(0)
        log = cls.log.read()
        assert "a request left this machine" in log, "the audit line"
        assert KEY not in log, "the key is in the log"
        assert "word word" not in log, "a prompt is in the log"
        cls.dir.cleanup()

    def ask(self, messages, **options):
        raw = self.client.chat.completions.with_raw_response.create(messages=messages, temperature=0, **options)
        headers = {name: value for name, value in raw.headers.items() if name.startswith("x-harmonium-")}
        self.assertNotIn(KEY, str(raw.headers))
        return raw.parse(), headers

    def test_the_same_code_is_answered_here_and_there(self):
        answer, headers = self.ask(SHORT, model="nano")
        self.assertIn("Paris", answer.choices[0].message.content)
        self.assertEqual((answer.model, headers["x-harmonium-backend"]), ("nano", "local"))
        answer, headers = self.ask(LONG, model="nano")
        self.assertEqual(answer.choices[0].message.content, "Far away.")
        self.assertEqual(answer.model, "gpt-4.1-mini-2025-04-14")
        self.assertEqual(answer.usage.prompt_tokens, 140_000)
        self.assertEqual(headers["x-harmonium-backend"], "hosted")
        self.assertEqual(headers["x-harmonium-reason"], "context")
        self.assertEqual(headers["x-harmonium-upstream-id"], "up_1")
        self.assertEqual(headers["x-harmonium-cost-usd"], "0.056005")

    def test_streams(self):
        for messages, expected in [(SHORT, "Paris"), (LONG, "Far away.")]:
            stream = self.client.chat.completions.create(
                model="auto", messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
            )
            chunks = list(stream)
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
            self.assertIn(expected, text)
            self.assertGreater(chunks[-1].usage.total_tokens, 0)

    def test_nothing_of_the_client_but_its_words_goes_upstream(self):
        self.ask(SHORT, model="gpt-4.1-mini", user="eve@example.com", metadata={"who": "eve"}, reasoning_effort="low")
        headers, body = Upstream.requests[-1]
        sent = (str(headers) + str(body)).lower()
        for secret in ["eve", "client-secret", "stainless", "openai-python", "reasoning"]:
            self.assertNotIn(secret, sent)
        self.assertIs(body["store"], False)

    def test_a_request_may_forbid_it(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask(LONG, model="nano", extra_headers={"x-harmonium-hosted": "never"})
        self.assertEqual(caught.exception.code, "context_length_exceeded")

    def test_errors_tell_no_key(self):
        with self.assertRaises(openai.InternalServerError) as caught:
            self.ask(SHORT, model="wrong-key")
        self.assertEqual((caught.exception.status_code, caught.exception.code), (502, "hosted_key_rejected"))
        self.assertNotIn(KEY, str(caught.exception.body) + str(caught.exception.response.headers))
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask([{"role": "user", "content": "fail"}], model="gpt-4.1-mini")
        self.assertIn("made to fail", caught.exception.message)

    def test_models_and_metrics_tell_both(self):
        self.ask(SHORT, model="gpt-4.1-mini")
        models = {model.id: model for model in self.client.models.list()}
        self.assertEqual(models["gpt-4.1-mini"].pricing, {"input": 0.4, "cached_input": 0.1, "output": 1.6})
        self.assertEqual(models["nano"].backend, "local")
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        self.assertRegex(metrics, r'harmonium_hosted_spent_usd\{period="day"\} 0\.0*[1-9]')
        self.assertIn('harmonium_answers_total{backend="hosted",reason="named"}', metrics)


if __name__ == "__main__":
    unittest.main(verbosity=2)
