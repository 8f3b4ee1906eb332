#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the text that ChatTemplate::render() makes to what Jinja makes of ChatTemplate::jinja(), for random chats.

    python3 tests/tokenizer/chat_template_test.py build/tests/tokenizer/chat_texts [FOLDER...]

Further arguments are folders that hold a tokenizer_config.json of MiniMind, Qwen or Llama 3: its template must be
recognised, and give the same texts. Skipped (77) where Python has no jinja2.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

try:
    import jinja2
    import jinja2.sandbox
except ImportError:
    print("skipped: no jinja2")
    sys.exit(77)

# What each format can say.
TOOLS = {"2510", "v3", "qwen2", "qwen3"}
THOUGHTS = {"v3", "qwen3"}
FORMATS = ["v2", "2504", "2510", "v3", "qwen2", "qwen3", "llama3"]
BOS = {"v2": "<s>", "llama3": "<|begin_of_text|>"}
EOS = {"v2": "</s>", "llama3": "<|eot_id|>"}
TEXTS = ["", "hi", "你好，世界！", "It's \"so\" \\ {{ x }}", "\n\nlines\n", "<s></s><|im_end|>", " a ", "\t\x7f\u2028",
         "<tool_response>\nx\n</tool_response>", "\u3000\x1f\u200b x\x85\xa0\x1c", "<|eot_id|>"]
# What tells published templates apart, in this order.
MARKS = {"start_header_id": "llama3", "last_query_index": "qwen3", "You are Qwen": "qwen2", "</think>'": "v3",
         "tool": "2510", "": "v2"}
THINKING = ["<think>\nwell\n</think>\n\nyes", "\n<think>a</think>b<think>c</think>\nd", "odd</think>"]
VALUES = [1, -7, 2.5, 1e16, 1e-7, 123456.0, 1e15, True, None, "é\"\\", [], {}, [1, [2, {"b": 1, "a": 2}]]]


def environment():
    """As transformers compiles chat templates."""
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return env


def random_value(rng):
    return {rng.choice(["name", "z", "a", "你"]): rng.choice(VALUES) for _ in range(rng.randrange(4))}


def random_call(rng):
    arguments = rng.choice([random_value(rng), json.dumps(random_value(rng))])
    call = {"name": rng.choice(["add", "look_up"]), "arguments": arguments}
    return rng.choice([call, {"type": "function", "function": call}])


def random_answer(rng, kind):
    message = {"role": "assistant", "content": rng.choice(TEXTS)}
    if kind in THOUGHTS:
        if rng.random() < 0.3:
            message["content"] = rng.choice(THINKING)
        if rng.random() < 0.5:
            message["reasoning_content"] = rng.choice(TEXTS)
    if kind in TOOLS and rng.random() < 0.3:
        message["tool_calls"] = [random_call(rng) for _ in range(rng.randrange(1, 3))]
    return message


def random_chat(rng, kind):
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": rng.choice(TEXTS)})
    for _ in range(rng.randrange(1, 4)):
        messages.append({"role": "user", "content": rng.choice(TEXTS)})
        if rng.random() < 0.8:
            messages.append(random_answer(rng, kind))
        if kind in TOOLS and rng.random() < 0.4:
            messages += [{"role": "tool", "content": rng.choice(TEXTS)} for _ in range(rng.randrange(1, 3))]
        if kind in TOOLS and rng.random() < 0.1:
            messages.append({"role": "system", "content": rng.choice(TEXTS)})
    tools = [random_value(rng) for _ in range(rng.randrange(1, 3))] if kind in TOOLS and rng.random() < 0.4 else None
    prompts = ["none", "answer"] + (["thinking"] if kind in THOUGHTS else [])
    return {"messages": messages, "tools": tools, "prompt": rng.choice(prompts)}


def as_input(chat, form):
    messages = [{**m, "tool_calls": json.dumps(m["tool_calls"])} if "tool_calls" in m else m for m in chat["messages"]]
    tools = json.dumps(chat["tools"]) if chat["tools"] else None
    return {"format": form, "messages": messages, "tools": tools, "prompt": chat["prompt"]}


def jinja_text(template, chat, kind):
    thinks = chat["prompt"] == "thinking"
    choice = {"open_thinking": thinks, "enable_thinking": thinks} if kind in THOUGHTS else {}
    return template.render(messages=chat["messages"], tools=chat["tools"], bos_token=BOS.get(kind),
                           add_generation_prompt=chat["prompt"] != "none", **choice)


def check(program, name, form, kind, template=None):
    rng = random.Random(7)
    chats = [random_chat(rng, kind) for _ in range(400)]
    answers = json.loads(subprocess.run([program], input=json.dumps([as_input(c, form) for c in chats]),
                                        capture_output=True, text=True, check=True).stdout)
    env, compiled = environment(), {}
    for chat, answer in zip(chats, answers):
        assert "error" not in answer, f"{name}: {answer['error']}: {chat}"
        source = template or answer["jinja"]
        if source not in compiled:
            compiled[source] = env.from_string(source)
        text = jinja_text(compiled[source], chat, kind)
        assert text == answer["text"], f"{name}: {chat}\njinja: {text!r}\nours:  {answer['text']!r}"
    return answers[0]["jinja"]


def recognised(jinja, kind):
    return {"jinja": jinja, "bos": BOS.get(kind, "<|im_start|>"), "eos": EOS.get(kind, "<|im_end|>")}


def main():
    program, folders = sys.argv[1], sys.argv[2:]
    for kind in FORMATS:
        jinja = check(program, kind, kind, kind)
        check(program, f"{kind} recognised", recognised(jinja, kind), kind)
    for folder in folders:
        config = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = config["chat_template"]
        kind = next(kind for mark, kind in MARKS.items() if mark in template)
        form = recognised(template, kind)
        form = {**form, "bos": config.get("bos_token") or form["bos"], "eos": config.get("eos_token") or form["eos"]}
        check(program, folder, form, kind, template)
    print(f"{len(FORMATS)} formats and {len(folders)} published templates give equal texts")


if __name__ == "__main__":
    main()
