"""Every bound on untrusted text: one constant a line, its reason beside it.

Bounds are counted (characters, depth, digits, nodes), so a score never depends on how busy the
machine is. The wall clock is a backstop only.
"""

# What a completion may be.
MAX_TEXT_CHARS = 1_000_000  # longer completions are cut to their tail before any rule reads them
MAX_ANSWER_TAIL_CHARS = 64_000  # answers stand at the end; extraction never looks further back
MAX_ANSWER_CHARS = 10_000  # a longer "answer" is text, not an answer

# What a ruleset may be.
MAX_RULESET_CHARS = 400_000  # a hundred times the largest ruleset we know
MAX_EXPR_DEPTH = 100  # below Python's recursion limit in every walk over the tree
