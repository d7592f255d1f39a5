"""From a solution to what the learner gets: signatures and docstrings stay, bodies become NotImplementedError."""

import ast
import io
import re
import tokenize

from minillama.course.exercise import Exercise, solution

TODO = 'raise NotImplementedError("your turn")'
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def stub(exercise: Exercise) -> str:
    """The learner's cell of an exercise."""
    text = solution(exercise)
    lines = text.splitlines()
    (node,) = ast.parse(text).body
    if isinstance(node, FUNCTION):
        todo = [node]
    elif isinstance(node, ast.ClassDef):
        todo = [n for n in node.body if isinstance(n, FUNCTION) and n.name not in exercise.given]
    else:
        raise ValueError(f"exercise {exercise.id}: {exercise.name} is neither a function nor a class")
    if not todo:
        raise ValueError(f"exercise {exercise.id}: nothing is left to write; given={exercise.given}")
    for function in reversed(todo):
        end = function.end_lineno or 0
        while end < len(lines) and re.match(rf" {{{function.col_offset + 1},}}#", lines[end]):  # comments of its body
            end += 1
        lines[function.lineno - 1 : end] = _emptied(function, lines)
    return "\n".join(lines).rstrip() + "\n"


def _emptied(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> list[str]:
    """The lines of a function with nothing but signature and docstring in it."""
    row, column = _colon(lines[function.lineno - 1 :])
    last = function.lineno - 1 + row  # where the signature ends
    rest = lines[last][column:].strip()
    header = [*lines[function.lineno - 1 : last], lines[last] if rest.startswith("#") else lines[last][:column]]
    indent = " " * (function.col_offset + 4)
    docstring = []
    if ast.get_docstring(function) is not None:
        first = function.body[0]
        docstring = (ast.get_source_segment("\n".join(lines), first) or "").splitlines()
        docstring[0] = indent + docstring[0]
    return [*header, *docstring, indent + TODO]


def _colon(lines: list[str]) -> tuple[int, int]:
    """Row, from 0, and column behind the colon that ends the signature which begins these lines."""
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            if token.string == ":" and depth == 0:
                return token.end[0] - 1, token.end[1]
    raise ValueError("no colon")


def hidden_lines(exercise: Exercise) -> list[str]:
    """The lines of the solution that the learner's edition must not hold: those that tell something."""
    shown = set(_bare_lines(stub(exercise)))
    return [line for line in _bare_lines(solution(exercise)) if len(line) > 24 and line not in shown]


def _bare_lines(text: str) -> list[str]:
    """Lines without indentation and comments at their ends."""
    return [line.split("  #")[0].strip() for line in text.splitlines()]
