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
MAX_GRAPH_NODES = 5_000  # a ruleset of thousands of ops is generated, or hostile
MAX_GRAPH_DEPTH = 150  # the executor recurses over it
MAX_INLINE_STEPS = 50_000  # functions that call functions twice grow as powers of two
MAX_RANGE_ATOMS = 10  # booleans that the range check tries both ways
MAX_RANGE_WORK = 200_000  # node visits of one range check

# What scoring remembers.
MAX_MEMO_ENTRIES = 200_000  # verdicts kept across batches
MAX_MEMO_KEY_CHARS = 2_000  # longer arguments hardly come twice and would fill the memory

# Worker processes.
MAX_WORKER_MB = 1_024  # address space of one; SymPy itself needs about a tenth

# Formats.
MAX_GRAMMAR_CHARS = 16_000  # a page of grammar; more is generated, or hostile
MAX_GRAMMAR_RULES = 200
MAX_JSON_DEPTH = 20_000  # brackets of one kind in a text that is parsed as JSON
MAX_PATTERN_CHARS = 2_000
MAX_REPETITION_UNITS = 200_000  # words or tokens that repetition is counted over
MAX_NUMBER_CHARS = 1_000  # digits of a number that is read exactly

# Mathematics.
MAX_MATH_CHARS = 2_000  # an answer, not a solution
MAX_MATH_TOKENS = 500
MAX_MATH_DEPTH = 40  # levels of brackets that the reader recurses into
MAX_EXPONENT = 1_000  # larger powers and factorials of numbers are not computed
