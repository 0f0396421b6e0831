"""Samples completions of SmolLM2-135M-Instruct (Apache 2.0): four for each of twelve questions.

    python examples/auditing/real/sample.py FOLDER > completions.jsonl

FOLDER holds the model as transformers saves it. `right`, whether a person would call the
conclusion right, is not written: the labels of completions.jsonl were given by hand.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTIONS = [
    ("A shelf holds 6 shells and another holds 5. How many shells are there?", "11"),
    ("Mia has 14 pens and gives 6 away. How many pens does she have left?", "8"),
    ("A ticket costs 4 dollars. How many dollars do 7 tickets cost?", "28"),
    ("Tom reads 12 pages a day. How many pages does he read in 5 days?", "60"),
    ("24 apples are shared by 3 children. How many does each child get?", "8"),
    ("A rope of 30 meters is cut in half. How long is each piece in meters?", "15"),
    ("Ana is 9 years old. How old will she be in 13 years?", "22"),
    ("A box has 10 red balls and 15 blue balls. How many balls are in the box?", "25"),
    ("A train leaves at 3 o'clock and arrives at 8 o'clock. How many hours does it take?", "5"),
    ("What is 17 + 26?", "43"),
    ("What is half of 50?", "25"),
    ("What is 9 times 6?", "54"),
]
FORM = " Think briefly, then give the number as <answer>number</answer>."


def main(folder: str) -> None:
    """Print one JSON line a completion."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder)
    for question, gold in QUESTIONS:
        asked = [{"role": "user", "content": question + FORM}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer([text] * 4, return_tensors="pt")
        out = model.generate(
            **inputs,
            max_new_tokens=90,
            do_sample=True,
            temperature=0.7,
            top_p=0.95,
            pad_token_id=tokenizer.eos_token_id,
        )
        for ids in out[:, inputs["input_ids"].shape[1] :]:
            completion = tokenizer.decode(ids, skip_special_tokens=True)
            row = {"prompt": question, "gold": gold, "completion": completion}
            print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main(sys.argv[1])
