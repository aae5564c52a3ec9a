"""The mutations that `mutate.py` draws from: small changes of Python source that a good test suite notices.

`mutations_of` lists the places of a module that can be changed; each place has one or more variants. A mutation
replaces one span of the text, so that comments and layout stay and its diff is small. Text that only people read is
left alone: docstrings, annotations, messages of exceptions and of the log, f-strings, imports and `__all__`.
"""

from __future__ import annotations

import ast
import difflib
import re
from dataclasses import dataclass

__all__ = ["Mutation", "Place", "mutations_of"]

OPERATORS: dict[type[ast.AST], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: ("not in", ("in",)),
    ast.And: ("and", ("or",)),
    ast.Or: ("or", ("and",)),
    ast.Add: ("+", ("-",)),
    ast.Sub: ("-", ("+",)),
    ast.Mult: ("*", ("/",)),
    ast.Div: ("/", ("*",)),
    ast.FloorDiv: ("//", ("/", "*")),
    ast.Mod: ("%", ("*",)),
    ast.Pow: ("**", ("*",)),
    ast.BitAnd: ("&", ("|",)),
    ast.BitOr: ("|", ("&",)),
    ast.LShift: ("<<", (">>",)),
    ast.RShift: (">>", ("<<",)),
}

OPPOSITES = {
    name: other
    for pair in (
        ("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all"),
        ("floor", "ceil"), ("sin", "cos"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("sum", "mean"),
        ("startswith", "endswith"), ("lstrip", "rstrip"), ("find", "rfind"), ("index", "rindex"),
        ("partition", "rpartition"), ("append", "extend"), ("match", "search"), ("intersection", "union"),
    )
    for name, other in (pair, pair[::-1])
}  # fmt: skip
"""Functions and methods that stand for each other."""

UNWRAPPED = {"abs", "sorted", "reversed", "round", "float", "int", "set", "bool", "list"}
"""Functions of one value whose call becomes the value itself (an iterator becomes a list)."""

DROPPED_METHODS = {
    "abs", "exp", "log", "sqrt", "square", "clamp", "clamp_", "detach", "clone", "float", "flip", "cumsum", "tril",
    "masked_fill", "nan_to_num", "strip", "lstrip", "rstrip", "lower", "casefold", "removeprefix", "removesuffix",
    "copy", "t", "transpose", "sort", "unique",
}  # fmt: skip
"""Methods whose call becomes their object."""

ASYMMETRIC = {"isinstance", "issubclass", "getattr", "hasattr", "setattr", "replace"}
"""Functions whose arguments cannot trade places: any test would notice."""

MESSAGES = {"warn", "warning", "info", "debug", "note", "exit", "cast", "TypeVar", "getLogger", "NewType"}


@dataclass(frozen=True, slots=True)
class Mutation:
    """One changed span of a module's text, in bytes."""

    start: int
    end: int
    replacement: str
    line: int

    def apply(self, source: bytes) -> bytes:
        """Return the changed module."""
        return source[: self.start] + self.replacement.encode() + source[self.end :]

    def is_valid(self, source: bytes) -> bool:
        """Return whether the changed module compiles."""
        try:
            compile(self.apply(source), "<mutation>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
        return True

    def diff(self, source: bytes) -> str:
        """Return the changed lines, `-` before and `+` after."""
        before, after = source.decode().splitlines(), self.apply(source).decode().splitlines()
        lines = difflib.unified_diff(before, after, n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


Place = tuple[Mutation, ...]
"""The variants of one place; a draw takes a place first, so that places with many variants do not prevail."""


def mutations_of(source: bytes) -> list[Place]:
    """Return the places of a module that can be changed, in the order of the text."""
    tree = ast.parse(source)
    finder = _Finder(source)
    finder.visit(tree)
    return [place for place in finder.places if place]


class _Finder(ast.NodeVisitor):
    def __init__(self, source: bytes) -> None:
        self.source = source
        self.places: list[Place] = []
        self._function = ""
        self._line_starts = [0]
        for line in source.splitlines(keepends=True):
            self._line_starts.append(self._line_starts[-1] + len(line))

    # Spans and text

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._line_starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self._line_starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return start, end

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self.source[start:end].decode()

    def _add(self, span: tuple[int, int], *replacements: str) -> None:
        """Add a place with a variant for each replacement that changes its text."""
        line = self.source.count(b"\n", 0, span[0]) + 1
        before = self.source[span[0] : span[1]].decode()
        self.places.append(tuple(Mutation(*span, new, line) for new in replacements if new != before))

    def _operator(self, operator: ast.AST, left: ast.AST, right: ast.AST) -> None:
        """Add a place for the operator between two operands."""
        if type(operator) not in OPERATORS:
            return
        token, others = OPERATORS[type(operator)]
        start, end = self._span(left)[1], self._span(right)[0]
        pattern = r"\s+".join(map(re.escape, token.split()))
        pattern = rf"\b{pattern}\b" if token[0].isalpha() else pattern
        found = re.search(pattern, self.source[start:end].decode())
        if found:
            gap = self.source[start:end].decode()
            offset = start + len(gap[: found.start()].encode())
            self._add((offset, offset + len(found[0].encode())), *others)

    # What is left alone

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        outer, self._function = self._function, node.name
        self._body(node.body)
        self._function = outer

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any("Protocol" in ast.unparse(base) for base in node.bases):
            self._body(node.body)

    def visit_Module(self, node: ast.Module) -> None:
        self._body(node.body)

    def _body(self, body: list[ast.stmt]) -> None:
        for statement in body:
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not is_text and not isinstance(statement, (ast.Import, ast.ImportFrom, ast.Assert)):
                self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and "TypeAlias" not in ast.unparse(node.annotation):
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Skip f-strings: most are messages, and Python 3.11 does not know their positions."""

    def visit_Raise(self, node: ast.Raise) -> None:
        self._add(self._span(node), "pass")

    # What is changed

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value
        if isinstance(call, ast.Call) and _name(call.func) in MESSAGES:
            return
        if isinstance(call, (ast.Call, ast.Await)):
            self._add(self._span(node), "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return
        droppable = (ast.Subscript,) if self._function == "__init__" else (ast.Subscript, ast.Attribute)
        if all(isinstance(target, droppable) for target in node.targets):
            self._add(self._span(node), "pass")
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._operator(node.op, node.target, node.value)
        self._add(self._span(node), "pass")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.left, (ast.Constant, ast.JoinedStr)) and isinstance(
            getattr(node.left, "value", ""), (str, bytes)
        ):
            return
        self._operator(node.op, node.left, node.right)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            self._operator(operator, left, right)
        for operand in operands:
            if isinstance(operand, ast.Constant) and isinstance(operand.value, str):
                self._add(self._span(operand), repr(operand.value + "?"))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._operator(node.op, left, right)
        joint = " and " if isinstance(node.op, ast.And) else " or "
        texts = [self._bracketed(value) for value in node.values]
        shorter = [joint.join(texts[:place] + texts[place + 1 :]) for place in range(len(texts))]
        self._add(self._span(node), *(f"({text})" for text in shorter))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        # The sign of a number is changed with the number: -1 becomes 0 or -2.
        if isinstance(node.op, (ast.Not, ast.USub, ast.Invert)) and not isinstance(node.operand, ast.Constant):
            self._add(self._span(node), self._bracketed(node.operand))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add(self._span(node), str(not value))
        elif isinstance(value, int):
            self._add(self._span(node), str(value + 1), *([str(value - 1)] if value > 0 else []))
        elif isinstance(value, float):
            self._add(self._span(node), *(["1.0"] if value == 0 else [repr(value * 2), "0.0"]))

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node.func)
        if name in MESSAGES:
            return
        variants = []
        if name in OPPOSITES:
            end = self._span(node.func)[1]
            self._add((end - len(name.encode()), end), OPPOSITES[name])
        if isinstance(node.func, ast.Name) and name in UNWRAPPED and node.args:
            inner = self._bracketed(node.args[0])
            variants.append(f"list{inner}" if name in ("sorted", "reversed") else inner)
        if isinstance(node.func, ast.Attribute) and name in DROPPED_METHODS:
            variants.append(self._bracketed(node.func.value))
        if name == "range" and len(node.args) == 1:
            variants += [f"range(1, {self._text(node.args[0])})", f"range({self._bracketed(node.args[0])} - 1)"]
        self._add(self._span(node), *variants)
        for first, second in zip(node.args, node.args[1:], strict=False):
            if name not in ASYMMETRIC and all(
                isinstance(each, (ast.Name, ast.Attribute, ast.Subscript)) for each in (first, second)
            ):
                span = (self._span(first)[0], self._span(second)[1])
                self._add(span, f"{self._text(second)}, {self._text(first)}")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Slice):
            for bound in (node.slice.lower, node.slice.upper):
                if bound is not None and not isinstance(bound, ast.Constant):
                    self._add(self._span(bound), f"{self._bracketed(bound)} + 1", f"{self._bracketed(bound)} - 1")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test) or "__name__" in ast.unparse(node.test):
            return
        self._test(node.test)
        self.visit(node.test)
        self._body(node.body)
        self._body(node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self._add(self._span(node.test), "False")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._test(node.test)
        self.generic_visit(node)

    def _test(self, test: ast.expr) -> None:
        self._add(self._span(test), f"(not {self._bracketed(test)})", "True", "False")

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for condition in node.ifs:
            self._add(self._span(condition), "True")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            if isinstance(node.value, (ast.Compare, ast.BoolOp)):
                self._add(self._span(node.value), f"not {self._bracketed(node.value)}")
            elif not (isinstance(node.value, ast.Constant) and node.value.value is None):
                self._add(self._span(node.value), "None")
            self.visit(node.value)

    def visit_Break(self, node: ast.Break) -> None:
        self._add(self._span(node), "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._add(self._span(node), "break", "pass")

    def _bracketed(self, node: ast.expr) -> str:
        text = self._text(node)
        return text if isinstance(node, ast.Name) else f"({text})"


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
