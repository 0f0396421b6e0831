"""lm-eval: in the task's YAML, process_results: !function lm_eval_task.process_results"""

import grpo_rewards as gr

process_results = gr.load("rulesets/gsm8k.reward").as_lm_eval(gold="answer")
