"""Which small mistakes could stand in a piece of source code: one mutant for each.

A mutant is a change of the text: a boundary moved by one, a condition that always or never holds,
a check deleted, an element taken out of a table. Code outside of functions is changed as well,
for there stand the limits, the formats and the table of permissions. Left out is what no caller
could notice or what cannot go unnoticed: annotations, docstrings, decorators, and the wording of
messages (a text that goes into an error, or one with a blank in it).
"""

import ast
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

SHOWN_CHARACTERS_MAX = 100
_KEPT_CHARACTERS = 24

_BOUNDARIES = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
_OPPOSITES = {ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is"}
_OPPOSITES |= {ast.In: "not in", ast.NotIn: "in"}
_COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.In: "in"}
_COMPARISONS |= {ast.NotEq: "!=", ast.Is: "is", ast.IsNot: "is not", ast.NotIn: "not in"}
_ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.BitXor: ("^", "|"),
}
_TWINS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
_TWINS |= {"lower": "upper", "startswith": "endswith", "fullmatch": "match", "strip": "lstrip"}
_TWINS |= {"reversed": "list", "partition": "rpartition"}
_CONVERSIONS = {
    "bool",
    "bytes",
    "float",
    "int",
    "isinstance",
    "len",
    "list",
    "str",
    "tuple",
    "type",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed text.

    Attributes:
        place: the class and function that it stands in, dotted; ``module`` outside of them.
        before: what stood there, on one line, shortened.
        after: what stands there now, likewise.
        line: where, counting from 1.
        lines: the lines of its statement, from and to.
        source: the whole changed text.
    """

    place: str
    before: str
    after: str
    line: int
    lines: tuple[int, int]
    source: bytes

    @property
    def label(self) -> str:
        return f"{self.place}: {self.before} → {self.after}".replace("`", "'")


def mutants_of(source: bytes) -> list[Mutant]:
    """Return the mutants of a module, in the order of their places; each compiles."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    found = {mutant.source: mutant for mutant in finder.found if _compiles(mutant.source)}
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


class _Finder(ast.NodeVisitor):
    def __init__(self, source: bytes) -> None:
        self.found: list[Mutant] = []
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._places: list[str] = []
        self._lines = (1, 1)
        self._in_message = False
        self._guarded: set[ast.stmt] = set()

    # ------------------------------------------------------------------------------ the text

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def _start(self, node: ast.AST) -> int:
        return self._at(node.lineno, node.col_offset)

    def _end(self, node: ast.AST) -> int:
        return self._at(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.AST) -> str:
        return self._source[self._start(node) : self._end(node)].decode()

    def _swap(self, context: ast.AST, start: int, end: int, new: str) -> None:
        """Put a text in place of another, to be shown within its context."""
        changed = self._source[:start] + new.encode() + self._source[end:]
        first, last = self._start(context), max(end, self._end(context))
        grown = last + len(changed) - len(self._source)
        before, after = _cropped(
            " ".join(self._source[first:last].decode().split()),
            " ".join(changed[first:grown].decode().split()),
        )
        place = ".".join(self._places) or "module"
        self.found.append(Mutant(place, before, after, context.lineno, self._lines, changed))

    def _replace(self, node: ast.AST, new: str) -> None:
        self._swap(node, self._start(node), self._end(node), new)

    def _without(self, context: ast.AST, parts: Sequence[tuple[int, int]], least: int) -> None:
        """Take each part out of a list of them that are separated by commas."""
        if len(parts) < least:
            return
        for index, (start, end) in enumerate(parts):
            if index + 1 < len(parts):
                self._swap(context, start, parts[index + 1][0], "")
            elif index:
                comma = "," if len(parts) == 2 and isinstance(context, ast.Tuple) else ""
                self._swap(context, parts[index - 1][1], end, comma)
            else:
                self._swap(context, start, end, "")

    # --------------------------------------------------------------------- places, statements

    @contextmanager
    def _within(self, name: str) -> Iterator[None]:
        self._places.append(name)
        yield
        self._places.pop()

    @contextmanager
    def _in_error(self) -> Iterator[None]:
        outer, self._in_message = self._in_message, True
        yield
        self._in_message = outer

    def visit(self, node: ast.AST) -> None:
        """Visit one node, remembering the lines of the statement that it stands in."""
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None) or getattr(node, "cases", None)
            is_block = isinstance(body, list) and hasattr(body[0], "lineno")
            end = max(node.lineno, body[0].lineno - 1) if is_block else node.end_lineno
            outer, self._lines = self._lines, (node.lineno, end)
            super().visit(node)
            self._lines = outer
        else:
            super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        with self._within(node.name):
            for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
                self.visit(default)
            self._visit_body(node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        with self._within(node.name):
            self._visit_body(node.body)

    def _visit_body(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant | ast.Yield):
            self._replace(node, "pass")
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if node not in self._guarded:
            self._replace(node, "pass")
        with self._in_error():
            self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            if node not in self._guarded:
                self._replace(node, "pass")
        elif not isinstance(node.value, ast.Tuple):
            self.visit(node.value)
        else:
            for each in node.value.elts:
                self.visit(each)

    def visit_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id == "__all__":
            return
        if isinstance(target, ast.Attribute | ast.Subscript):
            self._replace(node, "pass")
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            for each in node.value.elts:
                self.visit(each)
        else:
            self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        is_alias = isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias"
        if node.value is not None and not is_alias:
            self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass")
        self.visit(node.value)

    def _delete(self, node: ast.stmt) -> None:
        self._replace(node, "pass")

    visit_Delete = _delete  # noqa: N815
    visit_Break = _delete  # noqa: N815

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break")

    # ----------------------------------------------------------------------------- conditions

    def _visit_test(self, test: ast.expr, *, forced: Sequence[str] = ("True", "False")) -> None:
        """Make a condition hold always and never; turning it round would add nothing to that."""
        if isinstance(test, ast.Constant):
            return
        for value in forced:
            self._replace(test, value)
        match test:
            case ast.Compare(ops=[op]) if type(op) in _OPPOSITES:
                self.generic_visit(test)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.visit(operand)
            case _:
                self.visit(test)

    def visit_If(self, node: ast.If) -> None:
        self._visit_test(node.test)
        if len(node.body) == 1:
            self._guarded.add(node.body[0])  # a condition that never holds deletes it as well
        self._visit_body(node.body)
        self._visit_body(node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._visit_test(node.test)
        self.visit(node.body)
        self.visit(node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self._visit_test(node.test, forced=("False",))  # the other one never ends
        self._visit_body(node.body)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.visit(node.iter)
        for test in node.ifs:
            self._visit_test(test)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        for index, case in enumerate(node.cases):
            if index + 1 < len(node.cases):
                end = self._end(case.guard or case.pattern)
                self._swap(case.pattern, self._start(case.pattern), end, "_ if False")
            self.visit(case.pattern)
            if case.guard is not None:
                self._visit_test(case.guard, forced=("True",))
            self._visit_body(case.body)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self._visit_body(node.body)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for index, op in enumerate(node.ops):
            new = _BOUNDARIES.get(type(op)) or _OPPOSITES[type(op)]
            self._swap_operator(
                node, operands[index], operands[index + 1], _COMPARISONS[type(op)], new
            )
        self.generic_visit(node)

    def _swap_operator(
        self, context: ast.AST, left: ast.AST, right: ast.AST, old: str, new: str
    ) -> None:
        start, end = self._end(left), self._start(right)
        between = self._source[start:end].decode()
        if old not in between:  # "not  in", or the like
            return
        self._swap(context, start, end, between.replace(old, new, 1))

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = "and" if isinstance(node.op, ast.And) else "or"
        words = [self._word_between(word, *pair) for pair in itertools.pairwise(node.values)]
        self._swap(node, self._start(node), words[0] + len(word), "")
        for start, end in itertools.pairwise([*words, self._end(node)]):
            self._swap(node, start, end, "")
        self.generic_visit(node)

    def _word_between(self, word: str, left: ast.AST, right: ast.AST) -> int:
        # Parentheses around an operand are outside of it, and inside of what is taken out.
        return self._source.index(word.encode(), self._end(left), self._start(right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        sign = 3 if isinstance(node.op, ast.Not) else 1
        operand = self._source[self._start(node) + sign : self._end(node)]
        self._replace(node, operand.decode().lstrip())
        self.visit(node.operand)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _ARITHMETIC and not _is_text(node.left) and not _is_text(node.right):
            self._swap_operator(node, node.left, node.right, *_ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    # --------------------------------------------------------------------------------- values

    def visit_Constant(self, node: ast.Constant) -> None:
        match node.value:
            case bool(value):
                self._replace(node, str(not value))
            case int(value) | float(value):
                self._replace(node, repr(value + 1))
            case bytes():
                self._replace(node, f'b"XX" {self._text(node)}')
            case str(text) if not self._in_message and " " not in text.strip("\n"):
                self._replace(node, f'"XX" {self._text(node)}')

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        # Python 3.11 does not tell where the expressions inside stand.
        fixed = "".join(each.value for each in node.values if isinstance(each, ast.Constant))
        if not self._in_message and " " not in fixed:
            self._replace(node, f'"XX" {self._text(node)}')

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
        if name in {"TypeVar", "cast"}:
            return
        if name in _TWINS:
            end = self._end(node.func)
            self._swap(node, end - len(name), end, _TWINS[name])
        for argument in node.args:
            if isinstance(argument, ast.Name | ast.Attribute) and name not in _CONVERSIONS:
                self._none_for(node, argument)
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                self._drop_keyword(node, index)
        with self._in_error() if name.endswith("Error") else nullcontext():
            self.generic_visit(node)

    def _none_for(self, call: ast.Call, argument: ast.expr) -> None:
        if not self._in_message:
            self._swap(call, self._start(argument), self._end(argument), "None")

    def _drop_keyword(self, call: ast.Call, index: int) -> None:
        keyword = call.keywords[index]
        end = self._end(keyword)
        before = [*call.args, *call.keywords[:index]]
        start = max(map(self._end, before), default=None)
        if start is not None:
            self._swap(call, start, end, "")
        elif index + 1 < len(call.keywords):
            self._swap(call, self._start(keyword), self._start(call.keywords[index + 1]), "")
        else:
            self._swap(call, self._start(keyword), end, "")

    def _visit_elements(self, node: ast.Set | ast.List | ast.Tuple) -> None:
        if isinstance(node.ctx if hasattr(node, "ctx") else ast.Load(), ast.Load):
            spans = [(self._start(each), self._end(each)) for each in node.elts]
            self._without(node, spans, 1 if isinstance(node, ast.List) else 2)
        self.generic_visit(node)

    visit_Set = _visit_elements  # noqa: N815
    visit_List = _visit_elements  # noqa: N815
    visit_Tuple = _visit_elements  # noqa: N815

    def visit_Dict(self, node: ast.Dict) -> None:
        pairs = zip(node.keys, node.values, strict=True)
        spans = [(self._start(key), self._end(value)) for key, value in pairs if key is not None]
        if len(spans) == len(node.values):
            self._without(node, spans, 1)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)
        match node.slice:
            case ast.Slice(lower, upper, None):
                for bound in filter(None, (lower, upper)):
                    self._swap(node, self._start(bound), self._end(bound), "")
                    self.visit(bound)
            case ast.Tuple():
                pass
            case other:
                self.visit(other)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _cropped(before: str, after: str) -> tuple[str, str]:
    """Return two texts around the place where they differ, if one of them is long."""
    if max(len(before), len(after)) <= SHOWN_CHARACTERS_MAX:
        return before, after
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-tail - 1] == after[-tail - 1]:
        tail += 1
    start = max(0, head - _KEPT_CHARACTERS)

    def part(text: str) -> str:
        end = min(len(text), len(text) - tail + _KEPT_CHARACTERS)
        middle = text[start:end]
        if len(middle) > SHOWN_CHARACTERS_MAX:
            middle = (
                middle[: SHOWN_CHARACTERS_MAX // 2] + "…" + middle[-SHOWN_CHARACTERS_MAX // 2 :]
            )
        return ("…" if start else "") + middle + ("…" if end < len(text) else "")

    return part(before), part(after)
