"""Mutants: small wrong changes of a source text, one at a time, as a slip of the hand makes them.

Python is changed by way of its syntax tree, C++ by patterns in its text. Texts for people, types
and what only shows an object are left alone: no result depends on them.
"""

import ast
import copy
import re
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    scope: str  # the function it is in
    start: int
    right: str
    wrong: str

    def __str__(self):
        return (
            f"{self.file}:{self.line} {self.scope}: {' '.join(self.right.split())} -> {self.wrong}"
        )

    def apply(self, text):
        assert text.startswith(self.right, self.start)
        return text[: self.start] + self.wrong + text[self.start + len(self.right) :]


def mutants_of(file, text):
    """Return the mutants of a file, in the order of its lines."""
    found = python_mutants(file, text) if file.endswith(".py") else cpp_mutants(file, text)
    kept = {(m.start, m.right, m.wrong): m for m in found if m.right != m.wrong}
    return sorted(kept.values(), key=lambda m: (m.start, m.wrong))


def names_of(mutants, text):
    """Return {mutant: (file, function, line, change)} of the mutants of a file, in their order.

    So the list of equivalent ones names them. Of several in equal lines of a function that change
    the same, the second is named "... (2)", and so on.
    """
    names, seen, lines = {}, Counter(), text.splitlines()
    for mutant in mutants:
        change = f"{' '.join(mutant.right.split())} -> {mutant.wrong}"
        name = (mutant.file, mutant.scope, lines[mutant.line - 1].strip(), change)
        seen[name] += 1
        names[mutant] = name if seen[name] == 1 else (*name[:3], f"{change} ({seen[name]})")
    return names


# -------------------------------------------------------------------------------- Python

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


def both_ways(pairs):
    return dict(pairs) | {right: left for left, right in pairs}


COMMUTES = (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr, ast.BitXor)
EXCHANGED = [
    ("min", "max"),
    ("minimum", "maximum"),
    ("fmin", "fmax"),
    ("nanmin", "nanmax"),
    ("argmin", "argmax"),
    ("add", "subtract"),
    ("multiply", "divide"),
    ("greater", "greater_equal"),
    ("less", "less_equal"),
    ("equal", "not_equal"),
    ("left_shift", "right_shift"),
    ("floor", "ceil"),
    ("log", "log1p"),
    ("exp", "expm1"),
    ("sin", "cos"),
    ("any", "all"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("sum", "mean"),
]
NAMES = both_ways(EXCHANGED)
DROPPED = ("abs", "sqrt", "sign", "int", "reversed", "sorted")  # f(x) -> x
UNSEEN = ("__repr__", "__reduce__", "__hash__", "__getstate__", "ProgressBar", "_fitting")
SKIPPED = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)


def python_mutants(file, text):
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def position(line, column):
        row = text[starts[line - 1] : starts[line]]
        return starts[line - 1] + len(row.encode()[:column].decode())

    def visit(node, scope):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if node.name in UNSEEN:
                return
            scope = f"{scope}.{node.name}".lstrip(".")
        for part, wrong in [*((node, wrong) for wrong in changes(node)), *negated(node)]:
            start = position(part.lineno, part.col_offset)
            end = position(part.end_lineno, part.end_col_offset)
            yield Mutant(file, part.lineno, scope or "module", start, text[start:end], wrong)
        for child in children(node):
            yield from visit(child, scope)

    yield from visit(ast.parse(text), "")


def children(node):
    """Return the nodes inside a node that decide on results."""
    if isinstance(node, SKIPPED) or is_axis(node):
        return []
    if getattr(node, "arg", "") in ("strict", "stacklevel"):
        return []  # the one asserts, the other is for people
    left_out = {"annotation", "returns", "decorator_list", "bases"}
    found = []
    for name, value in ast.iter_fields(node):
        if name not in left_out:
            found += [v for v in (value if isinstance(value, list) else [value]) if is_node(v)]
    return found


def is_node(value):
    return isinstance(value, ast.AST) and not isinstance(value, ast.expr_context)


def changes(node):
    """Yield what may stand in place of a node."""
    if isinstance(node, ast.stmt):
        yield from changes_of_statement(node)
    elif isinstance(node, ast.expr):
        right = ast.unparse(node)
        for changed in changes_of_expression(node):
            if ast.unparse(changed) == right:
                continue  # exchanged what is equal
            plain = isinstance(changed, ast.Constant | ast.Name | ast.Slice)
            yield ast.unparse(changed) if plain else f"({ast.unparse(changed)})"
    elif is_axis(node):
        yield f"axis={1 - node.value.value}"


def negated(node):
    """Yield (condition, its opposite) of the conditions of a node that nothing else negates."""
    conditions = [getattr(node, "test", None), *getattr(node, "ifs", [])]
    for condition in conditions:
        if isinstance(condition, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
            yield condition, f"(not {ast.unparse(condition)})"


def is_axis(node):
    return (
        isinstance(node, ast.keyword)
        and node.arg == "axis"
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, int)
    )


def changes_of_statement(node):
    if isinstance(node, ast.AugAssign):
        yield "pass"
        if type(node.op) in OPERATORS:
            yield ast.unparse(replaced(node, op=OPERATORS[type(node.op)]()))
    elif (
        isinstance(node, ast.Break | ast.Continue)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
        or (
            isinstance(node, ast.Assign)
            and all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
        )
    ):
        yield "pass"


def changes_of_expression(node):
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            if is_type(left) and is_type(right):
                return
            if type(op) in OPERATORS:
                yield replaced(node, op=OPERATORS[type(op)]())
                yield from (left, right)
            if isinstance(op, ast.MatMult):
                yield from (left, right, replaced(node, left=ast.Attribute(left, "T")))
            if not isinstance(op, COMMUTES):
                yield replaced(node, left=right, right=left)
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.BoolOp(op=op, values=values):
            yield replaced(node, op=OPERATORS[type(op)]())
            for i in range(len(values)):
                yield replaced(node, values=values[:i] + values[i + 1 :])
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                for other in COMPARISONS[type(op)]:
                    yield replaced(node, ops=[*ops[:i], other(), *ops[i + 1 :]])
        case ast.IfExp(body=body, orelse=other):
            yield from (body, other)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
            if value > 0:
                yield ast.Constant(value - 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.Call():
            yield from changes_of_call(node)
        case ast.Attribute(value=value, attr="T"):
            yield value
        case ast.Slice(lower=lower, upper=upper):
            if lower is not None:
                yield replaced(node, lower=None)
            if upper is not None:
                yield replaced(node, upper=None)


def changes_of_call(node):
    function, arguments = node.func, node.args
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    key = "attr" if isinstance(function, ast.Attribute) else "id"
    if name in NAMES:
        yield replaced(node, func=replaced(function, **{key: NAMES[name]}))
    if name in DROPPED and len(arguments) == 1:
        yield arguments[0]
    if name == "range":
        stop = min(len(arguments), 2) - 1
        less = ast.BinOp(arguments[stop], ast.Sub(), ast.Constant(1))
        yield replaced(node, args=[*arguments[:stop], less, *arguments[stop + 1 :]])
    if name == "matmul":
        yield replaced(node, args=[ast.Attribute(arguments[0], "T"), *arguments[1:]])
    two = arguments[:2]
    if len(two) == 2 and name not in SYMMETRIC and not any(map(is_starred, two)):
        yield replaced(node, args=[*two[::-1], *arguments[2:]])


def is_type(node):
    """Whether a node names a type (as in int | float), or None."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.BitOr) and is_type(node.left) and is_type(node.right)
    if isinstance(node, ast.Constant):
        return node.value is None
    name = getattr(node, "id", "")
    capitalized = name[:1].isupper() and not name.isupper()
    return name in ("bool", "float", "int", "str") or capitalized


SYMMETRIC = ("min", "max", "minimum", "maximum", "fmin", "fmax", "isinstance", "getattr")
SYMMETRIC += ("add", "multiply", "equal", "array_equal", "zip", "field", "TypeVar")


def is_starred(node):
    return isinstance(node, ast.Starred)


def replaced(node, **fields):
    """Return a copy of a node with other fields."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


# ----------------------------------------------------------------------------------- C++

CPP = [  # pattern of one expression, what may stand in its place
    (r" \+ ", [" - "]),
    (r" - ", [" + "]),
    (r" \* ", [" / "]),
    (r" / ", [" * "]),
    (r" % ", [" * "]),
    (r" \+= ", [" -= ", " = "]),
    (r" -= ", [" += ", " = "]),
    (r" \*= ", [" /= ", " = "]),
    (r" /= ", [" *= "]),
    (r" < ", [" <= ", " >= "]),
    (r" <= ", [" < ", " > "]),
    (r" > ", [" >= ", " <= "]),
    (r" >= ", [" > ", " < "]),
    (r" == ", [" != "]),
    (r" != ", [" == "]),
    (r" && ", [" || "]),
    (r" \|\| ", [" && "]),
    (r" << ", [" >> "]),
    (r" >> ", [" << "]),
    (r" \^ ", [" | "]),
    (r" & ", [" | "]),
    (r" \| ", [" & "]),
    (r"(?<=[=(,] )-(?=\w)|(?<=\()-(?=\w)|(?<=return )-(?=\w)", [""]),
    (r"(?<=\()!(?=\w)", [""]),
    (r"\btrue\b", ["false"]),
    (r"\bfalse\b", ["true"]),
]
TERM = r"(?:\d[\d.]*e-?\d+f?|[\w.]+(?:\[[^\[\]]*\])?(?:\([^()]*\))?)"
BINARY = re.compile(rf"(?<![\w.)\]])(?=({TERM}) ([-+*/]) ({TERM}))")
CALLS = both_ways([("exp_", "expm1_"), ("smaller", "larger"), ("value", "slope")])
CALLED = re.compile(rf"(?:(?<!\w )|(?<=return ))\b(?:{'|'.join(CALLS)})(?=\()")
FLOAT = re.compile(r"(?<![\w.])\d+\.\d*(?:e-?\d+)?f?(?![\w.])")
INTEGER = re.compile(r"(?<![\w.<])\d+(?=u?(?![\w.>]))")
HEX = re.compile(r"(?<![\w.])0x[0-9A-Fa-f]+(?=u?(?![\w.]))")
STATEMENT = re.compile(r"(?<=\n)( +)([\w\[\].*>()-]+ [-+*/&|^]?= [^;{}]+;)(?=\n)")
CHOICE = re.compile(r"\? ([\w.\[\]*>() -]+?) : ([\w.\[\]*>() -]+)(?=[;),])")
FUNCTION = re.compile(r"^ *(?:SCALAR|KERNEL|EXPORT|static|__device__).*?(\w+)[(,]")


def cpp_mutants(file, text):
    bare = without_comments(text)

    def mutant(start, end, wrong):
        line = text.count("\n", 0, start) + 1
        before = text[:start].splitlines() or [""]
        scope = next((m[1] for row in reversed(before) if (m := scope_of(row))), "file")
        # the whole line tells people more than " + " does
        first = text.rindex("\n", 0, start) + 1
        last = text.index("\n", end)
        right = text[first:last].strip()
        offset = text.index(right, first)
        changed = right[: start - offset] + wrong + right[end - offset :]
        return Mutant(file, line, scope, offset, right, changed)

    for pattern, others in CPP:
        for match in re.finditer(pattern, bare):
            for other in others:
                yield mutant(*match.span(), other)
    for match in BINARY.finditer(bare):
        left, operator, right = match.groups()
        others = [left, right, *([f"{right} {operator} {left}"] if operator in "-/" else [])]
        for other in others:
            yield mutant(match.start(1), match.end(3), other)
    for match in CALLED.finditer(bare):
        yield mutant(*match.span(), CALLS[match[0]])
    for match in FLOAT.finditer(bare):
        number = match[0].rstrip("f")
        suffix = "f" if match[0].endswith("f") else ""
        yield mutant(*match.span(), f"{2 * float(number) or 1.0}{suffix}")
    for match in INTEGER.finditer(bare):
        yield mutant(*match.span(), str(int(match[0]) + 1))
        if int(match[0]) > 0:
            yield mutant(*match.span(), str(int(match[0]) - 1))
    for match in HEX.finditer(bare):
        yield mutant(*match.span(), hex(int(match[0], 16) ^ 2))
    for match in STATEMENT.finditer(bare):
        if "const" not in match[2]:
            yield mutant(*match.span(2), ";")
    for match in CHOICE.finditer(bare):
        yield mutant(*match.span(), f"? {match[2]} : {match[1]}")


def scope_of(line):
    return FUNCTION.match(line)


def without_comments(text):
    """Return a text with comments, directives and strings blanked; positions stay."""

    def blank(match):
        return re.sub(r"[^\n]", "~", match[0])

    pattern = r'//[^\n]*|/\*.*?\*/|"[^"\n]*"|^ *#(?:[^\n]*\\\n)*[^\n]*|^ *template[^\n]*'
    return re.sub(pattern, blank, text, flags=re.M | re.S)
