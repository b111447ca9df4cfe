"""For the API pages: uses the comment after a field or constant as its docstring."""

import ast
import tokenize
from io import StringIO
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """Uses the comment at the end of an attribute's line as its docstring, if it has none."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, **kwargs: Any) -> None:
        if attr.docstring or not isinstance(node, ast.AST) or attr.parent is None:
            return
        if comment := _comment(attr.source):
            attr.docstring = griffe.Docstring(comment, lineno=attr.lineno, parent=attr)


def _comment(source: str) -> str:
    try:
        tokens = list(tokenize.generate_tokens(StringIO(source.strip()).readline))
    except (tokenize.TokenError, IndentationError):
        return ""
    comments = [token.string.removeprefix("#").strip() for token in tokens if token.type == tokenize.COMMENT]
    return comments[-1] if comments else ""
