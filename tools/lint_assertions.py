"""Which assertions of a notebook are exact, and which must be claims.

What is exact holds on every machine and may be asserted: a comparison of tensors up to rounding,
a gap below a tolerance, an equality of what no training made. Every other comparison came out of
training or simulation, or may as well have: it goes through `pk.claim`.
"""

import ast
from collections.abc import Iterator

from notebook_text import called, cells_of, code_trees

TOLERANCE = 1e-3
SAME = {"allclose", "equal", "isclose", "array_equal"}
EQUAL = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
LOWER = (ast.Lt, ast.LtE)
TRAINS = {"step", "run", "backward", "train", "fit", "Trajectory", "lazy_training"}


def check_assertions(notebook: dict) -> Iterator[str]:
    """Complain of each plain assert that is not exact."""
    trees = list(code_trees(cells_of(notebook)))
    trained = trained_names([tree for _, tree, _ in trees])
    for number, tree, _ in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert) and not exact(node.test, trained):
                yield (
                    f"cell {number}: assert {ast.unparse(node.test)[:60]} is measured, not exact; "
                    "write pk.claim(..., above= or below=)"
                )


def exact(test: ast.expr, trained: set[str]) -> bool:
    """Whether what is asserted can only fail by an error, never by another machine's rounding."""
    if isinstance(test, ast.BoolOp):
        return all(exact(part, trained) for part in test.values)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return exact(test.operand, trained)
    if isinstance(test, ast.Compare):
        return _exact_comparison(test, trained)
    if isinstance(test, ast.Call):
        _, name = called(test)
        if name in SAME or name == "isinstance":
            return True
        if name in {"all", "any", "bool"}:  # all(... for ...), all([...]), (...).all()
            method = isinstance(test.func, ast.Attribute)
            return exact(test.func.value if method and not test.args else test.args[0], trained)
    if isinstance(test, ast.GeneratorExp | ast.ListComp):
        return exact(test.elt, trained | _loop_names(test, trained))
    return not names_in(test) & trained


def _exact_comparison(test: ast.Compare, trained: set[str]) -> bool:
    sides = [test.left, *test.comparators]
    if all(isinstance(op, EQUAL) for op in test.ops):
        return not names_in(test) & trained
    for low, op, high in zip(sides, test.ops, sides[1:], strict=False):
        small, large = (low, high) if isinstance(op, LOWER) else (high, low)
        if not (_tolerance(large) or _tolerance(small, negative=True)):
            return False
    return True


def _tolerance(node: ast.expr, negative: bool = False) -> bool:
    """A small literal, or one times a scale; with ``negative`` its negative."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return negative and _tolerance(node.operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        return _tolerance(node.left, negative) or (
            isinstance(node.op, ast.Mult) and _tolerance(node.right, negative)
        )
    if negative or not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return False
    return isinstance(node.value, int | float) and 0 < node.value <= TOLERANCE


def names_in(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def trained_names(trees: list[ast.AST]) -> set[str]:
    """Names whose values came out of training: directly, or through names that did."""
    trained = _experiments(trees)
    while True:
        before = len(trained)
        for tree in trees:
            for node in ast.walk(tree):
                _follow(node, trained)
        if len(trained) == before:
            return trained


def _experiments(trees: list[ast.AST]) -> set[str]:
    """What the notebook imports from pkbook.experiments."""
    return {
        name.asname or name.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pkbook.experiments")
        for name in node.names
    }


def _follow(node: ast.AST, trained: set[str]) -> None:
    """Add the names that this node gives a trained value."""
    if isinstance(node, ast.FunctionDef):
        if any(_from_training(part, trained) for part in node.body):
            trained.add(node.name)
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is not None and _from_training(node.value, trained):
            for target in targets:
                trained |= names_in(target)
    elif isinstance(node, ast.For) and _from_training(node.iter, trained):
        trained |= names_in(node.target)
    elif isinstance(node, ast.Call) and called(node)[1] in {"append", "extend"}:
        if any(_from_training(part, trained) for part in node.args):
            trained |= names_in(node.func)


def _loop_names(node: ast.GeneratorExp | ast.ListComp, trained: set[str]) -> set[str]:
    return {
        name
        for loop in node.generators
        if _from_training(loop.iter, trained)
        for name in names_in(loop.target)
    }


def _from_training(node: ast.AST, trained: set[str]) -> bool:
    """Whether something in a node trains, or was trained."""
    return any(
        called(part)[1] in TRAINS or (isinstance(part, ast.Name) and part.id in trained)
        for part in ast.walk(node)
    )
