"""Plant known bugs in a copy of the reward language, one at a time; a law must fail for each.

    python tests/mutants/language.py               # all, some minutes
    python tests/mutants/language.py kleene null   # those whose name holds a word

Prints the law that caught each; exit 1 if one survives. The trainer's are in train.py.
"""

from __future__ import annotations

import sys

from plant import Mutant, plant

MUTANTS = [
    # Null, error and logic
    Mutant(
        "null counts as 0 in arithmetic",
        "rules/operators.py",
        "        present &= ~undefined\n        return Column(np.where",
        "        present = np.ones_like(present)\n        return Column(np.where",
        "execution::test_the_plan_equals_the_interpreter",
    ),
    Mutant(
        "infinity leaves a ruleset",
        "rules/operators.py",
        "        undefined = present & ~np.isfinite(values)",
        "        undefined = present & np.isnan(values)",
        "execution::test_the_plan_equals_the_interpreter",
    ),
    Mutant(
        "nulls win over errors",
        "rules/nulls.py",
        "        status = np.where(column.is_error, column.status, status)",
        "        status = np.where(column.is_error & (status == 0), column.status, status)",
        "execution::test_an_error_wins_over_a_null",
    ),
    Mutant(
        "`not null` is true",
        "rules/operators.py",
        "~column.values.astype(bool) & column.present, column.present, column.status)",
        "~column.values.astype(bool), np.ones_like(column.present), column.status)",
        "execution::test_the_plan_equals_the_interpreter",
    ),
    Mutant(
        "kleene: null absorbs",
        "scoring/execution.py",
        "            absorbed |= column.present & (column.values.astype(bool) == deciding)",
        "            absorbed |= column.values.astype(bool) == deciding",
        "execution::test_kleene",
    ),
    Mutant(
        "?? replaces errors",
        "scoring/execution.py",
        "        nulls = todo & column.is_null",
        "        nulls = todo & ~column.present",
        "execution::test_only_null_is_replaced_and_found_by_a_comparison_with_null",
    ),
    Mutant(
        "`x == null` is null for errors",
        "rules/operators.py",
        "    return Column(column.is_null, ~error,",
        "    return Column(column.is_null | error, np.ones_like(error),",
        "execution::test_only_null_is_replaced_and_found_by_a_comparison_with_null",
    ),
    Mutant(
        "policy forgets the error",
        "scoring/execution.py",
        "            state.present[rows] = True\n\n    # Kernels",
        "            state.present[rows] = False\n\n    # Kernels",
        "execution::test_a_completion_over_the_limit_gets_the_lowest_value_unless_the_policy_says_else",
    ),
    # Laziness and memory
    Mutant(
        "both branches of an if run",
        "scoring/execution.py",
        "        for branch, rows in ((yes, known & truth), (no, known & ~truth)):\n"
        "            if rows.any():\n",
        "        self.need(yes, todo), self.need(no, todo)\n"
        "        for branch, rows in ((yes, known & truth), (no, known & ~truth)):\n"
        "            if rows.any():\n",
        "execution::test_a_kernel_never_sees_a_row_that_is_not_needed",
    ),
    Mutant(
        "both sides of a logic run",
        "scoring/execution.py",
        "        rest = todo & ~decided",
        "        rest = todo",
        "execution::test_a_kernel_never_sees_a_row_that_is_not_needed",
    ),
    Mutant(
        "?? runs where there is a value",
        "scoring/execution.py",
        "            state.put(nulls, _as_type(self.need(right, nulls), nulls, node.type))",
        "            state.put(nulls, _as_type(self.need(right, todo), nulls, node.type))",
        "execution::test_a_kernel_never_sees_a_row_that_is_not_needed",
    ),
    Mutant(
        "the memo forgets which op asked",
        "scoring/execution.py",
        "key = (number, args) if kernel.keyed",
        "key = (0, args) if kernel.keyed",
        "execution::test_two_ops_over_one_text_are_remembered_apart",
    ),
    # Operators
    Mutant(
        "clamp's bounds cross the other way",
        "rules/operators.py",
        "    return np.maximum(np.minimum(value, hi), lo)",
        "    return np.minimum(np.maximum(value, lo), hi)",
        "execution::test_where_clamps_bounds_cross_the_lower_one_wins",
    ),
    Mutant(
        "within leaves its end out",
        "rules/operators.py",
        "    return (value >= lo) & (value <= hi)",
        "    return (value >= lo) & (value < hi)",
        "execution::test_the_plan_equals_the_interpreter",
    ),
    # Ranges
    Mutant(
        "a product's range from its own ends",
        "types.py",
        "        return Interval(min(ends), max(ends))\n\n    def __truediv__",
        "        return Interval(self.lo * other.lo, max(ends))\n\n    def __truediv__",
        "statements::test_ranges_are_inferred",
    ),
    Mutant(
        "a difference's range as a sum's",
        "types.py",
        "        return self + -other",
        "        return self + other",
        "statements::test_ranges_are_inferred",
    ),
    Mutant(
        "an even power reaches below 0",
        "types.py",
        "            return Interval(0.0 if power else 1.0, max(ends))",
        "            return Interval(1.0, max(ends))",
        "statements::test_ranges_are_inferred",
    ),
    Mutant(
        "?? keeps the left range",
        "compiler/ranges.py",
        "            return args[0].union(args[1])",
        "            return args[0]",
        "statements::test_ranges_are_inferred",
    ),
    Mutant(
        "if takes the range of its first branch",
        "compiler/ranges.py",
        "            return yes.union(no)",
        "            return yes",
        "execution::test_every_value_lies_inside_its_inferred_range",
    ),
    Mutant(
        "no cases are split",
        "compiler/ranges.py",
        "    atoms = _shared_atoms(graph, order)",
        "    atoms: list[int] = []",
        "statements::test_ranges_are_inferred",
    ),
    # Identity and text
    Mutant(
        "the hash forgets the options",
        "compiler/graph.py",
        "            digests[number] = _digest([node.op, args, options, str(node.type)])",
        "            digests[number] = _digest([node.op, args, str(node.type)])",
        "statements::test_what_changes_a_score_changes_the_hash",
    ),
    Mutant(
        "the hash knows the order of a sum",
        "compiler/graph.py",
        "                args.sort()",
        "                args.reverse()",
        "statements::test_what_means_the_same_has_one_hash",
    ),
    Mutant(
        "the hash forgets the policy",
        "compiler/graph.py",
        "[sorted(named.items()), settings, sorted(self.settings.on_error)]",
        "[sorted(named.items())]",
        "statements::test_what_changes_a_score_changes_the_hash",
    ),
    Mutant(
        "a comment ends at a form feed",
        "syntax/formatter.py",
        'in text.removesuffix("\\n").split("\\n") if text else ():',
        "in text.splitlines():",
        "hostile_rulesets::test_a_comment_goes_on_over_what_only_looks_like_a_line_end",
    ),
    Mutant(
        "a missing reward stands outside an empty file",
        "compiler/statements.py",
        "            end = len(self.parsed.source.text.rstrip())",
        "            end = max(len(self.parsed.source.text.rstrip()), 1)",
        "hostile_rulesets::test_deep_and_large_texts_are_judged_at_once",
    ),
    # What comes from outside
    Mutant(
        "an import leaves the folder tree",
        "syntax/files.py",
        "return target if target.is_file() and root in target.parents else None",
        "return target if target.is_file() else None",
        "hostile_rulesets::test_an_import_stays_in_the_folder_tree",
    ),
    Mutant(
        "imports go round",
        "syntax/files.py",
        "if target in chain:",
        "if target is None:",
        "hostile_rulesets::test_a_cycle_of_imports_is_a_finding",
    ),
    Mutant(
        "the rows of a test come from anywhere",
        "audit/test_blocks.py",
        "    if folder.resolve() not in path.resolve().parents:",
        "    if not name:",
        "hostile_rulesets::test_the_rows_of_a_test_stay_in_the_folder_tree",
    ),
    Mutant(
        "choices in a loop are called linear",
        "rules/format/regex_cost.py",
        "        if begins & seen:\n            return True",
        "        if begins & seen:\n            return False",
        "matching::test_nested_repeats_that_can_fail_are_exponential",
    ),
    Mutant(
        "a tool's words are paid",
        "scoring/inputs.py",
        'if message.get("role") == role:',
        'if message.get("role") in (role, "tool"):',
        "chats::test_what_other_roles_say_changes_no_text",
    ),
    Mutant(
        "a test declares columns of the ruleset",
        "compiler/nodes.py",
        "new = self.graph.asides if self._is_sealed else self.graph.inputs",
        "new = self.graph.inputs",
        "random_rulesets::test_tests_attacks_and_checks_change_nothing_of_a_ruleset",
    ),
    Mutant(
        "a hard link is another file",
        "errors.py",
        "return os.path.samefile(new, old)",
        "return new.resolve() == old.resolve()",
        "commands::test_no_command_writes_over_what_it_reads",
    ),
    # Groups
    Mutant(
        "a group's mean over the batch",
        "rules/group.py",
        "    means = _sums(values, present, number, count) / np.maximum(size, 1)",
        "    means = np.full(count, values[present].mean() if present.any() else 0.0)",
        "group",
    ),
    Mutant(
        "a deviation of rounding counts",
        "rules/group.py",
        "    return np.where(same, 0.0, np.sqrt",
        "    return np.where(False, 0.0, np.sqrt",
        "group",
    ),
    # The laws themselves
    Mutant(
        "in_range looks at the first score only",
        "audit/laws.py",
        "    for name, column in _score(scorer, rows).items():\n        interval",
        "    for name, column in list(_score(scorer, rows).items())[:0]:\n        interval",
        "laws",
    ),
    Mutant(
        "deterministic scores once",
        "audit/laws.py",
        "def _same(left: Column, right: Column, row: int) -> bool:\n",
        "def _same(left: Column, right: Column, row: int) -> bool:\n    return True\n",
        "laws",
    ),
    Mutant(
        "permuted rows are not put back",
        "audit/laws.py",
        "    moved = _at(_score(scorer, rows), order)\n",
        "    moved = _score(scorer, shuffled)\n",
        "laws",
    ),
    Mutant(
        "a cut completion is complete",
        "audit/laws.py",
        '    if row.get("truncated"):\n        return False\n',
        "",
        "laws",
    ),
    Mutant(
        "complete whatever the gold",
        "audit/laws.py",
        "    lowers = any(other < before - _EPSILON for other in after)\n",
        "    lowers = True\n",
        "laws",
    ),
    Mutant(
        "partly right is complete",
        "audit/laws.py",
        "return lowers and not any(other > before + _EPSILON for other in after)",
        "return lowers",
        "laws",
    ),
    Mutant(
        "complete without the form",
        "audit/laws.py",
        '    return all(getattr(column.row(0), "ok", False) for column in found.values())',
        "    return True",
        "laws",
    ),
    Mutant(
        "appended text may pay",
        "audit/laws.py",
        "        if reward > before + _EPSILON:",
        "        if reward > before + 1:",
        "laws",
    ),
]


if __name__ == "__main__":
    sys.exit(plant("grpo_rewards", MUTANTS, profile="mutants"))
