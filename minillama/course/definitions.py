"""Source text, looked at without running it: which statements define a name, and are two definitions the same code?"""

import ast
import builtins
import symtable


def needed(text: str, *names: str) -> str:
    """The statements of a cell that define these names and what they use, with the comments above; "" if none does.

    Left out is all that the cell does besides: calls of check, figures, experiments.
    """
    try:
        body, lines = ast.parse(text).body, text.splitlines(keepends=True)
    except SyntaxError:
        return ""
    match body:
        case [ast.Expr(ast.Call(ast.Attribute(attr="run_cell_magic"), [_, _, ast.Constant(str(inside))]))]:
            return needed(inside, *names)  # %%time and others, as IPython writes them
    pieces: list[tuple[str, set, set]] = []
    end = 0
    for node in body:
        defined, used = _symbols(ast.unparse(node))
        for n in ast.walk(node):
            if isinstance(n, ast.Attribute | ast.Subscript) and isinstance(n.ctx, ast.Store):
                defined |= {n.value.id} if isinstance(n.value, ast.Name) else set()  # Norm.forward = ...
        if _calls_check(node) or getattr(node, "module", "") == "__future__":
            defined = set()
        if node.lineno <= end:  # a; b
            pieces[-1][1].update(defined)
            pieces[-1][2].update(used)
        else:
            pieces.append(("".join(lines[end : node.end_lineno]), defined, used))
        end = node.end_lineno or 0
    by_name: dict[str, list[int]] = {}
    for i, (_, defined, _) in enumerate(pieces):
        for name in defined:
            by_name.setdefault(name, []).append(i)
    wanted, kept, todo = set(names), set(), list(names)
    while todo:
        for i in by_name.get(todo.pop(), ()):
            if i not in kept:
                kept.add(i)
                todo += pieces[i][2] - wanted
                wanted |= pieces[i][2]
    if not any(defined.intersection(names) for _, defined, _ in pieces):
        return ""
    return "".join(pieces[i][0] for i in sorted(kept)).strip() + "\n"


def _calls_check(node: ast.stmt) -> bool:
    calls = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
    definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
    return not definition and any(isinstance(f, ast.Name) and f.id == "check" for f in calls)


def free_names(text: str) -> set[str]:
    """The names that a piece of source uses and does not define: what it needs from outside."""
    defined, used = _symbols(text)
    return used - defined - set(dir(builtins))


def defined_names(text: str) -> set[str]:
    """The names that a piece of source defines at its top."""
    return _symbols(text)[0]


def _symbols(text: str) -> tuple[set[str], set[str]]:
    """The names that a piece of source defines, and those that it uses from outside of its functions."""

    def used(table) -> set[str]:
        names = {s.get_name() for s in table.get_symbols() if s.is_referenced() and s.is_global()}
        return names.union(*(used(child) for child in table.get_children()))

    top = symtable.symtable(text, "<cell>", "exec")
    defined = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    at_top = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    return defined, at_top.union(*(used(child) for child in top.get_children()))


def same_code(one: str, other: str) -> bool:
    """Are the definitions in both the same code, but for comments, docstrings, annotations and layout?"""
    return code_of(one) == code_of(other)


def code_of(text: str) -> list[str]:
    """The definitions in a text as syntax trees, without comments, docstrings, annotations and layout."""
    definitions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    for node in (node for definition in definitions for node in ast.walk(definition)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return [ast.dump(definition) for definition in definitions]
