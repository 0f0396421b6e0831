"""Ruleset → Graph: statement by statement, with everything that is wrong as findings.

Statements are checked in order, each on its own, so that one run reports every mistake. A name is
defined above its first use, so nothing can be circular. A checker fills the scope of its file and
the tables of scores, ranges and params; nodes are made by `NodeBuilder` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from grpo_rewards.compiler.cases import CaseBuilder
from grpo_rewards.compiler.expressions import Lowering
from grpo_rewards.compiler.externs import as_rule
from grpo_rewards.compiler.graph import Graph, InputSpec, Settings
from grpo_rewards.compiler.nodes import NodeBuilder
from grpo_rewards.compiler.ranges import tight_interval
from grpo_rewards.compiler.scope import Function, Scope, name_defined, nearest
from grpo_rewards.errors import Finding, Place, Problem, RulesetError
from grpo_rewards.rules.catalog import CATALOG
from grpo_rewards.rules.format.grammars import FormatError
from grpo_rewards.rules.format.matching import compile_format
from grpo_rewards.rules.rule import parse_type
from grpo_rewards.syntax import tree as x
from grpo_rewards.syntax.parser import Parsed, parse_expr_text
from grpo_rewards.types import INPUT_KINDS, UNIT, Interval, Level, Type, show_number

#: Inputs that differ between the completions of one prompt.
ROW_INPUTS = ("completion", "completion_ids", "n_tokens", "truncated")

#: Kinds of errors, as in `policy { on timeout -> 0 }`. `error` stands for all the others.
ERRORS = ("error", "timeout", "too_large", "failed")

#: Types that a user's own rule may return.
RETURN_KINDS = ("num", "bool", "text")

# Hints for a score of a type that no score can have.
_TO_NUMBER = {
    "text": "compare it, or measure it: math.equal(…, gold), text.length(…)",
    "chat": "compare it, or measure it: math.equal(extract.boxed(…), gold), text.length(…)",
    "match": "take its `.ok` or its `.credit`",
    "format": "match it: match(name, completion).ok",
}


def check(
    parsed: Parsed,
    *,
    params: Mapping[str, Any] | None = None,
    functions: Mapping[str, Any] | None = None,
) -> tuple[Graph, list[Finding]]:
    """The graph of a ruleset, and all findings about it in the file's order.

    Where a finding is an error, the graph is incomplete and must not be scored. `params` overrides
    declared params, as `--set` does. `functions` maps the targets of `extern` statements to
    functions; the graph keeps the mapping, which has to be filled before anything is scored.
    """
    functions = {} if functions is None else functions
    graph = Graph(name=_name(parsed))
    checker = _Checker(parsed, NodeBuilder(graph), functions, dict(params or {}))
    checker.check_ruleset()
    findings = [*parsed.findings, *checker.findings]
    return graph, sorted(findings, key=lambda finding: finding.place.start)


def checked(
    parsed: Parsed,
    *,
    params: Mapping[str, Any] | None = None,
    functions: Mapping[str, Any] | None = None,
) -> Graph:
    """The graph of a ruleset. Raises RulesetError with all findings where one is an error."""
    graph, findings = check(parsed, params=params, functions=functions)
    if any(finding.severity == "error" for finding in findings):
        raise RulesetError.of(parsed.source, findings)
    return graph


def _name(parsed: Parsed) -> str:
    """The name that the ruleset declares, else that of its file."""
    declared = parsed.ruleset.of(x.RulesetDecl)
    return declared[0].name if declared else PurePath(parsed.source.name).stem or "ruleset"


class _Checker:
    """One pass over the statements of a file, which may be an imported one."""

    def __init__(
        self,
        parsed: Parsed,
        nodes: NodeBuilder,
        functions: Mapping[str, Any],
        overrides: Mapping[str, Any],
        *,
        is_imported: bool = False,
    ) -> None:
        self.parsed = parsed
        self.nodes = nodes
        self.graph = nodes.graph
        self.functions = functions
        self.overrides = overrides
        self.is_imported = is_imported
        self.findings: list[Finding] = []
        self.scope = Scope(parsed)
        self.lowering = Lowering(nodes, self.scope)
        self.declared: dict[str, x.Statement] = {}
        self.scores: dict[str, int] = {}
        self.ranges: dict[str, Interval] = {}
        self.params: dict[str, Any] = {}

    def check_ruleset(self) -> None:
        """Fill the graph with everything that the file declares, scores and tests."""
        policies = self.parsed.ruleset.of(x.Policy)
        for policy in policies:  # first, for it governs every score wherever it is written
            self._guard(policy, self.on_policy)
        self._once(policies, "policy")
        self.check_definitions()
        self._check_reward()
        graph = self.graph
        graph.scores, graph.ranges, graph.params = self.scores, self.ranges, self.params
        graph.names = dict(self.scope.names)
        self.nodes.seal()
        if graph.reward >= 0:  # without a reward, which has a finding, there is nothing to test
            cases = CaseBuilder(self.nodes, self.scope)
            self._collect(x.Test, cases.test, graph.tests)
            self._collect(x.Attack, cases.attack, graph.attacks)
            self._collect(x.Check, cases.check, graph.checks)
        self._check_overrides()
        self._warn_of_unused()

    def check_definitions(self) -> None:
        """Define what the statements define, in the file's order."""
        handlers: dict[type[x.Statement], Callable[[Any], None]] = {
            x.Input: self.on_input, x.Param: self.on_param, x.FormatDecl: self.on_format,
            x.Let: self.on_let, x.Score: self.on_score, x.Reward: self.on_reward,
            x.Import: self.on_import, x.Extern: self.on_extern,
        }  # fmt: skip
        for statement in self.parsed.ruleset.statements:
            handler = handlers.get(type(statement))
            if handler is not None:
                self._guard(statement, handler)

    def _collect(
        self, kind: type[x.Statement], build: Callable[[Any], Any], cases: list[Any]
    ) -> None:
        for statement in self.parsed.ruleset.of(kind):
            self._guard(statement, lambda statement: cases.append(build(statement)))

    # Reporting

    def _report(self, code: str, message: str, place: Place, hint: str = "") -> None:
        self.findings.append(Finding(code, message, place, hint))

    def _warn(self, code: str, message: str, place: Place, hint: str = "") -> None:
        self.findings.append(Finding(code, message, place, hint, "warning"))

    def _guard(self, statement: x.Statement, handler: Callable[[Any], None]) -> None:
        """Check one statement. What is wrong becomes a finding, and its name counts as broken."""
        try:
            handler(statement)
        except Problem as problem:
            if problem.finding is not None:
                self.findings.append(problem.finding)
            self.scope.mark_broken(name_defined(statement))
        self.findings += self.nodes.take_warnings()

    def _declare(self, name: str, statement: x.Statement) -> None:
        """Refuse a second statement of one name."""
        if name in self.declared:
            raise Problem("N02", f"`{name}` is declared twice", statement.place, "rename one")
        if name == "reward":
            raise Problem("N02", "`reward` is a statement of its own", statement.place)
        self.declared[name] = statement

    def _once(self, statements: Sequence[x.Statement], what: str) -> None:
        for extra in statements[1:]:
            self._report("T20", f"a ruleset has one `{what}`", extra.place)

    # Statements

    def on_policy(self, policy: x.Policy) -> None:
        values: dict[str, float] = {}
        on_error: dict[str, float | str | None] = {}
        known = ("timeout", "limit chars", "seed", *(f"on {error}" for error in ERRORS))
        for setting in policy.settings:
            if setting.name not in known:
                hint = nearest(setting.name, known) or f"one of {', '.join(known)}"
                raise Problem("N03", f"unknown setting `{setting.name}`", setting.place, hint)
            if setting.name.startswith("on "):
                on_error[setting.name[3:]] = self._error_value(setting)
            else:
                values[setting.name] = self.lowering.constant_number(setting.value)
        if "error" in on_error:
            on_error = {**dict.fromkeys(ERRORS[1:], on_error.pop("error")), **on_error}
        self.graph.settings = Settings(
            timeout_s=values.get("timeout", Settings().timeout_s),
            limit_chars=int(values.get("limit chars", 0)),
            seed=int(values.get("seed", 0)),
            on_error=tuple(sorted(on_error.items())),
        )

    def _error_value(self, setting: x.Setting) -> float | str | None:
        if isinstance(setting.value, x.Name) and setting.value.id == "lowest":
            return "lowest"
        if isinstance(setting.value, x.Const) and setting.value.value is None:
            return None
        return self.lowering.constant_number(setting.value)

    def on_input(self, statement: x.Input) -> None:
        self._declare(statement.name, statement)
        type_ = self._type(statement.type, statement.place)
        default = None
        if statement.default is not None:
            default = self.lowering.constant(statement.default)
            self._fits(default, type_, statement.default.place)
        level = Level.ROW if statement.name in ROW_INPUTS else Level.PROMPT
        spec = InputSpec(
            statement.name,
            type_,
            statement.sources or (statement.name,),
            statement.default is not None,
            default,
            level,
        )
        number = self.nodes.declare_input(spec, statement.place, is_imported=self.is_imported)
        self.scope.define(statement.name, number)

    def _type(self, text: str, place: Place) -> Type:
        type_ = parse_type(text)
        kind = type_.kind
        if kind not in INPUT_KINDS:
            hint = nearest(kind, INPUT_KINDS) or f"one of {', '.join(INPUT_KINDS)}"
            raise Problem("N04", f"unknown type `{text}`", place, hint)
        return type_

    def _fits(self, value: Any, type_: Type, place: Place) -> None:
        kinds: dict[str, tuple[type, ...]] = {
            "num": (int, float), "bool": (bool,), "text": (str,), "chat": (str,),
        }  # fmt: skip
        fits = value is None or isinstance(value, kinds.get(type_.kind, (object,)))
        if not fits or (isinstance(value, bool) and type_.kind == "num"):
            raise Problem("T01", f"the value is not of type {type_}", place)

    def on_param(self, statement: x.Param) -> None:
        self._declare(statement.name, statement)
        type_ = self._type(statement.type, statement.place)
        value = self.lowering.constant(statement.value)
        place = statement.value.place
        if statement.name in self.overrides:
            value = self._override(statement.name, type_, place)
        self._fits(value, type_, place)
        interval = self._param_interval(statement, value, place)
        self.params[statement.name] = value
        number = self.nodes.param(statement.name, value, type_, interval, statement.place)
        self.scope.define(statement.name, number)

    def _override(self, name: str, type_: Type, place: Place) -> Any:
        """The value that the caller sets: of Python, or text from the command line."""
        value = self.overrides[name]
        if isinstance(value, str) and type_.kind != "text":
            try:
                value = self.lowering.constant(parse_expr_text(value))
            except (RulesetError, Problem):
                message = f"`{value}` is not a value for param `{name}`: {type_}"
                raise Problem("T01", message, place) from None
        return value

    def _param_interval(self, statement: x.Param, value: Any, place: Place) -> Interval | None:
        bounds = statement.bounds
        if bounds is None:
            return None
        if isinstance(bounds, x.ListExpr):
            choices = [self.lowering.constant(item) for item in bounds.items]
            if value not in choices:
                shown = ", ".join(map(str, bounds.items))
                raise Problem("T03", f"{x.Const(value)} is none of {shown}", place)
            return None
        interval = self._interval(bounds)
        if not isinstance(value, int | float) or value not in interval:
            message = f"param `{statement.name}` = {value} lies outside {interval}"
            raise Problem("T03", message, place)
        return interval

    def _interval(self, bounds: x.Bounds) -> Interval:
        lo = self.lowering.constant_number(bounds.lo)
        hi = self.lowering.constant_number(bounds.hi)
        if lo > hi:
            hint = f"write {show_number(hi)}..{show_number(lo)}"
            raise Problem("T04", "the range is empty", bounds.place, hint)
        return Interval(lo, hi)

    def on_import(self, statement: x.Import) -> None:
        """Names of another file become `alias.name`; its scores are not logged here."""
        self._declare(statement.name, statement)
        found = self.parsed.imports.get(statement.path)
        if found is None:
            hint = "imports work in files, relative to the file and inside its folder tree"
            message = f"`{statement.path}` cannot be imported"
            if statement.path in self.parsed.cycles:
                message += f": that is a cycle, {self.parsed.cycles[statement.path]}"
                hint = "move what both files need into a third"
            raise Problem("N10", message, statement.place, hint)
        inner = _Checker(found, self.nodes, self.functions, {}, is_imported=True)
        inner.check_definitions()
        errors = [f for f in (*found.findings, *inner.findings) if f.severity == "error"]
        if errors:
            first = errors[0]
            # where the fault is in a file that the imported one imports, name it there
            cause = first.hint if first.code == "T31" else first.show(found.source).splitlines()[0]
            message = f"`{statement.path}` has {len(errors)} error(s)"
            raise Problem("T31", message, statement.place, cause)
        self.scope.define_import(statement.name, inner.scope.names)

    def on_format(self, statement: x.FormatDecl) -> None:
        self._declare(statement.name, statement)
        options = {name: self.lowering.constant(value) for name, value in statement.options}
        path = options.pop("file", None)
        body = statement.body if path is None else self._format_file(statement, path)
        start = statement.body_place.start
        try:
            compiled = compile_format(statement.name, statement.kind, body, **options)
        except FormatError as error:
            if path is not None:
                line = body.count("\n", 0, error.offset) + 1
                message = f"{path}:{line}: {error.message}"
                raise Problem("T30", message, statement.body_place, error.hint) from None
            place = Place(start + error.offset, start + error.offset + 1)
            raise Problem("T30", error.message, place, error.hint) from None
        except TypeError:
            known = "engine, prefix, file"
            message = f"a {statement.kind} format does not take these options"
            raise Problem("N05", message, statement.place, f"it may take {known}") from None
        for lint in compiled.lints:
            offset = lint.offset if path is None else 0
            place = Place(start + offset, start + offset + 1)
            self.findings.append(Finding(lint.code, lint.message, place, lint.hint, lint.severity))
        self.scope.define(statement.name, self.nodes.format(compiled, statement.place))

    def _format_file(self, statement: x.FormatDecl, path: Any) -> str:
        """The text of a format that is written in a file of its own."""
        text = self.parsed.files.get(path) if isinstance(path, str) else None
        if text is None:
            hint = "the path is relative to the ruleset's file and stays inside its folder tree"
            raise Problem("N10", f"`{path}` cannot be read", statement.body_place, hint)
        return text

    def on_extern(self, statement: x.Extern) -> None:
        """A rule of the user's own, with the types and the range that the statement declares."""
        self._declare(statement.name, statement)
        if statement.name in CATALOG:
            raise Problem(
                "N02", f"`{statement.name}` is a rule already", statement.place, "rename it"
            )
        for text in (*statement.params, statement.type):
            self._type(text, statement.place)
        returns = parse_type(statement.type)
        if returns.kind not in RETURN_KINDS or not statement.params:
            what = f"cannot return a {returns}" if statement.params else "takes no argument"
            message = f"`{statement.name}` {what}"
            raise Problem(
                "T82", message, statement.place, "a rule turns columns into a num, a bool or a text"
            )
        if statement.bounds is not None and returns.kind != "num":
            raise Problem("T06", f"a {returns} has no range", statement.bounds.place)
        interval = UNIT if returns.kind == "bool" else Interval()
        if statement.bounds is not None:
            interval = self._interval(statement.bounds)
        self.scope.define(statement.name, as_rule(statement, self.functions, interval))

    def on_let(self, statement: x.Let) -> None:
        self._declare(statement.name, statement)
        if statement.params:
            scope = self.scope.inner()
            function = Function(statement.name, statement.params, statement.expr, scope)
            self.scope.define(statement.name, function)
            return
        number = self.lowering.lower(statement.expr)
        self._declared_range(statement.bounds, number, statement.name)
        self.scope.define(statement.name, number)

    def on_score(self, statement: x.Score) -> None:
        self._declare(statement.name, statement)
        number = self._settled(statement.expr, f"score `{statement.name}`")
        name = statement.name
        self.ranges[name] = self._declared_range(statement.bounds, number, name)
        self.scores[name] = number
        self.scope.define(name, number)

    def on_reward(self, statement: x.Reward) -> None:
        if self.is_imported:
            return  # a file is imported for its names; it does not reward
        number = self._settled(statement.expr, "the reward")
        self.ranges["reward"] = self._declared_range(statement.bounds, number, "reward")
        self.graph.reward = number
        self.scope.define("reward", number)

    def _settled(self, expr: x.Expr, what: str) -> int:
        """The node of a score or the reward: a num or a bool, with the policy applied."""
        number = self.lowering.lower(expr)
        node = self.graph[number]
        if not node.type.is_numeric:
            message = f"{what} is a {node.type}; it has to be a num or a bool"
            raise Problem("T05", message, expr.place, _TO_NUMBER.get(node.type.kind, ""))
        self.nodes.refuse_dataset(number, expr.place)
        return self.nodes.settle(number, self.graph.settings)

    def _declared_range(self, bounds: x.Bounds | None, number: int, name: str) -> Interval:
        """The inferred range, which has to lie inside the declared one where there is one."""
        node = self.graph[number]
        if not node.type.is_numeric:
            if bounds is not None:
                raise Problem("T06", f"a {node.type} has no range", bounds.place)
            return Interval()
        inferred = tight_interval(self.graph, number)
        if bounds is None:
            return inferred
        declared = self._interval(bounds)
        if not declared.covers(inferred):
            message = f"`{name}` can reach {inferred}, outside the declared {declared}"
            hint = f"declare in {inferred}" if inferred.is_bounded else "bound it with clamp(…)"
            raise Problem("T07", message, bounds.place, hint)
        loose = (declared.hi - declared.lo) - (inferred.hi - inferred.lo)
        if loose > 1e-6 * max(1.0, declared.hi - declared.lo):
            self._warn("W01", f"`{name}` only reaches {inferred}", bounds.place, "tighten it")
        return inferred

    def _check_reward(self) -> None:
        rewards = self.parsed.ruleset.of(x.Reward)
        self._once(rewards, "reward")
        if not rewards and not self.scope.is_broken("reward") and not self.parsed.findings:
            end = len(self.parsed.source.text.rstrip())
            hint = "end the file with `reward = …`"
            self._report("T21", "the ruleset has no `reward`", Place(max(end - 1, 0), end), hint)

    # What is left over

    def _check_overrides(self) -> None:
        for name in self.overrides:
            if name not in self.params and not self.scope.is_broken(name):
                hint = nearest(name, tuple(self.params)) or "the ruleset declares none"
                self._report("N06", f"there is no param `{name}` to set", Place(0, 1), hint)

    def _warn_of_unused(self) -> None:
        if any(f.severity == "error" for f in (*self.parsed.findings, *self.findings)):
            return  # what is broken might have used it
        kinds = (x.Input, x.Param, x.FormatDecl, x.Let, x.Import, x.Extern)
        for name, statement in self.declared.items():
            if isinstance(statement, kinds) and not self.scope.is_used(name):
                message = f"{statement.keyword} `{name}` is never used"
                self._warn("W02", message, statement.place)
