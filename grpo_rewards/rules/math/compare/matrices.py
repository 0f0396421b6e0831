"""Matrix arithmetic on trees: sums, products and scalar multiples of matrices written out."""

from __future__ import annotations

from fractions import Fraction

from grpo_rewards import limits
from grpo_rewards.rules.math.compare.canonical import canonical
from grpo_rewards.rules.math.latex.tree import Term, negated, num, ops


def evaluated(node: Term) -> Term:
    """The tree with its matrix sums and products computed, where the shapes allow it.

    >>> from grpo_rewards.rules.math.latex.parser import parse_math
    >>> unit = r"\\begin{pmatrix}1\\\\2\\end{pmatrix}"
    >>> print(evaluated(parse_math(f"3 {unit}")))
    (matrix (row (mul 3 1)) (row (mul 3 2)))
    """
    if node.op == "pow" and node.args[0].op == "tuple":
        return _column(node.args[0], node.args[1]) or node
    if "matrix" not in ops(node) or node.op == "matrix":
        return node
    if node.op in ("add", "mul"):
        parts = [evaluated(part) for part in node.args]
        result = parts[0]
        for part in parts[1:]:
            joined = _sum(result, part) if node.op == "add" else _product(result, part)
            if joined is None:
                return node
            result = joined
        return result
    if node.op == "pow":
        return _power(evaluated(node.args[0]), node.args[1]) or node
    if node.op == "fn" and node.args[0] == "det" and len(node.args) == 2:
        return _determinant(evaluated(node.args[1])) or node
    if node.op in ("rel", "list", "tuple", "set", "note"):
        parts_in = (evaluated(p) if isinstance(p, Term) else p for p in node.args)
        return Term(node.op, tuple(parts_in))
    return node


def _column(row: Term, exponent: Term) -> Term | None:
    """`[1, 2, 3]^T` as a column."""
    if exponent.op != "sym" or exponent.args[0] not in ("T", "top"):
        return None
    return Term("matrix", tuple(Term("row", (cell,)) for cell in row.args[2:]))


def _power(matrix: Term, exponent: Term) -> Term | None:
    """A transpose, or a small whole power."""
    if matrix.op != "matrix":
        return None
    if exponent.op == "sym" and exponent.args[0] in ("T", "top"):
        columns = zip(*(row.args for row in matrix.args), strict=True)
        return Term("matrix", tuple(Term("row", column) for column in columns))
    if exponent not in (num(2), num(3), num(4)) or _shape(matrix)[0] > 3:
        return None
    result: Term | None = matrix
    for _ in range(int(exponent.args[0]) - 1):
        result = None if result is None else _product(result, matrix)
    return result


def _determinant(matrix: Term) -> Term | None:
    """The determinant of numbers, by elimination; that of two rows for any entries."""
    size = _shape(matrix)[0] if matrix.op == "matrix" else 0
    if size != (_shape(matrix)[1] if size else 1) or size > limits.MAX_MATRIX:
        return None
    if size == 2:
        (a, b), (c, d) = (row.args for row in matrix.args)
        return Term("add", (Term("mul", (a, d)), negated(Term("mul", (b, c)))))
    forms = [[canonical(cell) for cell in row.args] for row in matrix.args]
    if any(cell.op != "num" for row in forms for cell in row):
        return None
    rows: list[list[Fraction]] = [[cell.args[0] for cell in row] for row in forms]
    result = Fraction(1)
    for at in range(size):
        pivot = next((r for r in range(at, size) if rows[r][at]), None)
        if pivot is None:
            return num(0)
        if pivot != at:
            rows[at], rows[pivot], result = rows[pivot], rows[at], -result
        result *= rows[at][at]
        for below in rows[at + 1 :]:
            factor = below[at] / rows[at][at]
            below[at:] = [x - factor * y for x, y in zip(below[at:], rows[at][at:], strict=True)]
    return num(result)


def _sum(a: Term, b: Term) -> Term | None:
    if a.op != "matrix" or b.op != "matrix" or _shape(a) != _shape(b):
        return None
    rows = (
        Term("row", tuple(Term("add", cells) for cells in zip(r.args, s.args, strict=True)))
        for r, s in zip(a.args, b.args, strict=True)
    )
    return Term("matrix", tuple(rows))


def _shape(matrix: Term) -> tuple[int, int]:
    return len(matrix.args), len(matrix.args[0].args)


def _product(a: Term, b: Term) -> Term | None:
    if a.op != "matrix" and b.op != "matrix":
        return Term("mul", (a, b))
    if a.op != "matrix" or b.op != "matrix":
        scalar, matrix = (a, b) if b.op == "matrix" else (b, a)
        rows = (Term("row", tuple(Term("mul", (scalar, c)) for c in r.args)) for r in matrix.args)
        return Term("matrix", tuple(rows))
    if _shape(a)[1] != _shape(b)[0] or max(_shape(a) + _shape(b)) > limits.MAX_MATRIX:
        return None
    columns = list(zip(*(row.args for row in b.args), strict=True))
    rows_out = []
    for row in a.args:
        cells = (
            Term("add", tuple(Term("mul", pair) for pair in zip(row.args, column, strict=True)))
            for column in columns
        )
        rows_out.append(Term("row", tuple(cells)))
    return Term("matrix", tuple(rows_out))
