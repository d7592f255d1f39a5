"""Chat templates: from a list of messages to the one text that a chat model was trained to continue. Chapter 13.

A message is {"role": "system", "user" or "assistant", "content": text}. Each template ends where the assistant speaks.
A template that comes with a checkpoint is a program of somebody else's, in Jinja. It runs in jinja2's sandbox, in a
process of its own (this file) that has two seconds and a gigabyte.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

Message = dict[str, str]

MAX_TEMPLATE = 2**20  # characters
MAX_TEXT = 2**24
CPU_SECONDS = 2
SECONDS = 20.0  # by the clock: the machine may be busy
MEMORY = 2**30


def chatml(messages: Sequence[Message]) -> str:
    r"""OpenAI's ChatML, which SmolLM2 and many others use.

    >>> chatml([{"role": "user", "content": "Hi"}])
    '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n'
    """
    turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


def llama3(messages: Sequence[Message]) -> str:
    """LLaMA 3's. Source: Meta's llama3, tokenizer.py, ChatFormat."""
    turns = [
        f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n{message['content'].strip()}<|eot_id|>"
        for message in messages
    ]
    return "<|begin_of_text|>" + "".join(turns) + "<|start_header_id|>assistant<|end_header_id|>\n\n"


def llama2(messages: Sequence[Message]) -> str:
    """LLaMA 2's: the system's message stands inside the first of the user's. Source: Meta's llama, generation.py.

    >>> llama2([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
    ...         {"role": "user", "content": "Bye"}])
    '<s>[INST] Hi [/INST] Hello </s><s>[INST] Bye [/INST]'
    """
    text = system = ""
    for message in messages:
        content = message["content"].strip()
        if message["role"] == "system":
            system = f"<<SYS>>\n{content}\n<</SYS>>\n\n"
        elif message["role"] == "user":
            text, system = f"{text}<s>[INST] {system}{content} [/INST]", ""
        else:
            text += f" {content} </s>"
    return text


TEMPLATES = {"chatml": chatml, "llama-2": llama2, "llama-3": llama3}


def render(template: str, messages: Sequence[Message], *, bos: str = "", eos: str = "") -> str:
    """The text that a Jinja template makes of messages. bos, eos: what it knows as bos_token and eos_token.

    Errors: ValueError if it is no template, refuses the messages, or takes too much time or memory.

    >>> render("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}",
    ...        [{"role": "user", "content": "Hi"}], eos="<end>")
    'user: Hi<end>'
    """
    answer = {"error": f"{len(template):,} characters, expected at most {MAX_TEMPLATE:,}"}
    if len(template) <= MAX_TEMPLATE:
        job = {"template": template, "messages": list(messages), "bos_token": bos, "eos_token": eos}
        answer = _in_a_process(json.dumps(job))
    if "error" in answer:
        raise ValueError(f"chat template: {answer['error']}; choose another template: {', '.join(TEMPLATES)}")
    return answer["text"]


def _in_a_process(job: str) -> dict[str, str]:
    too_much = {"error": f"took more than {CPU_SECONDS} seconds or {MEMORY >> 20:,} MiB"}
    try:
        child = subprocess.run([sys.executable, __file__], input=job.encode(), capture_output=True, timeout=SECONDS)
        if child.returncode == 1:  # Python's, for an error
            return {"error": child.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]}
        return json.loads(child.stdout) or too_much
    except (subprocess.TimeoutExpired, ValueError):
        return too_much


def _render_here(job: dict[str, Any]) -> dict[str, str]:
    import datetime

    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str):
        raise jinja2.TemplateError(message)

    # The environment that Hugging Face's library gives to templates.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    values = {name: job[name] for name in ("messages", "bos_token", "eos_token")}
    text = ""
    try:
        template = environment.from_string(job["template"])
        for piece in template.generate(**values, tools=None, documents=None, add_generation_prompt=True):
            text += piece
            if len(text) > MAX_TEXT:
                return {"error": f"wrote more than {MAX_TEXT:,} characters"}
    except MemoryError:
        return {}  # as a killed process answers: nothing
    except Exception as error:  # whatever somebody else's program does
        return {"error": f"{type(error).__name__}: {error}"[:1000]}
    return {"text": text}


def _limit():
    try:
        import resource
    except ImportError:  # Windows: there the clock alone
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    if sys.platform != "darwin":  # which has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    _limit()
    print(json.dumps(_render_here(json.load(sys.stdin))))
