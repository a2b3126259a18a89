"""Source code: Python by its syntax tree, JSON by value, any other language by its text without trailing white space.

Code is parsed, never compiled or run. Long Python is compared by its text, too: two that differ in layout alone then differ.
"""

from __future__ import annotations

import ast
import hashlib
import textwrap
import warnings
from collections.abc import Iterator

from actors.rules.canonical.answer import Canonical
from actors.rules.canonical.json_value import json_value
from actors.rules.canonical.text import one_line, unfenced
from protocols.tournament import AnswerSpec

_PYTHON = frozenset(("python", "python3", "py"))
_LONGEST_PARSED = 8_192
"""Characters of Python that are parsed: a tenth of a second at worst, and a third of that in the parser, while nothing else runs."""

_DEEPEST = 300
"""Levels of a syntax tree, below what Python's stack holds, so that the same code is read the same wherever it is called from."""

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def source_code(answer: str, spec: AnswerSpec) -> Canonical | None:
    """The code, taken out of its fence. What the language's parser refuses is no answer, where it is asked."""
    inside = unfenced(answer)
    code = one_line(answer if inside is None else inside)
    language = (spec.language or "").strip().casefold()
    if language in _PYTHON:
        text = _text(code)
        return text if text and len(text.shown) > _LONGEST_PARSED else _python(code)
    return json_value(code, spec) if language == "json" else _text(code)


def _text(code: str) -> Canonical | None:
    """None for a block in a block in a block: how much of that is meant nobody can tell."""
    text = "\n".join(line.rstrip() for line in code.split("\n")).strip("\n")
    return Canonical(text, text) if text and unfenced(text) is None else None


def _python(code: str) -> Canonical | None:
    """By a hash of its tree: names and values count, comments, docstrings, layout and redundant parentheses do not."""
    code = code.strip("\n")
    if code[:1].isspace():
        code = textwrap.dedent(code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's "\d" is no warning of ours
            tree = ast.parse(code)
        digest = hashlib.sha256("\0".join(_nodes(tree)).encode())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return Canonical(f"python:{digest.hexdigest()}", code) if tree.body else None


def _nodes(tree: ast.Module) -> Iterator[str]:
    """The tree from its root on, each node with how many follow as its children; without recursion. Raises ValueError."""
    left: list[tuple[object, int]] = [(tree, 0)]
    while left:
        node, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError("too deep")
        children = _children(node)
        yield repr(node) if children is None else f"{type(node).__name__} {len(children)}"
        left.extend((child, depth + 1) for child in reversed(children or ()))


def _children(node: object) -> list[object] | None:
    """Its fields or items; None for a value. `u"x"` is `"x"`."""
    if isinstance(node, list):
        return node
    if not isinstance(node, ast.AST):
        return None
    fields = [name for name in node._fields if name != "kind"]
    return [_without_docstring(node) if name == "body" else getattr(node, name, None) for name in fields]


def _without_docstring(node: ast.AST) -> object:
    """A body without its docstring; what is left empty is `pass`. A module that is one string is that string."""
    body = getattr(node, "body", None)
    if not isinstance(node, _DOCUMENTED) or ast.get_docstring(node, clean=False) is None:
        return body
    if isinstance(node, ast.Module):
        return node.body[1:] or body
    return node.body[1:] or [ast.Pass()]
