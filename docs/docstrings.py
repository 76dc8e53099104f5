"""Show three habits of this project as they are meant, in the API reference.

A doctest becomes a block of Python. Several lines like `Source   the archive's address` become a block of text. The
field of an options class, declared by `option(default, help)`, shows its flag, its default and its help.
"""

import ast
import re

from griffe import Attribute, Docstring, ExprCall, Extension, Object

FACT = re.compile(r"^\S+(?: \S+)* {2,}\S")


class Blocks(Extension):
    """A griffe extension: it changes docstrings before they become Markdown."""

    def on_object(self, *, obj: Object, **_) -> None:
        """Fence the blocks of one object's docstring."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)

    def on_attribute(self, *, attr: Attribute, **_) -> None:
        """Document a field that was declared by `option(default, help, ...)`."""
        if isinstance(attr.value, ExprCall) and str(attr.value.function) == "option":
            default, words, *_ = (str(argument) for argument in attr.value.arguments)
            flag = "--" + attr.name.replace("_", "-")
            attr.value = default
            attr.docstring = Docstring(f"`{flag}`: {ast.literal_eval(words)}", parent=attr)


def fenced(text: str) -> str:
    """Put fences around paragraphs that are doctests or lists of facts.

    >>> fenced("Add.\\n\\n>>> 1 + 1\\n2").splitlines()
    ['Add.', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    paragraphs = re.sub(r" *# doctest: \+\w+", "", text).split("\n\n")
    return "\n\n".join(f"```{kind(part)}\n{part}\n```" if kind(part) else part for part in paragraphs)


def kind(paragraph: str) -> str:
    """Return the language of a paragraph that needs a code fence, or an empty string.

    >>> kind("Source   a package\\nLicence  MIT"), kind("A sentence.")
    ('text', '')
    """
    lines = paragraph.strip("\n").splitlines()
    if lines and lines[0].startswith(">>> "):
        return "pycon"
    facts = [line for line in lines if FACT.match(line)]
    return "text" if len(facts) > 1 and 2 * len(facts) >= len(lines) else ""
