"""A conversation in the terminal: what is typed, what is printed, and the commands."""

import sys
from contextlib import closing, suppress
from typing import TextIO

from minillama.chat import Chat
from minillama.generate import check_sampling

HELP = """\
/reset            forget the conversation
/tokens           the tokens of the conversation so far, as the model sees them
/logits           for each token of the last answer, what else it might have been, and the scores
/temperature 0.7  0: always the likeliest token; higher: more variety
/help             this list
/quit             end (also Ctrl-D); Ctrl-C stops an answer"""


def talk(chat: Chat, source: TextIO | None = None):
    """Read lines (default: from the keyboard) until /quit or the end, and print the answers."""
    at_keyboard = source is None and sys.stdin.isatty()
    if at_keyboard:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  (input() then knows the arrow keys)
        print("Ask something; /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.")
    while True:
        try:
            line = input("> ") if at_keyboard else next(source or sys.stdin).strip()
        except (EOFError, StopIteration):
            if at_keyboard:
                print()
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /quit ends)")
            continue
        if line in ("/quit", "/exit"):
            return
        try:
            if line.startswith("/"):
                command(chat, line)
            elif line.strip():
                answer(chat, line)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)


def answer(chat: Chat, text: str):
    """Say something, and print the answer while it comes. Ctrl-C ends the answer, nothing else."""
    try:
        with closing(chat.say(text)) as pieces:
            for piece in pieces:
                print(piece, end="", flush=True)
        print()
        if chat.steps[-1].token not in chat.stop:
            print(f"(cut off after {len(chat.steps)} tokens)", file=sys.stderr)
    except KeyboardInterrupt:
        print()
        print("(stopped)", file=sys.stderr)


def command(chat: Chat, line: str):
    """Do what a line that begins with a slash asks for. Errors: ValueError if it is no command."""
    name, *values = line.split()
    if name == "/temperature" and len(values) == 1:
        try:
            temperature = float(values[0])
        except ValueError:
            raise ValueError(f"/temperature {values[0]}; expected a number, such as 0.7") from None
        check_sampling(temperature=temperature)
        chat.sampling["temperature"] = temperature
        print(f"temperature {temperature:g}")
    elif values or name not in ("/reset", "/tokens", "/logits", "/help"):
        raise ValueError(f"{line!r} is no command; /help lists them")
    elif name == "/reset":
        chat.reset()
        print("forgotten")
    elif name == "/help":
        print(HELP)
    elif name == "/tokens":
        print(" ".join(f"{token}:{spelled(chat, token)}" for token in chat.tokens) or "none yet")
    else:
        for step in chat.steps:
            others = [f"{spelled(chat, token)} {logit:.2f}" for token, logit in step.candidates]
            print(f"{spelled(chat, step.token):<16} {'   '.join(others)}")
        if not chat.steps:
            print("no answer yet")


def spelled(chat: Chat, token: int) -> str:
    """A token as text in quotes, so that spaces and line feeds show."""
    decode = getattr(chat.tokenizer, "decode_bytes", None)  # characters have none
    return repr(decode([token]).decode("utf-8", "backslashreplace") if decode else chat.tokenizer.decode([token]))
