"""Every bound on untrusted text: one constant a line, its reason beside it.

Bounds are counted (characters, depth, digits, nodes), so a score never depends on how busy the
machine is. The wall clock is a backstop only.
"""

# What a completion may be.
MAX_TEXT_CHARS = 1_000_000  # a longer completion is an error (too_large), a longer gold is null
MAX_ANSWER_TAIL_CHARS = 64_000  # answers stand at the end; extraction never looks further back
MAX_ANSWER_CHARS = 10_000  # a longer "answer" is text, not an answer

# What a ruleset may be.
MAX_RULESET_CHARS = 400_000  # a hundred times the largest ruleset we know
MAX_LITERAL_CHARS = 40  # of one number; a float has at most 17 significant digits
MAX_EXPR_DEPTH = 100  # below Python's recursion limit in every walk over the tree
MAX_GRAPH_NODES = 5_000  # a ruleset of thousands of ops is generated, or hostile
MAX_GRAPH_DEPTH = 150  # the executor recurses over it
MAX_INLINE_STEPS = 50_000  # functions that call functions twice grow as powers of two
MAX_IMPORT_DEPTH = 8  # files that import files
MAX_RANGE_ATOMS = 10  # booleans that the range check tries both ways
MAX_RANGE_WORK = 200_000  # node visits of one range check

# What scoring remembers.
MAX_MEMO_ENTRIES = 50_000  # verdicts kept across batches, 15 MB; equal answers come close together
MAX_MEMO_KEY_CHARS = 2_000  # longer arguments hardly come twice and would fill the memory
MAX_MEMO_MB = 1_024  # of a memo on disk

# Datasets in files.
MAX_LINE_MB = 256  # of one row; a longer line is no line, and it has to fit in memory
MAX_BATCH_MB = 16  # of rows that are scored together; fewer where rows are large
MAX_GROUP_ROWS = 100_000  # of one group; more is a column that names no prompts
MAX_ROW_GROUP_MB = 64  # of Parquet that is written at once

# Worker processes.
MAX_WORKER_MB = 1_024  # that one may map beyond its libraries; SymPy needs about a tenth
MAX_GRADE_S = 1.0  # of one pair's slow half, so that it all takes two seconds at most
MAX_DEATHS = 3  # of workers at one item before it counts as lost; somebody else may kill one

# Formats.
MAX_GRAMMAR_CHARS = 16_000  # a page of grammar; more is generated, or hostile
MAX_GRAMMAR_RULES = 200
MAX_GRAMMAR_ALTERNATIVES = 4_000  # of all rules together; Lark multiplies choices in a row
MAX_GRAMMAR_STATES = 2_000  # counted repeats multiply them; a table of 375 takes half a second
MAX_CREDIT_TOKENS = 50_000  # of a text that fits no format; what it earns is settled long before
MAX_EARLEY_CHARS = 4_000  # Earley reads some 5,000 characters a second
MAX_JSON_CHARS = 200_000  # a validator visits every value: about a second
MAX_JSON_FIELDS = 20_000  # values that are compared field by field
MAX_JSON_DEPTH = 64  # of their paths; extracted records stay below 10
MAX_PATTERN_CHARS = 2_000
MAX_REPETITION_CHARS = 1_000_000  # of a longer text the head
MAX_REPETITION_UNITS = 200_000  # words or tokens that repetition is counted over

# Mathematical answers (rules/math).
MAX_BESIDE_CHARS = 60  # on each side of an answer in prose: some ten words that may take it back
MAX_BOXES = 64  # of a completion; only the last ones can be an answer
MAX_CHOICE_CHARS = 4_000  # of a completion that may begin with its letter: `A. Because …`
MAX_TOLD_CHARS = 2_000  # of prose that may end in `… is Paris.`; the pattern backtracks over it
MAX_BARE_CHARS = 400  # of an answer without a mark or a word; longer texts are prose
MAX_MEASURE_CHARS = 120  # of `2 hours 30 minutes`, or of a unit in LaTeX
MAX_UNIT_CHARS = 60  # of a unit in words
MAX_UNITS = 10_000  # spellings of units that are remembered
MAX_GOLDS = 50_000  # golds that are remembered as they were read; most datasets have fewer
MAX_MATH_CHARS = 4_000  # longer answers are compared as text and as plain numbers only
MAX_REWRITTEN_CHARS = 2_000  # longer ones are no answer in an unusual spelling
MAX_MATH_TOKENS = 1_500  # a page of algebra; the parser is linear in it
MAX_MATH_DEPTH = 64  # brackets in brackets; honest answers stay below 10
MAX_TREE_DEPTH = 120  # every walk over a tree recurses, Python allows 1,000 frames
MAX_NUMBER_DIGITS = 1_000  # of one number inside an expression; Fractions stay small
MAX_PLAIN_DIGITS = 1_000_000  # of a number alone, compared as a string of digits
MAX_FRACTION_BITS = 8_000  # of one exact number; larger powers stay unevaluated
MAX_ROOT_BITS = 900  # of a number whose exact root is tried by a double, which ends at 1,024
MAX_FACTORIAL = 500  # n! is computed exactly up to here, by the gamma function beyond
MAX_GAMMA = 100_000  # larger factorials have no use and cost memory
MAX_MAGNITUDE_BITS = 2_000_000  # |log2| of a power; towers stop here
MAX_ANGLE = 1e15  # the sine of more is noise that costs digits
MAX_ZETA = 100  # its argument; beyond, the value is 1 or noise
MAX_VARIABLES = 40  # of one comparison
SAMPLE_POINTS = 6  # where two expressions are compared: three positive, three with minus signs
MAX_PAIRS = 2_000  # of parts that one comparison looks at
MAX_MATRIX = 12  # rows or columns of a matrix product that is worked out
MAX_INTERVALS = 64  # of a set of real numbers that is brought to one form
MAX_SET_NODES = 1_000  # of the tree of such a set
MAX_SYMPY_NODES = 200  # of both trees together; SymPy's own algorithms know no bounds
MAX_SYMPY_POWER = 1_000  # SymPy multiplies powers of numbers out
MAX_CLEARED_NODES = 100  # of two equations that are cleared of denominators; products grow
MAX_DEGREE = 4  # of a polynomial that is solved for its roots
MAX_SUM_CHARS = 1_000  # of plain arithmetic; a game's answer has a dozen numbers
MAX_SUM_DIGITS = 20  # of one of its numbers

# Languages.
MAX_SENTENCE_CHARS = 2_000  # of a longer sentence the head is judged
MAX_LANGUAGE_CHARS = 80  # of a language's name or tag; the longest known name has 26
MAX_WORD_CHARS = 64  # of a longer "word" the head is judged
MAX_FOREIGN_RUNS = 8  # of foreign words in one sentence; each takes a pass over it
MAX_MASK_CHARS = 2_000  # within which a formula in dollars or a piece of code must close
MAX_VOCABULARY = 50_000  # words of a script whose fit is remembered: 12 MB
MAX_VERDICTS = 20_000  # sentences whose language is remembered; groups share many

# What the server takes from strangers.
MAX_BODY_BYTES = 32 * 2**20  # of one request; a batch of a thousand long completions
MAX_REQUEST_ROWS = 20_000  # of one request; larger batches are cheaper in two
MAX_QUEUE = 64  # requests that wait or run; the next one is told to come back
MAX_UPLOADS = 16  # rulesets that were sent in; the oldest goes first

# What a run warns of.
MIN_FOUND_SHARE = 0.01  # of rows: a policy that seldom answers still does in one of a hundred

# What a report holds.
MAX_REPORT_CHARS = 20_000  # of one text; a page of 500 stays in the tens of megabytes at worst
