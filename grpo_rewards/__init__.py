"""Rewards for language models as typed expressions over the columns of a batch.

import grpo_rewards as gr

scorer = gr.load("rulesets/gsm8k.reward")
scores = scorer(completion=["16 - 7 = 9\\n#### 9"], gold=["9"])
scores.reward, scores["correct"], scores.status["correct"], scores.to_frame()
"""

from grpo_rewards.columns import Column, Outcome, Span, Status
from grpo_rewards.compiler.externs import rule
from grpo_rewards.errors import (
    BatchError,
    Finding,
    Place,
    RewardError,
    RuleError,
    RulesetError,
    RulesetNameError,
    RulesetSyntaxError,
    RulesetTypeError,
)
from grpo_rewards.report.page import Report, ReportRow
from grpo_rewards.rules.namespaces import (
    abs,
    clamp,
    completion,
    dataset,
    exp,
    extract,
    floor,
    format,
    gold,
    group,
    json,
    language,
    log,
    match,
    math,
    max,
    min,
    n_tokens,
    progress,
    prompt,
    round,
    sqrt,
    step,
    text,
    truncated,
)
from grpo_rewards.scoring.dataset_checks import CheckResult, Checks
from grpo_rewards.scoring.grading import Grade, check_golds, compile_gold, grade, grade_batch
from grpo_rewards.scoring.scorer import Scorer, compile, load, loads
from grpo_rewards.scoring.scores import Scores
from grpo_rewards.syntax.builders import (
    case,
    json_format,
    lark_format,
    param,
    regex_format,
    schedule,
    tags_format,
    where,
)
from grpo_rewards.syntax.builders import (
    column as col,
)
from grpo_rewards.syntax.parser import parse
from grpo_rewards.syntax.tree import Expr, Ruleset
from grpo_rewards.types import Interval

__all__ = [
    "BatchError",
    "CheckResult",
    "Checks",
    "Column",
    "Expr",
    "Finding",
    "Grade",
    "Interval",
    "Outcome",
    "Place",
    "Report",
    "ReportRow",
    "RewardError",
    "RuleError",
    "Ruleset",
    "RulesetError",
    "RulesetNameError",
    "RulesetSyntaxError",
    "RulesetTypeError",
    "Scorer",
    "Scores",
    "Span",
    "Status",
    "abs",
    "case",
    "check_golds",
    "clamp",
    "col",
    "compile",
    "compile_gold",
    "completion",
    "dataset",
    "exp",
    "extract",
    "floor",
    "format",
    "gold",
    "grade",
    "grade_batch",
    "group",
    "json",
    "json_format",
    "language",
    "lark_format",
    "load",
    "loads",
    "log",
    "match",
    "math",
    "max",
    "min",
    "n_tokens",
    "param",
    "parse",
    "progress",
    "prompt",
    "regex_format",
    "round",
    "rule",
    "schedule",
    "sqrt",
    "step",
    "tags_format",
    "text",
    "truncated",
    "where",
]
